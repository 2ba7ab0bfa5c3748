"""What every part of the form has in common: closed models, and a scope that collects faults with their places.

Pydantic checks types; what needs to be known of the parts around (which fields a state has, which functions may be
called) is checked by ``check`` on the values as they were written, so that one reading reports every fault.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from llmprog.documents import Document, Path
from llmprog.errors import DeclarationError
from llmprog.templates import field_names

if TYPE_CHECKING:
    from llmprog.spec.outside import Outside


def _no_text(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("text", "{shown} is no text; quote it", {"shown": str(value).lower()})
    if isinstance(value, int | float):
        raise PydanticCustomError("text", "{shown} is a number where a text is wanted; quote it", {"shown": value})
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        raise PydanticCustomError("flag", "'{shown}' is a text here; write true or false", {"shown": value})
    return value


def as_tuple(value: Any) -> Any:
    """A list as the tuple that a frozen model keeps."""
    return tuple(value) if isinstance(value, list) else value


def _or_parameter(kind: str) -> WithJsonSchema:
    """The JSON schema of a value that may be given as ``"{parameter}"``."""
    return WithJsonSchema({"anyOf": [{"type": kind}, {"type": "string", "pattern": r"^\{\w+\}$"}]})


Text: TypeAlias = Annotated[str, BeforeValidator(_no_text)]
Whole: TypeAlias = Annotated[int, Field(strict=True), _or_parameter("integer")]
Number: TypeAlias = Annotated[float, Field(strict=True), _or_parameter("number")]
Flag: TypeAlias = Annotated[bool, Field(strict=True), BeforeValidator(_no_bool), _or_parameter("boolean")]
Texts: TypeAlias = Annotated[tuple[Text, ...], BeforeValidator(as_tuple)]
Scalar: TypeAlias = (
    Annotated[bool, Field(strict=True)]
    | Annotated[int, Field(strict=True)]
    | Annotated[float, Field(strict=True)]
    | Annotated[str, Field(strict=True)]
    | None
)


Fields: TypeAlias = tuple[str, ...] | None
"""The fields of the state that is spoken of; ``None`` where they are not known."""


@dataclass(slots=True)
class Scope:
    """What is known where a part stands, and where its faults are collected.

    Attributes:
        document: What is read.
        outside: The functions and programs that may be named.
    """

    document: Document
    outside: Outside
    places: dict[int, Path] = field(default_factory=dict)
    handed_on: Any = None  # what was read last, and is now handed to pydantic
    fields: list[Fields] = field(default_factory=list)
    _open: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = {id(value): path for path, value in _located(self.document.value, ())}

    @contextmanager
    def inside(self, value: Any) -> Iterator[None]:
        """While ``value`` is read."""
        here = self._open[-1] if self._open else ()
        self._open.append(self.places.get(id(value), here))
        try:
            yield
        finally:
            self._open.pop()

    @contextmanager
    def with_fields(self, names: Fields) -> Iterator[None]:
        """While something is read for which a state has these fields; ``None`` where they are not known."""
        self.fields.append(names)
        try:
            yield
        finally:
            self.fields.pop()

    @property
    def known_fields(self) -> Fields:
        """The fields of the state that is spoken of."""
        return self.fields[-1] if self.fields else None

    def report(self, message: str, *keys: str | int, at_key: bool = False) -> None:
        """Take note of a fault of what is being read, or of what stands there under ``keys``."""
        path = (*(self._open[-1] if self._open else ()), *keys)
        self.document.report(path, f"{shown_path(path)}{message}", at_key=at_key)

    def check_field(self, name: Any, *keys: str | int, at_key: bool = False) -> None:
        """Report a name that is none of the state's fields."""
        known = self.known_fields
        if isinstance(name, str) and known is not None and name not in known:
            self.report(
                f"no field {name!r}; fields: {', '.join(known)}{did_you_mean(name, known)}", *keys, at_key=at_key
            )

    def check_template(self, text: Any, known: Sequence[str] | None, *keys: str | int) -> None:
        """Report a template that cannot be read, or that uses what is not known; ``None`` knows everything."""
        if not isinstance(text, str):
            return
        try:
            used = field_names(text)
        except DeclarationError as error:
            self.report(str(error), *keys)
            return
        for name in used:
            if known is not None and name not in known:
                self.report(
                    f"the template uses an unknown field {{{name}}}; known: {', '.join(known) or 'none'}"
                    f"{did_you_mean(name, known)}",
                    *keys,
                )


def _located(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Containers, and texts that are objects of their own, with their places."""
    if isinstance(value, str) and len(value) > 1:
        yield path, value
    elif isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            yield from _located(item, (*path, key))
    elif isinstance(value, list):
        yield path, value
        for place, item in enumerate(value):
            yield from _located(item, (*path, place))


def shown_path(path: Path) -> str:
    """A path as people write it, ``generators[0].parse: ``; empty for the whole."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return f"{text}: " if text else ""


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """``; did you mean 'x'?`` where one of ``known`` is close to ``name``, else nothing."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


class Part(BaseModel):
    """A part of the form: a mapping with known keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, protected_namespaces=())

    shorthand: ClassVar[Mapping[str, Any] | None] = None
    """The JSON schema of what may be written in its place, for ``written_out`` to write out."""

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """The keys it may have."""
        return tuple(f.alias or name for name, f in cls.model_fields.items())

    @classmethod
    def written_out(cls, data: Any) -> Any:
        """What was written, without shorthands."""
        return data

    @classmethod
    def fields_inside(cls, data: Mapping[str, Any], outside: Fields) -> Fields:
        """The fields that its parts can speak of."""
        return outside

    @classmethod
    def check(cls, data: Mapping[str, Any], scope: Scope) -> None:
        """Report what is wrong with it that types do not tell."""

    def check_made(self, scope: Scope) -> None:
        """Report what is wrong with it as a whole, now that its types are right."""

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        scope: Scope | None = info.context
        if scope is not None and data is scope.handed_on:
            return handler(data)  # of models that contain their like, pydantic runs this twice, one within the other
        given = cls.written_out(data)
        if scope is None:
            return handler(given)
        fields = cls.fields_inside(given, scope.known_fields) if isinstance(given, dict) else scope.known_fields
        with scope.inside(data), scope.with_fields(fields):
            if isinstance(given, dict):
                known = cls.keys()
                for key in given:
                    if key not in known:
                        allowed = f"allowed: {', '.join(known) or 'none'}{did_you_mean(str(key), known)}"
                        scope.report(f"unknown key {key!r}; {allowed}", key, at_key=True)
                cls.check(given, scope)
                if not issubclass(cls, OneOf):  # what was reported hides nothing else
                    given = {key: value for key, value in given.items() if key in known}
            scope.handed_on = given
            made = handler(given)
            made.check_made(scope)
            return made

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        if cls.shorthand is None:
            return schema
        inner = dict(handler.resolve_ref_schema(schema))
        return {"title": inner.pop("title", cls.__name__), "anyOf": [dict(cls.shorthand), inner]}

    def form(self) -> Any:
        """It as it is written: JSON values, without what is the default."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class OneOf(Part):
    """One of several things: its name, or its name with parameters, as ``last_number`` and ``{regex: {…}}``."""

    what: ClassVar[str] = "thing"

    @classmethod
    def written_out(cls, data: Any) -> Any:
        if isinstance(data, str):
            data = {data: {}}
        if not isinstance(data, dict):
            raise PydanticCustomError("one_of", "a {what} is a name or {form}; names: {names}", cls._naming())
        if len(data) != 1:
            raise PydanticCustomError(
                "one_of", "give one {what}, not {number}; names: {names}", cls._naming() | {"number": len(data)}
            )
        return {name: {} if parameters is None else parameters for name, parameters in data.items()}

    @classmethod
    def _naming(cls) -> dict[str, Any]:
        return {"what": cls.what, "form": "{name: parameters}", "names": ", ".join(cls.keys())}

    @property
    def chosen(self) -> Any:
        """The one that was given."""
        return next(value for name in type(self).model_fields if (value := getattr(self, name)) is not None)

    @property
    def chosen_name(self) -> str:
        """What it is called."""
        return next(f.alias or name for name, f in type(self).model_fields.items() if getattr(self, name) is not None)

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> Any:
        written = handler(self)
        if not isinstance(written, dict):  # of a model within its like, pydantic's handler has been here already
            return written
        form = {name: value for name, value in written.items() if value is not None}
        return next(iter(form)) if form and next(iter(form.values())) == {} else form

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = {**handler.resolve_ref_schema(handler(core)), "minProperties": 1, "maxProperties": 1}
        names = {"type": "string", "enum": list(cls.keys())}
        return {"title": schema.pop("title", cls.__name__), "anyOf": [names, schema]}
