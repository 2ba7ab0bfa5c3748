"""A picture of what feeds what: boxes in columns from left to right, and lines that lead back above them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmprog.pictures.columns import Place, laid_out
from llmprog.pictures.svg import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    Picture,
    arrow_head,
    element,
    label,
    line,
    number,
    titled,
)
from llmprog.pictures.text import cut, fitted, one_line, width_of

_HEIGHT, _SMALL_HEIGHT = 42.0, 28.0
_WIDEST = 230.0
_NAME, _DETAIL = 13.0, 10.5
_PAD = 10.0
_GAP, _ROW_GAP = 54.0, 16.0
_LANE = 12.0  # between lines that lead back
_COLOURS: Mapping[str, str] = {"generator": GREEN, "checker": AMBER, "controller": PURPLE, "program": BLUE}


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowNode:
    """A box of the picture.

    Attributes:
        name: What it is called; unlike any other.
        kind: ``generator``, ``checker``, ``controller`` and ``program`` have colours of their own.
        detail: What stands below its name; empty for nothing.
        title: What is shown where the pointer rests on it.
    """

    name: str
    kind: str
    detail: str = ""
    title: str = ""


def draw_flow(nodes: Sequence[FlowNode], edges: Sequence[tuple[str, str]], label_text: str) -> Picture:
    """The picture of ``nodes`` and of ``edges``, names of two of them."""
    sizes = {node.name: _size(node) for node in nodes}
    layout = laid_out(sizes, edges, gap=_GAP, row_gap=_ROW_GAP, thin=10.0)
    lanes = {target: number_ for number_, target in enumerate(dict.fromkeys(t for _, t in layout.back))}
    top = len(lanes) * _LANE + (6 if lanes else 0)
    pieces = [_forward([layout.places[name] for name in chain], top) for chain in layout.chains]
    for source, target in layout.back:
        pieces.append(_backward(layout.places[source], layout.places[target], top, lanes[target]))
    right = layout.width
    if any(layout.places[source].right >= layout.width for source, _ in layout.back):
        right += _GAP / 2
    pieces += [_box(node, layout.places[node.name], top) for node in nodes]
    return Picture(right, layout.height + top, "".join(pieces), label_text)


def _size(node: FlowNode) -> tuple[float, float]:
    width = max(width_of(one_line(node.name), _NAME), width_of(one_line(node.detail), _DETAIL)) + 2 * _PAD + 1
    return min(_WIDEST, width), _HEIGHT if node.detail else _SMALL_HEIGHT


def _box(node: FlowNode, place: Place, top: float) -> str:
    colour = _COLOURS.get(node.kind, GREY)
    y = place.y + top
    room = place.width - 2 * _PAD
    frame = element(
        "rect", x=place.x, y=y, width=place.width, height=place.height,
        rx=6 if node.kind in _COLOURS else place.height / 2, fill=colour, fill_opacity=0.14, stroke=colour,
        stroke_width=1.2,
    )  # fmt: skip
    middle = place.x + place.width / 2
    text = label(
        middle, y + 18, fitted(one_line(node.name), room, _NAME), font_size=_NAME, font_weight=600,
        text_anchor="middle",
    )  # fmt: skip
    if node.detail:
        detail = fitted(one_line(node.detail), room, _DETAIL)
        text += label(middle, y + 33, detail, font_size=_DETAIL, text_anchor="middle", fill_opacity=0.75)
    title = cut("\n".join(filter(None, (node.name, node.detail, node.title))), 2000)
    return titled(frame + text, title)


def _forward(chain: Sequence[Place], top: float) -> str:
    """A line through the places that were kept free for it, an arrow at its end."""
    begin = chain[0]
    x, y = begin.right, begin.middle + top
    path = f"M{number(x)} {number(y)}"
    for place in chain[1:]:
        x1, y1 = place.x, place.middle + top
        bend = (x1 - x) / 2
        path += f"C{number(x + bend)} {number(y)} {number(x1 - bend)} {number(y1)} {number(x1)} {number(y1)}"
        if place is not chain[-1]:
            path += f"H{number(place.right)}"
        x, y = place.right, y1
    return line(path, GREY) + arrow_head(chain[-1].x, chain[-1].middle + top, GREY)


def _backward(source: Place, target: Place, top: float, lane: int) -> str:
    """Out at the right, up into a lane above everything, and down upon the target."""
    turn = 8.0
    x0, y0 = source.right, source.middle + top
    x1, y1 = target.x + target.width / 2, target.y + top
    lane_y = lane * _LANE + 2
    out = x0 + _GAP / 3
    path = (
        f"M{number(x0)} {number(y0)}H{number(out - turn)}q{number(turn)} 0 {number(turn)} {number(-turn)}"
        f"V{number(lane_y + turn)}q0 {number(-turn)} {number(-turn)} {number(-turn)}"
        f"H{number(x1 + turn)}q{number(-turn)} 0 {number(-turn)} {number(turn)}V{number(y1)}"
    )
    return line(path, GREY, dashes="5 3") + arrow_head(x1, y1, GREY, towards="down")
