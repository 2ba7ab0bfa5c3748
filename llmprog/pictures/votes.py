"""A picture of a vote: a bar for each answer."""

from __future__ import annotations

from collections.abc import Sequence

from llmprog.pictures.svg import BLUE, GREEN, Picture, element, label, titled
from llmprog.pictures.text import cut, fitted, one_line, width_of

_ROW, _BAR = 24.0, 14.0
_NAMES, _BARS = 200.0, 260.0  # widths at most
_MAX_ANSWERS = 12
_SIZE, _SMALL = 12.0, 10.5


def draw_votes(votes: Sequence[tuple[str, float]], note: str) -> Picture:
    """The picture of ``(answer, votes)``, most votes first, and below it ``note``; the last answers are counted."""
    shown, rest = votes[:_MAX_ANSWERS], votes[_MAX_ANSWERS:]
    names = [one_line(answer) or "(an empty answer)" for answer, _ in shown]
    column = min(_NAMES, max((width_of(name, _SIZE) for name in names), default=0.0) + 4)
    most = max((count for _, count in shown), default=0.0) or 1.0
    total = sum(count for _, count in votes) or 1.0
    pieces: list[str] = []
    right = width_of(note, _SMALL)
    for place, ((_, count), name) in enumerate(zip(shown, names, strict=True)):
        y = place * _ROW
        colour = GREEN if place == 0 else BLUE
        length = max(2.0, _BARS * count / most)
        number = f"{count:g}  ({count / total:.0%})"
        bar = element("rect", x=column + 10, y=y + 2, width=length, height=_BAR, rx=3, fill=colour, fill_opacity=0.75)
        text = label(column, y + 13, fitted(name, column, _SIZE), text_anchor="end")
        aside = label(column + length + 16, y + 13, number, font_size=_SMALL, fill_opacity=0.75)
        pieces.append(titled(text + bar + aside, f"{cut(name, 500)}: {number}"))
        right = max(right, column + length + 20 + width_of(number, _SMALL))
    height = len(shown) * _ROW
    if rest:
        more = f"… {len(rest)} more answers, {sum(count for _, count in rest):g} votes"
        pieces.append(label(column + 10, height + 12, more, font_size=_SMALL, fill_opacity=0.65))
        right = max(right, column + 14 + width_of(more, _SMALL))
        height += _ROW
    pieces.append(label(0, height + 16, note, font_size=_SMALL, fill_opacity=0.65))
    return Picture(right, height + 22, "".join(pieces), note)
