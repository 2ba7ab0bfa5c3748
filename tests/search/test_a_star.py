"""BestFirstSearch with costs: A*, weighted A* and Dijkstra's algorithm, against shortest paths by other means."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprog import Program, generator
from llmprog.errors import NodeError, OptionError
from llmprog.events import ThoughtExpanded
from llmprog.search import BestFirstSearch


@st.composite
def roads(draw):
    """A directed graph with costs, and for each node a heuristic that never overestimates the way to the goal."""
    size = draw(st.integers(2, 10))
    nodes = st.integers(0, size - 1)
    costs = draw(st.dictionaries(st.tuples(nodes, nodes), st.integers(0, 9), max_size=4 * size))
    graph = nx.DiGraph()
    graph.add_nodes_from(range(size))
    graph.add_weighted_edges_from((a, b, cost) for (a, b), cost in costs.items())
    goal = draw(st.integers(1, size - 1))
    to_goal = nx.single_source_dijkstra_path_length(graph.reverse(), goal)
    share = {node: draw(st.sampled_from([0.0, 0.3, 1.0])) for node in range(size)}
    heuristic = {n: share[n] * to_goal[n] if n in to_goal else draw(st.sampled_from([0, 7, math.inf])) for n in graph}
    return graph, goal, heuristic, to_goal


def find(road, **options):
    graph, goal, heuristic, _ = road
    options = {"heuristic": heuristic.__getitem__, **options}
    program = Program(
        generators=[generator(name="go")(lambda state: list(graph[state]))],
        controller=BestFirstSearch(max_thoughts=1000, cost=lambda a, b: graph[a][b]["weight"], **options),
        goal=lambda state: state == goal,
    )
    expanded = []
    result = program.run(
        0, on_event=lambda e: expanded.append(e.parents[0]) if isinstance(e, ThoughtExpanded) else None
    )
    return result, expanded


def cost_of_path(road, result):
    path = [t.state for t in result.graph.path(result.thought.id)]
    assert path[0] == 0
    return sum(road[0][a][b]["weight"] for a, b in itertools.pairwise(path))


@settings(max_examples=100)
@given(roads(), st.sampled_from([1, 2, 5]), st.booleans())
def test_the_path_is_a_cheapest_one_for_any_heuristic_that_never_overestimates(road, batch_size, informed):
    result, _ = find(road, batch_size=batch_size, **({} if informed else {"heuristic": None}))
    assert result.solved == (0 in road[3])
    if result.solved:
        assert result.stopped == "goal"
        assert cost_of_path(road, result) == pytest.approx(road[3][0])
        assert result.graph.costs[result.thought.id] == pytest.approx(road[3][0])


@settings(max_examples=100)
@given(roads(), st.sampled_from([0.0, 1.5, 4.0]))
def test_a_weight_bounds_the_cost(road, weight):
    result, _ = find(road, weight=weight)
    assert result.solved == (0 in road[3])
    if result.solved:
        assert cost_of_path(road, result) <= max(1.0, weight) * road[3][0] + 1e-9


@settings(max_examples=100)
@given(roads())
def test_with_a_consistent_heuristic_no_thought_is_expanded_twice(road):
    to_goal = {node: road[3].get(node, math.inf) for node in road[0]}
    result, expanded = find((road[0], road[1], to_goal, road[3]))
    assert result.solved == (0 in road[3])
    assert not expanded or max(Counter(expanded).values()) == 1
    _, blind = find(road, heuristic=None)
    assert len(expanded) <= len(blind)


def test_a_thought_found_again_on_a_cheaper_path_is_opened_again():
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([(0, 1, 1), (0, 2, 3), (1, 2, 1), (2, 3, 3), (3, 4, 9)])
    heuristic = {0: 0, 1: 13, 2: 0, 3: 0, 4: 0}  # inconsistent: 1 looks bad, so 2 is expanded from 0 first
    to_goal = dict(nx.single_source_dijkstra_path_length(graph.reverse(), 4))
    result, expanded = find((graph, 4, heuristic, to_goal))
    assert [result.graph.states[t] for t in expanded] == [0, 2, 3, 1, 2, 3]
    assert [t.state for t in result.graph.path(result.thought.id)] == [0, 1, 2, 3, 4]
    assert result.thought.depth == 4


def test_a_search_that_is_stopped_answers_with_the_cheapest_goal_so_far():
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([(0, 1, 1), (0, 9, 50), (1, 2, 1), (2, 3, 1), (3, 4, 1), (4, 9, 1)])

    def run(max_thoughts):
        return Program(
            generators=[generator(name="go")(lambda state: list(graph[state]))],
            controller=BestFirstSearch(max_thoughts=max_thoughts, cost=lambda a, b: graph[a][b]["weight"]),
            goal=lambda state: state == 9,
        ).run(0)

    result = run(4)
    assert (result.stopped, result.solved) == ("max_thoughts", True)
    assert result.graph.costs[result.thought.id] == 50
    proven = run(40)
    assert (proven.stopped, proven.graph.costs[proven.thought.id]) == ("goal", 5)
    assert [t.state for t in proven.graph.path(proven.thought.id)] == [0, 1, 2, 3, 4, 9]


def test_without_stopping_on_a_goal_everything_is_looked_at_and_the_cheapest_goal_answered():
    step = generator(name="step")(lambda state: [state + 1, state + 3] if state < 9 else [])
    program = Program(
        generators=[step],
        controller=BestFirstSearch(max_thoughts=100, cost=lambda after: after % 4 + 1, stop_on_goal=False),
        goal=lambda state: state in (6, 9),
    )
    result = program.run(0)
    assert result.stopped == "exhausted"
    assert result.answer == 6  # 0 3 6 costs 7; the way to 9 costs 8
    assert {t.state for t in result.graph} == set(range(12))


def test_costs_of_the_state_after_a_step_alone():
    step = generator(name="step")(lambda state: [state * 2, state + 1])
    program = Program(
        generators=[step],
        controller=BestFirstSearch(max_thoughts=10_000, cost=lambda after: 1, heuristic=lambda state: 0),
        goal=lambda state: state == 39,
    )
    assert program.run(1).thought.depth == 8  # 39 is 100111 in binary: five doublings and three additions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heuristic": abs}, "heuristic without cost; give cost= too"),
        ({"cost": 3}, "cost=3; allowed is a function of one or two states, or None"),
        ({"cost": abs, "heuristic": 3}, "heuristic=3; allowed is a function of a state, or None"),
        ({"cost": abs, "weight": 2.0}, "weight=2.0 without heuristic has no effect"),
        ({"cost": abs, "heuristic": abs, "weight": -1}, "weight=-1; allowed is a finite number >= 0"),
    ],
)
def test_bad_parameters_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(OptionError, match=message):
        BestFirstSearch(max_thoughts=10, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost": lambda state: -1}, "cost.*returned -1 for the state 1; allowed is a finite number >= 0"),
        ({"cost": lambda state: math.nan}, "cost.*returned nan"),
        ({"cost": lambda a, b: 1 / 0}, "cost.*raised ZeroDivisionError"),
        ({"cost": lambda state: 1, "heuristic": lambda state: "far"}, "heuristic.*returned 'far'.*a number >= 0"),
    ],
)
def test_functions_that_say_no_cost_are_named(options, message):
    program = Program(
        generators=[generator(name="step")(lambda state: [state + 1])],
        controller=BestFirstSearch(max_thoughts=10, **options),
    )
    with pytest.raises(NodeError, match=message):
        program.run(0)
