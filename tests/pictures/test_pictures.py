"""Pictures are well-formed whatever the texts in them are, the same every time, and show what they are given."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.pictures import DrawnThought, FlowNode, draw_flow, draw_thoughts, draw_votes
from llmprog.pictures.columns import laid_out
from llmprog.pictures.fragments import card, facts, folded, heading, listed, preformatted, table
from llmprog.pictures.text import cut, escaped, fitted, one_line, visible, width_of
from llmprog.redaction import register_secret

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    *("<script>alert(1)</script>", "]]>", "</svg>", "&lt;", '" onload="x', "--><", "\x00\x1b[2J", "\u202e", "\ud800"),
    *("\ufffe", "漢" * 50),
]
text = st.text(st.characters(), max_size=80) | st.sampled_from(HOSTILE)
ALLOWED = {"svg", "g", "rect", "text", "path", "title"}


def elements(svg, name):
    return list(ET.fromstring(svg).iter(SVG + name))  # noqa: S314 - our own


def thought(number, parent, **options):
    known = {"text": f"thought {number}", "score": "", "standing": "open", "title": "", **options}
    return DrawnThought(id=number, parent=parent, **known)


@st.composite
def trees(draw):
    """Thoughts in an order in which parents come before their children, and siblings one after the other."""
    size = draw(st.integers(1, 25))
    parents = [None, *(draw(st.integers(0, number - 1)) for number in range(1, size))]
    order, stack = [], [0]
    while stack:
        here = stack.pop()
        order.append(here)
        stack.extend(number for number in range(size) if parents[number] == here)
    return [thought(n, parents[n], left_out=draw(st.sampled_from(["", "… 3 more"]))) for n in order]


@given(text, text, text)
def test_no_text_gets_out_of_its_place(state, score, note):
    picture = draw_thoughts([thought(0, None, text=state, score=score, title=state, left_out=note)], note)
    for svg in (picture.inline(), picture.document()):
        root = ET.fromstring(svg)  # noqa: S314 - our own
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            "svg",
            "g",
            "rect",
            "text",
            "path",
            "title",
        }
        assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]", svg)


@given(st.lists(st.tuples(text, st.floats(0, 1e6)), max_size=30), text)
def test_a_vote_is_a_picture_whatever_was_answered(votes, note):
    bars = elements(draw_votes(votes, note).document(), "rect")
    assert len(bars) == min(12, len(votes)) + 1, "and the ground"


def test_bars_are_as_long_as_their_votes():
    bars = elements(draw_votes([("a", 8.0), ("b", 4.0), ("c", 1.0)], "").inline(), "rect")
    widths = [float(bar.get("width")) for bar in bars]
    assert widths[0] == 2 * widths[1] == 8 * widths[2]


@given(trees())
def test_thoughts_do_not_overlap_and_parents_stand_left_of_their_children(drawn):
    picture = draw_thoughts(drawn, "note")
    assert picture == draw_thoughts(drawn, "note"), "the same every time"
    boxes = {
        box.find(SVG + "text").text: [float(box.find(SVG + "rect").get(name)) for name in ("x", "y", "width", "height")]
        for box in elements(picture.inline(), "g")
    }
    assert len(boxes) == len(drawn)
    for (x, y, width, height), (x2, y2, width2, height2) in combinations(boxes.values(), 2):
        assert x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y
    for one in drawn:
        if one.parent is not None:
            left, right = boxes[f"thought {one.parent}"], boxes[one.text]
            assert left[0] + left[2] < right[0]
            assert left[1] <= right[1]


def test_a_deep_line_of_thought_is_drawn():
    deep = [thought(number, number - 1 if number else None) for number in range(300)]
    assert len(elements(draw_thoughts(deep, "").inline(), "rect")) == 300


def test_where_there_is_no_thought_the_note_stands_alone():
    assert [t.text for t in elements(draw_thoughts([], "0 thoughts").inline(), "text")] == ["0 thoughts"]


def test_the_path_stands_out_and_other_ways_are_dashed():
    drawn = [
        thought(0, None, is_on_path=True),
        thought(1, 0, is_on_path=True, standing="goal"),
        thought(2, 0, standing="refused"),
        thought(3, 2, others=(1,)),
    ]
    svg = draw_thoughts(drawn, "").inline()
    lines = elements(svg, "path")
    assert [line.get("stroke-width") for line in lines] == ["2.2", "1.2", "1.2", "1.2"]
    assert [line.get("stroke-dasharray") for line in lines] == [None, None, None, "3 3"]
    assert {"goal", "refused"} <= {t.text for t in elements(svg, "text")}


# --------------------------------------------------------------------------------------------------- what feeds what


@st.composite
def flows(draw):
    names = [f"node {number}" for number in range(draw(st.integers(1, 10)))]
    return names, draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=25))


@given(flows())
def test_boxes_do_not_overlap_and_lines_lead_to_the_right_or_are_said_to_lead_back(flow):
    names, edges = flow
    layout = laid_out(dict.fromkeys(names, (50.0, 20.0)), edges, gap=30, row_gap=8, thin=6)
    for one, other in combinations(layout.places.values(), 2):
        assert (
            one.right <= other.x or other.right <= one.x
            or one.y + one.height <= other.y or other.y + other.height <= one.y
        )  # fmt: skip
    for chain in layout.chains:
        for before, after in pairwise(chain):
            assert layout.places[before].right + 30 <= layout.places[after].x + 1e-6
    assert {(chain[0], chain[-1]) for chain in layout.chains} | set(layout.back) == set(edges)
    nodes = [FlowNode(name=name, kind="generator") for name in names]
    picture = draw_flow(nodes, edges, "flow")
    assert len(elements(picture.inline(), "rect")) == len(names)
    assert len(elements(picture.inline(), "path")) == 2 * len(set(edges)), "a line and its arrow"


@given(text.filter(bool), text, text)
def test_a_flow_is_well_formed_whatever_its_texts(name, detail, title):
    nodes = [FlowNode(name=name, kind="checker", detail=detail, title=title)]
    assert len(elements(draw_flow(nodes, [(name, name)], title).document(), "rect")) == 2


# --------------------------------------------------------------------------------------------------------------- text


@given(text)
def test_text_shows_itself(shown):
    assert all(c.isprintable() or c in "\n\t" for c in visible(shown))
    assert "\n" not in one_line(shown)
    assert not set("<>\"'") & set(escaped(shown))


@given(text, st.integers(20, 300))
def test_text_that_is_fitted_fits(shown, width):
    assert width_of(fitted(visible(shown), width, 12), 12) <= width
    assert fitted("short", 300, 12) == "short"


@pytest.mark.parametrize(("given_text", "limit", "kept"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("ab cd", 4, "ab…")])
def test_long_text_is_cut(given_text, limit, kept):
    assert cut(given_text, limit) == kept


def test_secrets_are_blacked_out_before_anything_is_cut():
    register_secret("sk-very-secret-4711")
    assert escaped("key sk-very-secret-4711", 12) == "key [redact…"
    assert "secret" not in one_line("sk-very-secret-4711")


@given(text, text)
def test_pieces_of_html_hold_their_texts(one, other):
    unfolded = folded(one, preformatted(other))
    html = card(heading(one, other), facts([(one, other)]), unfolded, listed([one]), table([one], [[other]]))
    root = ET.fromstring(html)  # noqa: S314 - our own, and well-formed as XML
    assert len(list(root.iter("script"))) == 0
    assert [element.tag for element in root] == ["div", "table", "details", "ol", "table"]
