"""What of a row a program is run on, and how a row is told from a changed one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from llmprog.errors import DeclarationError, InputError, OptionError
from llmprog.fingerprint import describe_value
from llmprog.jobs.rows import Row
from llmprog.templates import field_names, render

_USUAL = ("input", "question", "puzzle", "prompt")


class InputOf:
    r"""The input that a row's program gets: a column's value as it is, or a template filled with columns.

    Args:
        spec: A column's name, or a template over columns such as ``"{question}\nAnswer:"``. ``None`` takes the only
            column, else the one of ``input``, ``question``, ``puzzle`` and ``prompt`` that the first row has.
        gold: The column that holds the right answer, if there is one; it is never the input by default.

    Raises:
        OptionError: The template is malformed, or a column is not named by a text.
    """

    def __init__(self, spec: str | None, *, gold: str | None = None) -> None:
        for what, named in (("input", spec), ("gold", gold)):
            if not isinstance(named, str | None):
                raise OptionError(f"{what}={named!r:.100}; allowed is a column's name, or None")
        self.spec = spec
        self.gold = gold
        self._template_fields: tuple[str, ...] = ()
        if spec is not None and "{" in spec:
            try:
                self._template_fields = field_names(spec)
            except DeclarationError as error:
                raise OptionError(f"the input: {error}") from error

    def resolve(self, first: Mapping[str, Any]) -> None:
        """Settle, by the first row that can be read, which column is meant where none was named.

        Raises:
            OptionError: It cannot be told, or the named column or gold column is not there.
        """
        known = f"columns: {', '.join(first) or 'none'}"
        if self.gold is not None and self.gold not in first:
            raise OptionError(f"the right answers: no column {self.gold!r}; {known}")
        if self.spec is None:
            candidates = [name for name in first if name != self.gold]
            usual = [name for name in _USUAL if name in candidates]
            if len(candidates) != 1 and not usual:
                raise OptionError(
                    f"the input: which column is it? name it, or give a template such as '{{question}}'; {known}"
                )
            self.spec = usual[0] if usual else candidates[0]
        missing = [name for name in self._needed(first) if name not in first]
        if missing:
            raise OptionError(f"the input: no column {missing[0]!r}; {known}")

    def _needed(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        spec = self.spec or ""
        return self._template_fields if self._template_fields and spec not in values else (spec,)

    def of(self, row: Row) -> Any:
        """The input that ``row`` gives.

        Raises:
            InputError: The row cannot be read, or lacks a column.
        """
        if row.fault is not None:
            raise InputError(row.fault)
        needed = self._needed(row.values)
        for name in needed:
            if name not in row.values:
                where = f"row {row.index}" if row.line is None else f"line {row.line}"
                raise InputError(f"{where}: no column {name!r}; columns: {', '.join(row.values) or 'none'}")
        if needed == (self.spec,):
            return row.values[needed[0]]
        return render(self.spec or "", row.values)

    def gold_of(self, row: Row) -> Any:
        """The right answer that ``row`` holds; ``None`` where it holds none."""
        gold = row.values.get(self.gold) if self.gold is not None else None
        return None if gold == "" else gold

    def digest(self, row: Row) -> str:
        """Hex digest of the row: equal rows, equal digests; what a row has come to holds while it stays the same."""
        content = row.fault if row.fault is not None else describe_value(row.values)
        text = json.dumps([content, self.spec, self.gold], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
