"""Lists sorted by splitting and merging, as graphs of operations: what tests of these have in common."""

from __future__ import annotations

from dataclasses import dataclass

from llmprog import Program, Verdict, checker, generator
from llmprog.search import (
    Aggregate,
    Decide,
    Generate,
    GraphOfThoughts,
    KeepBest,
    OperationGraph,
    Score,
    Select,
)


@dataclass(frozen=True)
class Part:
    """Numbers to sort, and how far they have been sorted."""

    numbers: tuple[int, ...]
    of: tuple[int, ...] = ()
    place: int = -1

    def __str__(self):
        return " ".join(map(str, self.numbers))


def digits(text):
    return tuple(int(word) for word in text.split())


@generator
def split(state: Part) -> list[Part]:
    half = len(state.numbers) // 2
    return [Part(part, part, i) for i, part in enumerate((state.numbers[:half], state.numbers[half:]))]


@generator(prompt="sort {numbers}")
def sort(state: Part, completion: str) -> Part:
    return Part(digits(completion), state.of or state.numbers, state.place)


@generator(prompt="correct {numbers}")
def correct(state: Part, completion: str) -> Part:
    return Part(digits(completion), state.of, state.place)


@generator(prompt="merge {candidates}", aggregates=True)
def merge(states, completion: str) -> Part:
    return Part(digits(completion), tuple(n for state in states for n in state.of))


@checker
def few_errors(state: Part) -> Verdict:
    """Besta et al.: numbers out of order, and digits too often or too rarely; negative, so that higher is better."""
    inversions = sum(a > b for a, b in zip(state.numbers, state.numbers[1:], strict=False))
    differences = sum(abs(state.numbers.count(d) - state.of.count(d)) for d in range(10)) if state.of else 0
    return Verdict(score=-float(inversions + differences), valid=len(state.numbers) > 0)


def sorting(operations, *, goal=None, checkers=(few_errors,), **options):
    controller = GraphOfThoughts(operations=OperationGraph(operations), **options)
    return Program(
        start=lambda text: Part(digits(text)),
        generators=[split, sort, correct, merge],
        checkers=checkers,
        controller=controller,
        goal=goal,
    )


REPLIES = {
    "sort 4 2": ["4 2", "2 4", "2 2"],
    "sort 3 1": ["1", "1 2", "1 3"],
    "merge Choice 1:\n2 4\nChoice 2:\n1 3": ["1 2 4 3", "1 2 3 4", "2 1 4 3"],
}


def merge_sort():
    operations = {"split": Generate(generator="split")}
    for i in range(2):
        operations |= {
            f"part {i}": Select(index=i, after="split"),
            f"sort {i}": Generate(generator="sort", num_samples=3),
            f"score {i}": Score(),
            f"best {i}": KeepBest(),
        }
    return operations | {
        "merge": Aggregate(generator="merge", num_samples=3, after=("best 0", "best 1")),
        "best": KeepBest(),
    }


@generator
def one_by_one(state: Part) -> list[Part]:
    return [Part((number,), (number,), place) for place, number in enumerate(state.numbers)]


@generator(aggregates=True)
def join(states) -> Part:
    return Part(
        tuple(sorted(n for s in states for n in s.numbers)), tuple(n for s in states for n in s.of), states[0].place
    )


@generator(prompt="merge {candidates}", aggregates=True, name="join")
def join_by_model(states, completion: str) -> Part:
    return join(states)


def more_than_one(thoughts):
    return "level" if len(thoughts) > 1 else None


LEVEL = OperationGraph({"pairs": Aggregate(size=2), "best": KeepBest(per=lambda state: state.place)})


def merge_tree(merge=join, **options):
    operations = {
        "split": Generate(generator="one_by_one"),
        "merge": Decide(choose=more_than_one, plans={"level": LEVEL}, max_rounds=20),
    }
    return Program(
        start=lambda text: Part(digits(text)),
        generators=[one_by_one, merge],
        controller=GraphOfThoughts(operations=OperationGraph(operations), **options),
    )
