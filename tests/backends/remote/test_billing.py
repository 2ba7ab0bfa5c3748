"""What a call over the wire costs a budget: every attempt that may be billed, and nothing that was refused."""

from __future__ import annotations

import json

import pytest

from llmprog.backends import Scheduler, open_backend
from llmprog.backends.accounts import Accounts
from llmprog.errors import BudgetExceededError
from llmprog.runs.budget import Budget
from llmprog.runs.info import RunInfo
from llmprog.runs.ledger import BudgetLedger
from llmprog.runs.store import open_store
from llmprog.types import Prompt, Request, SamplingParams

ASKED = Request(prompt=Prompt.from_text("hello"), params=SamplingParams(max_tokens=5))
ANSWER = {
    "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    "model": "tiny",
}


@pytest.fixture
async def failing_first(serve, wire):
    """``await failing_first(answer)``: a server that answers so at first, then well; and its backend."""
    backends = []

    async def start(first):
        async def handler(request, writer):
            if len(server.requests) == 1:
                writer.write(first)
                writer.close()
            else:
                writer.write(wire.http(200, ANSWER))

        server = await serve(handler)
        backends.append(open_backend(f"{server.url}/v1#tiny"))
        return server, backends[-1]

    yield start
    for backend in backends:
        await backend.aclose()


TORN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n" + json.dumps(ANSWER).encode()


@pytest.mark.fault("budget", "an answer cut off half-way", "charged at its bound, the next attempt by itself")
async def test_an_attempt_that_may_be_billed_is_charged_beside_the_one_that_succeeds(failing_first):
    server, backend = await failing_first(TORN)
    ledger = BudgetLedger(Budget(calls=10))
    await Scheduler(backend, accounts=Accounts(spending=ledger)).generate("say", ASKED)
    assert len(server.requests) == 2
    assert (ledger.settled.calls, ledger.reserved.calls) == (2, 0)


async def test_a_second_attempt_is_not_made_where_the_budget_has_no_room_for_it(failing_first):
    server, backend = await failing_first(TORN)
    ledger = BudgetLedger(Budget(calls=1))
    with pytest.raises(BudgetExceededError, match="calls: 1 of 1"):
        await Scheduler(backend, accounts=Accounts(spending=ledger)).generate("say", ASKED)
    assert len(server.requests) == 1
    assert (ledger.settled.calls, ledger.reserved.calls) == (1, 0)


async def test_a_refused_attempt_costs_nothing(failing_first, wire):
    server, backend = await failing_first(wire.http(503, {"error": {"message": "busy"}}))
    ledger = BudgetLedger(Budget(calls=1))
    await Scheduler(backend, accounts=Accounts(spending=ledger)).generate("say", ASKED)
    assert len(server.requests) == 2
    assert ledger.settled.calls == 1


async def test_attempts_are_written_down(failing_first, tmp_path):
    _, backend = await failing_first(TORN)
    store = open_store(tmp_path)
    info = RunInfo(kind="run", program="p", program_hash="h", program_text="", input=None, config={})
    journal = store.create(info)
    await Scheduler(backend, accounts=Accounts(journal.at(""))).generate("say", ASKED)
    await journal.aclose()
    with store.open(journal.id) as run:
        (call,) = run.calls()
    assert (call.state, call.attempts, call.completions[0].text) == ("settled", 1, "hi")
