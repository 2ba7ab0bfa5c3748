"""A picture of thoughts: a tree from left to right, with what else a thought was reached from as dashed lines.

Each thought stands level with its first child, and thoughts without children stand below one another, so that no two
of them overlap, no line of the tree crosses another, and a path that comes first is a straight line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from llmprog.pictures.svg import BLUE, GREEN, GREY, INK, RED, Picture, element, label, line, number, titled
from llmprog.pictures.text import fitted, width_of

Standing: TypeAlias = Literal["open", "goal", "refused", "pruned"]

_ROW, _BOX = 32.0, 24.0
_GAP = 46.0  # between columns
_WIDEST, _NARROWEST = 290.0, 44.0
_TEXT, _SMALL = 12.0, 10.5
_PAD = 8.0
_COLOURS: Mapping[Standing, str] = {"open": BLUE, "goal": GREEN, "refused": RED, "pruned": GREY}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnThought:
    """A thought as a picture shows it.

    Attributes:
        id: By which others name it as their parent.
        text: Its state in short, on one line.
        score: Its score as text; empty for none.
        standing: What became of it.
        title: What is shown where the pointer rests on it.
        parent: The drawn thought that it hangs on in the tree; ``None`` for the root.
        others: The other drawn thoughts that it was reached from.
        is_on_path: Whether it is part of the answer's path.
        left_out: What is said of its children that are not drawn; empty if all are.
    """

    id: int
    text: str
    score: str
    standing: Standing
    title: str
    parent: int | None = None
    others: tuple[int, ...] = ()
    is_on_path: bool = False
    left_out: str = ""


def draw_thoughts(thoughts: Sequence[DrawnThought], note: str) -> Picture:
    """The picture of ``thoughts``, parents before children, and below it ``note``."""
    if not thoughts:
        width = width_of(note, _TEXT)
        return Picture(width, 20, label(0, 14, note), note)
    by_id = {thought.id: thought for thought in thoughts}
    columns = _columns(thoughts)
    rows, num_rows = _rows(thoughts)
    widths: dict[int, float] = {}
    for thought in thoughts:
        column = columns[thought.id]
        widths[column] = max(widths.get(column, _NARROWEST), min(_WIDEST, _wanted_width(thought)))
    left: dict[int, float] = {}
    x = 0.0
    for column in range(len(widths)):
        left[column] = x
        x += widths[column] + _GAP

    def end_of(thought: int) -> tuple[float, float]:
        column = columns[thought]
        return left[column] + widths[column], rows[thought] * _ROW + _BOX / 2

    def begin_of(thought: int) -> tuple[float, float]:
        return left[columns[thought]], rows[thought] * _ROW + _BOX / 2

    edges: list[str] = []
    crossing: list[str] = []
    for thought in thoughts:
        if thought.parent is not None:
            is_lit = thought.is_on_path and by_id[thought.parent].is_on_path
            path = _curve(end_of(thought.parent), begin_of(thought.id))
            edges.append(line(path, GREEN, width=2.2, opacity=0.9) if is_lit else line(path, GREY))
        begin = begin_of(thought.id)
        crossing += [line(_curve(end_of(other), begin), BLUE, dashes="3 3") for other in thought.others]
    boxes = [_box(thought, *begin_of(thought.id), widths[columns[thought.id]]) for thought in thoughts]
    rests: list[str] = []
    right = x - _GAP
    for thought in thoughts:
        if thought.left_out:
            x0, y0 = end_of(thought.id)
            y = rows[-thought.id - 1] * _ROW + _BOX / 2
            x1 = x0 + _GAP
            right = max(right, x1 + 6 + width_of(thought.left_out, _SMALL))
            rests.append(line(_curve((x0, y0), (x1, y)), GREY, opacity=0.45, dashes="1 3"))
            rests.append(label(x1 + 4, y + 4, thought.left_out, font_size=_SMALL, fill_opacity=0.65))
    height = num_rows * _ROW + 22
    footer = label(0, height - 4, note, font_size=_SMALL, fill_opacity=0.65)
    content = "".join([*edges, *crossing, *rests, *boxes, footer])
    return Picture(max(right, width_of(note, _SMALL)), height, content, note)


def _columns(thoughts: Sequence[DrawnThought]) -> dict[int, int]:
    columns: dict[int, int] = {}
    for thought in thoughts:
        columns[thought.id] = 0 if thought.parent is None else columns[thought.parent] + 1
    return columns


def _rows(thoughts: Sequence[DrawnThought]) -> tuple[dict[int, int], int]:
    """Each thought's row, that of its children left out under ``-id - 1``, and how many rows there are."""
    below: dict[int, list[int]] = {thought.id: [] for thought in thoughts}
    roots: list[int] = []
    for thought in thoughts:
        (roots if thought.parent is None else below[thought.parent]).append(thought.id)
    for thought in thoughts:
        if thought.left_out:
            below[thought.id].append(-thought.id - 1)
    rows: dict[int, int] = {}
    num_rows = 0
    stack = roots[::-1]
    while stack:
        thought_id = stack.pop()
        rows[thought_id] = num_rows
        children = below.get(thought_id, [])
        num_rows += not children
        stack.extend(reversed(children))
    return rows, num_rows


def _wanted_width(thought: DrawnThought) -> float:
    aside = width_of(_aside(thought), _SMALL)
    return width_of(thought.text, _TEXT) + 2 * _PAD + (aside + _PAD if aside else 0) + 1


def _aside(thought: DrawnThought) -> str:
    """What stands at the right of the box: how it ended, else the score."""
    if thought.standing == "open":
        return thought.score
    return " ".join(filter(None, (thought.score, thought.standing)))


def _box(thought: DrawnThought, x: float, y: float, width: float) -> str:
    colour = GREEN if thought.is_on_path else _COLOURS[thought.standing]
    is_out = thought.standing in ("refused", "pruned")
    aside = _aside(thought)
    room = width - 2 * _PAD - (width_of(aside, _SMALL) + _PAD if aside else 0)
    frame = element(
        "rect", x=x, y=y - _BOX / 2, width=width, height=_BOX, rx=5, fill=colour,
        fill_opacity=0.05 if is_out else 0.13, stroke=colour, stroke_width=2 if thought.is_on_path else 1,
        stroke_opacity=0.9, stroke_dasharray="4 3" if is_out else None,
    )  # fmt: skip
    text = label(x + _PAD, y + 4, fitted(thought.text, room, _TEXT), fill_opacity=0.6 if is_out else 0.95)
    if aside:
        text += label(
            x + width - _PAD, y + 4, aside, font_size=_SMALL, text_anchor="end", fill=INK if is_out else colour
        )
    return titled(frame + text, thought.title)


def _curve(begin: tuple[float, float], end: tuple[float, float]) -> str:
    """From the right of one box to the left of another, level at both ends; a wide bow where it leads back."""
    (x0, y0), (x1, y1) = begin, end
    bend = max((x1 - x0) / 2, _GAP / 2)
    points = (x0, y0), (x0 + bend, y0), (x1 - bend, y1), (x1, y1)
    written = [f"{number(x)} {number(y)}" for x, y in points]
    return f"M{written[0]}C{written[1]} {written[2]} {written[3]}"
