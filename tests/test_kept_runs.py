"""Runs in a store: what is paid for is paid for once, whatever ends the process or the search."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from dataclasses import dataclass, replace

import pytest

from llmprog import Program, arun, checker, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError, OptionError, ProgramChangedError, RunLockedError, StoreError
from llmprog.events import CallSettled
from llmprog.runs.cache import CallCache
from llmprog.runs.store import open_store
from llmprog.search import BreadthFirstSearch, SelfConsistency
from llmprog.types import Completion, Logprobs, Usage


@generator(prompt="after {state}", n=2)
def grow(state: str, completion: str) -> list[str]:
    return [state + completion]


@checker(prompt="rate {state}", n=2)
def worth(state: str, completions: list[str]) -> float:
    return float(len(completions))


def tree(depth=4):
    return Program(generators=[grow], checkers=[worth], controller=BreadthFirstSearch(max_depth=depth), name="tree")


def reply(text, sample):
    return "ab"[sample % 2] if text.startswith("after") else "x"


class Failing(ScriptedBackend):
    """Answers so many calls, then fails."""

    def __init__(self, good_calls):
        super().__init__(reply)
        self.good_calls = good_calls

    async def generate(self, request):
        if len(self.requests) >= self.good_calls:
            raise BackendError("it is down", backend=self.id)
        return await super().generate(request)


UNDISTURBED = run(tree(), "r", backend=ScriptedBackend(reply), seed=7)


def whole(result):
    return result.answer, result.usage, result.graph.to_json()


@dataclass(frozen=True)
class Rated:
    text: str
    grade: float | None = None

    def __str__(self):
        return f"{self.text}: {self.grade:.1f}"  # not of the first state, which has no grade


def test_a_state_that_cannot_be_written_yet_does_not_end_a_run_that_is_kept(tmp_path):
    @generator(prompt="grade {text}")
    def grade(state: Rated, completion: str) -> Rated:
        return Rated(state.text, float(completion))

    grades = Program(start=Rated, generators=[grade], controller=BreadthFirstSearch(max_depth=1), name="grades")
    result = run(grades, "essay", backend=ScriptedBackend(lambda text, sample: "7"), store=tmp_path)
    assert str(result.answer) == "essay: 7.0"
    with closing(open_store(tmp_path)) as store, store.open(result.run_id) as kept:
        assert kept.status == "finished"
        events = [event.data for event in kept.events(kind="thoughts")]
    assert [thought["state"] for entries in events for thought in entries] == [
        "<Rated, which cannot be written: TypeError>",
        "essay: 7.0",
    ]


def test_an_input_that_json_has_no_form_for_is_kept_and_resumed(tmp_path):
    grid = {(0, 0): "r", (0, 1): "x"}
    program = replace(tree(2), start=lambda cells: cells[0, 0])
    with pytest.raises(BackendError) as caught:
        run(program, grid, backend=Failing(3), seed=7, store=tmp_path)
    result = run(program, grid, backend=ScriptedBackend(reply), store=tmp_path, resume=caught.value.partial.run_id)
    assert result.to_json()["input"] == {"(0, 0)": "r", "(0, 1)": "x"}
    with closing(open_store(tmp_path)) as store, store.open(result.run_id) as kept:
        assert (kept.status, kept.info.input) == ("finished", {"(0, 0)": "r", "(0, 1)": "x"})


@pytest.mark.parametrize("good_calls", [0, 1, 10, 29])
def test_a_failed_run_is_resumed_without_asking_again_for_what_had_settled(tmp_path, good_calls):
    with pytest.raises(BackendError, match="it is down"):
        run(tree(), "r", backend=Failing(good_calls), seed=7, store=tmp_path)
    (kept,) = open_store(tmp_path).list()
    assert kept.status == "failed"
    settled = kept.counts().calls.get("settled", 0)
    assert settled >= good_calls
    backend = ScriptedBackend(reply)
    result = run(tree(), "r", backend=backend, store=tmp_path, resume=kept.id)
    assert whole(result) == whole(UNDISTURBED)
    assert len(backend.requests) + settled == 45
    assert result.run_id == kept.id
    assert open_store(tmp_path).open(kept.id).status == "finished"


class Scoring(ScriptedBackend):
    """Gives likelihoods, of so many prompts, then fails."""

    def __init__(self, good_calls=100):
        super().__init__(reply)
        self.capabilities = replace(self.capabilities, score=True)
        self.good_calls = good_calls
        self.num_scored = 0

    async def score(self, prompt, continuations):
        if self.num_scored >= self.good_calls:
            raise BackendError("it is down", backend=self.id)
        self.num_scored += 1
        return [Logprobs(tokens=(text,), logprobs=(-float(len(prompt.text + text)),)) for text in continuations]


def likelihoods():
    @generator
    async def likely(state: str, model):
        for word in ("a", "bb", "ccc"):
            (score,) = await model.score(state, [word])
            yield f"{state}{score.total:g}"

    return Program(generators=[likely], controller=BreadthFirstSearch(max_depth=1), name="likelihoods")


def test_likelihoods_are_kept_and_paid_like_completions(tmp_path):
    undisturbed = run(likelihoods(), "r", backend=Scoring(), seed=7)
    with pytest.raises(BackendError, match="it is down"):
        run(likelihoods(), "r", backend=Scoring(good_calls=2), seed=7, store=tmp_path)
    (kept,) = open_store(tmp_path).list()
    backend = Scoring()
    result = run(likelihoods(), "r", backend=backend, store=tmp_path, resume=kept.id)
    assert whole(result) == whole(undisturbed)
    assert backend.num_scored == 1
    limited = run(likelihoods(), "r", backend=Scoring(), seed=7, budget="calls=2")
    assert (limited.stopped, limited.usage.calls) == ("budget", 2)


def test_a_finished_run_is_shown_again_without_a_single_call(tmp_path):
    first = run(tree(), "r", backend=ScriptedBackend(reply), seed=7, store=tmp_path)
    backend = ScriptedBackend(reply)
    recalled = []
    again = run(tree(), "r", backend=backend, store=tmp_path, resume=first.run_id, on_event=recalled.append)
    assert whole(again) == whole(first)
    assert backend.requests == []
    assert all(event.is_recalled for event in recalled if isinstance(event, CallSettled))


def test_a_cancelled_run_leaves_its_settled_calls_and_lets_go_of_the_run(tmp_path):
    async def cut_short():
        backend = ScriptedBackend(reply, latency_s=0.05)
        task = asyncio.ensure_future(arun(tree(), "r", backend=backend, seed=7, store=tmp_path))
        while len(backend.requests) < 7:  # noqa: ASYNC110 - the time limit of the test is its limit
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backend.num_in_flight == 0

    asyncio.run(cut_short())
    (kept,) = open_store(tmp_path).list()
    assert kept.status == "interrupted"
    assert whole(run(tree(), "r", backend=ScriptedBackend(reply), store=tmp_path, resume=kept.id)) == whole(UNDISTURBED)


def test_a_run_that_is_asked_to_stop_takes_in_what_is_under_way(tmp_path):
    stop = threading.Event()
    backend = ScriptedBackend(reply, latency_s=0.01)

    def watch(event):
        if isinstance(event, CallSettled):
            stop.set()

    result = run(tree(), "r", backend=backend, seed=7, store=tmp_path, on_event=watch, stop=stop)
    assert result.stopped == "interrupted"
    assert result.answer is not None
    asked = sum(request.num_samples for request in backend.requests)
    assert result.usage.calls == asked < UNDISTURBED.usage.calls  # nothing paid for was thrown away
    assert open_store(tmp_path).open(result.run_id).status == "stopped"
    again = run(tree(), "r", backend=backend, store=tmp_path, resume=result.run_id)
    assert whole(again) == whole(UNDISTURBED)
    assert sum(request.num_samples for request in backend.requests) == UNDISTURBED.usage.calls


def test_a_run_out_of_budget_is_resumed_with_a_larger_one(tmp_path):
    backend = ScriptedBackend(reply, latency_s=0.001)
    first = run(tree(), "r", backend=backend, seed=7, store=tmp_path, budget="calls=20")
    assert (first.stopped, first.usage.calls) == ("budget", 20)
    again = run(tree(), "r", backend=backend, store=tmp_path, resume=first.run_id, budget="calls=20")
    assert (again.stopped, sum(request.num_samples for request in backend.requests)) == ("budget", 20)
    rest = run(tree(), "r", backend=backend, store=tmp_path, resume=first.run_id, budget="calls=90")
    assert whole(rest) == whole(UNDISTURBED)
    assert sum(request.num_samples for request in backend.requests) == UNDISTURBED.usage.calls


@pytest.mark.parametrize(
    ("changed", "named"), [({"input": "s"}, "input='r'"), ({"seed": 8}, "seed=7"), ({"max_in_flight": 2}, "max_in_fl")]
)
def test_what_a_run_was_begun_with_cannot_be_changed(tmp_path, changed, named):
    first = run(tree(), "r", backend=ScriptedBackend(reply), seed=7, store=tmp_path)
    options = {"input": "r", "backend": ScriptedBackend(reply), "store": tmp_path, "resume": first.run_id, **changed}
    with pytest.raises(OptionError, match=named):
        run(tree(), options.pop("input"), **options)


def test_an_edited_program_is_shown_and_needs_a_fork(tmp_path):
    first = run(tree(3), "r", backend=ScriptedBackend(reply), seed=7, store=tmp_path)
    backend = ScriptedBackend(reply)
    with pytest.raises(ProgramChangedError, match=r"-.*max_depth: 3\n.*\+.*max_depth: 4"):
        run(tree(4), "r", backend=backend, store=tmp_path, resume=first.run_id)
    forked = run(tree(4), "r", backend=backend, store=tmp_path, resume=first.run_id, fork=True)
    assert forked.run_id != first.run_id
    assert (forked.answer, forked.graph.to_json()) == (UNDISTURBED.answer, UNDISTURBED.graph.to_json())
    assert len(backend.requests) == 45 - 21  # the calls of three levels of the tree were taken over
    assert forked.usage.calls == 48  # what the other run has paid for costs nothing here
    kept = open_store(tmp_path).open(forked.run_id)
    assert kept.forked_from == first.run_id


def test_two_cannot_work_on_one_run(tmp_path):
    async def both():
        backend = ScriptedBackend(reply, latency_s=0.05)
        task = asyncio.ensure_future(arun(tree(), "r", backend=backend, seed=7, store=tmp_path))
        while not backend.requests:  # noqa: ASYNC110 - the time limit of the test is its limit
            await asyncio.sleep(0.001)
        (kept,) = open_store(tmp_path).list()
        assert kept.status == "running"
        with pytest.raises(RunLockedError):
            await arun(tree(), "r", backend=backend, store=tmp_path, resume=kept.id)
        await task

    asyncio.run(both())


def test_an_unknown_run_is_refused(tmp_path):
    with pytest.raises(StoreError, match="nonesuch"):
        run(tree(), "r", backend=ScriptedBackend(reply), store=tmp_path, resume="nonesuch")
    with pytest.raises(OptionError, match="fork"):
        run(tree(), "r", backend=ScriptedBackend(reply), store=tmp_path, fork=True)


def test_nothing_is_kept_of_a_run_that_is_refused(tmp_path):
    unpriced = ScriptedBackend(reply)
    unpriced.most_usd = lambda *_: None
    with pytest.raises(OptionError, match="price of backend 'scripted' is unknown"):
        run(tree(), "r", backend=unpriced, store=tmp_path, budget="usd=1")
    assert unpriced.requests == []
    assert list(open_store(tmp_path).list()) == []


def test_what_async_nodes_ask_for_is_kept_too(tmp_path):
    @generator
    async def ask_twice(state, model):
        first = await model.generate(f"after {state}")
        second = await model.generate(f"after {state}", n=2)
        return [state + "".join(c.text for c in (*first, *second))]

    program = Program(generators=[ask_twice], controller=BreadthFirstSearch(max_depth=2), name="twice")
    first = run(program, "r", backend=ScriptedBackend(reply), seed=1, store=tmp_path)
    backend = ScriptedBackend(reply)
    again = run(program, "r", backend=backend, store=tmp_path, resume=first.run_id)
    assert whole(again) == whole(first)
    assert backend.requests == []


def test_the_journal_says_which_completion_a_thought_came_from(tmp_path):
    result = run(tree(2), "r", backend=ScriptedBackend(reply), seed=7, store=tmp_path)
    with open_store(tmp_path).open(result.run_id) as kept:
        calls = {call.question.digest(): call for call in kept.calls()}
        thoughts = [thought for event in kept.events(kind="thoughts") for thought in event.data]
        verdicts = [verdict for event in kept.events(kind="verdicts") for verdict in event.data]
    assert [thought["state"] for thought in thoughts] == ["r", "ra", "rb", "raa", "rab", "rba", "rbb"]
    for thought in thoughts[1:]:
        call = calls[thought["call"]]
        said = call.completions[thought["sample"] - call.first_sample].text
        assert thought["state"] == thoughts[thought["parents"][0]]["state"] + said
    assert {verdict["thought"] for verdict in verdicts} == set(range(1, 7))


def test_samples_of_other_runs_come_from_the_cache_and_cost_nothing(tmp_path):
    say = generator(prompt="q", name="say")(lambda state, completion: [completion])
    program = Program(generators=[say], controller=SelfConsistency(num_samples=5), name="vote")
    backend = ScriptedBackend(lambda text, sample: f"{sample}")
    first = run(program, "", backend=backend, seed=1, cache=tmp_path / "cache")
    again = run(program, "", backend=backend, seed=1, cache=tmp_path / "cache", store=tmp_path / "runs")
    assert len(backend.requests) == 5
    assert again.votes == first.votes  # sample 3 is not sample 0
    assert again.usage == Usage(cache_hits=5)
    resumed = run(program, "", backend=backend, store=tmp_path / "runs", resume=again.run_id)  # without the cache
    assert len(backend.requests) == 5
    assert resumed.votes == first.votes


def test_usage_of_the_backend_is_kept_as_it_was(tmp_path):
    usage = Usage(1, 11, 5, 0.25, 3, 2)
    backend = ScriptedBackend(lambda text, sample: Completion(text="x", usage=usage))
    first = run(tree(1), "r", backend=backend, seed=1, store=tmp_path)
    again = run(tree(1), "r", backend=backend, store=tmp_path, resume=first.run_id)
    assert again.usage == first.usage
    assert first.usage.usd == pytest.approx(0.25 * first.usage.calls)
    assert open_store(tmp_path).open(first.run_id).usage == first.usage


def test_runs_that_share_an_open_cache_find_each_others_completions(tmp_path):
    say = generator(prompt="q", name="say")(lambda state, completion: [completion])
    program = Program(generators=[say], controller=SelfConsistency(num_samples=5), name="vote")
    backend = ScriptedBackend(lambda text, sample: f"{sample}")
    with CallCache(tmp_path / "cache") as cache:
        run(program, "", backend=backend, seed=1, cache=cache)
        again = run(program, "", backend=backend, seed=1, cache=cache)
    assert (len(backend.requests), again.usage.cache_hits) == (5, 5)


@pytest.mark.fault("users", "the run file deleted mid-run", "an error that names the file; its result so far")
def test_a_run_whose_file_is_deleted_keeps_its_result_so_far(tmp_path):
    @generator(prompt="after {state}", name="grow")
    def grow_and_delete(state, completion):
        for file in tmp_path.iterdir():
            file.unlink()
        return [state + completion]

    program = Program(generators=[grow_and_delete], controller=BreadthFirstSearch(max_depth=4), name="deleting")
    with pytest.raises(StoreError, match="it was deleted or replaced") as caught:
        run(program, "r", backend=ScriptedBackend(reply), seed=1, store=tmp_path)
    assert (caught.value.partial.answer, caught.value.partial.stopped) == ("ra", "error")
