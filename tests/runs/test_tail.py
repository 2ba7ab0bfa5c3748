"""A run read while it goes on, the same for every kind of store."""

from __future__ import annotations

import asyncio

from llmprog.errors import RateLimitError
from llmprog.runs.tail import RunTail
from llmprog.types import Completion, Prompt, Request, SamplingParams, Usage

PARAMS = SamplingParams(seed=3, max_tokens=100)
BOUND = Usage(1, 10, 100, 0.02)
COST = Usage(1, 10, 20, 0.01)


def ask(text, *, first_sample=0):
    return Request(prompt=Prompt.from_text(text), params=PARAMS, num_samples=1, first_sample=first_sample)


async def test_what_is_added_is_read_once(store, info):
    journal = store.create(info)
    calls = journal.at("")
    with store.open(journal.id) as run:
        tail = RunTail(run)
        assert tail.calls(10) == ([], [])
        first = await calls.send("think", "test:model", ask("a"), BOUND)
        second = await calls.send("think", "test:model", ask("a", first_sample=1), BOUND)
        (one, two), outcomes = tail.calls(10)
        assert (one.id, two.id, one.question == two.question, two.first_sample) == (first, second, True, 1)
        assert outcomes == []
        assert [digest for _, digest in tail.questions(10)] == [ask("a").digest()]

        calls.note_attempt(second, RateLimitError("slow down", backend="test:model", status=429), 0.25)
        await calls.settle(second, [Completion(text="b", usage=COST)], COST, 0.5)
        (outcome,) = tail.outcomes()
        assert (outcome.call, outcome.state, outcome.duration_s, outcome.usage.usd) == (second, "settled", 0.5, 0.01)
        (attempt,) = tail.attempts(10)
        assert (attempt.call, attempt.status, attempt.duration_s) == (second, "429", 0.25)
        assert "slow down" in attempt.error

        await calls.fail(first, ValueError("no"), Usage(), 0.5)
        third = await calls.send("judge", "test:model", ask("c"), BOUND)
        await calls.settle(third, [Completion(text="d", usage=COST)], COST, 0.1)
        assert [(o.call, o.state) for o in tail.outcomes()] == [(first, "failed")]
        sent, outcomes = tail.calls(10)
        assert [(call.id, call.node) for call in sent] == [(third, "judge")]
        assert [(o.call, o.state) for o in outcomes] == [(third, "settled")]
        assert (tail.calls(10), tail.outcomes(), tail.attempts(10)) == (([], []), [], [])
    await journal.aclose()


async def test_events_come_a_few_at_a_time_and_rows_in_any_order(store, info):
    journal = store.create(info)
    with store.open(journal.id) as run:
        tail = RunTail(run)
        for number in range(5):
            journal.event("", "counted", number)
        await journal.finish_row(7, "digest", {"answer": "x"})
        assert [event.data for event in tail.events(3)] == [0, 1, 2]
        assert [event.data for event in tail.events(3)] == [3, 4]
        assert tail.rows(10) == [(7, {"answer": "x"})]
        await journal.finish_row(2, "digest", {"answer": "y"})
        assert tail.rows(10) == [(2, {"answer": "y"})]
        assert tail.rows(10) == []
    await journal.aclose()


async def test_many_calls_that_are_awaited_at_once(store, info):
    journal = store.create(info)
    calls = journal.at("")
    with store.open(journal.id) as run:
        tail = RunTail(run)
        requests = [ask("a", first_sample=i) for i in range(1100)]  # more than one statement takes
        sent = await asyncio.gather(*(calls.send("think", "test:model", request, BOUND) for request in requests))
        found = []
        while new := tail.calls(400)[0]:
            found += new
        assert [call.id for call in found] == sorted(sent)
        await asyncio.gather(*(calls.settle(call, [Completion(text="b", usage=COST)], COST, 0.5) for call in sent))
        assert sorted(outcome.call for outcome in tail.outcomes()) == sorted(sent)
    await journal.aclose()
