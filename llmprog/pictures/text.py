"""Text in pictures and pages: what would act is shown instead, what is secret is blacked out, what is long is cut."""

from __future__ import annotations

import html
import unicodedata

from llmprog.redaction import redact

_KEPT = frozenset("\n\t")


def visible(text: str) -> str:
    r"""``text`` with each character that would not show itself written as its escape: ``\\x1b``, ``\\u202e``.

    Control, format (bidirectional, too), surrogate and unassigned characters are such; line breaks and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c in _KEPT or c.isprintable() else c.encode("unicode_escape").decode() for c in text.replace("\r\n", "\n")
    )


def cut(text: str, limit: int) -> str:
    """``text`` of ``limit`` characters at most, the last of them an ellipsis where some are left out."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def one_line(text: str) -> str:
    """``text`` without secrets on one line, its blanks made one, made ``visible``; not escaped yet."""
    return visible(" ".join(redact(text).split()))


def escaped(text: str, limit: int | None = None) -> str:
    """``text`` for the inside of an element or a quoted attribute of HTML and XML: without secrets, ``visible``."""
    told = redact(text)  # before it is cut: half a secret is not recognised
    return html.escape(visible(told if limit is None else cut(told, limit)))


def fitted(text: str, width: float, size: float) -> str:
    """As much of ``text`` as is ``width`` pixels wide at a font size of ``size``, with an ellipsis where it is cut."""
    if width_of(text, size) <= width:
        return text
    room = width - width_of("…", size)
    kept = 0
    while kept < len(text) and (room := room - _share(text[kept]) * size) >= 0:
        kept += 1
    return text[:kept].rstrip() + "…"


def width_of(text: str, size: float) -> float:
    """About how many pixels wide ``text`` is at a font size of ``size``: pictures know no fonts."""
    return size * sum(map(_share, text))


def _share(character: str) -> float:
    """The width of a character as a share of the font size."""
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if unicodedata.combining(character):
        return 0.0
    if character in "iljtfrI.,:;|!'()[] ":
        return 0.4
    return 0.84 if character.isupper() or character in "mw%@—…+=<>~" else 0.64
