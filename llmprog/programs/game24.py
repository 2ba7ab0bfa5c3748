"""The Game of 24, and its Countdown-like variants: reach a target with each number used once.

Set-up of Yao et al. 2023 (arXiv 2305.10601): a generator proposes next steps, a judge rates what is left as
sure / likely / impossible (20 / 1 / 0.001, summed over samples), a beam of 5. Beyond it: proposals are checked by
exact arithmetic, equal states are judged once however they were reached, and the final expression is put together
by the program from verified steps instead of being asked for.
"""

from __future__ import annotations

import operator
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from llmprog.arithmetic import Expression, ExpressionError, format_number, parse
from llmprog.errors import InputError
from llmprog.nodes import Verdict, checker, generator
from llmprog.parsers import value_of_words
from llmprog.program import Program
from llmprog.programs.catalog import for_method, one_of
from llmprog.search import BeamSearch, BestOfN, SelfConsistency

MAX_NUMBERS = 8
_MAX_SOLVED_EXACTLY = 6

Method = Literal["io", "cot", "cot_sc", "best_of_n", "tot"]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is left on the way to the target.

    Attributes:
        left: The numbers left, ascending.
        target: The number to reach.
        steps: The steps taken, each ``a op b = c (left: …)``.
        expressions: For each number left, how it was made.
        fault: Why the last step is not allowed; empty if it is.
    """

    left: tuple[Fraction, ...]
    target: Fraction
    steps: tuple[str, ...] = ()
    expressions: tuple[Expression, ...] = ()
    fault: str = ""

    @property
    def expression(self) -> str | None:
        """The expression that made the only number left."""
        return str(self.expressions[0]) if len(self.expressions) == 1 else None

    def __str__(self) -> str:
        return self.steps[-1] if self.steps else " ".join(map(str, self.left))


@dataclass(frozen=True, slots=True)
class Attempt:
    """A whole solution written at once: the input, the text, and the expression found in it.

    Attributes:
        numbers: The puzzle.
        target: The number to reach.
        text: What the model wrote; empty for the puzzle itself.
        expression: Canonical text of its expression; ``None`` where there is none that can be read.
        fault: Why the expression does not solve the puzzle; empty if it does.
    """

    numbers: tuple[Fraction, ...]
    target: Fraction
    text: str = ""
    expression: str | None = None
    fault: str = ""

    def __str__(self) -> str:
        return self.expression or self.text or " ".join(map(str, self.numbers))


def parse_puzzle(text: str) -> tuple[Fraction, ...]:
    """The numbers of a puzzle such as ``4 9 10 13`` or ``4, 9, 10, 13``, ascending.

    Raises:
        InputError: A word is not a whole number, or there are too few or too many of them.
    """
    numbers = []
    for word in str(text).replace(",", " ").split():
        if not re.fullmatch(r"[0-9]{1,6}", word):
            raise InputError(
                f"game24: {word[:40]!r} is not a whole number from 0 to 999999; give numbers such as 4 9 10 13"
            )
        numbers.append(Fraction(int(word)))
    if not 2 <= len(numbers) <= MAX_NUMBERS:
        raise InputError(
            f"game24: {len(numbers)} number{'s' * (len(numbers) != 1)} in {text!r}; "
            f"allowed are 2 to {MAX_NUMBERS}, such as 4 9 10 13"
        )
    return tuple(sorted(numbers))


# ------------------------------------------------------------------------------------------ Tree of Thoughts

_NUMBER = r"\(?(-?\d+(?:\.\d+)?(?:/\d+)?)\)?"
_STEP = re.compile(rf"\s*(?:[-*•]\s+|\d+[.)]\s+)?{_NUMBER}\s*([-−+*×/÷])\s*{_NUMBER}\s*=\s*{_NUMBER}\s*(.*)")
_LEFT = re.compile(r"\(\s*left\s*:([^()]*)\)", re.IGNORECASE)
_MAX_LINE = 200
_SIGNS = {"−": "-", "×": "*", "÷": "/"}
_APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@generator(
    prompt=(
        "Use each number once, with + - * /, to reach {target}. List possible next steps, one per line: combine two of "
        "the numbers and say which are left. For example, from 2 8 8 14:\n"
        "2 + 8 = 10 (left: 8 10 14)\n8 / 2 = 4 (left: 4 8 14)\n14 - 8 = 6 (left: 2 6 8)\n\n"
        "Target: {target}\nInput: {left}\nPossible next steps:\n"
    ),
    n=8,
    max_tokens=200,
)
def propose(state: Numbers, completion: str) -> Iterator[Numbers]:
    """Each readable line of a completion, as the state it claims to lead to."""
    for line in completion.splitlines():
        match = _STEP.match(line[:_MAX_LINE])
        if match:
            yield take_step(state, match[1], _SIGNS.get(match[2], match[2]), match[3], match[4], match[5])


def take_step(state: Numbers, first: str, sign: str, second: str, result: str, rest: str) -> Numbers:
    """The state after the step ``first sign second = result``; ``fault`` says what is wrong with it."""
    text = f"{first} {sign} {second} = {result}"
    try:
        a, b, claimed = _number(first), _number(second), _number(result)
    except (ValueError, ZeroDivisionError):
        return _refused(state, text, "it cannot be read")
    left, expressions = list(state.left), list(state.expressions)
    used: list[Expression] = []
    for number in (a, b):
        place = next((i for i, other in enumerate(left) if other == number), None)
        if place is None:
            return _refused(state, text, f"{format_number(number)} is not among the numbers left")
        del left[place]
        used.append(expressions.pop(place))
    if sign == "/" and not b:
        return _refused(state, text, "it divides by zero")
    exact = _APPLY[sign](a, b)
    if exact != claimed:
        return _refused(state, text, f"{format_number(a)} {sign} {format_number(b)} is {format_number(exact)}")
    try:
        made = used[0].joined(sign, used[1])  # type: ignore[arg-type]  # one of + - * / by the pattern
    except ExpressionError as error:
        return _refused(state, text, str(error))
    place = bisect_left(left, exact)
    # By value and text: the order in which equal numbers were made must not make two states of one.
    while place < len(left) and left[place] == exact and str(expressions[place]) <= str(made):
        place += 1
    left.insert(place, exact)
    expressions.insert(place, made)
    shown = " ".join(map(format_number, left))
    said = _LEFT.search(rest)
    if said and said[1].strip() != shown and not _says(said[1], left):
        return _refused(state, text, f"left are {shown}, not {said[1].strip()}")
    return Numbers(tuple(left), state.target, (*state.steps, f"{text} (left: {shown})"), tuple(expressions))


@lru_cache(maxsize=10_000)
def _number(text: str) -> Fraction:
    """The number that ``text`` spells; remembered, since a search reads the same few again and again.

    Raises:
        ValueError: It spells none.
        ZeroDivisionError: Its denominator is 0.
    """
    return Fraction(text)


def _says(text: str, left: list[Fraction]) -> bool:
    try:
        return sorted(Fraction(word) for word in text.replace(",", " ").split()) == left
    except (ValueError, ZeroDivisionError):
        return False


def _refused(state: Numbers, text: str, fault: str) -> Numbers:
    return Numbers(state.left, state.target, (*state.steps, text), state.expressions, fault)


@checker
def legal(state: Numbers) -> Verdict:
    """Exact arithmetic refuses wrong steps, and a last number that is not the target."""
    if state.fault:
        return Verdict(valid=False, reason=state.fault)
    if len(state.left) == 1 and state.left[0] != state.target:
        reason = f"{format_number(state.left[0])} is left, not {format_number(state.target)}"
        return Verdict(valid=False, reason=reason)
    return Verdict()


VALUES = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}


@checker(
    prompt=(
        "Evaluate if the given numbers, each used once, can reach {target} (sure / likely / impossible). Reason "
        "briefly, then give the verdict alone on the last line.\n\n"
        "Target: {target}\n{left}\n"
    ),
    n=3,
    max_tokens=120,
)
def promising(state: Numbers, completions: list[str]) -> float:
    """The sum of the verdicts' values; a completion without a verdict on its last line counts as impossible."""
    return value_of_words(completions, VALUES, otherwise=VALUES["impossible"])


def thought_key(state: Numbers) -> str:
    """States with the same numbers left are one thought; a refused step never stands for a good one."""
    # A text, since the hash of a fraction is slow and not remembered.
    left = " ".join(map(str, state.left))
    return f"{left}; {state.steps[-1]}: {state.fault}" if state.fault else left


# --------------------------------------------------------------------------------- whole solutions at once

_COT_PROMPT = (
    "Use each number once, with + - * /, to reach {target}. Write the steps, one per line, then the answer.\n\n"
    "For example:\nTarget: 24\nInput: 2 8 8 14\nSteps:\n8 / 2 = 4 (left: 4 8 14)\n14 - 8 = 6 (left: 4 6)\n"
    "4 * 6 = 24 (left: 24)\nAnswer: (8 / 2) * (14 - 8) = 24\n\n"
    "Target: {target}\nInput: {numbers}\nSteps:\n"
)
_IO_PROMPT = (
    "Use each number once, with + - * /, to reach {target}. Give the expression.\n\n"
    "For example:\nTarget: 24\nInput: 2 8 8 14\nAnswer:\n(8 / 2) * (14 - 8) = 24\n\n"
    "Target: {target}\nInput: {numbers}\nAnswer:\n"
)
_ANSWER = re.compile(r"^\s*(?:Answer:)?\s*([-−+*×/÷().\d\s]+?)(?:=\s*[-\d./\s]*)?$", re.IGNORECASE)


def solve_at_once(state: Attempt, completion: str) -> Attempt:
    """The expression on the completion's last line, checked exactly."""
    lines = completion.strip().splitlines()
    match = _ANSWER.match(lines[-1][:_MAX_LINE]) if lines else None
    if not match:
        return Attempt(state.numbers, state.target, completion, None, "no expression on the last line")
    try:
        expression = parse(match[1])
        value = expression.evaluate()
    except ExpressionError as error:
        return Attempt(state.numbers, state.target, completion, None, str(error))
    fault = ""
    if Counter(expression.numbers()) != Counter(state.numbers):
        used = " ".join(map(format_number, sorted(expression.numbers())))
        fault = f"it uses {used}, not {' '.join(map(format_number, state.numbers))}"
    elif value != state.target:
        fault = f"it is {format_number(value)}, not {format_number(state.target)}"
    return Attempt(state.numbers, state.target, completion, str(expression), fault)


io_answer = generator(prompt=_IO_PROMPT, name="io", max_tokens=64)(solve_at_once)
cot_answer = generator(prompt=_COT_PROMPT, name="chain_of_thought", max_tokens=200)(solve_at_once)


@checker
def correct(state: Attempt) -> Verdict:
    """Exact arithmetic refuses expressions that do not solve the puzzle."""
    return Verdict(valid=not state.fault, reason=state.fault)


# ------------------------------------------------------------------------------------------------- the program


def game24(
    *,
    method: Method = "tot",
    target: int = 24,
    beam_width: int | None = None,
    num_samples: int | None = None,
    num_evaluations: int | None = None,
    temperature: float = 0.7,
) -> Program:
    """Reach a target with + - * / from numbers each used once.

    Args:
        method: ``io`` (the expression at once), ``cot`` (steps first), ``cot_sc`` (majority over the expressions of
            many chains, without looking at whether they are right), ``best_of_n`` (the first of many chains that exact
            arithmetic accepts), or ``tot`` (beam search over steps).
        target: The number to reach.
        beam_width: States kept per level (tot; default 5).
        num_samples: Proposals sampled per state (tot; default 8) or chains (cot_sc, best_of_n; default 20).
        num_evaluations: Verdicts sampled per state (tot; default 3).
        temperature: Of proposals and chains; verdicts are always sampled at 0.7.
    """
    one_of("method", method, Method)
    width = for_method("beam_width", beam_width, method, {"tot": 5})
    evaluations = for_method("num_evaluations", num_evaluations, method, {"tot": 3})
    samples = for_method("num_samples", num_samples, method, {"tot": 8, "cot_sc": 20, "best_of_n": 20})
    goal_value = Fraction(target)

    if width is not None:
        return Program(
            name="game24",
            start=lambda text: _first_state(parse_puzzle(text), goal_value),
            generators=[propose.with_options(n=samples, temperature=temperature)],
            checkers=[legal, promising.with_options(n=evaluations)],
            controller=BeamSearch(beam_width=width, max_depth=MAX_NUMBERS - 1),
            goal=_is_solved,
            answer=_expression,
            key=thought_key,
            explain=_explain,
        )
    chains = 1 if samples is None else samples
    node = io_answer if method == "io" else cot_answer
    voting = method == "cot_sc"
    return Program(
        name="game24",
        start=lambda text: Attempt(parse_puzzle(text), goal_value),
        generators=[node.with_options(temperature=temperature)],
        checkers=[] if voting else [correct],
        controller=SelfConsistency(num_samples=chains) if voting else BestOfN(num_samples=chains),
        goal=_is_correct,
        answer=_written_expression,
        explain=_explain,
    )


def _first_state(numbers: tuple[Fraction, ...], target: Fraction) -> Numbers:
    return Numbers(numbers, target, (), tuple(Expression.of(number) for number in numbers))


def _is_solved(state: Numbers) -> bool:
    return state.left == (state.target,) and not state.fault


def _expression(state: Numbers) -> str | None:
    return state.expression


def _is_correct(state: Attempt) -> bool:
    return state.expression is not None and not state.fault


def _written_expression(state: Attempt) -> str | None:
    return state.expression


def _explain(state: Numbers | Attempt) -> str:
    """Whether the puzzle has a solution at all, by exhaustive exact search."""
    numbers = state.left if isinstance(state, Numbers) else state.numbers
    puzzle = f"{' '.join(map(format_number, numbers))} to {format_number(state.target)}"
    if len(numbers) > _MAX_SOLVED_EXACTLY:
        return f"no solution found for {puzzle}"
    if is_solvable(numbers, state.target):
        return f"no solution found for {puzzle}, but there is one: try more samples or a wider beam"
    return f"{puzzle} has no solution: every way to combine the numbers was tried exactly"


def is_solvable(numbers: Iterable[Fraction], target: Fraction) -> bool:
    """Whether any expression over all of ``numbers`` equals ``target``, by exhaustive search over exact fractions."""
    seen: dict[tuple[Fraction, ...], bool] = {}

    def search(left: tuple[Fraction, ...]) -> bool:
        if len(left) == 1:
            return left[0] == target
        if left not in seen:
            seen[left] = any(search(after) for after in set(_moves(left)))
        return seen[left]

    return search(tuple(sorted(numbers)))


def _moves(left: tuple[Fraction, ...]) -> Iterator[tuple[Fraction, ...]]:
    for i in range(len(left)):
        for j in range(i + 1, len(left)):
            rest = left[:i] + left[i + 1 : j] + left[j + 1 :]
            for value in _combinations(left[i], left[j]):
                yield tuple(sorted((*rest, value)))


@lru_cache(maxsize=100_000)
def _combinations(a: Fraction, b: Fraction) -> frozenset[Fraction]:
    values = {a + b, a - b, b - a, a * b}
    if b:
        values.add(a / b)
    if a:
        values.add(b / a)
    return frozenset(values)
