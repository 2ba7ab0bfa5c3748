"""DiverseBeam: sub-trees that do not crowd each other out, and do not wait for each other."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import depths, program_for, reachable, run_search, worlds

from llmprog import Program, arun, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.search import BeamSearch, BreadthFirstSearch, DiverseBeam, Status


@settings(max_examples=60)
@given(worlds(), depths, st.sampled_from([1, 2, 5]), st.sampled_from([1, 2, 1024]))
def test_wide_enough_sub_trees_are_breadth_first(world, depth, num_subtrees, max_in_flight):
    controller = DiverseBeam(num_subtrees=num_subtrees, max_depth=depth, beam_width=100)
    result = program_for(world, controller).run(0, max_in_flight=max_in_flight)
    full = program_for(world, BreadthFirstSearch(max_depth=depth)).run(0)
    assert {t.state for t in result.graph} == {t.state for t in full.graph} == reachable(world[0], depth)
    assert {(t.state, t.depth) for t in result.graph} == {(t.state, t.depth) for t in full.graph}
    for goal in world[0]:
        assert program_for(world, controller, goal).run(0).solved == (goal in reachable(world[0], depth))


@generator
def spell(state: str) -> list[str]:
    return [state + letter for letter in "abc"]


# Below a everything scores high; below b and c little.
@checker
def like_a(state: str) -> float:
    return (10.0 if state[0] == "a" else 1.0) + "abc".index(state[-1])


def spelling(controller):
    return Program(generators=[spell], checkers=[like_a], controller=controller)


async def test_a_branch_that_scores_well_does_not_crowd_out_the_others():
    _, _, expanded = await run_search(spelling(DiverseBeam(num_subtrees=3, max_depth=3)), "")
    assert [state for (state,) in expanded] == ["", "a", "c", "b", "ac", "cc", "bc"]
    _, _, together = await run_search(spelling(BeamSearch(beam_width=3, max_depth=3)), "")
    assert [state for (state,) in together][4:] == ["ac", "ab", "aa"]


async def test_a_single_sub_tree_is_a_beam():
    for width in (1, 2):
        _, outcome, alone = await run_search(spelling(DiverseBeam(num_subtrees=1, max_depth=4, beam_width=width)), "")
        _, beam, expanded = await run_search(spelling(BeamSearch(beam_width=width, max_depth=4)), "")
        assert alone == expanded
        assert outcome.graph.states[outcome.thought] == beam.graph.states[beam.thought]
        assert outcome.stopped == beam.stopped == "max_depth"


def test_more_first_thoughts_than_sub_trees_are_dealt_out_by_rank():
    result = spelling(DiverseBeam(num_subtrees=2, max_depth=2, beam_width=2)).run("")
    kept = [t.state for t in result.graph if t.depth == 1 and t.status == Status.OPEN]
    assert kept == ["a", "b", "c"]  # a and b begin one sub-tree, c the other
    kept = {t.state for t in result.graph if t.depth == 2 and t.status == Status.OPEN}
    assert kept == {"ac", "ab", "cc", "cb"}
    assert result.answer == "ac"
    dropped = next(t for t in result.graph if t.state == "aa")
    assert (dropped.status, result.graph.prune_reason(dropped.id)) == (Status.PRUNED, "not in any beam")


def test_the_first_step_is_sampled_as_often_as_there_are_sub_trees():
    say = generator(prompt="go on from {state}:", name="say", n=2)(lambda state, completion: [state + completion])
    program = Program(generators=[say], controller=DiverseBeam(num_subtrees=5, max_depth=2))
    backend = ScriptedBackend(lambda text, sample: "abcdefgh"[sample])
    result = program.run("", backend=backend)
    assert [request.num_samples for request in backend.requests] == [5, 2, 2, 2, 2, 2]
    assert result.stopped == "max_depth"


async def test_a_sub_tree_does_not_wait_for_another():
    gate, asked = asyncio.Event(), asyncio.Event()

    class Slow(ScriptedBackend):
        async def generate(self, request):
            if request.prompt.text == "go 1":
                await gate.wait()
            if request.prompt.text == "go 22":
                asked.set()
            return await super().generate(request)

    go = generator(prompt="go {state}", name="go")(lambda state, completion: [int(w) for w in completion.split()])
    program = Program(generators=[go], controller=DiverseBeam(num_subtrees=2, max_depth=5))
    backend = Slow(lambda text, sample: "2 1" if text == "go 0" else text.split()[1] + text[-1])
    run = asyncio.ensure_future(arun(program, 0, backend=backend))
    await asyncio.wait_for(asked.wait(), 60)
    assert not run.done()
    gate.set()
    assert (await run).stopped == "max_depth"


def test_a_search_without_a_first_thought_is_exhausted():
    program = Program(
        generators=[generator(name="none")(lambda state: [])], controller=DiverseBeam(num_subtrees=2, max_depth=2)
    )
    result = program.run(0)
    assert (result.stopped, result.answer) == ("exhausted", None)


def test_goals_are_answered_with_where_the_search_goes_on():
    controller = DiverseBeam(num_subtrees=2, max_depth=2, stop_on_goal=False)
    program = Program(generators=[spell], checkers=[like_a], controller=controller, goal=lambda s: s in ("b", "cb"))
    result = program.run("")
    assert (result.solved, result.stopped) == (True, "max_depth")
    assert result.answer == "cb"  # the goal of highest score


@pytest.mark.parametrize("name", ["num_subtrees", "max_depth", "beam_width"])
def test_bad_parameters_are_refused(name):
    with pytest.raises(OptionError, match=f"DiverseBeam: {name}=0; allowed is a whole number >= 1"):
        DiverseBeam(**{"num_subtrees": 2, "max_depth": 2, name: 0})
