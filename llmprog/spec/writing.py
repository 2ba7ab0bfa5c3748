"""Plain values as YAML that people like to read, and that readers of YAML 1.1 and 1.2 take for the same.

Mappings and lists are written in block style. A text stands as it is where nothing else could be meant, texts of
several lines stand as such, and the rest is quoted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmprog.documents import UNLIKE_YAML, plain_value

_WIDTH = 100
"""A line of a text ends at the first space beyond this column."""
_MAX_KEY = 1000  # readers look no further for the colon of a key

_ESCAPED = re.compile(f"[\x00-\x09\x0b-\x1f]|{UNLIKE_YAML.pattern}")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_NOT_PLAIN = re.compile(r"[#,\[\]{}&*!|>'\"%@`]|[?:-](?: |$)|---|\.\.\.| |.*(?:: | #|:$| $)")
# Booleans, numbers, dates and signs, to readers of YAML 1.1.
_OTHER_ELSEWHERE = re.compile(
    r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|=|<<"
    r"|[-+]?0[box]?[0-9a-fA-F_]+|[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ][0-9:. tTzZ+-]*)?"
)


def yaml_text(value: Any) -> str:
    """``value`` as the text of a YAML file; mappings keep their order.

    Args:
        value: Mappings with texts as keys, lists, texts, numbers, bools, ``None``.

    Raises:
        TypeError: There is something else in it.
    """
    lines = _block(value, 0) if _is_block(value) else [_leaf(value, 0, 2)]
    return "\n".join([*lines, ""])


def _is_block(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple) and len(value) > 0


def _block(value: Any, indent: int) -> Iterator[str]:
    """The lines of a mapping or list that is not empty; a text of several lines is one of them."""
    margin = " " * indent
    if isinstance(value, Mapping):
        for key, item in value.items():
            head = f"{margin}{_key(key, margin)}:"
            if _is_block(item):
                yield head
                yield from _block(item, indent + 2 if isinstance(item, Mapping) else indent)
            else:
                yield f"{head} {_leaf(item, len(head) + 1, indent + 2)}"
        return
    for item in value:
        if _is_block(item):
            first, *others = _block(item, indent + 2)
            yield f"{margin}- {first[indent + 2 :]}"
            yield from others
        else:
            yield f"{margin}- {_leaf(item, indent + 2, indent + 2)}"


def _key(key: Any, margin: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"the key {key!r} cannot be written; keys are texts")
    written = _quoted(key) if "\n" in key else _line(key)
    return written if len(written) <= _MAX_KEY else f"? {written}\n{margin}"


def _leaf(value: Any, column: int, indent: int) -> str:
    """What has no parts, written from ``column`` on, with ``indent`` before its further lines."""
    if isinstance(value, str):
        return _text(value, column, indent)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        digits = repr(float(value))
        return digits if "." in digits else digits.replace("e", ".0e")  # as YAML 1.1 has it
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    raise TypeError(f"{value!r:.80} cannot be written; allowed are mappings, lists, texts, numbers, bools and None")


def _text(text: str, column: int, indent: int) -> str:
    if "\n" not in text:
        return _folded(_line(text), column, indent)
    # Where a line ends in spaces, nobody would see them.
    if not text.strip() or _ESCAPED.search(text) or " \n" in text or text.endswith(" "):
        return _quoted(text)
    hint = "2" if text[0] in " \n" else ""
    end = "-" if not text.endswith("\n") else "+" if text.endswith("\n\n") else ""
    lines = text.removesuffix("\n").split("\n")
    margin = " " * indent
    return "\n".join([f"|{hint}{end}", *(f"{margin}{line}" if line else "" for line in lines)])


def _line(text: str) -> str:
    """A text of one line, plain if that is what it is read back as."""
    try:
        is_text = isinstance(plain_value(text), str)
    except ValueError:
        is_text = False
    if not is_text or _ESCAPED.search(text):
        return _quoted(text)
    if _NOT_PLAIN.match(text) or _OTHER_ELSEWHERE.fullmatch(text):
        return "'" + text.replace("'", "''") + "'"
    return text


def _quoted(text: str) -> str:
    return '"' + re.sub(f'["\\\\\n]|{_ESCAPED.pattern}', _escape, text) + '"'


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _ESCAPES.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def _folded(written: str, column: int, indent: int) -> str:
    """The same with line ends in the place of single spaces, where it is long; in double quotes they stay."""
    if written.startswith('"') or column + len(written) <= _WIDTH:
        return written
    pieces: list[str] = []
    start = 0
    for space in re.finditer(r"(?<=[^ ]) (?=[^ ])", written):
        # Not beside quotes: spaces at the ends of a text are its own.
        is_inside = 1 < space.start() < len(written) - 2 or not written.startswith("'")
        if column + space.start() - start > _WIDTH and is_inside:
            pieces.append(written[start : space.start()])
            start, column = space.end(), indent
    return f"\n{' ' * indent}".join([*pieces, written[start:]])
