"""What calls cost, from a table of prices with a date: ``prices.toml`` beside this module, or a user's own file.

A price or a count that is not known makes the cost unknown, never 0.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from llmprog.backends.remote.wire import TokenCounts
from llmprog.errors import OptionError

_BUILT_IN: Final = Path(__file__).with_name("prices.toml")
_PER: Final = 1_000_000
# What may follow a listed name: a date or a version of the same model, never another word of its name.
_DATED: Final = re.compile(r"[-@](?:\d{3,4}|\d{8}|\d{4}-\d{2}-\d{2}|latest)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The price of one model, in US dollars per million tokens.

    Attributes:
        input: Tokens read.
        output: Tokens written, reasoning included.
        cached_input: Tokens read from the provider's cache; ``None``: as any other.
        longest_prompt: Longest prompt in tokens that these prices are for; ``None``: any.
    """

    input: float
    output: float
    cached_input: float | None = None
    longest_prompt: int | None = None

    def usd(self, tokens: TokenCounts) -> float | None:
        """What ``tokens`` cost; ``None`` where a count is unknown or the prompt is longer than the price is for."""
        if tokens.prompt is None or tokens.completion is None:
            return None
        if self.longest_prompt is not None and tokens.prompt > self.longest_prompt:
            return None
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = tokens.prompt - tokens.cached
        return (fresh * self.input + tokens.cached * cached + tokens.completion * self.output) / _PER


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices by provider and model.

    Attributes:
        date: The day the prices were looked up, as ``YYYY-MM-DD``.
        models: Prices by profile name and model id.
    """

    date: str
    models: Mapping[str, Mapping[str, Price]]

    @classmethod
    def load(cls, path: Path | None = None) -> Prices:
        """The prices that come with the package, with those of the file ``path`` laid over them.

        Raises:
            OptionError: The file cannot be read, or an entry is not a price.
        """
        built_in = _built_in()
        if path is None:
            return built_in
        own = _read(path)
        names = {**built_in.models, **own.models}
        return cls(
            own.date,
            {name: {**built_in.models.get(name, {}), **own.models.get(name, {})} for name in names},
        )

    def find(self, provider: str, model: str) -> Price | None:
        """The price of a model by its id, or by the id without the date or version at its end; ``None`` if unknown."""
        listed = self.models.get(provider, {})
        model = model.removeprefix("models/")
        if model in listed:
            return listed[model]
        fitting = [name for name in listed if model.startswith(name) and _DATED.fullmatch(model, len(name))]
        return listed[max(fitting, key=len)] if fitting else None

    def usd(self, provider: str, model: str, tokens: TokenCounts) -> float | None:
        """What a call of ``model`` cost in US dollars; ``None`` where the price or a count is unknown."""
        price = self.find(provider, model)
        return None if price is None else price.usd(tokens)


@functools.cache
def _built_in() -> Prices:
    return _read(_BUILT_IN)


def _read(path: Path) -> Prices:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"price file {str(path)!r} cannot be read: {error}") from error
    date = str(tables.pop("date", ""))
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", date):
        raise OptionError(f'price file {str(path)!r}: date = {date!r}: expected the day of the prices, "YYYY-MM-DD"')
    models: dict[str, Mapping[str, Price]] = {}
    for provider, table in tables.items():
        where = f"price file {str(path)!r}, [{provider}]"
        if not isinstance(table, dict):
            raise OptionError(f"{where}: expected a table of prices by model, found {table!r}")
        prices = {name: _price(f"{where} {name!r}", entry) for name, entry in table.items() if name not in _NOTES}
        shared = table.get("same_as")
        if shared is not None and shared not in models:
            raise OptionError(f"{where}: same_as = {shared!r}: expected a provider above it: {', '.join(models)}")
        models[provider] = MappingProxyType({**models.get(shared, {}), **prices} if shared else prices)
    return Prices(date, MappingProxyType(models))


_NOTES: Final = frozenset(("source", "same_as"))
_FIELDS: Final = ("input", "output", "cached_input", "longest_prompt")


def _price(where: str, entry: Any) -> Price:
    form = "expected { input = USD, output = USD } and perhaps cached_input, longest_prompt"
    if not isinstance(entry, dict) or not {"input", "output"} <= set(entry) or set(entry) - set(_FIELDS):
        raise OptionError(f"{where} = {entry!r}: {form}")
    for name, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise OptionError(f"{where}: {name} = {value!r}: expected a number >= 0")
    return Price(**entry)
