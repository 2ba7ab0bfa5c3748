"""How good answers are, and how sure that is: pass@k, majority@k, intervals over questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from llmprog.errors import OptionError

_NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The samples that were drawn for one question.

    Attributes:
        num_correct: Those with the right answer.
        others: How many gave each of the other answers.
        num_invalid: Those without an answer, which do not vote.
    """

    num_correct: int
    others: tuple[int, ...] = ()
    num_invalid: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.num_correct + sum(self.others) + self.num_invalid


def pass_at_k(samples: Samples, k: int) -> float:
    """The probability that among ``k`` of the samples there is a right one.

    The unbiased estimate of Chen et al. 2021 (arXiv 2107.03374, equation 1): 1 − C(n−c, k) / C(n, k).

    Raises:
        OptionError: There are fewer than ``k`` samples.
    """
    _check(samples, k)
    return 1 - comb(samples.total - samples.num_correct, k) / comb(samples.total, k)


def majority_at_k(samples: Samples, k: int) -> float:
    """The probability that the right answer wins the vote of ``k`` of the samples, drawn without replacement.

    Ties go to the answer that was seen first, which in a random order is each of those tied equally often. Exact: the
    sets of ``k`` samples are counted by the votes for the right answer, then by the samples left for all others and by
    how many of these tie with it.

    Raises:
        OptionError: There are fewer than ``k`` samples.
    """
    _check(samples, k)
    won = Fraction(0)
    for votes in range(1, min(k, samples.num_correct) + 1):
        ways = comb(samples.num_correct, votes)
        for num_tied, count in _ways_below(samples, votes, k - votes).items():
            won += Fraction(ways * count, num_tied + 1)
    return float(won / comb(samples.total, k))


def _ways_below(samples: Samples, votes: int, rest: int) -> dict[int, int]:
    """Ways to draw ``rest`` samples with no other answer above ``votes``, by how many answers reach that."""
    ways = {(0, 0): 1}  # by samples taken, and answers tied
    for size in samples.others:
        grown: dict[tuple[int, int], int] = {}
        for (taken, tied), count in ways.items():
            for more in range(min(size, votes, rest - taken) + 1):
                key = taken + more, tied + (more == votes)
                grown[key] = grown.get(key, 0) + count * comb(size, more)
        ways = grown
    found: dict[int, int] = {}
    for (taken, tied), count in ways.items():
        found[tied] = found.get(tied, 0) + count * comb(samples.num_invalid, rest - taken)
    return found


def _check(samples: Samples, k: int) -> None:
    if not 1 <= k <= samples.total:
        raise OptionError(f"k={k!r} of {samples.total} samples; allowed are 1 to {samples.total}")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions and its 95 % interval."""

    value: float
    low: float
    high: float


def mean_of(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean over questions, with the interval that resampling the questions gives.

    The percentile bootstrap (Efron 1979), 2,000 resamples; the same ``seed`` takes the same questions, so estimates
    over the same questions can be told apart better by ``difference_of``. Where all values are 0 or 1 the interval is
    Wilson's, since resampling knows nothing where all values are equal.

    Raises:
        OptionError: There are no values.
    """
    if not values:
        raise OptionError("a mean over no questions; at least one is needed")
    if all(value in (0, 1) for value in values):
        from llmprog.jobs.progress import wilson_interval

        return Estimate(*wilson_interval(int(sum(values)), len(values)))
    return _bootstrap(values, seed)


def difference_of(values: Sequence[float], baseline: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean of ``values`` less that of ``baseline``, question by question, and its bootstrap interval.

    Raises:
        OptionError: They are not of the same questions.
    """
    if len(values) != len(baseline) or not values:
        raise OptionError(f"a difference of {len(values)} and {len(baseline)} questions; they must be the same")
    return _bootstrap([value - other for value, other in zip(values, baseline, strict=True)], seed)


def _bootstrap(values: Sequence[float], seed: int) -> Estimate:
    rng = random.Random(seed)
    size = len(values)
    means = sorted(sum(rng.choices(values, k=size)) / size for _ in range(_NUM_RESAMPLES))
    tail = round(_NUM_RESAMPLES * 0.025)
    return Estimate(sum(values) / size, means[tail], means[-tail - 1])
