"""What a run leaves in its store for those who look at it later, and how it is read while it goes on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

import pytest

from llmprog import Program, Verdict, arun, checker, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.errors import ConnectionFailedError, StoreError
from llmprog.events import ThoughtChecked, ThoughtsPruned, VotesChanged
from llmprog.exports.thoughts import read_thoughts
from llmprog.runs.info import RunInfo
from llmprog.runs.store import open_store
from llmprog.search import BeamSearch, BreadthFirstSearch, DepthFirstSearch, SelfConsistency
from llmprog.types import Completion, Prompt, Request, SamplingParams, Usage
from llmprog.viewer.details import call_details, canvas_details
from llmprog.viewer.feed import BATCH, RunFeed
from llmprog.viewer.static_file import html_pieces

INFO = RunInfo(kind="run", program="p", program_hash="0" * 64, program_text="p", input="i", config={})


@generator(prompt="after {state}", n=3)
def grow(state: str, completion: str) -> str:
    return "".join(sorted(state + completion))  # ab and ba are one thought


@checker(prompt="rate {state}")
def worth(state: str, completion: str) -> Verdict:
    return Verdict(score=float(len(completion)), valid="c" not in state, reason=f"it says {completion}")


def program(**options):
    controller = options.pop("controller", BreadthFirstSearch(max_depth=2))
    return Program(generators=[grow], checkers=[worth], controller=controller, name="letters", **options)


def reply(text, sample):
    return "abc"[sample % 3] if text.startswith("after") else "x" * len(text)


def batches(run):
    feed, found = RunFeed(run), []
    while new := feed.read():
        found += new
    return found


def gathered(run):
    """All records of a run by kind."""
    found = {}
    for batch in batches(run):
        for kind, records in batch.items():
            if isinstance(records, list):
                found.setdefault(kind, []).extend(records)
    return found


def kept(store, program, given="", **options):
    result = run(program, given, backend=options.pop("backend", ScriptedBackend(reply)), seed=1, store=store, **options)
    return result, store.open(result.run_id)


def test_every_way_to_a_thought_is_kept(tmp_path):
    result, kept_run = kept(open_store(tmp_path), program())
    with kept_run:
        records = gathered(kept_run)
    ways = {(tuple(r["parents"]), r["id"], r["node"]) for kind in ("thoughts", "arrivals") for r in records[kind]}
    expected = {
        (arrival.parents, thought.id, arrival.generator) for thought in result.graph for arrival in thought.arrivals
    }
    assert ways - {((), 0, "")} == expected - {((), 0, arrival.generator) for arrival in result.graph[0].arrivals}
    assert records["arrivals"], "ab and ba are to be one thought"


def test_a_verdict_names_the_calls_it_rests_on(tmp_path):
    result, kept_run = kept(open_store(tmp_path), program())
    with kept_run:
        records = gathered(kept_run)
        judged = records["verdicts"][0]
        (verdict,) = judged["by"]
        (call,) = [c for c in records["calls"] if c["question"] == verdict["questions"][0]]
        details = call_details(kept_run, call["id"])
    assert details["question"]["prompt"] == [{"role": "user", "content": f"rate {result.graph[judged['id']].state}"}]
    assert verdict["reason"] == f"it says {details['completions'][0]['text']}"
    assert verdict["score"] == result.graph[judged["id"]].score


def test_a_thought_names_the_sample_it_was_parsed_from(tmp_path):
    result, kept_run = kept(open_store(tmp_path), program())
    with kept_run:
        records = gathered(kept_run)
        thought = records["thoughts"][2]
        (call,) = [
            c
            for c in records["calls"]
            if c["question"] == thought["question"]
            and c["first_sample"] <= thought["sample"] < c["first_sample"] + c["num_samples"]
        ]
        details = call_details(kept_run, call["id"])
    said = [c["text"] for c in details["completions"] if c["sample"] == thought["sample"]]
    assert said == [result.graph[thought["id"]].arrivals[0].completion.text]


def test_what_was_given_up_is_kept_with_its_reason(tmp_path):
    told = []
    result, kept_run = kept(
        open_store(tmp_path), program(controller=BeamSearch(beam_width=1, max_depth=2)), on_event=told.append
    )
    with kept_run:
        records = gathered(kept_run)
        thoughts = read_thoughts(kept_run).by_id
    pruned = {t.id: result.graph.prune_reason(t.id) for t in result.graph if result.graph.prune_reason(t.id)}
    assert pruned
    assert {record["id"]: record["reason"] for record in records["pruned"]} == pruned
    assert {t.id: t.pruned_because for t in thoughts.values() if t.pruned_because} == pruned
    assert {thought for e in told if isinstance(e, ThoughtsPruned) for thought, _ in e.thoughts} == set(pruned)


def test_events_of_a_search_have_its_graph():
    scores = []

    def watch(event):
        if isinstance(event, ThoughtChecked):
            scores.append((event.graph.states[event.thought], event.graph.scores[event.thought]))

    result = run(program(), "", backend=ScriptedBackend(reply), seed=1, on_event=watch)
    assert dict(scores) == {thought.state: thought.score for thought in result.graph if thought.id}


WAYS = {"start": ["left", "right"], "left": ["detour"], "detour": ["end"], "right": ["end"], "end": ["beyond"]}


@generator
def walk(state: str) -> list[str]:
    return WAYS.get(state, [])


def test_a_better_way_to_a_thought_is_told_apart(tmp_path):
    walks = Program(generators=[walk], controller=DepthFirstSearch(max_depth=8), name="walks")
    result, kept_run = kept(open_store(tmp_path), walks, "start")
    with kept_run:
        records = gathered(kept_run)
    parents = {record["id"]: record["parents"] for record in records["thoughts"]}
    better = {record["id"]: record["parents"] for record in records["arrivals"] if record["is_best"]}
    assert [result.graph[thought].state for thought in better] == ["end"]
    assert len(records["arrivals"]) == 2  # the other leads to "beyond", by the way that is known
    assert {t: tuple(ids) for t, ids in (parents | better).items()} == {
        thought.id: result.graph.parents_of(thought.id) for thought in result.graph
    }


@generator(prompt="What is it?")
def say(state: str, completion: str) -> str:
    return completion


def vote(num_samples):
    return Program(generators=[say], controller=SelfConsistency(num_samples=num_samples), name="vote")


def test_a_vote_is_kept_as_its_samples_arrive(tmp_path):
    told = []
    backend = ScriptedBackend(lambda text, sample: "yes" if sample % 3 else "no")
    result, kept_run = kept(open_store(tmp_path), vote(9), backend=backend, on_event=told.append, max_in_flight=1)
    with kept_run:
        votes = gathered(kept_run)["votes"]
    assert [sum(n for _, n in v["histogram"]) for v in votes] == [*range(1, 10), 9]
    assert [v["num_heard"] for v in votes] == [*range(1, 10), 9]
    assert votes[-1]["histogram"] == [[said, n] for said, n in result.votes.histogram] == [["yes", 6], ["no", 3]]
    assert votes[-1]["confidence"] == result.votes.confidence
    assert len([event for event in told if isinstance(event, VotesChanged)]) == len(votes)


def test_a_long_vote_is_told_less_and_less_often():
    told = []
    backend = ScriptedBackend(lambda _, sample: str(sample % 7))
    run(vote(3000), "", backend=backend, seed=1, on_event=told.append, max_in_flight=1)
    assert 50 < sum(isinstance(event, VotesChanged) for event in told) < 300


@dataclass(frozen=True)
class Draft:
    title: str
    text: str = ""


@generator(prompt="Write about {title}.")
def write(state: Draft, completion: str) -> Draft:
    return Draft(state.title, completion)


def test_a_state_that_is_shown_short_is_kept_in_full(tmp_path):
    text = "a line\n" * 40
    writing = Program(generators=[write], controller=BreadthFirstSearch(max_depth=1), start=Draft, name="writing")
    _, kept_run = kept(open_store(tmp_path), writing, "rain", backend=ScriptedBackend(lambda *_: text))
    with kept_run:
        root, written = gathered(kept_run)["thoughts"]
    assert root["state"] == "title=rain"
    assert "full" not in root  # nothing was cut
    assert len(written["state"]) <= 120
    assert written["full"] == f"title=rain\ntext={text}"


@generator
async def reflect(state: str, model) -> list[str]:
    first = await model.generate("first")
    second = await model.generate("second")
    return [first[0].text + second[0].text]


def test_a_thought_of_a_node_that_asks_by_itself_names_what_it_asked(tmp_path):
    reflecting = Program(generators=[reflect], controller=BreadthFirstSearch(max_depth=1), name="reflecting")
    _, kept_run = kept(open_store(tmp_path), reflecting, backend=ScriptedBackend(lambda text, _: text[0]))
    with kept_run:
        records = gathered(kept_run)
        asked = [
            call_details(kept_run, c["id"])["question"]["prompt"][0]["content"]
            for c in records["calls"]
            if c["question"] in records["thoughts"][1]["questions"]
        ]
    assert asked == ["first", "second"]
    assert records["thoughts"][1]["question"] is None


def test_a_feed_begins_and_ends_once(tmp_path):
    _, kept_run = kept(open_store(tmp_path), program())
    with kept_run:
        found = batches(kept_run)
        feed = RunFeed(kept_run)
        while feed.read():
            pass
        assert feed.read() == []
    assert [i for i, batch in enumerate(found) if batch.get("begin")] == [0]
    assert [i for i, batch in enumerate(found) if batch.get("end")] == [len(found) - 1]
    assert found[0]["run"]["status"] == "finished"
    assert found[0]["run"]["usage"]["calls"] > 0


class Watched(ScriptedBackend):
    """Lets somebody look on before each answer."""

    def __init__(self, look):
        super().__init__(reply)
        self.look = look

    async def generate(self, request):
        self.look()
        return await super().generate(request)


async def test_a_feed_follows_a_run_that_is_under_way(tmp_path):
    store = open_store(tmp_path)
    opened, gone_on = [], []

    def look():
        if not opened:
            opened.append(store.open(store.list()[0].id))
            opened.append(RunFeed(opened[0]))
        gone_on.extend(opened[1].read())

    await arun(program(), "", backend=Watched(look), seed=1, store=store)
    following, feed = opened
    num_live = len(gone_on)
    assert num_live > 2
    assert gone_on[0]["run"]["is_live"]
    assert not any(batch.get("end") for batch in gone_on)
    with following:
        while new := feed.read():
            gone_on += new
        whole = gathered(following)
    for kind in ("thoughts", "arrivals", "verdicts", "calls", "outcomes", "finished"):
        told = [record for batch in gone_on for record in batch.get(kind, [])]
        assert sorted(map(repr, told)) == sorted(map(repr, whole[kind])), kind
    assert gone_on[-1] == {"end": True}


async def test_a_run_that_is_deleted_while_it_is_followed(tmp_path):
    store = open_store(tmp_path)

    def look():
        with store.open(store.list()[0].id) as run:
            feed = RunFeed(run)
            assert feed.read()
            (tmp_path / f"{run.id}.sqlite").unlink()
            with pytest.raises(StoreError, match="there is no such file"):
                feed.read()

    with pytest.raises(StoreError, match="deleted or replaced"):
        await arun(program(), "", backend=Watched(look), seed=1, store=store)


def test_details_of_what_is_not_there(tmp_path):
    _, kept_run = kept(open_store(tmp_path), program())
    with kept_run:
        with pytest.raises(StoreError, match="it has no call 9999"):
            call_details(kept_run, 9999)
        with pytest.raises(StoreError, match="no canvas of question 1, sample 0"):
            canvas_details(kept_run, "", 1, 0)


@pytest.mark.parametrize("goal", [lambda state: True, lambda state: state == ""])
def test_a_run_that_begins_at_its_goal_has_one_thought(tmp_path, goal):
    _, kept_run = kept(open_store(tmp_path), program(goal=goal))
    with kept_run:
        records = gathered(kept_run)
        page = "".join(html_pieces(kept_run))
    assert [(record["id"], record["goal"]) for record in records["thoughts"]] == [(0, True)]
    assert records["finished"] == [{"path": "", "stopped": "goal", "thought": 0}]
    assert page.endswith("</html>\n")


async def test_attempts_come_after_their_calls(tmp_path):
    store = open_store(tmp_path)
    journal = store.create(INFO)
    calls = journal.at("")
    request = Request(prompt=Prompt.from_text("a"), params=SamplingParams())
    sent = [await calls.send("think", "test:model", request, Usage(1)) for _ in range(2 * BATCH)]
    calls.note_attempt(sent[-1], ConnectionFailedError("refused", backend="test:model"), 0.1)
    await calls.settle(sent[0], [Completion(text="b", usage=Usage(1))], Usage(1), 0.5)
    known, attempts = set(), []
    with store.open(journal.id) as run:
        for batch in RunFeed(run).read():
            known.update(call["id"] for call in batch.get("calls", ()))
            attempts += [attempt["call"] in known for attempt in batch.get("attempts", ())]
    assert attempts == [True]
    await journal.aclose()


async def test_a_search_that_begins_again_makes_room_for_its_thoughts(tmp_path, monkeypatch):
    monkeypatch.setattr("llmprog.viewer.feed.MOST_THOUGHTS", 3)
    store = open_store(tmp_path)
    journal = store.create(INFO)
    for _ in range(2):
        journal.event("", "began", {"has_goal": False})
        for number in range(4):
            thought = {"id": number, "parents": [], "node": "", "sample": 0, "call": None, "state": "", "goal": False}
            journal.event("", "thoughts", [thought])
    await journal.finish("finished", {})
    await journal.aclose()
    with store.open(journal.id) as run:
        found = batches(run)
    assert [record["id"] for batch in found for record in batch.get("thoughts", ())] == [0, 1, 2, 0, 1, 2]
    assert [batch["run"] for batch in found if "run" in batch][-1]["left_out"]["thoughts"] == 1


def test_reading_a_job_takes_time_that_grows_with_its_rows(tmp_path):
    store = open_store(tmp_path)

    async def make(num_rows):
        journal = store.create(replace(INFO, kind="map"))
        for number in range(num_rows):
            journal.event(str(number), "began", {"has_goal": False})
        await journal.finish("finished", {})
        await journal.aclose()
        return journal.id

    def seconds(run_id):
        with store.open(run_id) as run:
            begun = time.process_time()
            batches(run)
            return time.process_time() - begun

    few, many = (asyncio.run(make(num_rows)) for num_rows in (2_000, 16_000))
    assert min(seconds(many) for _ in range(3)) < 24 * min(seconds(few) for _ in range(3))
