"""When a vote has heard enough: stopping rules over the votes counted so far.

A stopping rule only saves calls: it never changes which answer leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmprog.errors import OptionError
from llmprog.search.controller import is_whole


class StoppingRule(Protocol):
    """Decides after each sample whether the vote may end."""

    @property
    def batch_size(self) -> int:
        """Samples worth drawing at once under this rule."""
        ...

    def should_stop(self, votes: Sequence[int], recent: Sequence[str | None]) -> bool:
        """Whether to stop.

        Args:
            votes: Votes per distinct answer, most first.
            recent: Canonical answers in sample order; ``None`` for samples without a valid answer.
        """
        ...


def leader_confidence(votes: Sequence[int]) -> float | None:
    """Probability that the leader is the true mode; ``None`` without votes.

    With v1 votes for the leader and v2 for the runner-up and a uniform prior, the leader's share p of the two
    has the posterior Beta(v1 + 1, v2 + 1), and the leader is the mode where p > 1/2 (Aggarwal et al. 2023,
    "Let's Sample Step by Step", arXiv 2305.11860, section 3). For whole parameters the integral is the
    binomial sum P(X <= v1), X ~ Binomial(v1 + v2 + 1, 1/2), evaluated exactly.
    """
    if not votes or votes[0] == 0:
        return None
    first = votes[0]
    second = votes[1] if len(votes) > 1 else 0
    n = first + second + 1
    if n > 2000:  # the exact sum grows; by then the normal approximation is good to 1e-4
        from statistics import NormalDist

        return NormalDist(n / 2, (n / 4) ** 0.5).cdf(first + 0.5)
    total = binomial = 1
    for k in range(first):  # each from the one before: n over k + 1 is n over k, times n - k, by k + 1
        binomial = binomial * (n - k) // (k + 1)
        total += binomial
    return total / (1 << n)


@dataclass(frozen=True, slots=True)
class BetaStop:
    """Stop when the leader is the true mode with at least this probability (adaptive consistency).

    Attributes:
        confidence: Wanted probability, in (0.5, 1).
        batch_size: Samples drawn at once; smaller saves more samples, larger waits for fewer rounds.
    """

    confidence: float = 0.95
    batch_size: int = 4

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise OptionError(f"BetaStop(confidence={self.confidence!r}): allowed is a number between 0.5 and 1")
        if not is_whole(self.batch_size, 1):
            raise OptionError(f"BetaStop(batch_size={self.batch_size!r}): allowed is a whole number >= 1")

    def should_stop(self, votes: Sequence[int], recent: Sequence[str | None]) -> bool:
        """Whether the Beta posterior has reached the wanted confidence."""
        confidence = leader_confidence(votes)
        return confidence is not None and confidence >= self.confidence


@dataclass(frozen=True, slots=True)
class WindowStop:
    """Stop when a whole window of samples agrees (early-stopping self-consistency, Li et al. 2024, arXiv 2401.10480).

    Windows follow each other without overlap; a sample without a valid answer breaks its window.

    Attributes:
        window: Samples per window.
    """

    window: int = 5

    def __post_init__(self) -> None:
        if not is_whole(self.window, 2):
            raise OptionError(f"WindowStop(window={self.window!r}): allowed is a whole number >= 2")

    @property
    def batch_size(self) -> int:
        """One window at a time."""
        return self.window

    def should_stop(self, votes: Sequence[int], recent: Sequence[str | None]) -> bool:
        """Whether the window that just closed is unanimous."""
        if not recent or len(recent) % self.window:
            return False
        closed = recent[-self.window :]
        return closed[0] is not None and all(answer == closed[0] for answer in closed)
