"""A program of one's own on the embedded model: Countdown, where not every number has to be used.

    python examples/own_program.py [TARGET NUMBER NUMBER ...]

Six numbers (here: four) and a target are given; combine numbers with + - * / until one of them *is* the target, or at
least close to it. That differs from the Game of 24 in three ways that the program has to express: a solution may leave
numbers over, every reached number counts and not only the last, and without an exact solution the closest one wins.

The network does two things. It *proposes* steps, since it has learned which steps are legal. And it *judges* whether
the numbers left can still make the target; it was asked that for all numbers left together, which is stricter than
Countdown, so its verdict is a hint here and is added to a rule that measures the distance. Exact arithmetic does the
rest: what the network says is never taken for a fact.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from llmprog import Program, Result, Verdict, checker, generator
from llmprog.arithmetic import ExpressionError, evaluate
from llmprog.errors import InputError
from llmprog.parsers import value_of_words
from llmprog.search import BestFirstSearch

# -------------------------------------------------------------------------------------------------- the state
#
# A frozen dataclass. Its fields and properties are what prompts may use: {target} and {left} below. The target is part
# of the state because the prompts need it, and so that the nodes need nothing from outside.


@dataclass(frozen=True)
class Numbers:
    """Numbers left on the way to a target, and the steps that led there."""

    target: int
    left: tuple[Fraction, ...]
    steps: tuple[str, ...] = ()

    @property
    def closest(self) -> Fraction:
        """The number nearest to the target."""
        return min(self.left, key=lambda number: (abs(self.target - number), number))

    def __str__(self) -> str:
        return self.steps[-1] if self.steps else " ".join(map(str, self.left))


def parse_puzzle(text: str) -> Numbers:
    """``100 2 3 5 25``: the target, then the numbers. Bad input is one clear error before anything is paid for."""
    words = text.split()
    if not 3 <= len(words) <= 7 or not all(re.fullmatch(r"[0-9]{1,3}", word) and int(word) <= 200 for word in words):
        raise InputError(f"countdown: {text!r}; give a target and 2 to 6 numbers, all from 0 to 200: 100 2 3 5 25")
    target, *numbers = map(int, words)
    return Numbers(target, tuple(sorted(map(Fraction, numbers))))


# ------------------------------------------------------------------------------------------------ the generator
#
# Declarative: the prompt is data, and the function parses one of the n completions. It can be called without a model,
# `propose(parse_puzzle("24 4 9 10 13"), "13 - 9 = 4 (left: 4 4 10)")`, and so be tested. A line without sense yields
# nothing; a parser must not raise on what a model may write.

STEP = re.compile(r"^(\d{1,3}) ([-+*/]) (\d{1,3}) =", re.MULTILINE)


@generator(prompt="Target: {target}\nInput: {left}\nPossible next 6 steps:\n", n=4, temperature=0.8)
def propose(state: Numbers, completion: str) -> Iterator[Numbers]:
    for first, sign, second in STEP.findall(completion):
        rest = list(state.left)
        try:
            rest.remove(Fraction(first))
            rest.remove(Fraction(second))
            value = evaluate(f"{first} {sign} {second}")
        except (ValueError, ExpressionError):
            continue  # a number that is not there, or a division by zero
        step = f"{first} {sign} {second} = {value}"
        yield Numbers(state.target, tuple(sorted([*rest, value])), (*state.steps, step))


# -------------------------------------------------------------------------------------------------- the checkers
#
# Rules run first, in this order; a thought that one of them refuses is never shown to the network. Then the network is
# asked. The score of a thought is the sum of what they return, so their scales have to fit: here the distance counts
# from -1 (far) to 0 (reached), and three verdicts from 0 to 0.5.


@checker
def readable(state: Numbers) -> bool:
    """The embedded model knows whole numbers from 0 to 200 and no others."""
    return all(number.denominator == 1 and 0 <= number <= 200 for number in state.left)


@checker
def can_go_on(state: Numbers) -> Verdict:
    """One number cannot be combined with anything. The network would refuse to be asked about it, and so do we."""
    is_over = len(state.left) < 2 and state.closest != state.target
    return Verdict(valid=not is_over, reason="a single number is left" if is_over else "")


@checker
def distance(state: Numbers) -> float:
    """How far the closest number is from the target, relative to the target."""
    return -float(min(abs(state.target - state.closest) / max(state.target, 1), Fraction(1)))


@checker(prompt="Evaluate whether these numbers can reach {target}.\nTarget: {target}\n{left}\n", n=3)
def promising(_state: Numbers, completions: list[str]) -> float:
    return value_of_words(completions, {"sure": 0.5, "likely": 0.1}) / len(completions)


# --------------------------------------------------------------------------------------------------- the program
#
# Best-first search goes on with the best thought wherever it is, and can stop at any time with the best so far: what
# Countdown asks for. `key` makes states with the same numbers left one thought, however they were reached; no checker
# looks at anything else, so that is safe.


def countdown(max_thoughts: int = 300, batch_size: int = 4) -> Program:
    """Get as close to a target as possible with + - * / and some of the numbers.

    Args:
        max_thoughts: The search stops when its graph has grown to this size.
        batch_size: Thoughts expanded at once.
    """
    return Program(
        name="countdown",
        start=parse_puzzle,
        generators=[propose],
        checkers=[readable, can_go_on, distance, promising],
        controller=BestFirstSearch(max_thoughts=max_thoughts, batch_size=batch_size),
        goal=lambda state: state.target in state.left,
        answer=lambda state: f"{state.closest}: " + ("; ".join(state.steps) or "one of the numbers"),
        key=lambda state: state.left,
    )


def closest_thought(result: Result) -> Numbers:
    """The closest state of a whole search.

    ``result.answer`` is that of the best thought still open. A refused thought is a dead end for the search, but it is
    in the graph like any other, and what exact arithmetic reached there is reached.
    """
    return min(result.graph.states, key=lambda state: (abs(state.target - state.closest), len(state.steps)))


def main() -> None:
    puzzle = " ".join(sys.argv[1:]) or "62 3 5 7 11"
    result = countdown().run(puzzle, backend="local:puzzles", seed=1)
    best = closest_thought(result)
    print(f"puzzle: reach {best.target} from {' '.join(puzzle.split()[1:])}")
    print(f"{'solved' if result.solved else 'closest'}: {best.closest}")
    for step in best.steps:
        print(f"  {step}")
    print(f"{len(result.graph)} thoughts, {result.usage.calls} samples, stopped: {result.stopped}")


if __name__ == "__main__":
    main()
