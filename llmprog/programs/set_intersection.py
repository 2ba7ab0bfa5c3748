"""The intersection of two sets: Graph of Thoughts' second task, with its exact measure of errors.

Besta et al. 2023 (arXiv 2308.09687), section 5.2. A model intersects the sets at once, or the first with parts of the
second, and what was found is put together.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from llmprog.errors import InputError
from llmprog.program import Program
from llmprog.programs.divide_and_merge import Method, Part, Task, divide_and_merge
from llmprog.programs.number_lists import parse_numbers, read_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets(Part):
    """Two sets, and the elements found in both.

    Attributes:
        first: The first set, as it was given.
        second: The second, or a part of it.
        answer: What a model found in both; ``None`` before it did.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    answer: tuple[int, ...] | None = None

    def __str__(self) -> str:
        shown = f"{_shown(self.first)} / {_shown(self.second)}" if self.answer is None else _shown(self.answer)
        return self.written or shown + self.which()


def _shown(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers)) if numbers else "none"


def num_errors(first: Sequence[int], second: Sequence[int], answer: Sequence[int]) -> int:
    """Besta et al.'s error scope of an intersection, X1 + X2 + Xd; 0 only for the right one.

    X1 counts the elements that do not belong into the answer, X2 those that are missing, Xd the duplicates (a model
    writes a list, where a set is meant).
    """
    right, said = set(first) & set(second), set(answer)
    return len(said - right) + len(right - said) + len(answer) - len(said)


# ------------------------------------------------------------------------------------------------- input


def parse_sets(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The two sets of an input such as ``1 5 9 / 2 5 9``, or of two lines.

    Raises:
        InputError: There are not two of them, a word is not a whole number, or an element is there twice.
    """
    sides = [side for side in str(text).replace("/", "\n").splitlines() if side.strip()]
    if len(sides) != 2:
        raise InputError(f"set_intersection: {len(sides)} sets; give two, such as '1 5 9 / 2 5 9'")
    first, second = (parse_numbers(side, "set_intersection") for side in sides)
    for numbers in (first, second):
        twice = next((n for n in numbers if numbers.count(n) > 1), None)
        if twice is not None:
            raise InputError(f"set_intersection: {twice} is in a set twice; the elements of a set are different")
    return first, second


def random_sets(count: int, rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two sets of ``count`` numbers each below twice that; the size of what they share is random too."""
    shared = rng.randint(count // 4, max(1, 3 * count // 4))
    numbers = rng.sample(range(2 * count), 2 * count - shared)
    first = numbers[:count]
    second = [*first[:shared], *numbers[count:]]
    rng.shuffle(first)
    rng.shuffle(second)
    return tuple(first), tuple(second)


# ------------------------------------------------------------------------------------------------ prompts

_INTERSECT = (
    "Find the numbers that are in both sets. Write them as a list, each once, and nothing else.\n\n"
    "First set: [7, 3, 12, 9]\nSecond set: [12, 4, 7, 20]\nIn both: [7, 12]\n\n"
    "First set: {first}\nSecond set: {second}\nIn both:"
)
_IMPROVE = (
    "The list should hold the numbers that are in both sets, each once, but it has mistakes. Correct them. Write the "
    "corrected list and nothing else.\n\n"
    "First set: [7, 3, 12, 9]\nSecond set: [12, 4, 7, 20]\nIn both, with mistakes: [7, 3]\nCorrected: [7, 12]\n\n"
    "First set: {first}\nSecond set: {second}\nIn both, with mistakes: {answer}\nCorrected:"
)
_REASON = (
    "Find the numbers that are in both sets. Go through the second set, one number on a line, and say whether it is in "
    "the first; then write those that are in both as a list on the last line.\n\n"
    "First set: [7, 3, 12, 9]\nSecond set: [12, 4, 7, 20]\n12: yes\n4: no\n7: yes\n20: no\nIn both: [12, 7]\n\n"
    "First set: {first}\nSecond set: {second}\n"
)
_MERGE = (
    "Put the two lists together. Write one list with every number of both, each once, and nothing else.\n\n"
    "First: [7, 12]\nSecond: [30]\nTogether: [7, 12, 30]\n\nFirst: {first}\nSecond: {second}\nTogether:"
)


def _ask(state: Sets) -> str:
    first, second = list(state.first), list(state.second)
    if state.answer is None:
        return _INTERSECT.format(first=first, second=second)
    return _IMPROVE.format(first=first, second=second, answer=list(state.answer))


def _ask_to_reason(state: Sets) -> str:
    return _REASON.format(first=list(state.first), second=list(state.second))


def _ask_to_merge(states: tuple[Sets, ...]) -> str:
    first, second = (list(state.answer or ()) for state in states)
    return _MERGE.format(first=first, second=second)


TASK = Task(
    name="set_intersection",
    items="second",
    part_size=16,
    ask=_ask,
    ask_to_reason=_ask_to_reason,
    ask_to_merge=_ask_to_merge,
    names=("intersect", "go_through", "merge"),
    read=read_numbers,
    what="list of numbers",
    num_errors=lambda state: num_errors(state.first, state.second, state.answer),
)


# ------------------------------------------------------------------------------------------------ the program


def set_intersection(
    *,
    method: Method = "got",
    num_samples: int | None = None,
    part_size: int | None = None,
    max_depth: int | None = None,
    max_tries: int | None = None,
    temperature: float = 0.7,
    max_tokens: int = 512,
) -> Program:
    """Find what two sets share by a model that makes mistakes: in parts (Graph of Thoughts), or at once.

    Args:
        method: ``io`` (the list at once), ``cot`` (element by element first), ``tot`` (many lists, the best improved,
            level by level) or ``got`` (the second set in parts, whose results are put together).
        num_samples: Lists drawn each time, of which the best is kept (default: io and cot 1, tot 10, got 5).
        part_size: Most elements of the second set in a part (got; default 16).
        max_depth: Levels: the first intersects, the others improve (tot; default 3).
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


def _first_state(text: str) -> Sets:
    first, second = parse_sets(text)
    return Sets(first=first, second=second)
