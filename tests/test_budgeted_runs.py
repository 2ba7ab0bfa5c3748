"""Runs with a budget: it is never exceeded, and what it allows is used."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import Program, arun, checker, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError, BudgetExceededError, OptionError
from llmprog.runs.budget import Budget
from llmprog.runs.ledger import BudgetLedger
from llmprog.search import BeamSearch, BreadthFirstSearch, SelfConsistency
from llmprog.types import Completion, Usage


@generator(prompt="after {state}", n=2, max_tokens=3)
def grow(state: str, completion: str) -> list[str]:
    return [state + completion]


@checker(prompt="rate {state}", n=2, max_tokens=3)
def worth(state: str, completions: list[str]) -> float:
    return float(state.count("b"))


def tree(depth=4):
    return Program(generators=[grow], checkers=[worth], controller=BreadthFirstSearch(max_depth=depth), name="tree")


def vote(num_samples=40):
    say = generator(prompt="q", name="say", max_tokens=3)(lambda state, completion: [completion])
    return Program(generators=[say], controller=SelfConsistency(num_samples=num_samples), name="vote")


def reply(text, sample):
    return "ab"[sample % 2]


@pytest.mark.parametrize("has_n", [True, False])
@pytest.mark.parametrize("calls", [1, 2, 7, 40])
def test_calls_are_never_exceeded_and_the_best_so_far_is_given(calls, has_n):
    backend = ScriptedBackend(reply, latency_s=0.001, n=has_n)
    result = run(tree(), "r", backend=backend, seed=1, budget=Budget(calls=calls))
    assert sum(request.num_samples for request in backend.requests) == result.usage.calls == calls
    assert result.stopped == "budget"
    assert result.shortfall.startswith(f"calls: {calls} of {calls} spent")
    assert result.to_json()["shortfall"] == result.shortfall
    assert result.answer is not None


def test_a_vote_counts_the_samples_that_the_budget_allowed():
    result = run(vote(), "", backend=ScriptedBackend(reply, latency_s=0.001), seed=1, budget="calls=12")
    assert (result.stopped, result.votes.num_valid, result.usage.calls) == ("budget", 12, 12)
    assert dict(result.votes.histogram) == {"a": 6, "b": 6}


def test_an_ample_budget_changes_nothing():
    free = run(tree(), "r", backend=ScriptedBackend(reply), seed=1)
    held = run(tree(), "r", backend=ScriptedBackend(reply), seed=1, budget="calls=90,usd=1,thoughts=31,seconds=60")
    assert (held.stopped, held.shortfall) == (free.stopped, None)
    assert held.graph.to_json() == free.graph.to_json()


@given(cap=st.integers(1, 20_000), shuffle=st.integers(0, 1000), wide=st.booleans())
def test_tokens_are_never_exceeded(cap, shuffle, wide):
    controller = BreadthFirstSearch(max_depth=3) if wide else BeamSearch(beam_width=2, max_depth=3)
    program = Program(generators=[grow], checkers=[worth], controller=controller)
    backend = ScriptedBackend(reply, shuffle=shuffle, n=wide)
    result = run(program, "r", backend=backend, seed=1, budget=Budget(tokens=cap))
    assert result.usage.prompt_tokens + result.usage.completion_tokens <= cap
    if result.stopped == "budget":
        assert "tokens" in result.shortfall
    else:
        assert result.shortfall is None


def test_what_a_backend_does_not_count_is_charged_at_its_most():
    uncounted = ScriptedBackend(lambda text, sample: Completion(text="x", usage=Usage(calls=1, usd=None)))
    ledger = BudgetLedger(Budget(tokens=1000))
    result = run(vote(), "", backend=uncounted, seed=1, budget=ledger)
    assert result.stopped == "budget"
    assert result.usage.completion_tokens == 0
    assert 900 < ledger.settled.tokens <= 1000


def test_thoughts_are_never_exceeded():
    result = run(tree(), "r", backend=ScriptedBackend(reply), seed=1, budget="thoughts=10")
    assert (len(result.graph), result.stopped) == (10, "budget")
    assert result.shortfall == "thoughts: 10 of 10 made"


def test_a_search_without_a_model_ends_at_its_thoughts_too():
    count_up = generator(lambda state: [state + 1, state + 2])
    program = Program(generators=[count_up], controller=BreadthFirstSearch(max_depth=10**9))
    assert len(run(program, 0, budget="thoughts=5000").graph) == 5000
    timed = run(program, 0, budget="seconds=0.2")
    assert timed.stopped == "budget"
    assert timed.wall_s < 120  # without a limit it never ends


def test_time_ends_a_run_that_waits_for_a_model():
    class Slow(ScriptedBackend):
        async def generate(self, request):
            self._latency_s = 600.0 if len(self.requests) >= 4 else 0.0
            return await super().generate(request)

    slow = Slow(lambda text, sample: "a" if len(text) < 9 else "b")
    result = run(tree(12), "r", backend=slow, seed=1, budget="seconds=4")
    assert (result.stopped, slow.num_in_flight) == ("budget", 0)
    assert re.match(r"seconds: \d+\.\d of 4 over", result.shortfall)
    assert result.answer is not None
    assert 3.9 <= result.wall_s < 120


def test_runs_share_an_open_ledger():
    ledger = BudgetLedger(Budget(calls=100))

    async def both():
        runs = (arun(tree(), "r", backend=ScriptedBackend(reply, latency_s=0.001), seed=1, budget=ledger) for _ in "ab")
        return await asyncio.gather(*runs)

    results = asyncio.run(both())
    assert sum(result.usage.calls for result in results) == ledger.settled.calls == 100
    with pytest.raises(BudgetExceededError, match="thoughts: 1 of 1 made"):
        run(vote(), "", backend=ScriptedBackend(reply), seed=1, budget=BudgetLedger(Budget(thoughts=1), num_thoughts=1))


def test_a_failed_call_that_may_be_billed_is_charged_and_one_that_is_not_costs_nothing():
    class Failing(ScriptedBackend):
        async def generate(self, request):
            raise BackendError("no", backend=self.id, possibly_billed=self.billed)

    for billed, charged in ((True, 1), (False, 0)):
        backend = Failing(reply)
        backend.billed = billed
        ledger = BudgetLedger(Budget(calls=100))
        with pytest.raises(BackendError):
            run(vote(1), "", backend=backend, seed=1, budget=ledger)
        assert ledger.settled.calls == charged
        assert ledger.reserved.calls == 0


def test_a_cancelled_run_leaves_nothing_reserved():
    ledger = BudgetLedger(Budget(calls=1000))

    async def cancelled():
        backend = ScriptedBackend(reply, latency_s=100)
        task = asyncio.ensure_future(arun(vote(), "", backend=backend, seed=1, budget=ledger))
        while backend.num_in_flight < 40:  # noqa: ASYNC110 - the time limit of the test is its limit
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancelled())
    assert ledger.reserved.calls == 0
    assert ledger.settled.calls == 40  # they were sent, so they may be billed


def test_a_budget_that_is_no_budget_is_refused():
    for budget in ("calls=0", "money=3", "usd=nan", "", "calls=1,calls=2"):
        with pytest.raises(OptionError):
            run(vote(), "", backend=ScriptedBackend(reply), budget=budget)
