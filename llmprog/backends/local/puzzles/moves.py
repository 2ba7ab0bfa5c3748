"""Legal steps of number puzzles: which numbers two numbers can become, and what is left.

A step takes two numbers away and puts their result back. Results are whole and within 0..200, because the
embedded model has one token for each of these numbers and none for others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

LARGEST_NUMBER = 200
OPERATORS = "+-*/"

State = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One step: ``first operator second = result``, after which ``left`` (ascending) is left."""

    first: int
    operator: str
    second: int
    result: int
    left: State

    def __str__(self) -> str:
        left = " ".join(map(str, self.left))
        return f"{self.first} {self.operator} {self.second} = {self.result} (left: {left})"


def apply(operator: str, smaller: int, bigger: int) -> int | None:
    """The result of an operator on two numbers, the bigger one first for - and /; None if it is not whole in 0..200."""
    if operator == "+":
        result = smaller + bigger
    elif operator == "-":
        result = bigger - smaller
    elif operator == "*":
        result = smaller * bigger
    elif smaller and bigger % smaller == 0:
        result = bigger // smaller
    else:
        return None
    return result if result <= LARGEST_NUMBER else None


@lru_cache(maxsize=200_000)
def legal_moves(state: State) -> tuple[Move, ...]:
    """Every distinct legal step from ``state`` (ascending numbers); + and * name the smaller operand first."""
    moves: dict[Move, None] = {}
    for i, smaller in enumerate(state):
        for j in range(i + 1, len(state)):
            bigger = state[j]
            rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
            for operator in OPERATORS:
                result = apply(operator, smaller, bigger)
                if result is not None:
                    first, second = (smaller, bigger) if operator in "+*" else (bigger, smaller)
                    moves[Move(first, operator, second, result, tuple(sorted((*rest, result))))] = None
    return tuple(moves)


@lru_cache(maxsize=400_000)
def reachable_numbers(state: State) -> frozenset[int]:
    """Every number that legal steps can turn the whole of ``state`` into."""
    if len(state) == 1:
        return frozenset(state)
    return frozenset().union(*(reachable_numbers(left) for left in {move.left for move in legal_moves(state)}))


def verdict(state: State, target: int) -> str:
    """``sure`` if ``target`` is reachable, ``likely`` if only a number within 1 of it is, else ``impossible``."""
    reached = reachable_numbers(state)
    if target in reached:
        return "sure"
    return "likely" if target - 1 in reached or target + 1 in reached else "impossible"


def solutions(state: State, target: int) -> Iterator[tuple[Move, ...]]:
    """Every chain of steps from ``state`` to ``target``."""
    for move in legal_moves(state):
        if len(move.left) == 1:
            if move.result == target:
                yield (move,)
        elif target in reachable_numbers(move.left):
            for rest in solutions(move.left, target):
                yield (move, *rest)


def expression(numbers: Sequence[int], moves: Sequence[Move]) -> str:
    """The chain of steps as one expression over ``numbers``; every compound operand stands in brackets."""
    terms = [(number, str(number)) for number in numbers]
    text = terms[0][1]
    for move in moves:
        operands = []
        for value in (move.first, move.second):
            found = next(term for term in terms if term[0] == value)
            terms.remove(found)
            operands.append(found[1] if found[1].isdigit() else f"({found[1]})")
        text = f"{operands[0]} {move.operator} {operands[1]}"
        terms.append((move.result, text))
    return text
