import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprog.backends.remote.limits import AdaptiveConcurrency, CallRate, RateLimit
from llmprog.errors import OptionError


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds
        await asyncio.sleep(0)


async def saturated_round(limit):
    """As many calls as there is room for, all at once, all successful."""
    slots = [limit.slot("group") for _ in range(limit.limit)]
    for slot in slots:
        await slot.__aenter__()
    for slot in slots:
        slot.succeeded()
        await slot.__aexit__(None, None, None)


async def test_the_limit_doubles_per_clean_round_up_to_the_maximum():
    limit = AdaptiveConcurrency(10, 100, Clock())
    limits = [limit.limit]
    for _ in range(6):
        await saturated_round(limit)
        limits.append(limit.limit)
    assert limits == [10, 20, 40, 80, 100, 100, 100]


async def test_a_limit_that_is_not_used_does_not_grow():
    limit = AdaptiveConcurrency(10, 100, Clock())
    for _ in range(100):
        async with limit.slot("group") as slot:
            slot.succeeded()
    assert limit.limit == 10


async def test_a_rate_limit_cuts_once_per_episode_and_growth_is_slow_after_the_cooldown():
    clock = Clock()
    limit = AdaptiveConcurrency(20, 100, clock)
    slots = [limit.slot("group") for _ in range(20)]
    for slot in slots:
        await slot.__aenter__()
    assert [slot.rate_limited() for slot in slots] == [True] + [False] * 19
    for slot in slots:
        await slot.__aexit__(None, None, None)
    assert limit.limit == 16
    await saturated_round(limit)
    assert limit.limit == 16  # it cools down
    clock.now += 15
    await saturated_round(limit)
    await saturated_round(limit)
    assert limit.limit == 17  # 16 x 1.05 x 1.05 = 17.64
    async with limit.slot("group") as slot:
        assert slot.rate_limited()
    assert limit.limit == 14


async def test_the_limit_never_falls_below_one():
    limit = AdaptiveConcurrency(3, 10, Clock())
    for _ in range(50):
        async with limit.slot("group") as slot:
            slot.rate_limited()
    assert limit.limit == 1


async def test_a_failure_begins_a_new_round():
    limit = AdaptiveConcurrency(4, 100, Clock())
    slots = [limit.slot("group") for _ in range(4)]
    for slot in slots:
        await slot.__aenter__()
    for slot in slots[:3]:
        slot.succeeded()
        await slot.__aexit__(None, None, None)
    await slots[3].__aexit__(ValueError, ValueError(), None)
    assert limit.limit == 4
    await saturated_round(limit)
    assert limit.limit == 8


async def test_calls_of_one_group_are_let_in_together():
    limit = AdaptiveConcurrency(1, 100, Clock())
    order = []

    async def call(group):
        async with limit.slot(group):
            order.append(group)
            await asyncio.sleep(0)

    await asyncio.gather(*(call(group) for group in "abcabcabc"))
    assert "".join(order) == "aaabbbccc"


async def test_no_group_starves():
    limit = AdaptiveConcurrency(1, 3, Clock())
    order = []

    async def call(group):
        async with limit.slot(group):
            order.append(group)
            await asyncio.sleep(0)

    await asyncio.gather(*(call(group) for group in "aaaaaaaabc"))
    assert "".join(order) == "aaabcaaaaa"  # once the others are served, nobody is held back


async def test_calls_in_flight_never_exceed_the_limit():
    limit = AdaptiveConcurrency(2, 7, Clock())
    most = 0

    async def call(i):
        nonlocal most
        async with limit.slot(i % 5) as slot:
            assert limit.in_use <= limit.limit
            most = max(most, limit.in_use)
            await asyncio.sleep(0)
            slot.succeeded()

    await asyncio.gather(*(call(i) for i in range(300)))
    assert most == 7
    assert (limit.in_use, limit.num_waiting) == (0, 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_cancelling_at_any_point_leaks_nothing(seed, start):
    rng = random.Random(seed)

    async def main():
        limit = AdaptiveConcurrency(start, 6, Clock())

        async def call(i):
            async with limit.slot(i % 3) as slot:
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                if rng.random() < 0.2:
                    slot.rate_limited()
                else:
                    slot.succeeded()

        tasks = [asyncio.create_task(call(i)) for i in range(40)]
        for _ in range(60):
            rng.choice(tasks).cancel()
            if rng.random() < 0.5:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (limit.in_use, limit.num_waiting, len(limit._groups)) == (0, 0, 0)
        async with asyncio.timeout(1), limit.slot("after"):
            pass

    asyncio.run(main())


async def test_a_call_that_is_let_in_and_cancelled_at_once_gives_its_slot_back():
    limit = AdaptiveConcurrency(1, 1, Clock())
    first = limit.slot("a")
    await first.__aenter__()
    second = asyncio.create_task(limit.slot("a").__aenter__())
    await asyncio.sleep(0)
    await first.__aexit__(None, None, None)  # hands the slot to the second, which has not run yet
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert limit.in_use == 0


def test_limits_below_one_are_refused():
    with pytest.raises(OptionError, match="start=0"):
        AdaptiveConcurrency(0, 10)
    with pytest.raises(OptionError, match="maximum=0"):
        AdaptiveConcurrency(1, 0)
    with pytest.raises(OptionError, match="per_minute=nan"):
        RateLimit(float("nan"))
    with pytest.raises(OptionError, match="per_minute=0"):
        RateLimit(0)


@pytest.mark.parametrize("per_minute", [1, 7, 60])
async def test_no_minute_holds_more_requests_than_allowed_and_no_room_is_wasted(per_minute):
    clock = Clock()
    rate = CallRate(per_minute, None, clock, clock.sleep)
    times = []

    async def call():
        await rate.reserve(1000)
        times.append(clock.now)

    await asyncio.gather(*(call() for _ in range(3 * per_minute)))
    for begin in times:
        assert sum(begin <= t < begin + 60 for t in times) <= per_minute
    assert times[-1] - times[0] == pytest.approx(120, abs=1e-6)


async def test_requests_that_wait_for_tokens_are_counted_when_they_go():
    clock = Clock()
    rate = CallRate(4, 100, clock, clock.sleep)
    times = []
    for num_tokens in (100, 50, 50, 1, 1, 1, 1, 1):
        await rate.reserve(num_tokens)
        times.append(clock.now - 1000)
    assert times == [0, 60, 60, 120, 120, 120, 120, 180]


async def test_what_was_not_used_is_given_back_while_others_wait():
    clock = Clock()
    rate = CallRate(None, 1000, clock, clock.sleep)
    first = await rate.reserve(900)
    waiting = asyncio.create_task(rate.reserve(500))
    await asyncio.sleep(0)
    assert not waiting.done()
    first.settle(100)
    await waiting
    assert clock.now - 1000 < 1  # not a minute


async def test_a_call_that_was_not_sent_takes_nothing():
    clock = Clock()
    rate = CallRate(1, 10, clock, clock.sleep)
    (await rate.reserve(10)).release()
    await rate.reserve(10)
    assert clock.now == 1000


def test_more_than_was_reserved_holds_back_the_next_for_a_minute():
    clock = Clock()
    limit = RateLimit(1000, clock)
    limit.take(100).settle(1000)
    assert (limit.used, limit.wait_s(1)) == (1000, 60)
    clock.now += 20
    assert limit.wait_s(1) == 40
    late = limit.take(10)
    clock.now += 60
    assert (limit.used, limit.wait_s(1000)) == (0, 0)
    late.settle(999)  # its minute is over
    assert limit.used == 0


async def test_an_amount_above_the_limit_goes_alone():
    clock = Clock()
    rate = CallRate(None, 100, clock, clock.sleep)
    await rate.reserve(500)
    await rate.reserve(1)
    assert clock.now == 1060


async def test_cancelling_a_wait_for_the_rate_lets_the_next_one_on():
    clock = Clock()
    rate = CallRate(1, None, clock, clock.sleep)
    await rate.reserve(0)
    waiting = [asyncio.create_task(rate.reserve(0)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    await waiting[2]
    assert clock.now == pytest.approx(1060, abs=0.5)
