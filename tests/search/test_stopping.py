from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprog import Program, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.search import BetaStop, SelfConsistency, WindowStop, leader_confidence


def beta_tail(first, second, steps=4000):
    """P(p > 1/2) under Beta(first + 1, second + 1), by Simpson's rule: nothing shared with the code under test."""
    log_norm = math.lgamma(first + second + 2) - math.lgamma(first + 1) - math.lgamma(second + 1)

    def density(p):
        if p in (0.0, 1.0):
            exponent = second if p else first
            return math.exp(log_norm) if exponent == 0 else 0.0
        return math.exp(log_norm + first * math.log(p) + second * math.log1p(-p))

    width = 0.5 / steps
    values = [density(0.5 + i * width) for i in range(steps + 1)]
    return width / 3 * (values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]))


@given(st.integers(1, 60), st.integers(0, 60))
def test_the_confidence_is_the_integral_of_the_beta_posterior(first, second):
    first, second = max(first, second), min(first, second)
    assert leader_confidence([first, second]) == pytest.approx(beta_tail(first, second), abs=1e-9)


def test_the_normal_approximation_meets_the_exact_sum():
    exact = leader_confidence([1010, 980])
    beyond = leader_confidence([1020, 985])
    assert exact < beyond
    assert beyond == pytest.approx(beta_tail(1020, 985), abs=1e-3)


def test_votes_beyond_the_runner_up_do_not_count():
    assert leader_confidence([5, 2]) == leader_confidence([5, 2, 2, 1])
    assert leader_confidence([4]) == leader_confidence([4, 0]) == pytest.approx(1 - 2**-5)


def test_without_votes_there_is_no_confidence():
    assert leader_confidence([]) is None
    assert not BetaStop(0.6).should_stop([], [None])


@given(st.integers(1, 100), st.integers(0, 99))
def test_beta_stop_is_a_threshold_on_the_confidence(first, second):
    votes = sorted([first, second], reverse=True)
    assert BetaStop(0.9).should_stop(votes, []) == (leader_confidence(votes) >= 0.9)


@given(st.lists(st.sampled_from(["a", "b", None]), max_size=24), st.integers(2, 5))
def test_window_stop_asks_for_a_whole_unanimous_window(recent, window):
    windows = [recent[i : i + window] for i in range(0, len(recent), window)]
    unanimous = bool(windows) and len(windows[-1]) == window and len(set(windows[-1])) == 1 and None not in windows[-1]
    assert WindowStop(window).should_stop([], recent) == unanimous


@pytest.mark.parametrize(
    "make",
    [
        lambda: BetaStop(0.5),
        lambda: BetaStop(1.0),
        lambda: BetaStop(float("nan")),
        lambda: BetaStop(0.9, batch_size=0),
        lambda: WindowStop(1),
        lambda: WindowStop(2.0),
    ],
)
def test_bad_parameters_are_refused(make):
    with pytest.raises(OptionError, match="allowed is"):
        make()


@generator(prompt="?")
def say(state, completion: str):
    return [completion]


def vote(stream, stopping, num_samples=40):
    backend = ScriptedBackend(lambda text, sample: stream[sample])
    program = Program(generators=[say], controller=SelfConsistency(num_samples=num_samples, stopping=stopping))
    result = program.run("", backend=backend, seed=0)
    return result, len(backend.requests)


def test_beta_stop_keeps_its_promise():
    """With shares drawn from the prior, an early stop has the true mode with the promised probability."""
    seed = 20240601
    rng = random.Random(seed)
    early = right = agreeing = calls = 0
    trials = 400
    for _ in range(trials):
        p = rng.random()
        stream = ["yes" if rng.random() < p else "no" for _ in range(40)]
        stopped, used = vote(stream, BetaStop(0.95))
        leader = "yes" if 2 * stream.count("yes") >= 40 else "no"
        calls += used
        if stopped.stopped == "confident":
            early += 1
            right += stopped.answer == ("yes" if p > 0.5 else "no")
            agreeing += stopped.answer == leader
    # Three standard deviations of the sampling error below the promise.
    slack = 3 * math.sqrt(0.95 * 0.05 / early)
    assert early > trials / 2, seed
    assert right / early >= 0.95 - slack, seed
    assert agreeing / early >= 0.95 - slack, seed
    assert calls < 0.5 * 40 * trials


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=40, max_size=40),
    st.sampled_from([BetaStop(0.7), BetaStop(0.9), BetaStop(0.99, batch_size=1), WindowStop(2), WindowStop(4)]),
)
def test_a_stopping_rule_saves_calls_and_never_changes_the_leader(stream, rule):
    result, used = vote(stream, rule)
    answers = [text or None for text in stream]  # an empty answer does not vote
    heard = 0
    tally = Counter()
    for heard in range(1, 41):
        tally.update(filter(None, answers[heard - 1 : heard]))
        if rule.should_stop(sorted(tally.values(), reverse=True), answers[:heard]):
            break
    assert result.votes.histogram == tuple(sorted(tally.items(), key=lambda item: (-item[1], stream.index(item[0]))))
    assert result.answer == (result.votes.histogram[0][0] if tally else None)
    assert heard <= used == result.votes.num_samples <= min(40, heard + rule.batch_size - 1)
    assert (result.stopped == "confident") == rule.should_stop(sorted(tally.values(), reverse=True), answers[:heard])


def test_samples_come_in_whole_rounds_and_none_is_drawn_beyond_the_one_that_settles_it():
    assert vote(["a"] * 40, BetaStop(0.95))[1] == 4
    assert vote(["a"] * 40, BetaStop(0.95, batch_size=1))[1] == 4
    assert vote(["a"] * 40, BetaStop(0.95, batch_size=3))[1] == 6
    assert vote(["a"] * 40, WindowStop(5))[1] == 5
    assert vote(["b", *["a"] * 39], WindowStop(5))[1] == 10
    assert vote(["a", "b"] * 20, WindowStop(5))[1] == 40
