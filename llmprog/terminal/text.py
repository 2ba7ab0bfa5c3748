"""Text for terminals: hostile text is defused, and no line is wider than there is room, whatever it consists of."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from rich.text import Text


def write_to(stream: Any, text: str) -> None:
    """Write ``text`` where that is possible: a stream that is not there, closed or gone is no reason to end a run.

    Args:
        stream: A text stream, or ``None``. Letters that it does not have are replaced.
        text: What to write.
    """
    if stream is None:
        return
    with suppress(OSError, ValueError):
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()


def plain_lines(text: str) -> str:
    """``text`` with its line breaks, each line ``plain``."""
    return "\n".join(plain(line) for line in text.replace("\r\n", "\n").split("\n"))


def plain(text: str) -> str:
    """``text`` on one line, without control, format (bidirectional, too) or surrogate characters."""
    return "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")


def fit(line: Text, width: int) -> Text:
    """``line``, which is changed, cut with an ellipsis so that no terminal needs more than ``width`` columns for it."""
    used = 0
    for place, character in enumerate(line.plain):
        used += most_columns(character)
        if used > width:
            kept = _prefix(line.plain[:place], width - 1)
            line.right_crop(len(line.plain) - kept)
            return line.append("…") if width > 0 else line
    return line


def wrapped(text: str, width: int) -> Iterator[str]:
    """The lines of ``text``, those too wide for ``width`` columns broken, at a blank where there is one late enough."""
    for line in text.split("\n"):
        rest = line
        while (kept := _prefix(rest, width)) < len(rest):
            kept = max(1, kept)
            blank = rest.rfind(" ", kept // 2, kept + 1)
            yield rest[: kept if blank < 0 else blank]
            rest = rest[kept if blank < 0 else blank + 1 :]
        yield rest


def most_columns(character: str) -> int:
    """The columns that a character takes up in whatever terminal takes up most.

    Terminals differ in emoji, flags and what is joined to one sign: here each part counts by itself.
    """
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    is_pictograph = "\u2600" <= character <= "\u27bf" or "\u2b00" <= character <= "\u2bff" or character >= "\U0001f000"
    return 2 if is_pictograph or unicodedata.east_asian_width(character) in "WF" else 1


def _prefix(text: str, width: int) -> int:
    """How many characters of ``text`` fit into ``width`` columns."""
    used = 0
    for place, character in enumerate(text):
        used += most_columns(character)
        if used > width:
            return place
    return len(text)
