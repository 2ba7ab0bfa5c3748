"""From a program file to a ``Program``: read, checked as a whole, built."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmprog.compile import compile_program
from llmprog.documents import MAX_CHARACTERS, Document, read_document
from llmprog.documents import Path as Place
from llmprog.errors import CompileError, LLMProgError, SpecError
from llmprog.program import Program
from llmprog.programs.catalog import ProgramEntry
from llmprog.spec.headings import Named, checked_values, put_in, read_parameters
from llmprog.spec.joins import AnyProgram, ReferenceForm
from llmprog.spec.outside import Outside
from llmprog.spec.reading import Scope, shown_path

_FROM_PYDANTIC = {
    "missing": "{key} is missing",
    "string_type": "a text is wanted, not {given}",
    "int_type": "a whole number is wanted, not {given}",
    "float_type": "a number is wanted, not {given}",
    "bool_type": "true or false is wanted, not {given}",
    "dict_type": "a mapping, key: value, is wanted, not {given}",
    "model_type": "a mapping, key: value, is wanted, not {given}",
    "model_attributes_type": "a mapping, key: value, is wanted, not {given}",
    "tuple_type": "a list is wanted, not {given}",
    "too_short": "at least one is needed",
    "string_too_short": "a text that is not empty is wanted",
}


def load_program(path: str | Path, *, trust: Sequence[str] = (), **parameters: Any) -> Program:
    """The program that a YAML or JSON file declares.

    Args:
        path: The file.
        trust: Modules, packages or ``.py`` files whose functions it may name; by default it may name none.
        **parameters: Values of the parameters that it declares.

    Raises:
        SpecError: The file cannot be read or has faults; all of them are listed, with line and column.
        OptionError: A parameter is unknown, or has no such value.
    """
    return file_entry(path, trust=trust).build(**parameters)


def read_program(text: str, *, file: str = "program.yaml", trust: Sequence[str] = (), **parameters: Any) -> Program:
    """The program that a YAML text declares (JSON, where ``file`` ends in ``.json``); see ``load_program``.

    Args:
        text: The declaration.
        file: What it is called in messages.
        trust: As for ``load_program``.
        **parameters: As for ``load_program``.

    Raises:
        SpecError: The text has faults; all of them are listed.
        OptionError: A parameter is unknown, or has no such value.
    """
    return _entry(text, file, Outside(_open, tuple(trust))).build(**parameters)


def file_entry(path: str | Path, *, trust: Sequence[str] = ()) -> ProgramEntry:
    """The program of a file, with the parameters that it can be built with.

    Raises:
        SpecError: The file cannot be read, or its parameters cannot.
    """
    return _open(Path(path), Outside(_open, tuple(trust)))


def json_schema() -> dict[str, Any]:
    """The JSON schema of the form, for editors that complete and check while one writes."""
    schema = _adapter().json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llmprog program",
        "description": "A program for llmprog: a search, programs joined into a dataflow, or a program by its name.",
        **schema,
    }


def _open(path: Path, outside: Outside) -> ProgramEntry:
    shown = str(path)
    try:
        if path.stat().st_size > 4 * MAX_CHARACTERS:
            raise SpecError(shown, [f"{shown}: {path.stat().st_size} bytes; allowed are up to {MAX_CHARACTERS}"])
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SpecError(shown, [f"{shown}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise SpecError(shown, [f"{shown}: is not UTF-8: {error.reason} at byte {error.start}"]) from error
    inside = Outside(outside.open_file, outside.trusted, path.parent, (*outside.files, path.resolve()))
    return _entry(text, shown, inside)


def _entry(text: str, file: str, outside: Outside) -> ProgramEntry:
    document = read_document(text, file)
    parameters = read_parameters(document)
    content = document.value if isinstance(document.value, dict) else {}
    described = content.get("description")
    summary = described.partition("\n")[0] if isinstance(described, str) else f"the program of {file}"
    if not parameters:
        _build(document, {}, outside)  # its faults are the same whatever it is set to

    def build(**given: Any) -> Program:
        values = checked_values(parameters, given, file)
        return _build(read_document(text, file), values, outside)

    return ProgramEntry(name=file, build=build, parameters=parameters, summary=summary)


def _build(document: Document, values: Mapping[str, Any], outside: Outside) -> Program:
    """The program of a document, whose parameters have these values.

    Raises:
        SpecError: It has faults.
    """
    read_parameters(document)
    put_in(document, values)
    scope = Scope(document, outside)
    form: Named | None = None
    try:
        form = _adapter().validate_python(document.value, context=scope)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            # Unknown keys were reported where they were read; and of a list with faults nothing is left.
            is_known = found["type"] == "extra_forbidden" or (found["type"] == "too_short" and found.get("input"))
            if not is_known:
                place = _place(document, found["loc"])
                document.report(place, f"{shown_path(place)}{_said(dict(found))}")
    document.refuse()
    if form is None:
        raise SpecError(document.file, [f"{document.file}: holds no program"])
    if form.name is None and not isinstance(form, ReferenceForm):
        form = form.model_copy(update={"name": re.sub(r"\W", "_", Path(document.file).stem) or "program"})
    try:
        program = form.build(outside)
        compile_program(program)
    except CompileError as error:
        for fault in error.faults:
            document.report(_place_of_fault(document, fault), fault)
        document.refuse()
        raise
    except SpecError:
        raise
    except LLMProgError as error:
        document.report((), str(error))
        document.refuse()
        raise
    return program


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(AnyProgram)


def _place(document: Document, loc: tuple[int | str, ...]) -> Place:
    """Where in the file pydantic's location is: it also names the kinds of things, and what is not there."""
    place: Place = ()
    for step in loc:
        if (*place, step) in document.marks:
            place = (*place, step)
    return place


def _said(fault: dict[str, Any]) -> str:
    kind, given = fault["type"], fault.get("input")
    if kind in _FROM_PYDANTIC:
        return _FROM_PYDANTIC[kind].format(key=fault["loc"][-1], given=_shown(given))
    message = str(fault["msg"])
    text = message[0].lower() + message[1:]
    says_all = kind in ("text", "flag", "one_of") or isinstance(
        given, dict | list | tuple
    )  # our own say what was given
    return text if says_all else f"{text}; it is {_shown(given)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."


def _place_of_fault(document: Document, fault: str) -> Place:
    """The node or part that a fault of compiling names, else the whole."""
    for place, name in _named(document.value, ()):
        if repr(name) in fault:
            return place
    return ("controller",) if fault.startswith("controller") and ("controller",) in document.marks else ()


def _named(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            yield (*place, key), item["name"]
        yield from _named(item, (*place, key))
