"""The page: its HTML, its style, and its modules joined into one script, the same for the server and for files.

The modules keep to a part of what JavaScript allows, so that joining them takes no tool: imports are
``import { a, b } from "./x.js";``, each on one line; exported are functions, classes and constants where they are
declared, each at the beginning of a line; no two modules import each other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib import resources

MAIN = "main.js"

_IMPORT = re.compile(r'^import \{ ?([\w$]+(?:, [\w$]+)*) ?\} from "\./(\w+\.js)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const) ([\w$]+))", re.MULTILINE)
_LEFT_OVER = re.compile(r"^\s*(?:import|export)\b.*$|\bimport\(", re.MULTILINE)
_ENDS_A_BLOCK = re.compile(r"</(?:script|style)|<!--", re.IGNORECASE)


def page_file(name: str) -> str:
    """The text of a file of the page.

    Raises:
        FileNotFoundError: There is none of this name.
    """
    return (resources.files("llmprog.viewer") / "page" / name).read_text(encoding="utf-8")


def html() -> str:
    """The page without its data; it names ``style.css`` and ``page.js``."""
    return page_file("index.html")


@functools.cache
def style() -> str:
    """The page's style, ``style.css`` and then each ``style_….css``, fit to stand within a page."""
    files = (resources.files("llmprog.viewer") / "page").iterdir()
    names = sorted(file.name for file in files if re.fullmatch(r"style(_\w+)?\.css", file.name))
    return "\n".join(_unbroken(name, page_file(name)) for name in names)


@functools.cache
def script(main: str = MAIN) -> str:
    """The page's script; see ``join``."""
    return join(main, page_file)


def join(main: str, read: Callable[[str], str]) -> str:
    """A module with all that it imports, as one strict expression whose value is an object of what ``main`` exports.

    Args:
        main: The module that is run last.
        read: Gives the text of a module.

    Raises:
        ValueError: A module does not keep to the form, or two import each other.
    """
    joined: dict[str, str] = {}
    _add(main, read, joined, [])
    parts = [f"const {_variable(name)} = (() => {{\n{text}}})();\n" for name, text in joined.items()]
    return f'(() => {{\n"use strict";\n{"".join(parts)}return {_variable(main)};\n}})()'


def _add(name: str, read: Callable[[str], str], joined: dict[str, str], within: list[str]) -> None:
    """Add a module to ``joined``, after those that it imports."""
    if name in joined:
        return
    if name in within:
        raise ValueError(f"page modules import each other: {' -> '.join([*within, name])}")
    text = _unbroken(name, read(name))
    for found in _IMPORT.finditer(text):
        _add(found[2], read, joined, [*within, name])
    exported = _EXPORT.findall(text)
    plain = _EXPORT.sub("", _IMPORT.sub(_taken, text))
    left_over = _LEFT_OVER.search(plain)
    if left_over is not None:
        raise ValueError(f"page module {name}: {left_over[0]!r}; allowed is what llmprog.viewer.bundle says")
    joined[name] = f"{plain}return {{ {', '.join(exported)} }};\n"


def _taken(found: re.Match[str]) -> str:
    return f"const {{ {found[1]} }} = {_variable(found[2])};"


def _variable(module: str) -> str:
    return f"of_{module.removesuffix('.js')}"


def _unbroken(name: str, text: str) -> str:
    """``text``, which may stand between the tags of a page."""
    found = _ENDS_A_BLOCK.search(text)
    if found is not None:
        raise ValueError(f"page file {name}: it contains {found[0]!r}, which would end the block that it stands in")
    return text
