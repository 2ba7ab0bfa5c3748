"""What a Ray worker asks of the owner, without Ray: nothing it reserved or began is lost when it is gone."""

from __future__ import annotations

import asyncio
import pickle
import time
from contextlib import closing

import pytest

from llmprog import Budget, open_store
from llmprog.errors import BudgetExceededError, NodeError, QuotaError
from llmprog.jobs.ray.desk import Desk, JobAccounts
from llmprog.jobs.ray.mailbox import Mailbox
from llmprog.jobs.ray.messages import (
    Answer,
    Message,
    Reserve,
    ReserveRate,
    Settle,
    SettleRate,
    TakeThoughts,
)
from llmprog.jobs.ray.proxies import RemoteLedger, RemoteShare
from llmprog.jobs.ray.worker import portable
from llmprog.redaction import register_secret
from llmprog.runs.encoding import QuestionEncoder
from llmprog.runs.info import RunInfo
from llmprog.runs.ledger import BudgetLedger
from llmprog.runs.path_journal import EncodedQuestion, EndedCall, SentCall
from llmprog.types import Prompt, Request, SamplingParams, Usage

EACH = Usage(1, 10, 20)
INFO = RunInfo(kind="map", program="p", program_hash="h", program_text="t", input=None, config={"seed": 1})
ASKED = Request(prompt=Prompt.from_text("why?"), params=SamplingParams())
QUESTION = EncodedQuestion(ASKED.digest(), QuestionEncoder().encode(ASKED))


def sent(value):
    """What arrives of a value in another process."""
    return received(pickle.dumps(value))


def received(data):
    return pickle.loads(data)  # noqa: S301 - of this test


class Owner:
    """A desk whose answers are kept, by number."""

    def __init__(self, journal=None, ledger=None):
        self.answers = {}
        self.failures = []
        self.accounts = JobAccounts(journal, ledger, None)
        self.desk = self.new_desk()

    def new_desk(self):
        def keep(answer):
            self.answers[answer.number] = answer

        return Desk(self.accounts, answer=keep, row_done=None, failed=self.failures.append)

    async def ask(self, number, operation):
        self.desk.take([Message(number, operation)])
        async with asyncio.timeout(5):
            while number not in self.answers:  # noqa: ASYNC110 - a turn of the loop at a time
                await asyncio.sleep(0)
        return self.answers[number]


async def test_what_a_dead_worker_had_reserved_is_given_back_and_what_it_had_sent_is_charged():
    ledger = BudgetLedger(Budget(calls=10))
    with closing(open_store("memory")) as store:
        journal = store.create(INFO)
        owner = Owner(journal, ledger)
        assert (await owner.ask(1, Reserve(EACH, 3))).value == 3
        three = Usage(3, 30, 60)
        call, number = (await owner.ask(2, SentCall("0", "n", "b", QUESTION, 0, 3, three))).value
        assert (await owner.ask(3, Reserve(EACH, 2))).value == 2  # and dies before it sends a call for them
        assert (await owner.ask(4, Reserve(EACH, 1))).value == 1
        done, _ = (await owner.ask(5, SentCall("0", "n", "b", number, 3, 1, EACH))).value
        owner.desk.take([Message(None, Settle(EACH, Usage(1, 5, 5)))])
        await owner.ask(6, EndedCall(done, "settled", Usage(1, 5, 5), 0.1, b"[]", None))
        owner.desk.take([Message(7, Reserve(Usage(9), 1))])  # waits: others may yet cost less than was set aside
        await owner.desk.close()
        assert 7 not in owner.answers
        assert (ledger.settled.calls, ledger.settled.tokens) == (4, 100)
        assert ledger.reserved.calls == 0
        await journal.aclose()
        with store.open(journal.id) as run:
            assert {c.id: c.state for c in run.calls()} == {call: "unknown", done: "settled"}
    assert owner.failures == []
    assert await ledger.reserve(EACH, 6) == 6


async def test_without_a_journal_all_that_a_dead_worker_had_reserved_is_charged():
    ledger = BudgetLedger(Budget(calls=10))
    owner = Owner(ledger=ledger)
    await owner.ask(1, Reserve(EACH, 4))
    await owner.desk.close()
    assert (ledger.settled.calls, ledger.reserved.calls) == (4, 0)


async def test_a_refusal_reaches_the_worker_as_the_error_it_is():
    owner = Owner(ledger=BudgetLedger(Budget(calls=1)))
    await owner.ask(1, Reserve(EACH, 1))
    owner.desk.take([Message(None, Settle(EACH, EACH))])
    refused = sent(await owner.ask(2, Reserve(EACH, 1)))
    assert isinstance(refused.error, BudgetExceededError)
    assert "calls: 1 of 1 spent" in str(refused.error)


async def test_thoughts_are_granted_up_to_the_limit_over_all_workers():
    owner = Owner(ledger=BudgetLedger(Budget(thoughts=5)))
    assert (await owner.ask(1, TakeThoughts(3))).value == (3, None)
    owner.desk = owner.new_desk()
    assert (await owner.ask(2, TakeThoughts(3))).value == (2, "thoughts: 5 of 5 made")


async def test_requests_per_minute_are_counted_over_all_workers():
    owner = Owner()
    asked = ReserveRate("account", 2, None, 1)
    first = await owner.ask(1, asked)
    owner.desk = owner.new_desk()  # another worker
    await owner.ask(2, asked)
    owner.desk.take([Message(3, asked)])
    await asyncio.sleep(0.05)
    assert 3 not in owner.answers
    owner.desk = owner.new_desk()
    owner.desk.take([Message(None, SettleRate(first.value, None))])  # of another desk: it has no effect here
    await asyncio.sleep(0.05)
    assert 3 not in owner.answers


def test_the_concurrency_of_an_endpoint_is_divided_without_rest():
    shares = [RemoteShare(None, worker, 3).concurrency(100) for worker in range(3)]
    assert shares == [34, 33, 33]


async def test_what_is_granted_to_someone_who_was_cancelled_is_given_back():
    mailbox = Mailbox()
    asking = asyncio.create_task(RemoteLedger(mailbox, limits_thoughts=False).reserve(EACH, 2))
    ((number, _),) = received(await mailbox.collect())
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    mailbox.deliver([Answer(number, 2)])
    assert received(await mailbox.collect()) == [Message(None, Settle(Usage(2, 20, 40), Usage()))]


async def test_the_time_that_is_left_is_told_in_seconds():
    ledger = RemoteLedger(None, limits_thoughts=False)
    assert ledger.deadline is None
    ledger.end_in(1000.0)
    assert 900 < ledger.deadline - time.monotonic() <= 1000
    assert not ledger.out_of_time()
    ledger.end_in(-1.0)
    assert ledger.out_of_time()
    assert ledger.exhausted


def test_an_error_that_is_sent_keeps_its_kind_and_details_but_no_secret():
    register_secret("sk-that-must-not-travel")

    class OwnError(NodeError):
        """An error of a user's own, which the owner does not know."""

    error = sent(portable(OwnError("node", "it said sk-that-must-not-travel")))
    assert type(error) is NodeError
    assert error.node == "node"
    assert "sk-that" not in str(error)
    quota = sent(portable(QuotaError("spent", backend="b", status=429, retry_after_s=1.5)))
    assert (type(quota), quota.status, quota.retry_after_s, quota.backend) == (QuotaError, 429, 1.5, "b")
