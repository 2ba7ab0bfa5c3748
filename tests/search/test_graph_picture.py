"""Which thoughts of a graph are drawn, and what is said of them."""

from __future__ import annotations

import random
import time
import xml.etree.ElementTree as ET

import pytest

from llmprog.nodes import Verdict
from llmprog.search import ThoughtGraph

SVG = "{http://www.w3.org/2000/svg}"


def texts(graph, **options):
    root = ET.fromstring(graph.to_svg(**options))  # noqa: S314 - our own
    return [element.text for element in root.iter(SVG + "text")]


def titles(graph):
    root = ET.fromstring(graph.to_svg())  # noqa: S314 - our own
    return [element.text for element in root.iter(SVG + "title")]


def grown(number, *, seed=1):
    """A graph of ``number`` thoughts, each made from one that was there, each with a score of its own."""
    rng = random.Random(seed)
    graph = ThoughtGraph()
    step = graph.add_generator("step")
    graph.add("root", "root")
    for state in range(1, number):
        graph.add(f"state {state}", state, (rng.randrange(max(0, state - 200), state),), step)
        graph.record_verdict(state, "judge", Verdict(score=rng.random(), valid=rng.random() < 0.8))
    return graph


@pytest.fixture
def small():
    graph = ThoughtGraph()
    graph.add("root", "root")
    for name in ("good", "bad", "given up"):
        graph.add(name, name, (0,))
    graph.add("answer", "answer", (1,))
    graph.add("answer", "answer", (3,))
    graph.record_verdict(1, "judge", Verdict(score=2.5))
    graph.record_verdict(2, "rule", Verdict(valid=False, reason="two <b>wrongs</b>"))
    graph.prune(3, "too long")
    graph.mark_goal(4)
    return graph


def test_every_thought_shows_its_score_and_what_became_of_it(small):
    assert texts(small) == [
        "root", "good", "2.5", "answer", "goal", "given up", "pruned", "bad", "refused",
        "5 thoughts; green: the path to the answer; dashed: other ways in which a thought was reached",
    ]  # fmt: skip


def test_why_is_said_where_the_pointer_rests(small):
    assert titles(small)[1:] == [
        "[1] good\nscore 2.5, open\njudge: 2.5",
        "[4] answer\nscore 0, goal\nreached 2 times",
        "[3] given up\nscore 0, pruned\npruned: too long",
        "[2] bad\nscore 0, refused\nrule: refused, 0, two <b>wrongs</b>",
    ]


def test_states_are_described_as_asked(small):
    assert "ROOT" in texts(small, describe=str.upper)


@pytest.mark.parametrize("max_thoughts", [1, 2, 40, 300])
def test_no_more_are_drawn_than_asked_for_and_the_rest_is_counted(max_thoughts):
    graph = grown(2000)
    graph.mark_goal(1999)
    shown = texts(graph, max_thoughts=max_thoughts)
    drawn = [text for text in shown if text.startswith(("state", "root"))]
    assert len(drawn) <= max_thoughts
    assert shown[-1].startswith(f"{len(drawn)} of 2000 thoughts: the path and the best")
    path = [thought.state for thought in graph.path(1999)]
    assert drawn[:max_thoughts][: len(path)] == path[:max_thoughts], "the answer's path first"


def test_the_picture_is_the_same_every_time():
    assert grown(500).to_svg() == grown(500).to_svg()


def test_an_empty_graph_has_a_picture():
    assert texts(ThoughtGraph()) == ["0 thoughts"]


def test_a_hundred_thousand_thoughts_are_drawn_in_a_moment():
    graph = grown(100_000)
    begun = time.process_time()
    svg = graph.to_svg(max_thoughts=300)
    assert time.process_time() - begun < 5
    assert len(svg) < 300_000
