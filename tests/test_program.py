"""The example of the architecture page, verbatim with its bodies filled in, on a scripted backend."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import pytest

from llmprog import Program, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError
from llmprog.search import BeamSearch, Status


@dataclass(frozen=True)
class Numbers:
    left: tuple[Fraction, ...]
    steps: tuple[str, ...] = ()

    @property
    def expression(self) -> str:
        return "; ".join(self.steps)


def parse_puzzle(text: str) -> Numbers:
    return Numbers(tuple(sorted(Fraction(word) for word in text.split())))


OPERATIONS = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}


@generator(prompt="Input: {left}\nPossible next steps:\n", max_tokens=200)
def propose(state: Numbers, completion: str) -> Iterable[Numbers]:
    """One completion -> the states it proposes; a line that cannot be parsed yields nothing."""
    for line in completion.splitlines():
        match = re.fullmatch(r"(\d+) ([-+*/]) (\d+) = (\d+)", line)
        if match is None:
            continue
        a, operator, b, c = match.groups()
        left = list(state.left)
        if Fraction(a) in left:
            left.remove(Fraction(a))
            if Fraction(b) in left:
                left.remove(Fraction(b))
                if OPERATIONS[operator](Fraction(a), Fraction(b)) == Fraction(c):
                    yield Numbers(tuple(sorted([*left, Fraction(c)])), (*state.steps, line))


@checker
def legal(state: Numbers) -> bool:
    return all(number >= 0 for number in state.left)


@checker(prompt="Evaluate if given numbers can reach 24 (sure/likely/impossible)\nInput: {left}\n", n=3)
def promising(state: Numbers, completions: list[str]) -> float:
    values = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}
    return sum(values.get(text.strip(), 0.0) for text in completions)


game24 = Program(
    start=parse_puzzle, generators=[propose], checkers=[legal, promising],
    controller=BeamSearch(beam_width=5, max_depth=3),
    goal=lambda s: s.left == (24,), answer=lambda s: s.expression,
)  # fmt: skip

PROPOSALS = {
    "4 9 10 13": "13 - 9 = 4\n10 - 4 = 6\nnonsense\n4 + 9 = 14",
    "4 4 10": "10 - 4 = 6\n4 * 4 = 16",
    "4 6": "4 * 6 = 24\n4 + 6 = 10",
}


def reply(text, sample):
    numbers = re.search("Input: (.*)", text)[1]
    if text.startswith("Evaluate"):
        return "sure" if numbers in ("4 4 10", "4 6") else ["likely", "impossible", "likely"][sample]
    return PROPOSALS.get(numbers, "")


def test_the_example_of_the_architecture_runs():
    backend = ScriptedBackend(reply)
    result = game24.run("4 9 10 13", backend=backend)
    assert result.answer == "13 - 9 = 4; 10 - 4 = 6; 4 * 6 = 24"
    assert result.solved
    assert result.stopped == "goal"
    assert result.usage.calls == sum(request.num_samples for request in backend.requests)
    assert [t.status for t in result.graph.path(result.thought.id)] == [
        Status.OPEN,
        Status.OPEN,
        Status.OPEN,
        Status.GOAL,
    ]
    assert next(t for t in result.graph if t.state.left == (4, 4, 10)).score == 60.0


def test_the_parser_is_tested_without_a_model():
    state = parse_puzzle("2 3")
    assert [s.left for s in propose(state, "2 * 3 = 6\n2 * 3 = 7\n9 + 9 = 18\n")] == [(6,)]


@pytest.mark.parametrize("text", ["abc", "1 2/0", "1e999999x"])
def test_bad_input_is_one_clear_error(text):
    with pytest.raises(InputError, match="program 'program' cannot use the input"):
        game24.run(text, backend=ScriptedBackend(reply))


async def test_the_same_program_for_callers_with_an_event_loop():
    result = await game24.arun("4 9 10 13", backend=ScriptedBackend(reply))
    assert result.solved
