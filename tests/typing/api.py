"""What a user's type checker sees. This file is checked by pyright and never run."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import assert_type

import llmprog
from llmprog import (
    Checker,
    Completion,
    Generator,
    Model,
    Program,
    SamplingParams,
    Usage,
    Verdict,
    checker,
    generator,
)
from llmprog.arithmetic import Expression, canonical_number, evaluate, parse
from llmprog.combinators import Apply, Branch, Loop, Map, Parallel, Reduce, Sequence, Vote
from llmprog.search import BeamSearch


@dataclass(frozen=True)
class Numbers:
    left: tuple[Fraction, ...]
    steps: tuple[str, ...] = ()


@generator(prompt="Input: {left}\nPossible next steps:\n", max_tokens=200)
def propose(state: Numbers, completion: str) -> Iterable[Numbers]:
    yield Numbers(state.left[1:], (*state.steps, completion))


@generator
async def rethink(state: Numbers, model: Model) -> list[Numbers]:
    completions = await model.generate("Another way?", n=2, temperature=1.0)
    assert_type(completions, list[Completion])
    return [Numbers(state.left, (completion.text,)) for completion in completions]


@checker
def legal(state: Numbers) -> Verdict:
    return Verdict(valid=len(state.left) > 0, reason="no numbers are left")


@checker(prompt="Evaluate {left}", n=3)
def promising(state: Numbers, completions: list[str]) -> float:
    return float(len(completions))


assert_type(propose, Generator)
assert_type(rethink, Generator)
assert_type(legal, Checker)
assert_type(promising, Checker)


def is_solved(state: Numbers) -> bool:
    return state.left == (24,)


def describe(state: Numbers) -> str:
    return " ".join(state.steps)


program = Program(
    generators=[propose, rethink],
    checkers=[legal, promising],
    controller=BeamSearch(beam_width=5, max_depth=3),
    goal=is_solved,
    answer=describe,
)
result = program.run("4 9 10 13", backend="local:puzzles", seed=0)


def pick(text: str) -> int:
    return len(text)


def long_enough(text: str) -> bool:
    return len(text) > 3


page = Parallel({"title": program, "text": Vote(program, num_samples=3)}, join=dict)
assert_type(page, Parallel)
joined = Sequence(Apply(str.split), Map(program, concurrency=2, on_unsolved="skip"), Reduce(Apply(max)), name="joined")
assert_type(joined, Sequence)
routed: Program = Branch(pick, {1: joined, 2: page}, otherwise=Loop(program, until=long_enough, max_rounds=3))
routed.run("4 9 10 13", backend={"otherwise.loop": "local:puzzles"})

assert_type(llmprog.__version__, str)
assert_type(parse("1 + 2"), Expression)
assert_type(parse("1 + 2").numbers(), tuple[Fraction, ...])
assert_type(evaluate("1 + 2"), Fraction)
assert_type(canonical_number("$5"), Fraction | None)
assert_type(SamplingParams(temperature=0).seed, int | None)
assert_type(Usage() + Usage(), Usage)
