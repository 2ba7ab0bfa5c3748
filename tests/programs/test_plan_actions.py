"""plan_actions: steps are checked exactly against what they need and do."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs.plan_actions import bundled, parse_problem, plan_actions
from llmprog.programs.plan_actions.program import shortest_plan

LAMP = {
    "domain": {
        "actions": {
            "press": {"parameters": ["lamp"], "needs": ["not lit lamp", "power"], "adds": ["lit lamp"]},
            "swap": {"parameters": ["a", "b"], "needs": ["lit a"], "adds": ["lit b"], "deletes": ["lit a"]},
        }
    },
    "start": ["power", "lamp red", "lamp blue"],
    "goal": ["lit red"],
}


def replay(problem, steps):
    """The situation after the steps, each checked here once more."""
    situation = problem.start
    for text in steps:
        step = problem.read_step(text)
        assert step.fault(situation) is None
        situation = step.after(situation)
    return situation


@pytest.mark.parametrize(
    ("name", "length"), [("blocks-1", 2), ("blocks-2", 6), ("blocks-3", 8), ("errands-1", 6), ("errands-2", 15)]
)
def test_the_rules_alone_find_a_shortest_plan_for_every_bundled_problem(name, length):
    problem = bundled()[name]
    result = plan_actions(proposer="rules").run(name)
    steps = result.answer.split(", ")
    assert result.solved
    assert not problem.missing(replay(problem, steps))
    assert len(steps) == length == len(shortest_plan(problem, 10_000))
    assert result.usage.calls == 0


def test_conditions_and_effects():
    problem = parse_problem(LAMP)
    press = problem.read_step("press red")
    assert press.fault(problem.start) is None
    lit = press.after(problem.start)
    assert ("lit", "red") in lit
    assert press.fault(lit) == "press red: 'lit red' holds, and must not"
    swap = problem.read_step("swap red blue")
    assert swap.fault(problem.start) == "swap red blue: 'lit red' does not hold"
    assert set(lit) - set(swap.after(lit)) == {("lit", "red")}
    assert [str(step) for step in problem.steps(problem.start)] == ["press blue", "press red"]


@given(st.data())
def test_what_rules_walk_through_keeps_the_blocks_world_whole(data):
    problem = bundled()["blocks-2"]
    situation = problem.start
    for _ in range(data.draw(st.integers(0, 12))):
        situation = data.draw(st.sampled_from(list(problem.steps(situation)))).after(situation)
    facts = set(situation)
    for block in ("a", "b", "c"):
        places = [("on-table", block) in facts, ("holding", block) in facts, any(f[:2] == ("on", block) for f in facts)]
        assert sum(places) == 1
    assert (("hand-empty",) in facts) == (not any(fact[0] == "holding" for fact in facts))
    assert situation == tuple(sorted(facts))


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("1. Unstack c a", "unstack c a"),
        ("(unstack c a)", "unstack c a"),
        ("- **unstack** block C from A, then rest", "unstack c a"),
        ("unstack c", None),
        ("unstack c c", None),
        ("lift c", None),
        ("", None),
    ],
)
def test_steps_are_read_leniently(line, step):
    found = bundled()["blocks-2"].read_step(line)
    assert (None if found is None else str(found)) == step


@given(st.text())
def test_any_line_can_be_read(line):
    bundled()["blocks-1"].read_step(f"stack {line}")


def test_a_model_proposes_and_what_it_may_not_do_is_refused():
    plan = ["unstack c a", "put-down c", "pick-up b", "stack b c", "pick-up a", "stack a b"]

    def reply(text, sample):
        done = text.partition("Done so far: ")[2].splitlines()[0]
        number = 0 if done == "nothing" else done.count(",") + 1
        return f"stack a b\n{plan[min(number, 5)]}\nfly away"

    result = plan_actions(num_samples=1).run("blocks-2", backend=ScriptedBackend(reply), seed=1)
    assert result.answer.split(", ") == plan
    refused = [thought for thought in result.graph if thought.state.fault]
    assert refused[0].state.fault == "stack a b: 'holding a' does not hold"
    assert refused[0].status.name == "INVALID"


def test_without_a_plan_it_says_whether_there_is_one():
    silent = ScriptedBackend(lambda text, sample: "no idea")
    result = plan_actions().run("blocks-2", backend=silent, seed=1)
    assert not result.solved
    assert "a shortest one has 6 steps" in result.explanation
    impossible = plan_actions(proposer="rules").run(json.dumps({**LAMP, "start": ["lamp red"]}))
    assert not impossible.solved
    assert "there is none" in impossible.explanation


def test_a_goal_that_holds_already_needs_no_step():
    result = plan_actions(proposer="rules").run({**LAMP, "goal": ["power"]})
    assert (result.solved, result.answer) == (True, "")


def test_problems_as_yaml():
    text = "domain: blocks\nstart: [on-table a, on-table b, clear a, clear b, hand-empty]\ngoal: [on b a]\n"
    assert plan_actions(proposer="rules").run(text).answer == "pick-up b, stack b a"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("blocks-9", "known are blocks-1"),
        ("a: [", "cannot be read: problem:1:5: no YAML"),
        ("goal: 2024-13-41", "goal is '2024-13-41'; allowed is a list of facts"),
        ({}, "the goal is empty"),
        ({"goal": ["on a b"]}, "has no actions"),
        ({"goal": ["on a b"], "domain": "chess"}, "'chess' has no actions"),
        ({"goal": "on a b"}, "allowed is a list of facts"),
        ({"goal": ["On A"]}, "is no fact"),
        ({"goal": ["not lit"], "domain": "blocks"}, "is no fact"),
        ({"goals": []}, "unknown 'goals'"),
        ({**LAMP, "domain": {"actions": {"a b": {}}}}, "a name is one word"),
        ({**LAMP, "domain": {"actions": {"a": {"pre": []}}}}, "allowed is an object with parameters"),
        ({**LAMP, "domain": {"actions": {"a": {"parameters": ["x", "x"]}}}}, "different words"),
        ({**LAMP, "domain": {"actions": {"a": 3}}}, "action 'a' is 3"),
        ("x" * 200_000, "200000 characters"),
    ],
)
def test_problems_with_faults(given, words):
    with pytest.raises(InputError, match=words):
        parse_problem(given)


@pytest.mark.parametrize("setting", [{"proposer": "fate"}, {"proposer": "rules", "beam_width": 2}, {"max_states": 5}])
def test_settings_that_do_not_fit(setting):
    with pytest.raises(OptionError):
        plan_actions(**setting)
