"""What is known of a run while it goes on, from its events alone."""

from __future__ import annotations

import threading
import time

import pytest

from llmprog import Budget, Program, Prompt, Usage, generator
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Sequence
from llmprog.errors import BackendError
from llmprog.events import CallSettled, CompletionDelta, ThoughtChecked, ThoughtExpanded
from llmprog.nodes import Verdict
from llmprog.progress import RunProgress, repeated
from llmprog.redaction import register_secret
from llmprog.search import BeamSearch, BestOfN, SelfConsistency, ThoughtGraph
from llmprog.types import Delta, Request

ASKED = Request(prompt=Prompt.from_text("q"))


@generator
def grow(state: str) -> list[str]:
    return [state + letter for letter in "abc"]


def growing(name, depth=2):
    return Program(name=name, generators=[grow], controller=BeamSearch(beam_width=2, max_depth=depth))


@pytest.fixture
def progress():
    return RunProgress(clock=lambda: 0.0)


class Grown:
    """A graph that grows by hand, and tells ``progress`` of it."""

    def __init__(self, progress):
        self.progress = progress
        self.graph = ThoughtGraph()
        self.graph.add("root", -1)

    def expand(self, parent, scores):
        first = len(self.graph)
        made = [self.graph.add(f"s{first + n}", first + n, (parent,))[0] for n in range(len(scores))]
        new = tuple(True for _ in made)
        self.progress(ThoughtExpanded((parent,), tuple(made), new, tuple(made), (), 0, graph=self.graph))
        for thought, score in zip(made, scores, strict=True):
            self.graph.record_verdict(thought, "judge", Verdict(score=score))
            self.progress(ThoughtChecked(thought, graph=self.graph))
        return made

    def frontier(self, number=9):
        return [thought.state for thought in self.progress.glance(max_frontier=number).frontier]


def test_the_frontier_holds_what_is_open_and_not_expanded_best_first(progress):
    grown = Grown(progress)
    _, two, three = grown.expand(0, [1.0, 3.0, 2.0])
    assert grown.frontier() == ["s2", "s3", "s1"]
    grown.expand(two, [5.0])
    assert grown.frontier() == ["s4", "s3", "s1"]
    grown.graph.prune(three, "beam")
    assert grown.frontier() == ["s4", "s1"]
    assert grown.frontier(1) == ["s4"]


def test_of_very_many_open_thoughts_the_best_stay_known(progress):
    grown = Grown(progress)
    for begin in range(0, 20_000, 1000):
        grown.expand(0, [float((begin + n) * 7919 % 20_011) for n in range(1000)])
    best = sorted(range(20_000), key=lambda n: -(n * 7919 % 20_011))[:5]
    assert grown.frontier(5) == [f"s{n + 1}" for n in best]
    assert len(progress.glance(max_frontier=10**6).frontier) < 5000


def test_the_way_to_the_best_ends_with_it_and_moves_when_it_is_given_up(progress):
    grown = Grown(progress)
    _, two = grown.expand(0, [1.0, 2.0])
    (deep,) = grown.expand(two, [4.0])
    assert [thought.state for thought in progress.glance(max_frontier=0).path] == ["root", "s2", "s3"]
    grown.graph.prune(deep, "beam")
    assert [thought.state for thought in progress.glance(max_frontier=0).path] == ["root", "s1"]


def test_counts_are_those_of_the_result(progress):
    result = growing("one").run("", seed=1, on_event=progress)
    assert progress.num_thoughts == len(result.graph)
    assert progress.line().startswith(f"{len(result.graph)} thoughts, {len(result.graph) - 1} checked, ")
    assert progress.is_over
    seen = progress.glance(max_frontier=5)
    assert seen.stopped == result.stopped
    assert seen.frontier == ()
    assert seen.path[-1].state == result.answer


def test_a_sample_that_has_not_come_back_is_not_one_without_a_valid_answer(progress):
    seen = []

    def reply(prompt, sample):
        seen.append(progress.glance(max_frontier=0).votes)
        if sample == 3:
            raise ValueError("no more")
        return "yes" if sample else "none"

    say = generator(prompt="{state}", name="say")(lambda state, completion: [completion])
    canonical = {"yes": "yes"}.get
    program = Program(name="v", generators=[say], controller=SelfConsistency(num_samples=4, canonical=canonical))
    with pytest.raises(BackendError, match="no more"):
        program.run("q", backend=ScriptedBackend(reply), seed=1, max_in_flight=1, on_event=progress)
    left = progress.glance(max_frontier=0).votes
    assert [(votes.num_samples, votes.num_valid) for votes in (*seen[1:], left)] == [(1, 0), (2, 1), (3, 2), (3, 2)]


@pytest.mark.parametrize("calls", [2, 9])
def test_once_it_has_ended_the_vote_is_that_of_the_result(progress, calls):
    say = generator(prompt="{state}", name="say")(lambda state, completion: [completion])
    program = Program(name="v", generators=[say], controller=SelfConsistency(num_samples=4))
    model = ScriptedBackend(lambda prompt, sample: "yes")
    result = program.run("q", backend=model, seed=1, budget=Budget(calls=calls), on_event=progress)
    assert progress.glance(max_frontier=0).votes == result.votes


def test_searches_of_a_joined_program_are_counted(progress):
    result = Sequence(growing("one"), growing("two"), name="both").run("", seed=1, on_event=progress)
    assert progress.num_thoughts == sum(len(part.graph) for part in result.parts.values())
    assert "2 searches, 0 under way" in progress.line()


def test_a_run_can_be_looked_at_from_another_thread_while_it_goes_on(progress):
    ended = threading.Event()
    faults = []

    def look():
        while not ended.is_set():
            try:
                progress.glance(max_frontier=5)
            except (RuntimeError, LookupError) as error:
                faults.append(error)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        growing("one", depth=60).run("", seed=1, on_event=progress)
    finally:
        ended.set()
        watcher.join()
    assert faults == []


def test_calls_and_tokens_are_counted_and_the_text_is_kept(progress):
    progress(CompletionDelta("say", ASKED, Delta(sample=0, text="one ")))
    progress(CompletionDelta("say", ASKED, Delta(sample=1, text="another")))
    progress(CompletionDelta("say", ASKED, Delta(sample=0, text="two")))
    assert progress.glance(max_frontier=0).written == "one two"
    progress(CallSettled("say", ASKED, Usage(calls=2, completion_tokens=7), 0.1))
    assert "2 calls, 7 tokens" in progress.line()
    progress(CompletionDelta("say", ASKED, Delta(sample=1, text="next")))
    assert progress.glance(max_frontier=0).written == "next"


def test_known_secrets_are_blacked_out_before_anything_is_cut(progress):
    secret = "sk-quite-secret-" + "7" * 20
    register_secret(secret)
    grown = Grown(progress)
    grown.graph.add("y" * 100 + secret, 1, (0,))
    progress(ThoughtExpanded((0,), (1,), (True,), (1,), (), 0, graph=grown.graph))
    grown.graph.record_verdict(1, "judge", Verdict(score=1.0))
    progress(ThoughtChecked(1, graph=grown.graph))
    progress(CompletionDelta("say", ASKED, Delta(sample=0, text=f"my key is {secret}")))
    seen = progress.glance(max_frontier=5)
    assert "sk-quite" not in repr(seen)
    assert seen.written == "my key is [redacted]"
    assert seen.frontier[0].state == "y" * 100 + "[redacted]"


def test_a_state_that_fails_to_write_itself_is_shown_as_that(progress):
    class Odd:
        def __str__(self):
            raise KeyError("no")

    grown = Grown(progress)
    grown.graph.add(Odd(), 1, (0,))
    progress(ThoughtExpanded((0,), (1,), (True,), (1,), (), 0, graph=grown.graph))
    progress(ThoughtChecked(1, graph=grown.graph))
    assert [thought.state for thought in progress.glance(max_frontier=5).frontier] == [
        "<Odd, which cannot be written: KeyError>"
    ]


def test_what_shows_a_run_may_fail_and_is_asked_again():
    asked = []

    def show():
        asked.append(True)
        raise KeyError("no")

    with repeated(show, 0.001):
        deadline = time.monotonic() + 100
        while len(asked) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
    assert len(asked) >= 3


def test_only_the_end_of_an_endless_text_is_kept(progress):
    for _ in range(100):
        progress(CompletionDelta("say", ASKED, Delta(sample=0, text="x" * 1000)))
    assert len(progress.glance(max_frontier=0).written) == 20_000


def test_a_run_of_one_step_is_watched_too(progress):
    program = Program(generators=[grow], controller=BestOfN(num_samples=2))
    program.run("", seed=1, on_event=progress)
    assert progress.glance(max_frontier=3).path
