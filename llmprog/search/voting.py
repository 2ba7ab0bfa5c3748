"""Counting votes: answers compared in canonical form, ties broken openly."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from llmprog.arithmetic import canonical_number


def canonical_answer(answer: Any) -> str | None:
    """The form in which answers are compared; ``None`` for an answer that does not vote.

    Numbers become exact rationals, with units and thousands separators stripped; other text is folded in
    case and whitespace. Anything that is not text is compared by its ``repr``.
    """
    if answer is None:
        return None
    if isinstance(answer, int | Fraction | Decimal | float) and not isinstance(answer, bool):
        if isinstance(answer, float | Decimal) and not math.isfinite(answer):
            return None
        # A float is the number it is written as: 0.1 is one tenth.
        return str(Fraction(repr(float(answer)) if isinstance(answer, float) else answer))
    if not isinstance(answer, str):
        return repr(answer)
    text = " ".join(answer.split())
    number = canonical_number(text)
    return str(number) if number is not None else text.casefold() or None


@dataclass(slots=True)
class Tally:
    """Votes per canonical answer, in the order in which samples arrive."""

    canonical: Callable[[Any], str | None] = canonical_answer
    votes: dict[str, int] = field(default_factory=dict)
    logprobs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, answer: Any, mean_logprob: float | None) -> str | None:
        """Count one sample; returns its canonical answer, ``None`` if it does not vote.

        Args:
            answer: What the sample answered; ``None`` if nothing could be parsed.
            mean_logprob: Mean token log-probability of the sample, where known.
        """
        form = None if answer is None else self.canonical(answer)
        if form is not None:
            self.votes[form] = self.votes.get(form, 0) + 1
            if mean_logprob is not None:
                self.logprobs.setdefault(form, []).append(mean_logprob)
        return form

    def ranking(self) -> list[tuple[str, int]]:
        """Answers by votes; ties by mean log-probability where it is known for all, else by first seen."""
        known = len(self.logprobs) == len(self.votes)
        means = {form: math.fsum(given) / len(given) for form, given in self.logprobs.items()} if known else {}
        order = sorted(self.votes, key=lambda form: (-self.votes[form], -means.get(form, 0.0)))
        return [(form, self.votes[form]) for form in order]
