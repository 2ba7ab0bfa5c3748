import pytest

from llmprog.backends.remote.health import CircuitBreaker, EndpointHealth, PoisonTest, RetryBudget
from llmprog.errors import EndpointDownError, QuotaError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def call(breaker, failed):
    return breaker.leave(breaker.enter(), failed)


def opened(clock):
    breaker = CircuitBreaker(clock)
    for _ in range(20):
        call(breaker, True)
    return breaker


def test_it_opens_when_half_of_the_last_twenty_failed():
    breaker = CircuitBreaker(Clock())
    for i in range(100):
        call(breaker, failed=i % 20 < 9)  # 45 %
    assert breaker.is_closed
    call(breaker, failed=False)
    assert [call(breaker, failed=True) for _ in range(10)] == [False] * 9 + [True]
    assert not breaker.is_closed
    assert breaker.num_openings == 1


def test_fewer_than_twenty_calls_say_nothing():
    breaker = CircuitBreaker(Clock())
    for _ in range(19):
        call(breaker, failed=True)
    assert breaker.is_closed
    call(breaker, failed=None)
    assert breaker.is_closed


def test_after_fifteen_seconds_one_probe_decides():
    clock = Clock()
    breaker = opened(clock)
    assert breaker.blocked_for_s == 15
    clock.now = 14
    assert breaker.blocked_for_s == 1
    clock.now = 15
    assert breaker.blocked_for_s == 0
    probe = breaker.enter()
    assert probe.is_probe
    assert breaker.blocked_for_s > 0  # one only
    assert breaker.leave(probe, True)
    assert breaker.blocked_for_s == 15
    assert breaker.num_openings == 2
    clock.now = 30
    assert breaker.leave(breaker.enter(), False)
    assert breaker.is_closed
    assert breaker.blocked_for_s == 0
    call(breaker, failed=True)
    assert breaker.is_closed  # it begins to count anew


def test_a_probe_that_was_cancelled_lets_another_one_through():
    clock = Clock()
    breaker = opened(clock)
    clock.now = 15
    assert not breaker.leave(breaker.enter(), None)
    assert breaker.blocked_for_s == 0
    assert breaker.enter().is_probe


def test_what_began_before_the_change_is_not_counted():
    clock = Clock()
    breaker = CircuitBreaker(clock)
    late = [breaker.enter() for _ in range(5)]
    for _ in range(20):
        call(breaker, failed=True)
    assert not any(breaker.leave(passage, failed) for passage, failed in zip(late, [True, False] * 3, strict=False))
    clock.now = 15
    assert breaker.blocked_for_s == 0


def test_retries_are_a_tenth_of_the_calls_apart_from_the_floor():
    budget = RetryBudget(floor=10)
    assert sum(budget.take() for _ in range(50)) == 10
    for _ in range(1000):
        budget.call()
    assert sum(budget.take() for _ in range(500)) == 100
    for _ in range(100_000):
        budget.call()
    assert budget.left == 100  # what was saved up is bounded


def test_a_request_that_fails_alike_three_times_while_others_succeed_is_poison():
    poison = PoisonTest()
    assert not poison.is_poison((500, "boom"), 4)
    assert not poison.is_poison((500, "boom"), 5)
    assert poison.is_poison((500, "boom"), 6)


@pytest.mark.parametrize(
    "failures",
    [
        [((500, "boom"), 4), ((500, "boom"), 4), ((500, "boom"), 4), ((500, "boom"), 4)],  # nobody succeeds
        [((500, "boom"), 1), ((500, "bang"), 2), ((500, "boom"), 3), ((502, "boom"), 4)],  # never the same
    ],
)
def test_an_endpoint_that_fails_is_no_poison(failures):
    poison = PoisonTest()
    assert not any(poison.is_poison(*failure) for failure in failures)


def test_a_pause_is_waited_out_and_the_longest_counts():
    clock = Clock()
    health = EndpointHealth("b", clock, lambda: 1_790_000_000.0)
    assert health.may_send()
    health.pause(10)
    health.pause(3)
    assert (health.blocked_for_s, health.may_send()) == (10, False)
    clock.now = 10
    assert (health.blocked_for_s, health.may_send()) == (0, True)


def test_a_parked_endpoint_says_why_and_until_when():
    clock = Clock()
    health = EndpointHealth("b", clock, lambda: 1_790_000_000.0 + clock.now)
    error = health.park(600, "it asked to be left alone for 600 s")
    assert str(error) == (
        "backend 'b': it asked to be left alone for 600 s; it is left alone until 2026-09-21 14:23:20 UTC"
    )
    clock.now = 100
    assert not health.may_send()
    with pytest.raises(EndpointDownError) as info:
        health.refuse_if_down()
    assert (info.value.retry_after_s, info.value.retryable) == (500, True)
    clock.now = 600
    health.refuse_if_down()
    assert health.may_send()


def test_a_stopped_endpoint_stays_stopped():
    health = EndpointHealth("b", Clock())
    health.stop(QuotaError("spent", backend="b", status=402))
    assert not health.may_send()
    for _ in range(2):
        with pytest.raises(QuotaError, match=r"spent .*not called again") as info:
            health.refuse_if_down()
    assert info.value.status == 402
