import asyncio
import contextlib
import itertools
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprog.errors import BudgetExceededError, OptionError
from llmprog.runs.amounts import Amount, caps_of
from llmprog.runs.budget import Budget
from llmprog.runs.ledger import BudgetLedger
from llmprog.types import Usage

EACH = Usage(calls=1, prompt_tokens=60, completion_tokens=40, usd=0.04)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


async def settled_by(ledger, usage=EACH, actual=None):
    await ledger.reserve(usage, 1)
    await ledger.settle(usage, usage if actual is None else actual)


@pytest.mark.parametrize(
    ("budget", "calls"), [(Budget(calls=5), 5), (Budget(tokens=799), 7), (Budget(usd=0.5), 12), (Budget(), 30)]
)
async def test_calls_are_allowed_as_long_as_each_limit_holds(budget, calls):
    ledger = BudgetLedger(budget)
    allowed = 0
    for _ in range(30):
        try:
            await settled_by(ledger)
        except BudgetExceededError:
            break
        allowed += 1
    assert allowed == calls
    assert ledger.settled == Amount(calls, calls * 100, calls * 40_000_000)


async def test_as_many_completions_as_fit_are_granted():
    ledger = BudgetLedger(Budget(calls=10, tokens=450))
    assert await ledger.reserve(EACH, 3) == 3
    assert await ledger.reserve(EACH, 3) == 1
    assert ledger.reserved == Amount(4, 400, 160_000_000)
    assert ledger.remaining == {"calls": 6, "tokens": 50, "usd": None, "seconds": None, "thoughts": None}


async def test_the_error_says_what_ran_out_and_what_to_do():
    ledger = BudgetLedger(Budget(calls=1000, usd=2), spent=Usage(calls=40, usd=1.98))
    with pytest.raises(BudgetExceededError) as caught:
        await ledger.reserve(EACH, 1)
    said = "usd: 1.98 of 2 spent, and the next call may cost up to 0.04"
    assert str(caught.value) == f"the budget is spent: {said}; raise usd, or lower max_tokens to go on"
    assert ledger.exhausted == said
    assert ledger.report()["exhausted"] == said


async def test_a_call_waits_for_those_under_way_that_may_cost_less():
    ledger = BudgetLedger(Budget(tokens=150))
    await ledger.reserve(EACH, 1)
    waiting = asyncio.create_task(ledger.reserve(EACH, 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    await ledger.settle(EACH, Usage(calls=1, completion_tokens=50))
    assert await waiting == 1
    assert ledger.exhausted is None


async def test_a_call_that_can_no_longer_fit_does_not_wait():
    ledger = BudgetLedger(Budget(tokens=250))
    await settled_by(ledger)
    await ledger.reserve(EACH, 1)
    first, second = (asyncio.create_task(ledger.reserve(EACH, 1)) for _ in range(2))
    await asyncio.sleep(0)
    assert not first.done()
    await ledger.settle(EACH, EACH)
    for waiting in (first, second):
        with pytest.raises(BudgetExceededError, match="tokens: 200 of 250 spent"):
            await waiting


async def test_who_waits_first_is_served_first():
    ledger = BudgetLedger(Budget(calls=4, tokens=300))
    big = Usage(calls=1, completion_tokens=300)
    await ledger.reserve(EACH, 1)
    order = []

    async def ask(name, usage):
        await ledger.reserve(usage, 1)
        order.append(name)
        await ledger.settle(usage, Usage(calls=1))

    tasks = [asyncio.create_task(ask("big", big)), asyncio.create_task(ask("small", EACH))]
    await asyncio.sleep(0)
    assert order == []  # the small one would fit, and must not starve the big one
    await ledger.settle(EACH, Usage(calls=1))
    await asyncio.gather(*tasks)
    assert order == ["big", "small"]


@pytest.mark.fault("concurrency", "cancelled while waiting for the budget, twice", "nothing stays set aside")
@pytest.mark.parametrize("granted_first", [False, True])
async def test_a_cancelled_wait_leaves_nothing_set_aside(granted_first):
    ledger = BudgetLedger(Budget(calls=1))
    await ledger.reserve(EACH, 1)
    first, second = (asyncio.create_task(ledger.reserve(EACH, 1)) for _ in range(2))
    await asyncio.sleep(0)
    if granted_first:  # the grant is under way to the task that is cancelled
        await ledger.settle(EACH, Usage())
        assert ledger.reserved.calls == 1
    first.cancel()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    if not granted_first:
        await ledger.settle(EACH, Usage())
    assert await second == 1
    await ledger.settle(EACH, Usage())
    assert ledger.reserved == Amount()
    assert ledger.settled == Amount()


@pytest.mark.fault("budget", "unknown price under a limit in dollars", "refused before the call")
@pytest.mark.parametrize("usd", [None, float("nan"), float("inf")])
async def test_an_unknown_price_is_refused_under_a_limit_in_dollars(usd):
    with pytest.raises(OptionError, match="what a call may cost is unknown; give the model's prices"):
        await BudgetLedger(Budget(usd=1)).reserve(Usage(calls=1, usd=usd), 1)
    with pytest.raises(OptionError, match="what the run has cost so far is unknown"):
        BudgetLedger(Budget(usd=1), spent=Usage(calls=1, usd=None))


async def test_an_unknown_price_is_fine_under_other_limits_and_stays_unknown():
    ledger = BudgetLedger(Budget(calls=3))
    unknown = Usage(calls=1, usd=None)
    await settled_by(ledger, unknown)
    await settled_by(ledger)
    assert ledger.settled == Amount(2, 100, None)
    assert ledger.reserved == Amount()
    assert ledger.report()["settled"]["usd"] is None


async def test_an_unknown_cost_is_charged_as_set_aside():
    ledger = BudgetLedger(Budget(usd=1))
    await settled_by(ledger, actual=Usage(calls=1, usd=None))
    assert ledger.settled.usd == 0.04


async def test_a_cost_above_what_was_set_aside_is_charged_all_the_same():
    ledger = BudgetLedger(Budget(usd=0.1))
    await settled_by(ledger, actual=Usage(calls=1, usd=0.3))
    assert ledger.settled.usd == 0.3
    with pytest.raises(BudgetExceededError, match=r"usd: 0\.3 of 0\.1 spent"):
        await ledger.reserve(EACH, 1)
    assert ledger.remaining["usd"] == 0


async def test_dollars_add_up_exactly():
    ledger = BudgetLedger(Budget(usd=0.01))
    tiny = Usage(calls=1, usd=1e-7)
    for _ in range(100_000):
        await settled_by(ledger, tiny)
    assert ledger.settled.usd == 0.01
    with pytest.raises(BudgetExceededError):
        await ledger.reserve(tiny, 1)


@given(usd=st.floats(0, 10), count=st.integers(1, 50), data=st.data())
def test_what_is_given_back_in_parts_is_what_was_set_aside(usd, count, data):
    ledger = BudgetLedger(Budget(usd=1000))
    each = Usage(calls=1, usd=usd)

    async def play():
        held = await ledger.reserve(each, count)
        assert held == count
        while held:
            part = data.draw(st.integers(1, held))
            held -= part
            await ledger.settle(Usage(calls=part, usd=usd * part), Usage())
            assert ledger.reserved.calls == held
            assert abs(ledger.reserved.usd - usd * held) <= 1e-9 * held + 1e-12

    asyncio.run(play())
    assert ledger.reserved == Amount()


async def test_settling_twice_is_refused():
    ledger = BudgetLedger(Budget(calls=2))
    await settled_by(ledger)
    with pytest.raises(OptionError, match="settle it once"):
        await ledger.settle(EACH, EACH)
    with pytest.raises(OptionError, match="at least 1 completion"):
        await ledger.reserve(EACH, 0)


def test_thoughts_are_taken_until_there_are_none():
    ledger = BudgetLedger(Budget(thoughts=10), num_thoughts=3)
    assert [ledger.take_thoughts(5), ledger.take_thoughts(2), ledger.exhausted] == [5, 2, None]
    assert ledger.take_thoughts(1) == 0
    assert ledger.exhausted == "thoughts: 10 of 10 made"
    assert BudgetLedger(Budget()).take_thoughts(10**9) == 10**9


async def test_no_call_begins_after_the_deadline():
    clock = Clock()
    ledger = BudgetLedger(Budget(seconds=60), elapsed_s=50, clock=clock)
    assert ledger.deadline == 1010
    await settled_by(ledger)
    clock.now += 9.9
    assert not ledger.out_of_time()
    clock.now += 0.2
    with pytest.raises(BudgetExceededError, match=r"seconds: 60\.1 of 60 over; raise seconds to go on"):
        await ledger.reserve(EACH, 1)
    assert ledger.out_of_time()
    assert ledger.exhausted == "seconds: 60.1 of 60 over"
    assert ledger.remaining["seconds"] == 0


async def test_who_waits_at_the_deadline_is_told():
    looks = itertools.count()
    ledger = BudgetLedger(Budget(calls=1, seconds=0.1), clock=lambda: next(looks) / 100)
    await ledger.reserve(EACH, 1)
    with pytest.raises(BudgetExceededError, match="seconds"):
        await ledger.reserve(EACH, 1)
    await ledger.settle(EACH, EACH)
    assert ledger.settled.calls == 1


def test_several_event_loops_in_several_threads_share_a_ledger():
    ledger = BudgetLedger(Budget(calls=200, tokens=10_000))
    refused = []

    async def task():
        while True:
            try:
                granted = await ledger.reserve(EACH, 2)
            except BudgetExceededError as error:
                refused.append(error)
                return
            await asyncio.sleep(0)
            for _ in range(granted):
                await ledger.settle(EACH, Usage(calls=1, completion_tokens=random.randint(0, 100)))

    async def tasks():
        await asyncio.gather(*(task() for _ in range(16)))

    threads = [threading.Thread(target=asyncio.run, args=(tasks(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(refused) == 64
    assert ledger.reserved == Amount()
    assert ledger.settled.calls == 200 or 9_900 < ledger.settled.tokens <= 10_000
    assert ledger.settled.calls <= 200


class Schedule:
    """Tasks that draw completions at random, fail and are cancelled at random; ``spent`` is their own account."""

    def __init__(self, seed):
        self.draw = draw = random.Random(seed)
        self.budget = Budget(
            calls=draw.choice([None, draw.randint(1, 300)]),
            tokens=draw.choice([None, draw.randint(100, 30_000)]),
            usd=draw.choice([None, draw.uniform(0.001, 3)]),
        )
        self.ledger = BudgetLedger(self.budget)
        self.spent = []

    def check(self):
        held = self.ledger.settled + self.ledger.reserved
        for cap, have in zip(caps_of(self.budget), held, strict=True):
            assert cap is None or have <= cap

    async def task(self):
        for _ in range(self.draw.randint(1, 6)):
            each = Usage(1, self.draw.randint(0, 200), self.draw.randint(1, 300), self.draw.uniform(0, 0.02))
            try:
                granted = await self.ledger.reserve(each, self.draw.randint(1, 4))
            except BudgetExceededError:
                return
            with contextlib.suppress(ConnectionError):
                await self.calls(each, granted)

    async def calls(self, each, held):
        try:
            while held:
                self.check()
                await asyncio.sleep(0)
                if self.draw.random() < 0.1:
                    raise ConnectionError
                part = self.draw.random()
                actual = Usage(1, each.prompt_tokens, int(each.completion_tokens * part), each.usd * part)
                self.spent.append(actual)
                held -= 1
                await self.ledger.settle(each, actual)
        finally:
            for _ in range(held):
                await self.ledger.settle(each, Usage())

    async def play(self):
        tasks = [asyncio.create_task(self.task()) for _ in range(64)]
        for _ in range(self.draw.randint(0, 30)):
            await asyncio.sleep(0)
            self.draw.choice(tasks).cancel()
        await asyncio.wait(tasks, timeout=100)
        assert all(task.done() for task in tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_no_schedule_of_64_tasks_overspends(seed):
    schedule = Schedule(seed)
    asyncio.run(schedule.play())
    schedule.check()
    ledger, spent = schedule.ledger, schedule.spent
    assert ledger.reserved == Amount()
    assert ledger.settled.calls == len(spent)
    assert ledger.settled.tokens == sum(u.prompt_tokens + u.completion_tokens for u in spent)
    assert ledger.settled.usd == pytest.approx(sum(u.usd for u in spent), abs=1e-6)
