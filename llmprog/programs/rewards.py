"""Rewards by rule, not by a model: is the answer right, has the reply the form, do its equations hold.

Accuracy and format are the two rewards that DeepSeek-R1-Zero was trained with (arXiv 2501.12948, section 2.2.2). Each
rule is here as a function of texts and as a checker for programs whose states are chains (``Chain``), whose score it
is: ``Program(checkers=[accuracy, follows_format()], ...)``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

from llmprog.arithmetic import ExpressionError, evaluate
from llmprog.errors import OptionError
from llmprog.nodes import Checker, Verdict, checker
from llmprog.programs.chains import Chain
from llmprog.search.voting import canonical_answer

THINK_THEN_ANSWER = r"<think>\s*\S.*</think>\s*\S.*"
"""The form of a reply that thinks first: something in ``<think>…</think>``, then something to say."""

_MAX_REPLY = 1_000_000
_TIMEOUT_S = 0.25
_SYMBOLS = " \t0123456789.,()+-*/×÷−"  # of an expression
_OPERATOR = re.compile(r"\d[\s)]*[-+*/×÷−][\s(]*\d")
_RESULT = re.compile(r"\s*([-−]?\d[\d,]*(?:\.\d+)?(?:/\d+)?)")
_BULLET = re.compile(r"\s*(?:[-*•]\s+|\d{1,3}[.)]\s+)?")
_MAX_LINE = 500


def accuracy_reward(answer: str | None, gold: str) -> float:
    """1 where an answer is the right one, compared as votes compare answers (numbers as exact rationals), else 0."""
    form = canonical_answer(answer)
    return float(form is not None and form == canonical_answer(gold))


def format_reward(reply: str, pattern: str = THINK_THEN_ANSWER) -> float:
    """1 where the whole reply is of a form, a regular expression whose ``.`` takes line breaks too, else 0.

    Raises:
        OptionError: ``pattern`` is no regular expression.
    """
    try:
        return float(_compiled(pattern).fullmatch(reply.strip()[-_MAX_REPLY:], timeout=_TIMEOUT_S) is not None)
    except TimeoutError:
        return 0.0


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    import regex  # not re: it has a time limit

    try:
        return regex.compile(pattern, regex.DOTALL)
    except regex.error as error:
        raise OptionError(f"pattern={pattern!r}: not a regular expression: {error}") from error


def equations_reward(reply: str) -> float:
    """The share of the equations in a text, such as ``17 + 25 = 42``, that hold exactly; 0 where there are none."""
    held = [holds for line in reply[-_MAX_REPLY:].splitlines() for holds in _equations(line[:_MAX_LINE])]
    return sum(held) / len(held) if held else 0.0


def _equations(line: str) -> list[bool]:
    """Whether each ``expression = number`` of a line holds."""
    found = []
    parts = _BULLET.sub("", line, count=1).split("=")
    for before, after in pairwise(parts):
        tail = before[len(before.rstrip(_SYMBOLS)) :]
        left, right = tail.rpartition(", ")[2].replace(",", ""), _RESULT.match(after)
        if right is not None and _OPERATOR.search(left):
            try:
                found.append(evaluate(left) == evaluate(right[1].replace(",", "")))
            except ExpressionError:
                found.append(False)
    return found


@checker
def accuracy(state: Chain) -> Verdict:
    """Scores a chain 1 if its answer is its ``gold``; one whose question has none scores 0."""
    if state.gold is None:
        return Verdict(reason="no right answer is known")
    reward = accuracy_reward(state.answer, state.gold)
    return Verdict(score=reward, reason="" if reward else f"the answer is {state.answer}, not the right one")


@checker
def equations(state: Chain) -> Verdict:
    """Scores a chain by the share of its equations that hold."""
    reward = equations_reward(state.reasoning)
    return Verdict(score=reward, reason="" if reward == 1 else f"{reward:.0%} of its equations hold")


def follows_format(pattern: str = THINK_THEN_ANSWER) -> Checker:
    """A rule that scores a chain 1 if its reply is of a form; what the model thought stands in ``<think>`` before it.

    Raises:
        OptionError: ``pattern`` is no regular expression.
    """
    _compiled(pattern)

    @checker(name="format")
    def follows(state: Chain) -> Verdict:
        thought = f"<think>{state.thinking}</think>\n" if state.thinking else ""
        reward = format_reward(thought + state.reasoning, pattern)
        return Verdict(score=reward, reason="" if reward else "the reply does not have the form")

    return follows
