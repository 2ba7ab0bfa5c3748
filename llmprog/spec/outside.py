"""What a program file may name outside of itself: Python functions of modules that are trusted, and programs.

A function is called ``module:qualname`` or ``path/to/file.py:qualname``. No code runs from a program file: a function
that it names is looked up only in modules that whoever loads the file trusts by name, and has to be defined there. So
``my_package:os.system`` names nothing, whatever ``my_package`` imports.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from llmprog.errors import OptionError
from llmprog.nodes import Node
from llmprog.programs.catalog import FILE_SUFFIXES, ProgramEntry, find, load_module

_HARMLESS: dict[str, Callable[..., Any]] = {"builtins:int": int, "builtins:float": float, "builtins:str": str}
"""What any file may name: they make a value of a text, and do nothing else."""


_MAX_FILES = 8


@dataclass(frozen=True, slots=True)
class Outside:
    """What a program file may name: registered programs, files beside it, and functions of what is trusted.

    Attributes:
        open_file: Reads a program file that is named.
        trusted: Names of modules or packages, submodules included, or paths of ``.py`` files.
        folder: What the paths of files are relative to.
        files: The files that are being read, each named by the one before it.
    """

    open_file: Callable[[Path, Outside], ProgramEntry]
    trusted: tuple[str, ...] = ()
    folder: Path = Path()
    files: tuple[Path, ...] = ()

    def trusts(self, place: str) -> bool:
        """Whether a module's name, or a file's path, is among what is trusted."""
        if place.endswith(".py"):
            files = (Path(other).resolve() for other in self.trusted if other.endswith(".py"))
            return Path(place).resolve() in files
        return any(place == other or place.startswith(f"{other}.") for other in self.trusted)

    def find(self, name: str) -> Callable[..., Any]:
        """The function called ``name``.

        Raises:
            OptionError: Its module is not trusted, or it is not there, or is not defined there.
        """
        if name in _HARMLESS:
            return _HARMLESS[name]
        place, colon, qualname = name.rpartition(":")
        if not colon or not place or not all(part.isidentifier() for part in qualname.split(".")):
            raise OptionError(f"{name!r} is no function; write package.module:name or path/to/file.py:name")
        if not self.trusts(place):
            raise OptionError(
                f"the function {name!r} is not called: no code runs from a program file unless its module is trusted; "
                f"if you know it, add --trust {place} (in Python: trust=[{place!r}])"
            )
        module = load_module(place, name)
        found: Any = module
        for step in qualname.split("."):
            found = getattr(found, step, None)
            if isinstance(found, ModuleType):
                found = None
            if found is None:
                raise OptionError(f"the function {name!r} is not there: {place} has no {qualname!r}")
        function = found.function if isinstance(found, Node) else found
        if not callable(function):
            raise OptionError(f"{name!r} is {function!r:.80}, which is no function")
        home = getattr(inspect.unwrap(function), "__module__", None) or type(function).__module__
        if home != module.__name__ and not self.trusts(home):
            raise OptionError(
                f"the function {name!r} is not called: it is defined in {home}, which is not trusted; name it there"
            )
        return function

    def program(self, name: str) -> ProgramEntry:
        """The program called ``name``: registered, or a program file, or of a module that is trusted.

        Raises:
            OptionError: There is none, its module is not trusted, or files name each other in a circle.
            SpecError: The file has faults.
        """
        if name.endswith(FILE_SUFFIXES):
            path = (self.folder / name).resolve()
            if path in self.files:
                raise OptionError(f"{name!r} is this very file, or one that names it")
            if len(self.files) >= _MAX_FILES:
                raise OptionError(f"{name!r}: more than {_MAX_FILES} files that name each other")
            return self.open_file(path, self)
        place, colon, _ = name.rpartition(":")
        if colon and not self.trusts(place):
            raise OptionError(
                f"the program {name!r} is not made: no code runs from a program file unless its module is trusted; "
                f"if you know it, add --trust {place} (in Python: trust=[{place!r}])"
            )
        return find(name)


def name_of(function: Any) -> str:
    """The name by which another process finds a function.

    Raises:
        OptionError: There is none: it is a lambda, or made inside another function, or an object of its own.
    """
    for name, harmless in _HARMLESS.items():
        if function is harmless:
            return name
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None)
    if module is None or qualname is None:
        raise OptionError(f"{function!r:.80} is an object of its own, not a function of a module")
    if "<lambda>" in qualname:
        raise OptionError(f"{module}:{qualname} is a lambda; define it with def, outside of any function")
    if "<locals>" in qualname:
        raise OptionError(f"{module}:{qualname} is made inside another function; define it outside of any")
    found: Any = sys.modules.get(module)
    for step in qualname.split("."):
        found = getattr(found, step, None)
    if found is not function and not (isinstance(found, Node) and found.function is function):
        raise OptionError(f"{module}:{qualname} is something else by now; a function is found by its name alone")
    return f"{_place_of(module)}:{qualname}"


def _place_of(name: str) -> str:
    """A module's name, or the path of its file where Python does not find it by that name."""
    module = sys.modules[name]
    file = getattr(module, "__file__", None)
    if "." not in name and file is not None:
        found = importlib.machinery.PathFinder.find_spec(name)
        if found is None or found.origin is None or Path(found.origin).resolve() != Path(file).resolve():
            return str(Path(file).resolve())
    return name
