"""Programs by name: what is there, which parameters each declares, and how settings given as text reach them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any, TypeVar

from llmprog.errors import OptionError, meant
from llmprog.program import Program

GROUP = "llmprog.programs"
FILE_SUFFIXES = (".yaml", ".yml", ".json")

T = TypeVar("T")

_loaded: dict[Path, tuple[int, types.ModuleType]] = {}  # files that were loaded, with when they had last changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A declared parameter of a program: its annotation, default and help."""

    name: str
    annotation: Any
    default: Any
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramEntry:
    """A program that can be built by name.

    Attributes:
        name: What it is called on the command line.
        build: Makes the ``Program`` from its parameters.
        parameters: What it can be set to.
        summary: One line.
    """

    name: str
    build: Callable[..., Program]
    parameters: Mapping[str, Parameter]
    summary: str


def names() -> list[str]:
    """The names of all registered programs."""
    return sorted(entry.name for entry in metadata.entry_points(group=GROUP))


def find(name: str, *, trust: Sequence[str] = ()) -> ProgramEntry:
    """A program by registered name, ``package.module:attribute``, ``path/file.py:attribute`` or ``path/file.yaml``.

    Args:
        name: What to look for.
        trust: Modules whose functions a program file may name; none by default.

    Raises:
        OptionError: There is no such program.
        SpecError: A program file has faults.
    """
    for entry in metadata.entry_points(group=GROUP):
        if entry.name == name:
            return _entry(name, entry.load())
    if name.endswith(FILE_SUFFIXES):
        # Reading files sits above the programs they may name; it is looked up when called: imports point downward.
        found_entry: ProgramEntry = importlib.import_module("llmprog.spec").file_entry(name, trust=trust)
        return found_entry
    place, colon, attribute = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            raise OptionError(f"program {name!r}: a file may hold several; say which one: {name}:NAME")
        raise OptionError(
            f"unknown program {name!r}{meant(name, names())}; known: {', '.join(names())}; "
            "your own: path/to/file.yaml, path/to/file.py:name or package.module:name"
        )
    found = getattr(load_module(place, name), attribute, None)
    if not isinstance(found, Program) and not callable(found):
        raise OptionError(
            f"program {name!r}: {place} has no Program, nor a function that makes one, called {attribute!r}"
        )
    return _entry(name, found)


def load_module(place: str, name: str) -> Any:
    """The module called ``place``, or that of the file ``place``; ``name`` is what is looked for there.

    Raises:
        OptionError: There is none.
    """
    if place.endswith(".py"):
        path = Path(place).resolve()
        if not path.is_file():
            raise OptionError(f"program {name!r}: no file {place!r}")
        changed = path.stat().st_mtime_ns
        loaded = _loaded.get(path)
        if loaded is not None and loaded[0] == changed and sys.modules.get(path.stem) is loaded[1]:
            return loaded[1]  # a function is one and the same, however often it is looked up
        loader = _FromSource(path.stem, str(path))
        spec = ModuleSpec(path.stem, loader, origin=str(path))
        spec.has_location = True
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # dataclasses look their module up by name
        loader.exec_module(module)
        _loaded[path] = changed, module
        return module
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise OptionError(f"program {name!r}: {error}") from error


class _FromSource(SourceFileLoader):
    """Compiles the file itself each time.

    Python takes bytecode that it kept for that of a file of the same size and the same second: of a file that was just
    edited, the text would be the new one and what is run the old.
    """

    def path_stats(self, path: Any) -> Any:
        raise OSError(f"no bytecode is kept of {path}")


def _entry(name: str, target: Any) -> ProgramEntry:
    if isinstance(target, Program):
        program = target
        return ProgramEntry(name=name, build=lambda: program, parameters={}, summary=f"the program {program.name}")
    doc = inspect.getdoc(target) or ""
    helps = section_helps(doc, "Args")
    hints = typing.get_type_hints(target)
    parameters = {
        p.name: Parameter(name=p.name, annotation=hints.get(p.name, str), default=p.default, help=helps.get(p.name, ""))
        for p in inspect.signature(target).parameters.values()
    }
    return ProgramEntry(name=name, build=target, parameters=parameters, summary=doc.partition("\n")[0])


def section_helps(doc: str, title: str) -> dict[str, str]:
    """Help per name from a section, ``Args`` or ``Attributes``, of a Google docstring."""
    section = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", inspect.cleandoc(doc), re.MULTILINE)
    if section is None:
        return {}
    found = re.findall(r"^ {4}(\w+): ((?:.*\n?)(?: {8}.*\n?)*)", section[1], re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def parse_setting(parameter: Parameter, text: Any) -> Any:
    """A parameter's value from text, or from a value as files have them.

    Raises:
        OptionError: It is not a value of the parameter's type.
    """
    from pydantic import TypeAdapter, ValidationError

    may_be_none = type(None) in typing.get_args(parameter.annotation)
    if may_be_none and isinstance(text, str) and text.lower() in ("none", ""):
        return None
    try:
        return TypeAdapter(parameter.annotation).validate_python(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise OptionError(f"{parameter.name}={text!r}: {reason[0].lower()}{reason[1:]}; {parameter.help}") from error


def one_of(name: str, value: T, choices: Any) -> T:
    """``value`` if it is among the choices of a ``Literal``.

    Raises:
        OptionError: It is not.
    """
    allowed = typing.get_args(choices)
    if value not in allowed:
        raise OptionError(f"{name}={value!r}; allowed are {', '.join(map(str, allowed))}")
    return value


def for_method(
    name: str, value: T | None, method: str, defaults: Mapping[str, T], *, chooser: str = "method"
) -> T | None:
    """A parameter that only some methods have: the value given, else the method's default.

    Raises:
        OptionError: A value was given, but ``method`` would ignore it.
    """
    if method in defaults:
        return defaults[method] if value is None else value
    if value is not None:
        raise OptionError(
            f"{name}={value!r} has no effect with {chooser}={method}; it belongs to {chooser}={' or '.join(defaults)}"
        )
    return None
