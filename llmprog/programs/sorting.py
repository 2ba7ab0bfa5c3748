"""Sorting numbers: Graph of Thoughts' first task, with its exact measure of errors.

Besta et al. 2023 (arXiv 2308.09687), section 5.1. A model sorts the list at once, or sorted parts of it are merged.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmprog.program import Program
from llmprog.programs.divide_and_merge import Method, Part, Task, divide_and_merge
from llmprog.programs.number_lists import parse_numbers, read_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers(Part):
    """Numbers to be sorted, and how they were.

    Attributes:
        given: As they were given.
        answer: As a model sorted them; ``None`` before it did.
    """

    given: tuple[int, ...]
    answer: tuple[int, ...] | None = None

    def __str__(self) -> str:
        shown = self.given if self.answer is None else self.answer
        return self.written or " ".join(map(str, shown)) + self.which()


def num_errors(given: Sequence[int], answer: Sequence[int]) -> int:
    """Besta et al.'s error scope of a sorted list, X + Y; 0 only for the right one.

    X is the number of neighbours in the wrong order: Σᵢ [aᵢ > aᵢ₊₁]. Y is how far the list is from holding the same
    numbers: Σₛ |how often s is in the answer − how often it was given|, over all s that are in either. (The paper sums
    over the digits 0 to 9, which are all that it sorts.)
    """
    inversions = sum(a > b for a, b in itertools.pairwise(answer))
    in_answer, in_given = Counter(answer), Counter(given)
    return inversions + sum(abs(in_answer[s] - in_given[s]) for s in in_answer | in_given)


def random_numbers(count: int, rng: random.Random) -> tuple[int, ...]:
    """So many digits from 0 to 9, each as likely as the others: what the paper sorts."""
    return tuple(rng.randrange(10) for _ in range(count))


# ------------------------------------------------------------------------------------------------ prompts

_SORT = (
    "Sort the list of numbers in ascending order. Keep every number as often as it is there. Write the sorted list and "
    "nothing else.\n\nList: [4, 0, 7, 4, 2]\nSorted: [0, 2, 4, 4, 7]\n\nList: {given}\nSorted:"
)
_IMPROVE = (
    "The sorted list should hold the same numbers as the list, each as often, in ascending order, but it has mistakes. "
    "Correct them. Write the corrected list and nothing else.\n\n"
    "List: [4, 0, 7, 4, 2]\nSorted, with mistakes: [0, 2, 7, 4]\nCorrected: [0, 2, 4, 4, 7]\n\n"
    "List: {given}\nSorted, with mistakes: {answer}\nCorrected:"
)
_REASON = (
    "Sort the list of numbers in ascending order. Keep every number as often as it is there. First count, on one line "
    "for each number, how often it is in the list; then write the sorted list on the last line.\n\n"
    "List: [4, 0, 7, 4, 2]\n0: once\n2: once\n4: twice\n7: once\nSorted: [0, 2, 4, 4, 7]\n\nList: {given}\n"
)
_MERGE = (
    "Merge the two sorted lists into one sorted list that holds all numbers of both. Write the merged list and nothing "
    "else.\n\nFirst: [0, 4, 7]\nSecond: [2, 4]\nMerged: [0, 2, 4, 4, 7]\n\nFirst: {first}\nSecond: {second}\nMerged:"
)


def _ask(state: Numbers) -> str:
    if state.answer is None:
        return _SORT.format(given=list(state.given))
    return _IMPROVE.format(given=list(state.given), answer=list(state.answer))


def _ask_to_reason(state: Numbers) -> str:
    return _REASON.format(given=list(state.given))


def _ask_to_merge(states: tuple[Numbers, ...]) -> str:
    first, second = (list(state.answer or ()) for state in states)
    return _MERGE.format(first=first, second=second)


TASK = Task(
    name="sorting",
    items="given",
    part_size=16,
    ask=_ask,
    ask_to_reason=_ask_to_reason,
    ask_to_merge=_ask_to_merge,
    names=("sort", "count_and_sort", "merge"),
    read=read_numbers,
    what="list of numbers",
    num_errors=lambda state: num_errors(state.given, state.answer),
)


# ------------------------------------------------------------------------------------------------ the program


def sorting(
    *,
    method: Method = "got",
    num_samples: int | None = None,
    part_size: int | None = None,
    max_depth: int | None = None,
    max_tries: int | None = None,
    temperature: float = 0.7,
    max_tokens: int = 512,
) -> Program:
    """Sort numbers by a model that makes mistakes: in parts that are merged (Graph of Thoughts), or at once.

    Args:
        method: ``io`` (the sorted list at once), ``cot`` (counting first), ``tot`` (many lists, the best improved,
            level by level) or ``got`` (parts are sorted and merged, the best kept and improved each time).
        num_samples: Lists drawn each time, of which the best is kept (default: io and cot 1, tot 10, got 5).
        part_size: Most numbers in a part (got; default 16).
        max_depth: Levels: the first sorts, the others improve (tot; default 3).
        max_tries: Improvements of a list that has errors; 0 does without (got; default 3).
        temperature: Of everything that is drawn.
        max_tokens: Longest reply, in the model's tokens.
    """
    return divide_and_merge(
        TASK,
        start=_first_state,
        method=method,
        num_samples=num_samples,
        part_size=part_size,
        max_depth=max_depth,
        max_tries=max_tries,
        temperature=temperature,
        max_tokens=max_tokens,
    )


def _first_state(text: str) -> Numbers:
    return Numbers(given=parse_numbers(text, "sorting"))
