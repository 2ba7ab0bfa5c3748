"""TreeOfThoughtController: the published rollback rules, hints that reach the prompts, policies of one's own."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from worlds import depths, program_for, reachable, run_search, worlds

from llmprog import Program, Prompt, Verdict, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import CompileError, OptionError
from llmprog.search import (
    BreadthFirstSearch,
    Decision,
    Hint,
    Memory,
    Prompter,
    RollbackRules,
    Round,
    Situation,
    TreeOfThoughtController,
)


def line_of_thought(controller, *, refuse=(), goal=None, prompt="after {state}:"):
    """Texts that grow by what the model says; those in ``refuse`` are refused."""

    @generator(prompt=prompt)
    def extend(state: str, completion: str):
        return [state + completion] if completion else None

    @checker
    def allowed(state: str) -> Verdict:
        return Verdict(valid=state not in refuse, reason=f"{state} is a mistake" if state in refuse else "")

    return Program(
        generators=[extend],
        checkers=[allowed],
        controller=controller,
        goal=None if goal is None else lambda state: state == goal,
    )


async def rounds_of(program, say):
    """The states that rounds began from, and the search; ``say(state, sample)`` is what the model says."""

    class Caller:
        async def generate(self, node, request):
            backend = ScriptedBackend(lambda text, sample: say(text[len("after ") : -1], sample))
            return await backend.generate(request)

    search, outcome, expanded = await run_search(program, "", caller=Caller())
    return [state for (state,) in expanded], search, outcome


async def test_a_refused_step_is_tried_again_from_the_same_thought_and_after_five_visits_from_its_parent():
    """Long 2023: invalid, back by 1; the parent visited five times, back by 2."""
    says = {"": ["a", "b"], "a": "12345", "b": ["c"]}
    program = line_of_thought(TreeOfThoughtController(max_depth=9), refuse={f"a{i}" for i in range(1, 6)}, goal="bc")
    rounds, search, outcome = await rounds_of(program, lambda state, sample: says[state][sample])
    assert rounds == ["", "a", "a", "a", "a", "a", "", "b"]
    assert outcome.reached_goal
    assert search.controller.visits == {0: 2, search.graph.find("a"): 5, search.graph.find("b"): 1}


async def test_the_number_of_visits_is_a_parameter():
    says = {"": ["a", "b"], "a": "12345", "b": ["c"]}
    policy = RollbackRules(max_visits=2)
    program = line_of_thought(
        TreeOfThoughtController(max_depth=9, policy=policy), refuse={f"a{i}" for i in range(1, 6)}, goal="bc"
    )
    rounds, _, _ = await rounds_of(program, lambda state, sample: says[state][sample])
    assert rounds == ["", "a", "a", "", "b"]


async def test_the_root_is_the_furthest_to_go_back_to_and_rounds_are_counted():
    program = line_of_thought(TreeOfThoughtController(max_depth=3, max_rounds=12), refuse={"x"})
    rounds, search, outcome = await rounds_of(program, lambda state, sample: "x")
    assert rounds == [""] * 12
    assert (outcome.stopped, outcome.thought) == ("max_rounds", None)
    assert [past.verdict for past in search.controller.rounds] == ["refused"] * 12


async def test_a_thought_that_has_had_its_visits_is_not_begun_from_again():
    """The model proposes "a" again and again; every step after it is refused."""
    program = line_of_thought(
        TreeOfThoughtController(max_depth=9, max_rounds=20, policy=RollbackRules(max_visits=3)), refuse={"ax"}
    )
    rounds, search, _ = await rounds_of(program, lambda state, sample: "x" if state else "a")
    assert rounds == ["", "a", "a", "a"] + [""] * 16
    assert search.controller.visits[search.graph.find("a")] == 3


async def test_without_progress_the_line_goes_back_by_half():
    """From "aaaa" everything is refused, and one step further up everything leads there again."""
    policy = RollbackRules(max_visits=100, patience=6)
    program = line_of_thought(TreeOfThoughtController(max_depth=9, max_rounds=12, policy=policy), refuse={"aaaax"})
    rounds, _, _ = await rounds_of(program, lambda state, sample: "x" if state == "aaaa" else "a")
    # Round 4 makes the line as long as it gets; round 10 is the sixth without progress: back by 3, to "aa".
    assert rounds == ["", "a", "aa", "aaa", *["aaaa"] * 6, "aa", "aaa"]


async def test_unreadable_repeated_and_too_deep_steps_are_no_progress():
    says = {"a": ["", "loop", "b"]}

    @generator(prompt="after {state}:")
    def go(state: str, completion: str):
        if not completion:
            return []
        return [""] if completion == "loop" else [state + completion]

    program = Program(generators=[go], controller=TreeOfThoughtController(max_depth=2, max_rounds=4))
    rounds, search, outcome = await rounds_of(program, lambda state, sample: says.get(state, "aaaa")[sample])
    assert rounds == ["", "a", "a", "a"]
    assert [past.verdict for past in search.controller.rounds] == ["valid", "unreadable", "repeated", "too_deep"]
    assert outcome.graph.states[outcome.thought] == "ab"  # the longest valid line


@settings(max_examples=40)
@given(worlds(max_size=6), depths)
def test_plain_moves_lead_to_what_can_be_reached_and_nowhere_else(world, depth):
    result = program_for(world, TreeOfThoughtController(max_depth=depth, max_rounds=60)).run(0)
    assert {t.state for t in result.graph} <= reachable(world[0], depth)
    assert result.stopped == "max_rounds"


async def test_of_several_states_the_one_visited_least_is_followed_then_the_best():
    moves = {0: [1, 2], 1: [], 2: [3], 3: []}
    scores = {1: 1, 2: 5, 3: 0}
    program = program_for((moves, scores), TreeOfThoughtController(max_depth=5, max_rounds=40), goal=1)
    assert program.run(0).solved
    controller = TreeOfThoughtController(max_depth=5, max_rounds=12, policy=RollbackRules(max_visits=2))
    _, _, expanded = await run_search(program_for((moves, scores), controller), 0)
    assert [state for (state,) in expanded][:8] == [0, 2, 3, 3, 2, 0, 1, 1]


# ---------------------------------------------------------------------------------------------------- hints


async def test_the_hint_says_what_was_tried_from_here_and_why_it_failed():
    prompt = "after {state}:\n{hint}"
    prompts = []

    class Caller:
        async def generate(self, node, request):
            prompts.append(request.prompt.text)
            replies = {"": "ab", "a": "xxy"}
            state = request.prompt.text.partition(":")[0][len("after ") :]
            turn = sum(text.startswith(f"after {state}:") for text in prompts) - 1
            return await ScriptedBackend(lambda text, sample: replies[state][turn]).generate(request)

    controller = TreeOfThoughtController(max_depth=9, max_rounds=5, policy=RollbackRules(max_visits=3))
    await run_search(line_of_thought(controller, refuse={"ax", "ay", "b"}, prompt=prompt), "", caller=Caller())
    assert prompts[:2] == ["after :\n", "after a:\n"]
    assert prompts[2] == (
        "after a:\nTried from here before, without success:\n- x: refused, ax is a mistake\nPropose something else."
    )
    assert prompts[3] == prompts[2]  # the same failure is told once
    assert (
        prompts[4] == "after :\nTried from here before, without success:\n- a: it led nowhere\nPropose something else."
    )


async def test_the_dialogue_says_what_was_said_round_by_round():
    memory = Memory(
        thought=1,
        line=("", "a"),
        visits=(1, 2),
        rounds=(
            Round(thought=0, said="a", verdict="valid", reason=""),
            Round(thought=1, said="b", verdict="refused", reason="by rule"),
            Round(thought=1, said="", verdict="unreadable", reason=""),
        ),
    )
    assert Prompter()(memory).dialogue == (
        "Step 1: a\nChecker: valid\nStep 2: b\nChecker: refused, by rule\nStep 3: \nChecker: it could not be read"
    )
    assert Prompter(max_dialogue=1)(memory).dialogue == "Step 3: \nChecker: it could not be read"
    assert Prompter(max_tried=1)(memory).hint.count("\n- ") == 1


async def test_prompt_functions_and_async_nodes_get_the_hint():
    seen = []

    def ask(state: str, hint: Hint) -> Prompt:
        seen.append(("prompt", state, hint.hint))
        return Prompt.from_text(f"{state}?")

    @generator(prompt=ask)
    def declared(state: str, completion: str):
        return []

    @generator
    async def called(state: str, model):
        seen.append(("async", state, model.hint.hint))
        return []

    controller = TreeOfThoughtController(
        max_depth=3, max_rounds=2, prompter=lambda memory: Hint(hint=f"round {len(memory.rounds) + 1}")
    )
    program = Program(generators=[declared, called], controller=controller)
    program.run("s", backend=ScriptedBackend(lambda text, sample: ""))
    assert seen == [(who, "s", f"round {i}") for i in (1, 2) for who in ("prompt", "async")]
    seen.clear()
    Program(generators=[declared, called], controller=BreadthFirstSearch(max_depth=1)).run(
        "s", backend=ScriptedBackend(lambda text, sample: "")
    )
    assert seen == [("prompt", "s", ""), ("async", "s", "")]


def test_under_other_controllers_hints_are_empty_and_a_states_own_field_comes_first():
    @dataclass(frozen=True)
    class Own:
        hint: str = "mine"

    backend = ScriptedBackend(lambda text, sample: "")
    own = generator(prompt="{hint}|{dialogue}|", name="own")(lambda state, completion: [])
    Program(generators=[own], controller=BreadthFirstSearch(max_depth=1)).run(Own(), backend=backend)
    Program(generators=[own], controller=BreadthFirstSearch(max_depth=1)).run("text", backend=backend)
    assert [request.prompt.text for request in backend.requests] == ["mine||", "||"]


def test_checkers_are_given_no_hints():
    judge = checker(prompt="{hint}", name="judge")(lambda state, completion: True)

    @generator
    def step(state: str) -> list[str]:
        return [state + "a"]

    program = Program(generators=[step], checkers=[judge], controller=BreadthFirstSearch(max_depth=1))
    with pytest.raises(CompileError, match=r"node 'judge': its prompt uses an unknown field \{hint\}"):
        program.run("")


# ---------------------------------------------------------------------------------------------------- policies


async def test_a_policy_of_ones_own_sees_the_situation_and_decides():
    seen = []

    class Fixed:
        def __init__(self, *decisions):
            self.decisions = decisions

        def decide(self, situation: Situation, rng: random.Random) -> Decision:
            seen.append(situation)
            return self.decisions[len(seen) - 1]

    policy = Fixed(Decision(), Decision(back=1), Decision(), Decision(back=3), Decision(stop=True))
    program = line_of_thought(TreeOfThoughtController(max_depth=5, policy=policy), refuse={"abc"})
    rounds, _, outcome = await rounds_of(program, lambda state, sample: "abcdef"[len(state)])
    # "ab" is valid and left all the same, then gone on to; from the refused "abc" back by three is the root
    assert rounds == ["", "a", "a", "ab", ""]
    assert outcome.stopped == "policy"
    assert [s.verdict for s in seen] == ["valid", "valid", "valid", "refused", "valid"]
    fourth = seen[3]
    assert fourth.line == ("", "a", "ab")
    assert fourth.visits == (1, 2, 1)
    assert (fourth.depth, fourth.proposal, fourth.num_rounds) == (2, "abc", 4)
    assert (seen[1].num_stalled, seen[2].num_stalled, fourth.num_stalled) == (0, 1, 2)
    assert (fourth.max_rounds, fourth.max_depth) == (100, 5)


async def test_a_refused_step_cannot_be_gone_on_from_whatever_the_policy_says():
    class Blind:
        def decide(self, situation, rng):
            return Decision()

    program = line_of_thought(TreeOfThoughtController(max_depth=5, max_rounds=3, policy=Blind()), refuse={"a"})
    rounds, _, _ = await rounds_of(program, lambda state, sample: "a")
    assert rounds == ["", "", ""]


@pytest.mark.parametrize("decision", [None, 1, Decision(back=-1), Decision(back=1.5)])
def test_what_is_no_decision_is_refused(decision):
    class Odd:
        def decide(self, situation, rng):
            return decision

    program = line_of_thought(TreeOfThoughtController(max_depth=5, policy=Odd()))
    with pytest.raises(OptionError, match=r"the policy decided .*; allowed is Decision"):
        program.run("", backend=ScriptedBackend(lambda text, sample: "a"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TreeOfThoughtController(max_depth=0), "max_depth=0; allowed is a whole number >= 1"),
        (lambda: TreeOfThoughtController(max_depth=1, max_rounds=0), "max_rounds=0"),
        (lambda: TreeOfThoughtController(max_depth=1, policy=RollbackRules), r"policy=.*; allowed is RollbackRules\("),
        (lambda: TreeOfThoughtController(max_depth=1, prompter="hint"), r"prompter='hint'; allowed is Prompter\("),
        (lambda: TreeOfThoughtController(max_depth=1, stop_on_goal=False), "stop_on_goal=False; allowed is True"),
        (lambda: RollbackRules(max_visits=0), r"RollbackRules\(max_visits=0\): allowed is a whole number >= 1"),
        (lambda: RollbackRules(patience=0), r"RollbackRules\(patience=0\)"),
        (lambda: Prompter(max_dialogue=0), r"Prompter\(max_dialogue=0\)"),
        (lambda: Prompter(max_tried=None), r"Prompter\(max_tried=None\)"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()
