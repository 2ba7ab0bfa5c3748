"""What breadth-first, beam, depth-first and best-first search find, on random graphs of plain Python moves."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import depths, program_for, reachable, worlds

from llmprog import Program, Verdict, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.events import ThoughtExpanded
from llmprog.search import BeamSearch, BestFirstSearch, BreadthFirstSearch, DepthFirstSearch, Status


def states_by_depth(graph):
    return {(thought.depth, thought.state) for thought in graph}


@given(worlds(), depths)
def test_breadth_first_finds_every_state_at_its_least_depth(world, max_depth):
    graph = program_for(world, BreadthFirstSearch(max_depth=max_depth)).run(0).graph
    least = {s: min(d for d in range(max_depth + 1) if s in reachable(world[0], d)) for s in (t.state for t in graph)}
    assert {t.state for t in graph} == reachable(world[0], max_depth)
    assert {t.state: t.depth for t in graph} == least


@given(worlds(), depths)
def test_a_wide_enough_beam_is_breadth_first(world, max_depth):
    wide = program_for(world, BeamSearch(beam_width=100, max_depth=max_depth)).run(0)
    full = program_for(world, BreadthFirstSearch(max_depth=max_depth)).run(0)
    assert states_by_depth(wide.graph) == states_by_depth(full.graph)


@settings(max_examples=300)
@given(
    worlds(),
    depths,
    st.sampled_from(
        [
            lambda depth: DepthFirstSearch(max_depth=depth),
            lambda depth: BestFirstSearch(max_thoughts=1000, max_depth=depth),
            lambda depth: BestFirstSearch(max_thoughts=1000, max_depth=depth, batch_size=3),
            lambda depth: BreadthFirstSearch(max_depth=depth),
            lambda depth: BeamSearch(beam_width=100, max_depth=depth),
        ]
    ),
    st.sampled_from([1, 2, 1024]),
)
def test_merged_states_lose_nothing_that_an_exhaustive_tree_search_finds(world, depth, controller, max_in_flight):
    result = program_for(world, controller(depth)).run(0, max_in_flight=max_in_flight)
    assert {t.state for t in result.graph} == reachable(world[0], depth)
    for goal in world[0]:
        found = program_for(world, controller(depth), goal).run(0, max_in_flight=max_in_flight)
        assert found.solved == (goal in reachable(world[0], depth))
        assert (found.answer == goal) == found.solved


@given(worlds(), depths)
def test_a_path_leads_from_the_start_by_legal_moves(world, max_depth):
    graph = program_for(world, DepthFirstSearch(max_depth=max_depth)).run(0).graph
    for thought in graph:
        path = graph.path(thought.id)
        assert path[0].id == 0
        assert path[-1].id == thought.id
        assert all(after.state in world[0][before.state] for before, after in itertools.pairwise(path))
        for arrival in thought.arrivals:
            assert all(thought.state in world[0][graph[p].state] for p in arrival.parents)


@given(worlds())
def test_best_first_expands_in_order_of_score(world):
    expanded = []

    def watch(event):
        if isinstance(event, ThoughtExpanded):
            expanded.append(
                (event.parents[0], tuple(c for c, new in zip(event.children, event.is_new, strict=True) if new))
            )

    graph = program_for(world, BestFirstSearch(max_thoughts=1000)).run(0, on_event=watch).graph
    open_thoughts = {0}
    for thought, children in expanded:
        best = max(graph.scores[t] for t in open_thoughts)
        assert thought == min(t for t in open_thoughts if graph.scores[t] == best)
        open_thoughts -= {thought}
        open_thoughts |= set(children)
    assert not open_thoughts
    assert max(Counter(thought for thought, _ in expanded).values()) == 1


@given(worlds(), st.integers(1, 3), depths)
def test_a_beam_expands_the_best_of_each_level(world, beam_width, max_depth):
    expanded = []

    def watch(event):
        if isinstance(event, ThoughtExpanded):
            expanded.append(event.parents[0])

    controller = BeamSearch(beam_width=beam_width, max_depth=max_depth)
    graph = program_for(world, controller).run(0, on_event=watch).graph
    for depth in range(1, max_depth):
        level = [t.id for t in graph if t.depth == depth]
        best = sorted(level, key=lambda t: (-graph.scores[t], t))[:beam_width]
        assert [t for t in expanded if graph.depths[t] == depth] == best
        assert [t for t in level if graph.status(t) == Status.PRUNED] == sorted(set(level) - set(best))


# A tree of digits: each state has the children state*10 + 1..4, worth their last digit.
@generator
def append(state: int):
    return [state * 10 + digit for digit in (2, 4, 1, 3)]


@checker
def last_digit(state: int) -> float:
    return float(state % 10)


def digits(controller, **options):
    return Program(generators=[append], checkers=[last_digit], controller=controller, **options)


def expansions(program, **options):
    order = []
    graph = program.run(
        0, on_event=lambda e: order.append(e.parents[0]) if isinstance(e, ThoughtExpanded) else None, **options
    ).graph
    return [graph.states[t] for t in order], graph


def test_depth_first_goes_down_the_best_child_first_and_backtracks():
    order, graph = expansions(digits(DepthFirstSearch(max_depth=2, value_threshold=2.0, max_children=2)))
    assert order == [0, 4, 3]
    assert {t.state for t in graph if t.status == Status.PRUNED} == {1, 2, 41, 31, 42, 32}
    assert graph.prune_reason(next(t.id for t in graph if t.state == 1)) == "value below the threshold"
    assert graph.prune_reason(next(t.id for t in graph if t.state == 2)) == "beyond max_children"


def test_depth_first_visits_children_in_order_of_value():
    order, _ = expansions(digits(DepthFirstSearch(max_depth=2)))
    assert order == [0, 4, 3, 2, 1]


def test_breadth_first_keeps_the_best_children_of_each_thought():
    order, graph = expansions(digits(BreadthFirstSearch(max_depth=2, branching_factor=2)))
    assert order == [0, 4, 3]
    assert {t.state for t in graph if t.status == Status.PRUNED} == {2, 1, 42, 41, 32, 31}


def test_breadth_first_expands_a_level_in_the_order_generated():
    order, _ = expansions(digits(BreadthFirstSearch(max_depth=2)))
    assert order == [0, 2, 4, 1, 3]


def test_a_beam_compares_the_best_children_of_each_family():
    _, graph = expansions(digits(BeamSearch(beam_width=3, max_depth=2, branching_factor=1)))
    assert {t.state for t in graph if t.status == Status.OPEN} == {0, 4, 44, 42, 43, 41}
    assert {t.state for t in graph if t.status == Status.PRUNED} == {1, 2, 3}


@pytest.mark.parametrize(
    "controller",
    [
        BreadthFirstSearch(max_depth=50, max_thoughts=40),
        DepthFirstSearch(max_depth=50, max_thoughts=40),
        BestFirstSearch(max_thoughts=40),
    ],
    ids=lambda c: c.name,
)
def test_max_thoughts_ends_a_search(controller):
    result = digits(controller, goal=lambda s: s < 0).run(0, max_in_flight=1)
    assert result.stopped == "max_thoughts"
    assert not result.solved
    assert 40 <= len(result.graph) <= 44
    assert result.thought.score == 4.0


def test_a_beam_stops_at_its_depth_with_the_best_of_the_last_level():
    result = digits(BeamSearch(beam_width=2, max_depth=3)).run(0)
    assert result.stopped == "max_depth"
    assert result.answer == 444
    assert result.solved


def test_a_beam_without_candidates_is_exhausted():
    program = Program(
        generators=[generator(name="none")(lambda s: [])], controller=BeamSearch(beam_width=2, max_depth=3)
    )
    result = program.run(0)
    assert result.stopped == "exhausted"
    assert result.answer is None
    assert result.thought is None
    assert not result.solved


@pytest.mark.parametrize(
    "controller",
    [
        BeamSearch(beam_width=2, max_depth=2, stop_on_goal=False),
        BreadthFirstSearch(max_depth=2, stop_on_goal=False),
        DepthFirstSearch(max_depth=2, stop_on_goal=False),
        BestFirstSearch(max_thoughts=100, max_depth=2, stop_on_goal=False),
    ],
    ids=lambda c: c.name,
)
def test_a_search_that_does_not_stop_on_a_goal_still_answers_with_one(controller):
    result = digits(controller, goal=lambda s: s == 41).run(0)
    assert result.solved
    assert result.answer == 41
    assert result.stopped != "goal"


def test_sampling_a_beam_draws_in_proportion_to_the_scores_however_small():
    @checker
    def tiny(state: int) -> Verdict:
        return Verdict(score=(state % 10) * 1e-6)

    program = Program(
        generators=[append], checkers=[tiny], controller=BeamSearch(beam_width=1, max_depth=2, selection="sample")
    )
    kept = Counter()
    for seed in range(400):
        graph = program.run(0, seed=seed).graph
        kept[next(t.state for t in graph if t.depth == 1 and t.status == Status.OPEN)] += 1
    for digit in (1, 2, 3, 4):
        assert abs(kept[digit] / 400 - digit / 10) < 0.1  # four standard deviations


def test_a_shorter_path_found_while_judging_waits_for_the_judgement():
    """A family whose only child another family found first must not be handed over before the judges are done."""
    seen = []

    @checker(prompt="{state}")
    def judge(state: int, completion: str) -> bool:
        return state != 9

    go = generator(name="go")(lambda state: {0: [1, 2], 1: [9], 2: [9]}.get(state, []))
    program = Program(generators=[go], checkers=[judge], controller=BreadthFirstSearch(max_depth=5))
    result = program.run(
        0,
        backend=ScriptedBackend(lambda text, sample: ""),
        on_event=lambda e: seen.append(e.parents) if isinstance(e, ThoughtExpanded) else None,
    )
    assert seen == [(0,), (1,), (2,)]
    assert [t.status for t in result.graph if t.state == 9] == [Status.INVALID]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BeamSearch(beam_width=0, max_depth=3), "BeamSearch: beam_width=0; allowed is a whole number >= 1"),
        (lambda: BeamSearch(beam_width=0, max_depth=True), "beam_width=0.*; max_depth=True"),
        (
            lambda: BeamSearch(beam_width=1, max_depth=1, selection="best"),
            "selection='best'; allowed is greedy or sample",
        ),
        (lambda: BeamSearch(beam_width=1, max_depth=1, branching_factor=0), "branching_factor=0"),
        (lambda: BreadthFirstSearch(max_depth=0), "max_depth=0"),
        (lambda: BreadthFirstSearch(max_depth=1, branching_factor=1.5), "branching_factor=1.5"),
        (lambda: DepthFirstSearch(max_depth=1, max_children=0), "max_children=0"),
        (lambda: DepthFirstSearch(max_depth=1, value_threshold=float("nan")), "value_threshold=nan"),
        (lambda: DepthFirstSearch(max_depth=1, value_threshold="high"), "value_threshold='high'"),
        (lambda: BestFirstSearch(max_thoughts=0), "max_thoughts=0"),
        (lambda: BestFirstSearch(max_thoughts=1, max_depth=0), "max_depth=0"),
        (lambda: BestFirstSearch(max_thoughts=1, batch_size=0), "batch_size=0"),
    ],
)
def test_bad_parameters_are_refused_with_what_is_allowed(make, message):
    with pytest.raises(OptionError, match=message):
        make()
