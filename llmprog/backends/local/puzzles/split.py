"""Which puzzles the model was trained on: one rule for trainer, tests and benchmarks.

A puzzle of four or more numbers belongs to ``test`` (10 %), ``development`` (5 %) or ``train`` by the hash of its
sorted numbers, whatever its target. A state of three numbers is held out with the classic puzzles (four numbers in
1..13) that lead to it in one legal step. Two numbers are plain arithmetic facts and are not held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement
from typing import Literal

from llmprog.backends.local.puzzles.moves import State, legal_moves

Split = Literal["train", "development", "test"]

TEST_PERCENT = 10
DEVELOPMENT_PERCENT = 5
CLASSIC_NUMBERS = range(1, 14)


def split_of_text(text: str) -> Split:
    """The split of anything that has a canonical text: an arithmetic expression, a solved sudoku grid."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    if bucket < TEST_PERCENT:
        return "test"
    return "development" if bucket < TEST_PERCENT + DEVELOPMENT_PERCENT else "train"


def split_of_numbers(numbers: Sequence[int]) -> Split:
    """The split of a puzzle or state of any count of numbers, in any order."""
    state = tuple(sorted(numbers))
    if len(state) >= 4:
        return _split_of_sorted(state)
    if len(state) == 3:
        return held_out_states().get(state, "train")
    return "train"


def classic_puzzles(split: Split) -> list[State]:
    """All puzzles of four numbers in 1..13 of one split, ascending, solvable or not."""
    return [p for p in combinations_with_replacement(CLASSIC_NUMBERS, 4) if _split_of_sorted(p) == split]


@cache
def held_out_states() -> dict[State, Split]:
    """Every held-out state of three numbers; one that both splits lead to belongs to ``test``."""
    held_out: dict[State, Split] = {}
    splits: tuple[Split, Split] = ("development", "test")
    for split in splits:
        for puzzle in classic_puzzles(split):
            for move in legal_moves(puzzle):
                held_out[move.left] = split
    return held_out


@cache
def _split_of_sorted(state: State) -> Split:
    return split_of_text(" ".join(map(str, state)))
