"""Monte Carlo tree search: UCT by hand, what an ample number of simulations finds, simulations side by side."""

from __future__ import annotations

from math import log, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import depths, program_for, reachable, run_search, worlds

from llmprog import Program, checker, generator
from llmprog.errors import OptionError
from llmprog.search import MonteCarloTreeSearch

TREE = {"": "ab", "a": "cd", "b": "cd", "bc": "e"}
VALUES = {"a": 0.9, "b": 0.5, "ac": 0.2, "ad": 0.1, "bc": 0.8, "bd": 0.3, "bce": 0.6}


@generator
def spell(state: str) -> list[str]:
    return [state + letter for letter in TREE.get(state, "")]


@checker
def value(state: str) -> float:
    return VALUES[state]


def spelling(**options):
    options = {"num_simulations": 4, "max_depth": 9, "value_range": (0.0, 1.0), "exploration_constant": 1.0, **options}
    return Program(generators=[spell], checkers=[value], controller=MonteCarloTreeSearch(**options))


def by_state(search, numbers):
    return {search.graph.states[thought]: number for thought, number in numbers.items()}


async def test_uct_by_hand():
    search, outcome, expanded = await run_search(spelling(), "")
    # 1: "" is expanded, its best child a evaluated. 2: ln 1 = 0, so a (0.9 > 0.5); ac is evaluated.
    # 3: a: (0.9 + 0.2)/2 + sqrt(ln 2 / 2) = 1.14 < b: 0.5 + sqrt(ln 2 / 1) = 1.33; bc is evaluated.
    # 4: a: 0.55 + sqrt(ln 3 / 2) = 1.29 < b: 0.8 + sqrt(ln 3 / 1) = 1.85; bc is expanded, bce evaluated.
    assert [state for (state,) in expanded] == ["", "a", "b", "bc"]
    assert by_state(search, search.controller.visits) == {"": 4, "a": 2, "ac": 1, "b": 2, "bc": 2, "bce": 1}
    assert by_state(search, search.controller.totals) == pytest.approx(
        {"": 0.9 + 0.2 + 0.8 + 0.6, "a": 1.1, "ac": 0.2, "b": 1.4, "bc": 1.4, "bce": 0.6}
    )
    uct = {
        state: search.controller.uct(search.graph, 0, i) for i, state in enumerate(search.graph.states) if state in "ab"
    }
    assert uct["a"] == pytest.approx(0.55 + sqrt(log(4) / 2))
    assert uct["b"] == pytest.approx(0.7 + sqrt(log(4) / 2))
    assert outcome.stopped == "num_simulations"
    assert search.graph.states[outcome.thought] == "bce"


async def test_the_answer_is_at_the_end_of_the_path_of_most_visits_or_of_highest_value():
    for selection, answer in (("visits", "ac"), ("value", "bc")):  # a has been visited twice, b once
        search, outcome, _ = await run_search(spelling(num_simulations=3, selection=selection), "")
        assert by_state(search, search.controller.visits) == {"": 3, "a": 2, "ac": 1, "b": 1, "bc": 1}
        assert search.graph.states[outcome.thought] == answer


async def test_without_exploration_the_best_mean_is_followed():
    search, _, expanded = await run_search(spelling(exploration_constant=0.0, num_simulations=3), "")
    assert [state for (state,) in expanded] == ["", "a", "ac"]
    assert by_state(search, search.controller.visits) == {"": 3, "a": 3, "ac": 2}


async def test_max_backup_remembers_the_best_value_below():
    search, _, expanded = await run_search(spelling(backup="max"), "")
    # 3: a: 0.9 + sqrt(ln 2 / 2) > b: 0.5 + sqrt(ln 2). 4: a: 0.9 + sqrt(ln 3 / 3) = 1.51 < b: 0.5 + sqrt(ln 3) = 1.55
    assert [state for (state,) in expanded] == ["", "a", "ac", "b"]
    assert by_state(search, search.controller.totals) == {"": 0.9, "a": 0.9, "ac": 0.2, "b": 0.8, "bc": 0.8}


@settings(max_examples=80)
@given(
    worlds(),
    depths,
    st.sampled_from([1, 2, 5]),
    st.sampled_from(["score", "random_rollout", "greedy_rollout"]),
    st.sampled_from([0.0, 1.4]),
    st.sampled_from([1, 2, 1024]),
)
def test_enough_simulations_find_what_a_breadth_first_search_finds(
    world, depth, num_parallel, evaluation, constant, max_in_flight
):
    controller = MonteCarloTreeSearch(
        num_simulations=100_000,
        max_depth=depth,
        num_parallel=num_parallel,
        evaluation=evaluation,
        exploration_constant=constant,
    )
    result = program_for(world, controller).run(0, max_in_flight=max_in_flight, seed=0)
    assert result.stopped == "exhausted"
    assert {t.state for t in result.graph} == reachable(world[0], depth)
    for goal in world[0]:
        found = program_for(world, controller, goal).run(0, max_in_flight=max_in_flight, seed=0)
        assert found.solved == (goal in reachable(world[0], depth))


async def test_a_rollout_backs_up_the_value_of_the_last_thought():
    search, _, expanded = await run_search(spelling(evaluation="greedy_rollout", num_simulations=1), "")
    assert [state for (state,) in expanded] == ["", "a", "ac"]
    assert by_state(search, search.controller.totals) == {"": 0.2, "a": 0.2, "ac": 0.2}
    search, _, expanded = await run_search(spelling(evaluation="greedy_rollout", num_simulations=1, max_depth=1), "")
    assert [state for (state,) in expanded] == [""]
    assert by_state(search, search.controller.totals) == {"": 0.9, "a": 0.9}


async def test_random_rollouts_follow_the_seed():
    async def ends(seed):
        program = spelling(evaluation="random_rollout", num_simulations=1)
        _, _, expanded = await run_search(program, "", seed=seed)
        return expanded[-1]

    assert {await ends(seed) for seed in range(12)} == {("ac",), ("ad",)}
    assert await ends(3) == await ends(3)


async def test_simulations_side_by_side_go_different_ways():
    """After the root, each of three simulations expands another child: virtual loss and busy thoughts spread them."""
    most = []

    class Watched(MonteCarloTreeSearch):
        def ask(self, graph, capacity):
            actions = super().ask(graph, capacity)
            most.append(len(self.expanding))
            return actions

    go = generator(name="go")(lambda state: [state + letter for letter in "abc"])
    one = checker(name="one")(lambda state: 1.0)
    controller = Watched(num_simulations=10, max_depth=5, num_parallel=3)
    search, _, expanded = await run_search(Program(generators=[go], checkers=[one], controller=controller), "")
    assert max(most) == 3
    assert expanded[1:4] == [("a",), ("b",), ("c",)]
    assert search.controller.visits[0] == 10
    assert not search.controller.on_the_way
    assert not search.controller.paths


async def test_paths_that_meet_share_what_is_known_of_a_thought():
    moves = {0: [1, 2], 1: [3], 2: [3], 3: [4, 5], 4: [], 5: []}
    scores = dict.fromkeys(moves, 0) | {4: 3, 5: 1}
    search, _, _ = await run_search(
        program_for((moves, scores), MonteCarloTreeSearch(num_simulations=6, max_depth=5)), 0
    )
    visits = by_state(search, search.controller.visits)
    assert visits[0] == 6
    assert visits[3] > max(visits[1], visits[2]) - 1
    assert visits[1] + visits[2] == 6
    assert len(search.graph.arrivals(search.graph.find(3))) == 2


def test_good_subtrees_are_visited_more_often():
    """A bandit of nine arms: all simulations but a few go to the best one."""

    @generator
    def arm(state: tuple):
        return [(*state, i) for i in range(3)]

    worth = checker(name="worth")(lambda state: 1.0 if state[:2] == (1, 2)[: len(state)] else 0.2)
    controller = MonteCarloTreeSearch(num_simulations=200, max_depth=30)
    result = Program(generators=[arm], checkers=[worth], controller=controller).run((), seed=0)
    assert result.thought.state[:2] == (1, 2)
    inside = sum(t.state[:2] == (1, 2) for t in result.graph)
    assert inside > 0.6 * len(result.graph)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_simulations": 0}, "num_simulations=0; allowed is a whole number >= 1"),
        ({"max_depth": 0}, "max_depth=0"),
        ({"num_parallel": 0}, "num_parallel=0"),
        ({"exploration_constant": -1}, "exploration_constant=-1; allowed is a finite number >= 0"),
        ({"exploration_constant": float("inf")}, "exploration_constant=inf"),
        ({"evaluation": "rollout"}, "evaluation='rollout'; allowed is score, random_rollout or greedy_rollout"),
        ({"backup": "min"}, "backup='min'; allowed is mean or max"),
        ({"selection": "best"}, "selection='best'; allowed is visits or value"),
        ({"value_range": (1.0, 1.0)}, r"value_range=\(1.0, 1.0\); allowed is two finite numbers"),
        ({"value_range": 3}, "value_range=3"),
    ],
)
def test_bad_parameters_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(OptionError, match=message):
        MonteCarloTreeSearch(**{"num_simulations": 10, "max_depth": 3, **options})
