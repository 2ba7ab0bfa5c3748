"""Pieces of HTML that notebooks show: a heading, facts in two columns, a picture that scrolls, what is folded away.

Style is in attributes, for a style sheet would reach beyond the piece; colours are those of the page around it.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmprog.pictures.svg import FONT, GREEN, Picture
from llmprog.pictures.text import escaped

_LONGEST = 4000  # characters of a value
_CELL = "text-align:left;vertical-align:top"
_TABLE = "font-size:inherit;border:none;border-collapse:collapse;margin:.2em 0"
_TALLEST = "32em"  # of a picture; taller ones scroll


def card(*pieces: str) -> str:
    """The pieces below one another, in the type and measure that all have in common."""
    style = f"font-family:{escaped(FONT)};font-size:14px;line-height:1.5;margin:.3em 0"
    return f'<div style="{style}">{"".join(pieces)}</div>'


def heading(text: str, aside: str = "", *, colour: str | None = None) -> str:
    """A line that stands out, with something quieter after it."""
    style = "font-weight:600" + (f";color:{colour}" if colour else "")
    after = f' <span style="opacity:.65;font-size:12px">{escaped(aside, _LONGEST)}</span>' if aside else ""
    return f'<div style="margin:.2em 0"><span style="{style};white-space:pre-wrap">{_shown(text)}</span>{after}</div>'


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns; nothing where there are none."""
    written = "".join(
        f'<tr style="background:none"><td style="{_CELL};padding:.1em 1em .1em 0;opacity:.65">{escaped(name)}</td>'
        f'<td style="{_CELL};padding:.1em 0;white-space:pre-wrap">{_shown(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table style="{_TABLE}">{written}</table>' if written else ""


def drawn(picture: Picture) -> str:
    """A picture in its own size, with bars to scroll where there is less room."""
    return f'<div style="overflow:auto;max-height:{_TALLEST};margin:.3em 0">{picture.inline()}</div>'


def folded(summary: str, content: str) -> str:
    """``content``, which is HTML, out of sight until ``summary`` is clicked."""
    head = f'<summary style="cursor:pointer">{escaped(summary)}</summary>'
    return f'<details style="margin:.3em 0">{head}<div style="padding-left:1.1em">{content}</div></details>'


def bar(share: float) -> str:
    """A bar of which ``share``, from 0 to 1, is filled."""
    done = f"width:{100 * min(1.0, max(0.0, share)):.1f}%;height:6px;border-radius:3px;background:{GREEN}"
    ground = "max-width:420px;border-radius:3px;background:rgba(128,128,128,.25);margin:.3em 0"
    return f'<div style="{ground}"><div style="{done}"></div></div>'


def listed(items: Iterable[str]) -> str:
    """Texts as a numbered list."""
    return "<ol>" + "".join(f"<li>{_shown(item)}</li>" for item in items) + "</ol>"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Rows of short texts below their header."""
    cell = f"{_CELL};padding:.1em 1.2em .1em 0"
    head = "".join(f'<th style="{cell};font-weight:400;opacity:.65">{escaped(name)}</th>' for name in header)
    lines = ["".join(f'<td style="{cell}">{_shown(value)}</td>' for value in row) for row in rows]
    body = "".join(f'<tr style="background:none">{line}</tr>' for line in (head, *lines))
    return f'<table style="{_TABLE}">{body}</table>'


def preformatted(text: str) -> str:
    """A text with its line breaks, long lines broken, in a type of even width."""
    style = "white-space:pre-wrap;overflow-wrap:anywhere;font-size:12px;margin:.4em 0;opacity:.75"
    return f'<pre style="{style}">{_shown(text)}</pre>'


def _shown(value: str) -> str:
    return escaped(value, _LONGEST)
