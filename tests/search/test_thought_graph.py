from __future__ import annotations

import itertools
import json
from collections import namedtuple
from dataclasses import dataclass
from fractions import Fraction

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import Completion, Verdict
from llmprog.search import Status, ThoughtGraph


def grow(edges):
    """A graph of states, by edges (parent thought, state); the root is state 0."""
    graph = ThoughtGraph()
    go = graph.add_generator("go")
    graph.add(0, 0)
    for parent, state in edges:
        graph.add(state, state, (parent % len(graph),), go, sample=state)
    return graph


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=40))
def test_every_edge_is_kept_and_depths_follow_the_paths(edges):
    graph = grow(edges)
    assert sorted(t.state for t in graph) == sorted({0, *(state for _, state in edges)})
    assert sum(len(t.arrivals) for t in graph) == len(edges) + 1
    for thought in graph:
        path = graph.path(thought.id)
        assert path[0].id == 0
        assert len({t.id for t in path}) == len(path)  # shorter paths never close a circle
        assert all(p.depth < c.depth for p, c in itertools.pairwise(path))
        assert (thought.arrivals[0].parents or (-1,))[0] == (path[-2].id if len(path) > 1 else -1)
    shape = graph.to_networkx()
    assert shape.number_of_nodes() == len(graph)
    assert shape.number_of_edges() == len(edges)
    assert len(json.loads(graph.to_json())["thoughts"]) == len(graph)
    assert graph.render(max_thoughts=10**6).count("\n") + 1 >= len(graph)


def test_a_known_state_gets_another_arrival_and_the_shorter_path():
    graph = grow([(0, 1), (1, 2), (2, 3), (0, 3)])
    assert len(graph) == 4
    assert graph[3].depth == 1
    assert [a.parents for a in graph[3].arrivals] == [(0,), (2,)]
    assert [t.state for t in graph.path(3)] == [0, 3]
    assert [p.state for p in graph[3].parents] == [0, 2]


def test_the_shorter_path_brings_its_own_state():
    graph = ThoughtGraph(key=lambda s: s[0])
    go = graph.add_generator("go")
    for state, parents in [(("r", 0), ()), (("a", 1), (0,)), (("x", 2), (1,)), (("x", 1), (0,)), (("x", 9), (1,))]:
        graph.add(state, graph.key_of(state), parents, go)
    assert [t.state for t in graph] == [("r", 0), ("a", 1), ("x", 1)]
    assert len(graph[2].arrivals) == 3


def test_the_completion_of_an_arrival_is_kept():
    graph = ThoughtGraph()
    go = graph.add_generator("go")
    graph.add("r", "r")
    reference = graph.add_completion(Completion(text="said"))
    graph.add("a", "a", (0,), go, 4, reference)
    arrival = graph[1].arrivals[0]
    assert (arrival.generator, arrival.sample, arrival.completion.text) == ("go", 4, "said")


def test_verdicts_add_up_and_an_invalid_one_closes_the_thought():
    graph = grow([(0, 1), (0, 2)])
    graph.record_verdict(1, "a", Verdict(score=1.5))
    graph.record_verdict(1, "b", Verdict(score=-0.5))
    graph.record_verdict(2, "a", Verdict(valid=False, reason="no"))
    assert graph[1].score == 1.0
    assert graph.is_open(1)
    assert graph[2].status == Status.INVALID
    assert not graph.is_usable(2)
    graph.prune(2, "late")
    assert graph[2].status == Status.INVALID
    graph.prune(1, "worse")
    assert graph[1].status == Status.PRUNED
    assert graph.prune_reason(1) == "worse"
    assert not graph.is_usable(1)


def test_an_unknown_thought_is_an_index_error():
    with pytest.raises(IndexError, match=r"thought 3: the graph has thoughts 0\.\.1"):
        _ = grow([(0, 1)])[3]
    with pytest.raises(IndexError):
        _ = grow([])[-1]


def test_the_picture_draws_a_merged_thought_once():
    graph = grow([(0, 1), (0, 2), (1, 3), (2, 3)])
    graph.record_verdict(3, "c", Verdict(score=2.5))
    graph.mark_goal(3)
    graph.prune(2, "worse")
    assert graph.render().splitlines() == [
        "[0] 0  0",
        "├─ [1] 1  0",
        "│  └─ [3] 3  2.5 ★",
        "└─ [2] 2  0 ✂",
        "   └─ [3] 3 (drawn above)",
    ]
    assert graph.render(max_thoughts=2).splitlines()[-1] == "… 2 more thoughts"
    assert ThoughtGraph().render() == ""


HOSTILE = '"]; rm -rf\\\x1b[2J\r\n}\u202e\ud800<b>'


def test_hostile_text_is_escaped_wherever_it_is_shown():
    graph = ThoughtGraph()
    graph.add(HOSTILE, HOSTILE)
    graph.add(HOSTILE + "2", HOSTILE + "2", (0,), graph.add_generator('g"\\'))
    for shown in (graph.render(), graph.render(describe=lambda s: s)):
        assert len(shown.splitlines()) == 2
        assert all(character.isprintable() for line in shown.splitlines() for character in line)
    dot = graph.to_dot()
    assert all(c.isprintable() or c == "\n" for c in dot)
    assert dot.count("\n") == 5
    assert json.loads(graph.to_json())["thoughts"][0]["id"] == 0
    graph.to_json().encode()


@dataclass(frozen=True)
class Numbers:
    left: tuple[Fraction, ...]
    note: str = ""


def test_states_are_shown_in_short():
    graph = ThoughtGraph()
    Point = namedtuple("Point", "x y")
    for state in [Numbers((Fraction(1, 2), Fraction(3))), Point(1, 2), "a\n b", "x" * 500]:
        graph.add(state, state)
    shown = [t["state"] for t in json.loads(graph.to_json())["thoughts"]]
    assert shown[:3] == ["left=1/2 3", "x=1, y=2", "a b"]
    assert len(shown[3]) == 120


def test_networkx_sees_states_scores_and_edges():
    shape = grow([(0, 1), (1, 2), (0, 2)]).to_networkx()
    assert nx.is_directed_acyclic_graph(shape)
    assert shape.nodes[2]["state"] == 2
    assert shape.nodes[2]["status"] == "open"
    assert sorted(shape.edges(data="generator")) == [(0, 1, "go"), (0, 2, "go"), (1, 2, "go")]
