"""How the votes of a job's rows stand, from events and results alone."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

import llmprog
from llmprog import Program, amap, generator, open_store
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Sequence
from llmprog.jobs.result import RowResult
from llmprog.jobs.votes import JobVotes
from llmprog.redaction import register_secret
from llmprog.search import BeamSearch, BetaStop, SelfConsistency

say = generator(prompt="{state}", name="say")(lambda state, completion: [completion])
sure = SelfConsistency(num_samples=20, stopping=BetaStop(confidence=0.9))
early = Program(name="early", generators=[say], controller=sure)


def reply(prompt, sample):
    """The question ``clear`` has one answer, any other as many as samples."""
    return "yes" if prompt == "clear" else f"answer {sample}"


model = ScriptedBackend(reply)


async def watched(program, rows, **options):
    """A job that has ended, and all that its votes in hand were while it went on."""
    seen = []
    job = amap(program, rows, backend=model, seed=1, on_progress=lambda p: seen.append(p.votes.in_hand(9)), **options)
    results = [result async for result in job]
    return job, results, seen


async def test_votes_that_have_ended_are_counted_with_their_samples():
    job, results, _ = await watched(early, ["clear", "unclear", "clear"])
    votes = job.progress.votes
    asked = {result.row["input"]: result.num_samples for result in results}
    assert {result.num_allowed for result in results} == {20}
    assert asked["clear"] < 20
    assert asked["unclear"] == 20
    assert (votes.num_ended, votes.num_early) == (3, 2)
    assert (votes.num_samples, votes.num_allowed) == (2 * asked["clear"] + 20, 60)
    assert votes.in_words() == f"2 of 3 votes decided early, {votes.num_samples / 3:.3g} of 20 samples each"
    assert votes.in_hand(9) == []


async def test_a_row_in_hand_shows_its_leader_until_its_search_ends():
    shown = []

    def on_call(prompt, sample):
        shown.append(job.progress.votes.in_hand(9))
        return reply(prompt, sample)

    job = amap(early, ["unclear"], backend=ScriptedBackend(on_call), seed=1)
    assert [result.index async for result in job] == [0]
    standing = [votes[0] for votes in shown if votes]
    assert {vote.row for vote in standing} == {0}
    assert standing[0].leader == "answer 0"
    assert 0 < standing[-1].share < standing[0].share <= 1
    assert standing[-1].words.endswith(" of 20 samples")


async def test_a_row_that_failed_is_no_longer_in_hand():
    seen = []

    def failing(prompt, sample):
        seen.append([vote.row for vote in job.progress.votes.in_hand(9)])
        if sample == 2:
            raise ValueError("too much")
        return "yes"

    program = Program(name="three", generators=[say], controller=SelfConsistency(num_samples=3))
    job = amap(program, ["p", "q", "r"], backend=ScriptedBackend(failing), seed=1, max_in_flight=1)
    results = [result async for result in job]
    assert [result.stopped for result in results] == ["error"] * 3
    assert {row for rows in seen for row in rows} == {0, 1, 2}
    assert job.progress.votes.in_hand(9) == []


async def test_programs_without_a_vote_have_none():
    grow = generator(lambda state: [state + "a"], name="grow")
    search = Program(generators=[grow], controller=BeamSearch(beam_width=1, max_depth=2))
    job, (result,), seen = await watched(search, ["x"])
    assert result.num_allowed is None
    assert job.progress.votes.in_words() is None
    assert seen == [[]]


async def test_a_joined_program_shows_the_vote_that_is_under_way():
    shown = []

    def on_call(prompt, sample):
        shown.append([vote.leader for vote in job.progress.votes.in_hand(9)])
        return reply(prompt, sample)

    job = amap(Sequence(early, early, name="both"), ["unclear"], backend=ScriptedBackend(on_call), seed=1)
    assert len([result async for result in job]) == 1
    assert any(shown)
    assert job.progress.votes.in_hand(9) == []


async def test_votes_of_earlier_sessions_count(tmp_path):
    with closing(open_store(tmp_path)) as store:
        first, _, _ = await watched(early, ["clear", "unclear"], store=store)
        second, _, _ = await watched(early, ["clear", "unclear"], store=store, resume=first.progress.run_id)
    assert second.progress.num_calls == 0
    assert second.progress.votes.in_words() == first.progress.votes.in_words()


def test_a_result_says_how_many_samples_its_vote_might_have_drawn():
    (result,) = llmprog.map(early, ["clear"], backend=model, seed=1)
    kept = json.loads(json.dumps(result.to_json()))
    assert kept["num_allowed"] == 20
    assert RowResult.from_json(kept).num_allowed == 20
    del kept["num_allowed"]  # as an older version wrote it
    older = RowResult.from_json(kept)
    assert older.num_allowed is None
    votes = JobVotes()
    votes.take_row(older)
    assert votes.in_words() is None


def test_secrets_in_answers_are_blacked_out():
    register_secret("sk-very-secret-key-0123456789")
    votes = JobVotes()
    leaky = ScriptedBackend(lambda prompt, sample: "it is sk-very-secret-key-0123456789")
    early.run("q", backend=leaky, seed=1, on_event=Held(votes, 0))
    (standing,) = votes.in_hand(1)
    assert standing.leader.startswith("it is ")
    assert "very-secret" not in standing.leader


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_the_votes_that_began_first_are_shown(limit):
    votes = JobVotes()
    for row in (5, 2, 9):
        early.run("unclear", backend=model, seed=1, on_event=Held(votes, row))
    assert [vote.row for vote in votes.in_hand(limit)] == [5, 2][:limit]


class Held:
    """Hands on all events of a row but the last, so that it stays in hand."""

    def __init__(self, votes, row):
        self.votes, self.row, self.last = votes, row, None

    def __call__(self, event):
        if self.last is not None:
            self.votes.take_event(self.row, self.last)
        self.last = event
