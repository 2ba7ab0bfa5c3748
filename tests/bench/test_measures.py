from __future__ import annotations

import random
from collections import Counter
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.bench.measures import Samples, difference_of, majority_at_k, mean_of, pass_at_k
from llmprog.errors import OptionError


def answers_of(samples):
    """One answer for each sample; the right one is 0, ``None`` is none."""
    others = [i for i, count in enumerate(samples.others, 1) for _ in range(count)]
    return [0] * samples.num_correct + others + [None] * samples.num_invalid


def by_counting(samples, k):
    """pass@k and majority@k over all sets of k samples."""
    passed, won = [], []
    for chosen in combinations(answers_of(samples), k):
        votes = Counter(answer for answer in chosen if answer is not None)
        leaders = [answer for answer, count in votes.items() if count == max(votes.values())]
        passed.append(0 in votes)
        won.append((0 in leaders) / max(1, len(leaders)))
    return fmean(passed), fmean(won)


@given(
    st.builds(
        Samples,
        num_correct=st.integers(0, 4),
        others=st.lists(st.integers(1, 3), max_size=3).map(tuple),
        num_invalid=st.integers(0, 2),
    ),
    st.data(),
)
def test_both_are_exact(samples, data):
    if not samples.total:
        return
    k = data.draw(st.integers(1, samples.total))
    passed, won = by_counting(samples, k)
    assert pass_at_k(samples, k) == pytest.approx(passed)
    assert majority_at_k(samples, k) == pytest.approx(won)


def test_worked_example():
    samples = Samples(num_correct=2, others=(2,), num_invalid=1)  # A A B B and one without an answer
    assert pass_at_k(samples, 2) == pytest.approx(1 - 3 / 10)
    # Of ten pairs: AA wins, AB four times is a tie, A with the invalid one wins twice.
    assert majority_at_k(samples, 2) == pytest.approx((1 + 4 * 0.5 + 2) / 10)


def test_a_vote_over_all_samples_is_the_vote():
    assert majority_at_k(Samples(num_correct=3, others=(2, 2)), 7) == 1.0
    assert majority_at_k(Samples(num_correct=2, others=(3, 2)), 7) == 0.0
    assert majority_at_k(Samples(num_correct=3, others=(3, 1)), 7) == 0.5


def test_large_counts_take_no_time():
    samples = Samples(num_correct=300, others=tuple([20] * 30), num_invalid=100)
    assert 0.9 < majority_at_k(samples, 64) <= 1.0


@pytest.mark.parametrize("k", [0, 5, -1])
def test_k_is_at_most_the_number_of_samples(k):
    with pytest.raises(OptionError, match=f"k={k} of 4 samples; allowed are 1 to 4"):
        pass_at_k(Samples(num_correct=4), k)


def test_the_interval_of_a_mean_holds_the_truth_as_often_as_it_says():
    rng = random.Random(7)
    held = 0
    for trial in range(200):
        values = [rng.random() ** 2 for _ in range(60)]  # its mean is a third
        found = mean_of(values, seed=trial)
        held += found.low <= 1 / 3 <= found.high
    assert 0.89 <= held / 200 <= 0.99


def test_where_all_questions_are_right_the_interval_is_not_a_point():
    found = mean_of([1.0] * 20)
    assert found.value == 1.0
    assert found.low == pytest.approx(0.839, abs=0.001)


def test_differences_are_taken_question_by_question():
    rng = random.Random(5)
    base = [float(rng.random() < 0.5) for _ in range(100)]
    better = [min(1.0, value + (i % 10 == 0)) for i, value in enumerate(base)]
    found = difference_of(better, base)
    assert found.low >= 0  # their own intervals overlap by far
    assert mean_of(better).low < mean_of(base).high
    with pytest.raises(OptionError, match="they must be the same"):
        difference_of([1.0], [1.0, 0.0])
    with pytest.raises(OptionError, match="at least one"):
        mean_of([])
