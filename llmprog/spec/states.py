"""States of programs that are written as files: fields with types, what of the input they take, and how they change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator

from llmprog.arithmetic import canonical_number
from llmprog.errors import InputError
from llmprog.parsers import all_numbers
from llmprog.spec.reading import Part, Scalar, Scope, as_tuple
from llmprog.templates import format_value, render

FieldType: TypeAlias = Literal["text", "integer", "number", "boolean", "list of text", "list of number"]

_MAX_INPUT = 100_000
_TRUE, _FALSE = ("true", "yes"), ("false", "no")


class FieldForm(Part):
    """A field of the state: its type, and its value in the first state (empty by default)."""

    shorthand: ClassVar[Mapping[str, Any] | None] = {"type": "string"}

    type: FieldType = "text"
    default: Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(as_tuple)] = None

    @classmethod
    def written_out(cls, data: Any) -> Any:
        return {"type": data} if isinstance(data, str) else data

    def check_made(self, scope: Scope) -> None:
        if self.default is not None:
            try:
                as_type(self.default, self.type)
            except ValueError as error:
                scope.report(str(error), "default")


def as_type(value: Any, kind: FieldType) -> Any:
    """``value`` as a value of a field's type.

    Raises:
        ValueError: It is none.
    """
    if kind == "text":
        return value if isinstance(value, str) else format_value(_frozen(value))
    if kind.startswith("list of "):
        return _as_list(value, kind)
    if kind == "boolean":
        word = str(value).strip().casefold()
        if word not in (*_TRUE, *_FALSE):
            raise ValueError(f"{value!r:.80} is neither true nor false")
        return word in _TRUE
    number = _as_number(value)
    if number is None:
        raise ValueError(f"{value!r:.80} is no number")
    if kind == "number":
        return number
    if number.denominator != 1:
        raise ValueError(f"{value!r:.80} is no whole number")
    return int(number)


def _as_number(value: Any) -> Fraction | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Fraction):
        return Fraction(value)
    return canonical_number(repr(value) if isinstance(value, float) else str(value))


def _as_list(value: Any, kind: FieldType) -> tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return tuple(as_type(item, "text" if kind == "list of text" else "number") for item in value)
    if kind == "list of number":
        return tuple(all_numbers(str(value)))
    return tuple(line.strip() for line in str(value).splitlines() if line.strip())


def _frozen(value: Any) -> Any:
    """A JSON value in the form in which it is shown: objects and lists as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


_HINTS: dict[str, Any] = {
    "text": str,
    "integer": int,
    "number": Fraction,
    "boolean": bool,
    "list of text": tuple[str, ...],
    "list of number": tuple[Fraction, ...],
}


def state_class(form: Mapping[str, FieldForm]) -> type:
    """The class of a program's states: a frozen dataclass with these fields, empty ones ``None`` or ``()``."""
    made = []
    for name, described in form.items():
        value = None if described.default is None else as_type(described.default, described.type)
        if value is None and described.type.startswith("list of "):
            value = ()
        made.append((name, _HINTS[described.type] | None, dataclasses.field(default=value)))
    return dataclasses.make_dataclass("State", made, frozen=True, slots=True, namespace={"__str__": _shown})


def _shown(state: Any) -> str:
    """The last field that has a value, which is what has come to pass last."""
    values = [getattr(state, f.name) for f in dataclasses.fields(state)]
    return next((text for value in reversed(values) if (text := format_value(value))), "")


@dataclass(frozen=True, slots=True)
class Start:
    """Makes the first state of the input.

    Attributes:
        state: The class of states.
        fields: Names and types of its fields.
        inputs: Which of them the input fills: one is given all of it; several are given its parts by name.
        defaults: Of the other fields.
    """

    state: type
    fields: tuple[tuple[str, FieldType], ...]
    inputs: tuple[str, ...]
    defaults: tuple[tuple[str, Any], ...] = ()

    def __call__(self, given: Any) -> Any:
        kinds = dict(self.fields)
        if len(self.inputs) == 1 and not isinstance(given, Mapping):
            parts: Mapping[str, Any] = {self.inputs[0]: given}
        else:
            parts = self._parts(given)
        values = {}
        for name in self.inputs:
            value = parts[name]
            if isinstance(value, str):
                value = value.strip()
                if not value or len(value) > _MAX_INPUT:
                    raise InputError(f"{name}: {len(value)} characters; allowed are 1 to {_MAX_INPUT}")
            try:
                values[name] = as_type(value, kinds[name])
            except ValueError as error:
                raise InputError(f"{name}: {error}; the program takes {kinds[name]}") from error
        return self.state(**values)

    def _parts(self, given: Any) -> Mapping[str, Any]:
        wanted = ", ".join(self.inputs)
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except (ValueError, RecursionError):
                given = None
        if not isinstance(given, Mapping):
            raise InputError(f'the input has parts ({wanted}); give a JSON object such as {{"{self.inputs[0]}": …}}')
        missing = [name for name in self.inputs if given.get(name) is None]
        if missing:
            raise InputError(f"the input has no {', '.join(missing)}; it needs {wanted}")
        unknown = [str(name) for name in given if name not in self.inputs]
        if unknown:
            raise InputError(f"the input has {', '.join(unknown)}, which the program does not take; it takes {wanted}")
        return given


@dataclass(frozen=True, slots=True)
class Change:
    """Makes the next state of a state and of what a parser found.

    Attributes:
        fields: Names and types of the fields that change.
        sources: For each of them, the name of what was found, or a template over that and the state's fields.
        appends: Those that are lists to which it is added.
    """

    fields: tuple[tuple[str, FieldType], ...]
    sources: tuple[str, ...]
    appends: tuple[bool, ...]

    def apply(self, state: Any, found: Mapping[str, Any]) -> Any | None:
        """The next state; ``None`` where what was found does not fit."""
        changes: dict[str, Any] = {}
        for (name, kind), source, is_appended in zip(self.fields, self.sources, self.appends, strict=True):
            value = source_value(source, state, found)
            if value is None:
                return None
            try:
                if is_appended:
                    item = as_type(value, "text" if kind == "list of text" else "number")
                    changes[name] = (*(getattr(state, name) or ()), item)
                else:
                    changes[name] = as_type(value, kind)
            except ValueError:
                return None
        return dataclasses.replace(state, **changes)


def source_value(source: str, state: Any, found: Mapping[str, Any]) -> Any:
    """What a source of ``into`` stands for: something that was found, or a template over it and the state's fields."""
    if "{" not in source:
        return found.get(source)

    def lookup(name: str) -> Any:
        return found[name] if name in found else getattr(state, name, None)

    return render(source, lookup)
