"""A budget: the most that a run or a job may spend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from llmprog.errors import OptionError

_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most that may be spent; ``None`` sets no limit.

    Attributes:
        calls: Completions drawn.
        tokens: Prompt and completion tokens together.
        usd: US dollars.
        seconds: Time from start to end, on a clock that no change of the date disturbs.
        thoughts: Thoughts made.
        file: A ledger that several processes share: the path of a file, or a ``postgresql://`` URL. Calls, tokens and
            dollars are then counted over all who name it; seconds and thoughts stay each process's own.
    """

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    thoughts: int | None = None
    file: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in LIMITS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _checked(name, value))
        if self.file is not None and (not isinstance(self.file, str) or not self.file.strip()):
            raise OptionError(f"Budget(file={self.file!r}); allowed is a path, a postgresql:// URL, or None")

    @classmethod
    def parse(cls, text: str) -> Budget:
        """The budget that a text such as ``calls=200,tokens=1e6,usd=2,seconds=5m`` describes.

        Seconds may carry a unit: ``90``, ``90s``, ``5m``, ``2h``. ``file=PATH`` names a ledger to share; a path that
        holds a comma can be given in Python only.

        Raises:
            OptionError: A limit is unknown, named twice, or its value is no number it can have.
        """
        given: dict[str, Any] = {}
        for item in text.split(","):
            name, separator, value = (part.strip() for part in item.partition("="))
            if name not in _READERS:
                raise OptionError.unknown(f"limit in the budget {text!r}:", name, _READERS)
            if name in given:
                raise OptionError(f"budget {text!r}: {name} is named twice; name it once")
            if not separator or not value:
                raise OptionError(f"budget {text!r}: {name} has no value; write {name}={_EXAMPLES[name]}")
            try:
                given[name] = _READERS[name](value)
            except ValueError:
                raise OptionError(
                    f"budget {text!r}: {name}={value} is not a number; write {name}={_EXAMPLES[name]}"
                ) from None
        return cls(**given)

    def __str__(self) -> str:
        """The budget as ``parse`` reads it, without the place of the ledger."""
        return ",".join(f"{name}={getattr(self, name):.15g}" for name in LIMITS if getattr(self, name) is not None)

    def to_json(self) -> dict[str, float | None]:
        """The limits by name, without the place of the ledger (whose URL may hold a password)."""
        return {name: getattr(self, name) for name in LIMITS}


LIMITS = tuple(f.name for f in fields(Budget) if f.name != "file")
"""The names of the limits a budget can set."""

_WHOLE = frozenset({"calls", "tokens", "thoughts"})
_EXAMPLES = {"calls": "200", "tokens": "1e6", "usd": "2", "seconds": "5m", "thoughts": "5000", "file": "PATH"}


def _checked(name: str, value: object) -> float:
    whole = name in _WHOLE
    allowed = "a whole number >= 1" if whole else "a finite number > 0"
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise OptionError(f"Budget({name}={value!r}); allowed is {allowed}, or None for no limit")
    if whole and value != int(value):
        raise OptionError(f"Budget({name}={value!r}); allowed is {allowed}, or None for no limit")
    return int(value) if whole else value


def _seconds(text: str) -> float:
    unit = _SECONDS.get(text[-1])
    return float(text) if unit is None else float(text[:-1]) * unit


_READERS: dict[str, Callable[[str], object]] = {
    "calls": float,
    "tokens": float,
    "usd": float,
    "seconds": _seconds,
    "thoughts": float,
    "file": str,
}
