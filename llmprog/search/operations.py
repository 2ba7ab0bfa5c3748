"""Operations on thoughts: what a graph of thoughts consists of, as values that can be read back."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from llmprog.search.controller import is_number, is_whole, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What operations have in common. An operation is done once all those it comes ``after`` are done.

    It is given their thoughts, in that order and without repetition, and ends with thoughts of its own. Thoughts that a
    checker refused go no further than ``KeepValid`` and ``Refine``; the other operations pass them over.

    Attributes:
        after: Names of the operations whose thoughts it is given. By default the operation declared just before; the
            first is given the thought that the program starts with, and ``after=()`` gives it to any other.
    """

    after: str | tuple[str, ...] | None = None

    def faults(self) -> list[str]:
        """What is wrong with the parameters, one sentence each."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Generating(Operation):
    """What the operations that ask generators for new thoughts have in common.

    Attributes:
        generator: Name of the generator; by default all that aggregate, or do not, as the operation needs.
        num_samples: Samples each time one is asked; the generator's own ``n`` by default.
    """

    generator: str | None = None
    num_samples: int | None = None

    def faults(self) -> list[str]:
        found: list[str] = []
        value = self.num_samples
        require(found, "num_samples", value, "a whole number >= 1, or None", value is None or is_whole(value, 1))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate(Generating):
    """Expand each thought; ends with what they lead to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate(Generating):
    """Merge thoughts into new ones, of which each descends from all that were merged.

    Attributes:
        size: How many neighbours are merged at a time, in the order given; one that is left over goes on as it is. By
            default all are merged at once.
    """

    size: int | None = None

    def faults(self) -> list[str]:
        found = Generating.faults(self)
        value = self.size
        require(found, "size", value, "a whole number >= 2, or None", value is None or is_whole(value, 2))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Operation):
    """Say by what the operations that follow rank thoughts; ends with the thoughts it was given.

    Every thought is judged by the program's checkers when it is found, and ranked by the sum of their scores.

    Attributes:
        checkers: Names of the checkers whose scores count from here on; all of them by default.
        compare: Have the vote and pairwise checkers judge the thoughts against each other first.
    """

    checkers: tuple[str, ...] | None = None
    compare: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBest(Operation):
    """Keep the thoughts of the highest score; ties go to those given first.

    Attributes:
        num_kept: How many.
        per: A function of a state: so many are kept of those for which it is the same, such as the attempts at one
            part. What it returns can be hashed; the parts stay in the order in which they were given.
    """

    num_kept: int = 1
    per: Callable[[Any], Hashable] | None = None

    def faults(self) -> list[str]:
        found: list[str] = []
        require(found, "num_kept", self.num_kept, "a whole number >= 1", is_whole(self.num_kept, 1))
        require(found, "per", self.per, "a function of a state", self.per is None or callable(self.per))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepValid(Operation):
    """Keep the thoughts that no checker refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Select(Operation):
    """Keep some of the thoughts for a branch of their own.

    Attributes:
        index: The thought at this place among those given, from 0.
        where: Those whose state it is true of. Give one of the two.
    """

    index: int | None = None
    where: Callable[[Any], bool] | None = None

    def faults(self) -> list[str]:
        found: list[str] = []
        require(found, "index", self.index, "a whole number >= 0", self.index is None or is_whole(self.index, 0))
        require(found, "where", self.where, "a function of a state", self.where is None or callable(self.where))
        if (self.index is None) == (self.where is None):
            found.append("give index= or where=, one of the two")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Refine(Operation):
    """Validate each thought, and improve it while it is not good enough, at most ``max_tries`` times.

    A thought is good enough if no checker refused it and its score reaches ``threshold``. It ends with the first good
    one of the thought and its improvements, each made from the one before; without one, with the best of those that
    were not refused.

    Attributes:
        generator: Name of the generator that improves; all that do not aggregate by default.
        max_tries: Improvements at most.
        threshold: Lowest score that is good enough; ``None`` asks for validity alone.
        while_better: End also after an improvement whose score is no higher than that of what it was made from.
    """

    generator: str | None = None
    max_tries: int = 3
    threshold: float | None = None
    while_better: bool = False

    def faults(self) -> list[str]:
        found: list[str] = []
        require(found, "max_tries", self.max_tries, "a whole number >= 1", is_whole(self.max_tries, 1))
        value = self.threshold
        require(found, "threshold", value, "a number, or None", value is None or is_number(value))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundTruth(Operation):
    """End the search if one of the thoughts reaches the program's goal; else it ends with the thoughts it was given."""
