from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import networkx as nx
import pytest

from llmprog.compile import compile_program
from llmprog.errors import DeclarationError
from llmprog.program_graph import ProgramGraph
from llmprog.programs import catalog

NODES = {"input": {"kind": "input"}, "b": {"kind": "generator", "n": 2}, "a": {"kind": "checker"}}
EDGES = [("a", "b"), ("input", "b"), ("b", "a"), ("input", "a"), ("input", "b")]


def test_nodes_stay_in_their_order_and_edges_follow_it_each_once():
    graph = ProgramGraph.of("toy", NODES, iter(EDGES))
    assert list(graph.nodes) == ["input", "b", "a"]
    assert graph.edges == (("input", "b"), ("input", "a"), ("b", "a"), ("a", "b"))


def test_what_it_was_made_of_may_change_but_not_the_graph():
    nodes = copy.deepcopy(NODES)
    graph = ProgramGraph.of("toy", nodes, EDGES)
    nodes["b"]["n"] = 3
    del nodes["a"]
    assert graph == ProgramGraph.of("toy", NODES, EDGES)
    assert graph != ProgramGraph.of("toy", NODES, EDGES[1:])
    with pytest.raises(TypeError, match="does not support item deletion"):
        del graph.nodes["b"]
    with pytest.raises(TypeError, match="does not support item assignment"):
        graph.nodes["b"]["n"] = 3


def test_an_edge_at_what_is_no_node_is_refused():
    with pytest.raises(
        DeclarationError, match=r"'toy': an edge of its graph is at 'c', which is no node; nodes are in"
    ):
        ProgramGraph.of("toy", NODES, [("input", "c")])


@pytest.mark.parametrize("take_along", [copy.deepcopy, copy.copy, lambda g: pickle.loads(pickle.dumps(g))])  # noqa: S301 - of this test
def test_it_can_be_copied_and_sent_to_another_process(take_along):
    graph = ProgramGraph.of("toy", NODES, EDGES)
    there = take_along(graph)
    assert there == graph
    assert (list(there.nodes), there.edges) == (list(graph.nodes), graph.edges)


@pytest.mark.parametrize("name", ["game24", "three_sat", "debate"])
def test_networkx_sees_the_same_in_the_same_order(name):
    graph = compile_program(catalog.find(name).build()).graph
    shape = graph.to_networkx()
    assert shape.name == graph.name == name
    assert list(shape.nodes(data=True)) == list(graph.nodes.items())
    assert tuple(shape.edges) == graph.edges
    assert nx.has_path(shape, "input", "answer")
    with pytest.raises(nx.NetworkXError, match="Frozen graph"):
        shape.add_node("more")
    shape.nodes["input"]["kind"] = "mine"  # networkx freezes nodes and edges, not attributes
    assert graph.nodes["input"]["kind"] == "input"


def test_its_absence_is_named_where_a_graph_is_made_for_it_and_nothing_else_needs_it():
    code = """
import sys
sys.modules["networkx"] = None
from llmprog.compile import compile_program
from llmprog.errors import MissingExtraError
from llmprog.programs import catalog
from llmprog.search import ThoughtGraph
compiled = compile_program(catalog.find("game24").build())
print(compiled.to_svg()[:4])
for graph in (compiled.graph, ThoughtGraph()):
    try:
        graph.to_networkx()
    except MissingExtraError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    needs = "for networkx needs the package 'networkx', which is not installed; run: pip install \"llmprog[graph]\"\n"
    assert done.stdout == f"<svg\nthe graph of a program {needs}a graph of thoughts {needs}"


def test_equal_graphs_are_one_key():
    graph = ProgramGraph.of("toy", NODES, EDGES)
    assert {graph: "drawn"}[copy.deepcopy(graph)] == "drawn"
