"""Counting votes: answers compared in canonical form, ties broken openly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from llmprog.arithmetic import canonical_number

_EQUAL_TO = 12  # decimals: sums of weights that differ by rounding alone are a tie
_MAX_DIGITS = 4000  # decimal digits, and so bits; Python writes whole numbers of up to 4,300 digits


def canonical_answer(answer: Any) -> str | None:
    """The form in which answers are compared; ``None`` for an answer that does not vote.

    Numbers become exact rationals, with units and thousands separators stripped; other text is folded in
    case and whitespace. Anything that is not text is compared by its ``repr``.
    """
    if answer is None:
        return None
    if isinstance(answer, int | Fraction | Decimal | float) and not isinstance(answer, bool):
        return _form_of_number(answer)
    if not isinstance(answer, str):
        return repr(answer)
    text = " ".join(answer.split())
    number = canonical_number(text)
    return str(number) if number is not None else text.casefold() or None


def _form_of_number(number: float | Fraction | Decimal) -> str | None:
    if isinstance(number, float):
        number = Decimal(repr(float(number)))  # a float is the number it is written as: 0.1 is one tenth
    if isinstance(number, Decimal):
        if not number.is_finite():
            return None
        if abs(number.adjusted()) > _MAX_DIGITS:
            return str(number.normalize())
    value = Fraction(number)
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_DIGITS:
        return f"{value.numerator:x}/{value.denominator:x}"  # Python refuses to write it in decimals
    return str(value)


@dataclass(slots=True)
class Tally:
    """Votes per canonical answer, in the order in which samples arrive."""

    canonical: Callable[[Any], str | None] = canonical_answer
    votes: dict[str, float] = field(default_factory=dict)
    logprobs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, answer: Any, mean_logprob: float | None, weight: float = 1) -> str | None:
        """Count one sample; returns its canonical answer, ``None`` if it does not vote.

        Args:
            answer: What the sample answered; ``None`` if nothing could be parsed.
            mean_logprob: Mean token log-probability of the sample, where known.
            weight: What its vote counts.
        """
        form = None if answer is None else self.canonical(answer)
        if form is not None:
            self.votes[form] = self.votes.get(form, 0) + weight
            if mean_logprob is not None:
                self.logprobs.setdefault(form, []).append(mean_logprob)
        return form

    def ranking(self) -> list[tuple[str, float]]:
        """Answers by votes; ties by mean log-probability where it is known for all, else by first seen."""
        known = len(self.logprobs) == len(self.votes)
        means = {form: math.fsum(given) / len(given) for form, given in self.logprobs.items()} if known else {}
        order = sorted(self.votes, key=lambda form: (-round(self.votes[form], _EQUAL_TO), -means.get(form, 0.0)))
        return [(form, self.votes[form]) for form in order]
