"""Where the thoughts of a graph stand, how they are found by place, and whether they can be read, in Chromium."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

BOX = {"width": 152, "height": 42}


def forest(parents):
    """Children by thought, of what is the first parent of each, None of a root."""
    below = {}
    for number, parent in enumerate(parents):
        below.setdefault(parent, []).append(number)
    return {"roots": below[None], "children": [below.get(number, []) for number in range(len(parents))]}


def random_parents(seed, count, newest):
    """A forest that grows at its newest thoughts, more or less."""
    chance = random.Random(seed)
    newest_of = [range(max(0, number - newest), number) for number in range(1, count)]
    return [None, *(chance.choice(older) if chance.random() > 0.01 else None for older in newest_of)]


PLACES = """
    const size = given.children.length;
    const places = m.layoutForest(given.roots, (id) => given.children[id], size);
"""


@pytest.fixture
def layout(module):
    return module("graph_layout.js")


def placed(layout, parents):
    code = "return { x: [...places.x], y: [...places.y], width: places.width, height: places.height };"
    return layout(PLACES + code, forest(parents))


def test_a_thought_stands_above_the_middle_of_its_children(layout):
    found = placed(layout, [None, 0, 0, 1, 1])
    assert found["x"] == [283.5, 162, 405, 81, 243]
    assert found["y"] == [0, 66, 66, 132, 132]
    assert (found["width"], found["height"]) == (486, 174)


def test_many_leaves_stand_in_rows(layout):
    found = placed(layout, [None, *([0] * 12)])
    rows = sorted(set(found["y"][1:]))
    assert rows == [66, 116, 166, 216]
    assert [found["y"][1:].count(row) for row in rows] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("seed", "count", "newest"), [(0, 40, 12), (1, 400, 60), (2, 2500, 400), (3, 2500, 6), (4, 900, 900)]
)
def test_no_boxes_overlap_and_children_stand_below_their_parents(layout, seed, count, newest):
    parents = random_parents(seed, count, newest)
    found = placed(layout, parents)
    x, y = found["x"], found["y"]
    for child, parent in enumerate(parents):
        assert parent is None or y[child] >= y[parent] + BOX["height"] + 8
    assert min(x) >= BOX["width"] / 2
    assert max(x) <= found["width"] - BOX["width"] / 2
    assert max(y) + BOX["height"] <= found["height"]
    assert overlapping(x, y) == []


def overlapping(x, y):
    """Pairs of boxes that share a point, found with a sweep from above."""
    found, near = [], []
    for one in sorted(range(len(x)), key=lambda n: y[n]):
        near = [other for other in near if y[other] + BOX["height"] > y[one]]
        found += [(other, one) for other in near if abs(x[other] - x[one]) < BOX["width"]]
        near.append(one)
    return found


def beam(num_kept, num_steps):
    """The first parents of a search by beams: at each step each of those that are kept has so many children."""
    parents, kept = [None], [0]
    for _ in range(3):
        begun = len(parents)
        parents += [parent for parent in kept for _ in range(num_steps)]
        kept = list(range(begun, begun + num_kept))
    return parents


def scale_in(room, found):
    return min(room["width"] / found["width"], room["height"] / found["height"])


@pytest.mark.parametrize("room", [{"width": 800, "height": 456}, {"width": 1040, "height": 640}])
def test_a_few_dozen_thoughts_take_the_page_on_which_they_are_seen_largest(layout, room):
    parents = beam(4, 6)
    code = PLACES.replace("size);", "size, given.room);") + (
        "return { x: [...places.x], y: [...places.y], width: places.width, height: places.height };"
    )
    found = layout(code, forest(parents) | {"room": room})
    assert scale_in(room, found) > 1.15 * scale_in(room, placed(layout, parents))
    assert overlapping(found["x"], found["y"]) == []
    many = beam(20, 6)
    assert layout(code, forest(many) | {"room": room}) == placed(layout, many)  # these stay while others come


@pytest.mark.parametrize(("seed", "newest"), [(5, 300), (6, 20)])
def test_lines_lead_from_each_parent_to_its_child(layout, seed, newest):
    parents = random_parents(seed, 600, newest)
    code = """
        const segments = [];
        for (let at = 0; at < places.lines.length; at += 4) { segments.push(places.lines.slice(at, at + 4)); }
        const ways = given.children.flatMap((all, id) => all.map((child) => [id, child, places.way(id, child)]));
        return { segments, ways, x: [...places.x], y: [...places.y], ticks: [...places.ticks] };
    """
    found = layout(PLACES + code, forest(parents))
    x, y = found["x"], found["y"]
    lines = {"across": {}, "down": {}}
    for x1, y1, x2, y2 in found["segments"]:
        kind, key, ends = ("across", y1, (x1, x2)) if y1 == y2 else ("down", x1, (y1, y2))
        assert y1 == y2 or x1 == x2
        lines[kind].setdefault(round(key, 3), []).append(ends)
    for parent, child, way in found["ways"]:
        corners = list(zip(way[::2], way[1::2], strict=True))
        assert corners[0] == (x[parent], y[parent] + BOX["height"])
        assert corners[-1] == (x[child], y[child])
        # The last piece is the child's own; all others lie on lines that are drawn.
        for (x1, y1), (x2, y2) in pairwise(corners[:-1]):
            assert x1 == x2 or y1 == y2
            kind, key, low, high = ("across", y1, *sorted((x1, x2))) if y1 == y2 else ("down", x1, *sorted((y1, y2)))
            drawn = lines[kind].get(round(key, 3), [])
            assert low == high or any(a - 0.01 <= low and high <= b + 0.01 for a, b in drawn)


def test_ten_thousand_thoughts_are_about_as_wide_as_high(layout):
    for parents in (
        [None, *([0] * 9_999)],
        [None, *((n - 1) // 10 for n in range(1, 10_000))],
        [None, *((n - 1) // 2 for n in range(1, 10_000))],
    ):
        found = placed(layout, parents)
        assert 0.6 < found["width"] / found["height"] < 4


def test_a_search_can_be_thousands_of_levels_deep(layout):
    found = placed(layout, [None, *range(5_000)])
    assert found["y"][-1] == 5_000 * 66


def test_a_new_thought_in_a_row_with_room_moves_no_other(layout):
    before, after = (placed(layout, [None, 0, 0, *([1] * count), *([2] * 3)]) for count in (7, 8))
    # The thoughts are the same but for one more below thought 1; those below thought 2 come after it.
    old = [n for n in range(13) if n < 10]
    assert [before["x"][n] for n in old] == [after["x"][n] for n in old]
    assert before["x"][10:] == after["x"][11:]
    assert before["y"][10:] == after["y"][11:]


def test_thoughts_are_found_by_their_places(module):
    chance = random.Random(7)
    places = [[chance.randrange(100, 4000), chance.randrange(0, 3000)] for _ in range(400)]
    views = [[chance.randrange(-500, 4000), chance.randrange(-500, 3000)] for _ in range(40)]
    code = """
        const ids = given.places.map((_, id) => id);
        const [x, y] = [0, 1].map((axis) => Float64Array.from(given.places, (place) => place[axis]));
        const index = new m.PlaceIndex(ids, x, y, given.box, { width: 4100, height: 3100 });
        return given.views.map(([left, top]) => {
            const found = [];
            index.within({ left, top, right: left + 700, bottom: top + 500 }, (id) => found.push(id));
            return found.sort((one, other) => one - other);
        });
    """
    found = module("graph_index.js")(code, {"places": places, "views": views, "box": BOX})
    for (left, top), ids in zip(views, found, strict=True):
        assert ids == [
            n
            for n, (x, y) in enumerate(places)
            if x + 76 >= left and x - 76 <= left + 700 and y + 42 >= top and y <= top + 500
        ]


WRITTEN = """
    window.written = [];
    const write = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y, room) {
        written.push([text, parseFloat(this.font.match(/([\\d.]+)px/)[1]) * this.getTransform().a]);
        write.call(this, text, x, y, room);
    };
"""


@pytest.mark.parametrize("size", [(836, 600), (1080, 760)])
def test_the_states_of_sixty_thoughts_can_be_read_at_the_first_sight(mount, page, size):
    parents = beam(3, 8)
    states = [f"{10 + n} - 7 = {3 + n} (left: {n} 9)" for n in range(len(parents))]
    same = {"path": "", "node": "propose", "sample": 0, "question": None, "goal": False, "answer": None, "at": 0}
    thoughts = [
        same | {"id": n, "parents": [] if parent is None else [parent], "state": state}
        for n, (parent, state) in enumerate(zip(parents, states, strict=True))
    ]
    assert 50 < len(thoughts) < 65
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.add_init_script(WRITTEN)
    page.goto("about:blank")
    begun = {"run": {"id": "r", "elapsed_s": 1.0}, "searches": [{"path": "", "has_goal": True}]}
    mount("graph_view.js", "createGraphView", [begun, {"thoughts": thoughts}], path="")
    page.evaluate("place.style.height = (innerHeight - 30) + 'px'; written.length = 0;")
    page.wait_for_function("written.length > 100")
    written = page.evaluate("written")
    assert min(size for _, size in written) >= 8.9
    together = " ".join(text for text, _ in written)
    assert [state for state in states if state not in together] == []
