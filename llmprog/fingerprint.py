"""What a function or value *is*, as JSON values with the same text in every process: never an address."""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import functools
import inspect
import json
import linecache
import pathlib
import re
import textwrap
import types
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

_SPOKEN_FOR_BY_STR = (Fraction, decimal.Decimal, complex, datetime.date, datetime.time, pathlib.PurePath)


def function_name(function: Callable[..., Any]) -> str:
    """The qualified name of a function, or of a callable's type."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def describe_function(function: Callable[..., Any]) -> Any:
    """Source text with the plain values it closes over; of a callable object its values and its ``__call__``.

    Functions that it calls by a global name are not followed.
    """
    return _Describer().function(function)


def describe_value(value: Any) -> Any:
    """``value`` in full where it consists of plain values, else the name of its type."""
    return _Describer().value(value)


def readable_lines(value: Any, name: str = "") -> list[str]:
    """JSON values as indented lines, a text with line breaks as its lines."""
    head = [f"{name}:"] if name else []
    margin = "  " if name else ""
    if isinstance(value, dict):
        inner = [line for key, item in value.items() for line in readable_lines(item, key)]
    elif isinstance(value, list | tuple):
        inner = [line for item in value for line in readable_lines(item, "-")]
    elif isinstance(value, str) and "\n" in value:
        inner = value.splitlines()
    else:
        return [f"{name}: {value!r}" if name else repr(value)]
    return head + [margin + line for line in inner]


class _Describer:
    """Remembers what it is in the middle of, since a function may close over itself."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def function(self, function: Callable[..., Any]) -> Any:
        if id(function) in self._open:
            return ["recursive", function_name(function)]
        self._open.add(id(function))
        try:
            return self._function(function)
        finally:
            self._open.discard(id(function))

    def _function(self, function: Callable[..., Any]) -> Any:
        if isinstance(function, functools.partial):
            return ["partial", self.function(function.func), self.value(function.args), self.value(function.keywords)]
        if inspect.ismethod(function):
            owner = function.__self__
            return ["method", self.value(owner), self.function(function.__func__)]
        if inspect.isbuiltin(function) and not isinstance(function.__self__, types.ModuleType | None):
            return ["method", self.value(function.__self__), function.__name__]
        target = inspect.unwrap(function)
        if not (inspect.isroutine(target) or inspect.isclass(target)):
            names = getattr(target, "__dataclass_fields__", None)  # slots have no __dict__
            own = getattr(target, "__dict__", {}) if names is None else {name: getattr(target, name) for name in names}
            return [function_name(target), self.value(own), self.function(type(target).__call__)]
        code = getattr(target, "__code__", None)
        closed = {}
        cells = getattr(target, "__closure__", None) or ()
        for name, cell in zip(code.co_freevars if code else (), cells, strict=False):
            try:
                closed[name] = self.value(cell.cell_contents)
            except ValueError:
                continue  # a cell that is not filled yet
        defaults = [getattr(target, "__defaults__", None), getattr(target, "__kwdefaults__", None)]
        return [self._text(target, code), closed, self.value(defaults)]

    def _text(self, target: Any, code: types.CodeType | None) -> Any:
        if code is not None and code.co_name == "<lambda>" and (body := _lambda_body(code)):
            return [list(code.co_varnames[: code.co_argcount]), body]
        try:
            return textwrap.dedent(inspect.getsource(target))
        except (OSError, TypeError):
            return self.value(code) if code else function_name(target)

    def value(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value.value if isinstance(value, enum.Enum) else value
        if isinstance(value, bytes):
            return ["bytes", value.hex()]
        if isinstance(value, _SPOKEN_FOR_BY_STR):
            return str(value)
        if isinstance(value, enum.Enum):
            return [type(value).__qualname__, value.name]
        if isinstance(value, re.Pattern):
            return [value.pattern, int(value.flags)]
        if isinstance(value, types.CodeType):
            return [value.co_code.hex(), list(value.co_names), [self.value(c) for c in value.co_consts]]
        if id(value) in self._open:
            return ["recursive", type(value).__qualname__]
        self._open.add(id(value))
        try:
            return self._compound(value)
        finally:
            self._open.discard(id(value))

    def _compound(self, value: Any) -> Any:
        if isinstance(value, collections.abc.Mapping):
            return {str(k): self.value(v) for k, v in sorted(value.items(), key=lambda item: str(item[0]))}
        if isinstance(value, set | frozenset):
            return sorted(json.dumps(self.value(v), sort_keys=True) for v in value)
        if isinstance(value, Sequence):
            return [self.value(v) for v in value]
        if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
            fields = {name: getattr(value, name) for name in value.__dataclass_fields__ if not name.startswith("_")}
            return [type(value).__qualname__, self.value(fields)]
        if hasattr(value, "model_dump") and not isinstance(value, type):
            return [type(value).__qualname__, self.value(value.model_dump())]
        if inspect.isfunction(value) or inspect.ismethod(value) or isinstance(value, functools.partial):
            self._open.discard(id(value))
            return self.function(value)
        return function_name(value) if callable(value) else type(value).__qualname__


def _lambda_body(code: types.CodeType) -> str | None:
    """The text of a lambda's body alone: its source lines may hold other lambdas too."""
    spans = [
        (line, start, end_line, end)
        for line, end_line, start, end in code.co_positions()
        if line is not None and end_line is not None and start is not None and end is not None and end > 0
    ]
    if not spans:
        return None
    first, last = min(span[:2] for span in spans), max(span[2:] for span in spans)
    lines = [linecache.getline(code.co_filename, n).encode() for n in range(first[0], last[0] + 1)]
    if not lines or not all(lines):
        return None
    lines[-1] = lines[-1][: last[1]]
    lines[0] = lines[0][first[1] :]
    return b"".join(lines).decode("utf-8", "replace")
