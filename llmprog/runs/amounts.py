"""Calls, tokens and dollars in whole numbers, as ledgers count them."""

from __future__ import annotations

import math
from typing import NamedTuple

from llmprog.runs.budget import Budget
from llmprog.types import Usage

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""

_ROUNDING = 1e-3  # of a nano-dollar: what a sum of floats may be off by


class Amount(NamedTuple):
    """What a ledger counts, in whole numbers, so that a million additions are exact."""

    calls: int = 0
    tokens: int = 0
    nanousd: int | None = 0

    @property
    def usd(self) -> float | None:
        """US dollars; ``None`` where some price is unknown."""
        return None if self.nanousd is None else self.nanousd / NANO

    def __add__(self, other: object) -> Amount:
        if not isinstance(other, Amount):
            return NotImplemented
        unknown = self.nanousd is None or other.nanousd is None
        return Amount(
            self.calls + other.calls,
            self.tokens + other.tokens,
            None if unknown else (self.nanousd or 0) + (other.nanousd or 0),
        )

    def __sub__(self, other: Amount) -> Amount:
        unknown = self.nanousd is None or other.nanousd is None
        return Amount(
            self.calls - other.calls,
            self.tokens - other.tokens,
            None if unknown else (self.nanousd or 0) - (other.nanousd or 0),
        )

    def times(self, count: int) -> Amount:
        """``count`` of it."""
        return Amount(self.calls * count, self.tokens * count, None if self.nanousd is None else self.nanousd * count)

    def to_json(self) -> dict[str, float | None]:
        """Calls, tokens and dollars as JSON values."""
        return {"calls": self.calls, "tokens": self.tokens, "usd": self.usd}


NOTHING = Amount()


def caps_of(budget: Budget) -> tuple[int | None, int | None, int | None]:
    """The limits of ``budget`` in the units of an ``Amount``; dollars are rounded down to whole nano-dollars."""
    usd = budget.usd
    return budget.calls, budget.tokens, None if usd is None else math.floor(usd * NANO + _ROUNDING)


def reserved_amount(usage: Usage) -> Amount:
    """A reservation as an ``Amount``.

    Dollars are rounded up for each completion, not for their sum: what is set aside for five completions and given back
    one by one comes to nothing exactly.
    """
    count = max(usage.calls, 1)
    usd = usage.usd
    nanousd = None if usd is None else math.ceil(usd * NANO / count - _ROUNDING) * count
    return Amount(usage.calls, usage.prompt_tokens + usage.completion_tokens, nanousd)


def charged_amount(usage: Usage) -> Amount:
    """A charge as an ``Amount``; dollars are rounded up."""
    usd = usage.usd
    nanousd = None if usd is None or not math.isfinite(usd) else math.ceil(usd * NANO - _ROUNDING)
    return Amount(usage.calls, usage.prompt_tokens + usage.completion_tokens, nanousd)


def most_that_fit(caps: tuple[int | None, ...], held: Amount, need: Amount, count: int) -> int:
    """How many of ``count`` times ``need`` fit under ``caps`` beside what is ``held``."""
    for cap, have, more in zip(caps, held, need, strict=True):
        if cap is not None and have is not None and more:
            count = min(count, (cap - have) // more)
        elif cap is not None and have is not None and have > cap:
            return 0
    return max(0, count)
