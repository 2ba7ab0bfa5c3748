from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from llmprog import Program, checker, compile_program, generator
from llmprog.errors import CompileError
from llmprog.search import BeamSearch, BestFirstSearch, BreadthFirstSearch, SelfConsistency


@dataclass(frozen=True)
class Numbers:
    left: tuple[int, ...]


@dataclass(frozen=True)
class Words:
    text: str


@generator(prompt="Input: {left}", n=2)
def propose(state: Numbers, completion: str) -> Iterable[Numbers]:
    yield Numbers(())


@checker
def legal(state: Numbers) -> bool:
    return True


@checker(prompt="Judge {left}")
def promising(state: Numbers, completion: str) -> float:
    return 1.0


def program(**changes):
    parts = {
        "generators": [propose],
        "checkers": [legal, promising],
        "controller": BeamSearch(beam_width=2, max_depth=3),
        "start": lambda text: Numbers((1,)),
        "goal": lambda s: not s.left,
        "name": "toy",
    }
    return Program(**(parts | changes))


def faults(broken):
    with pytest.raises(CompileError) as caught:
        compile_program(broken)
    assert all(fault in str(caught.value) for fault in caught.value.faults)
    return caught.value.faults


def test_the_program_graph_says_what_feeds_what():
    compiled = compile_program(program())
    assert set(compiled.graph.edges) == {
        ("input", "start"),
        ("start", "BeamSearch"),
        ("BeamSearch", "propose"),
        ("propose", "legal"),
        ("legal", "promising"),
        ("promising", "BeamSearch"),
        ("BeamSearch", "goal"),
        ("goal", "answer"),
    }
    assert compiled.graph.nodes["propose"] == {
        "kind": "generator",
        "calls_model": True,
        "n": 2,
        "prompt": "Input: {left}",
    }
    assert compiled.model_nodes == ("propose", "promising")
    assert [c.name for c in compiled.rules] == ["legal"]
    assert [c.name for c in compiled.judges] == ["promising"]


def test_what_is_compiled_does_not_change():
    nodes = [propose]
    declared = program(generators=nodes)
    compiled = compile_program(declared)
    with pytest.raises(TypeError, match="does not support item assignment"):
        compiled.graph.nodes["more"] = {"kind": "generator"}
    with pytest.raises(TypeError, match="does not support item assignment"):
        compiled.graph.nodes["propose"]["n"] = 3
    with pytest.raises(FrozenInstanceError):
        compiled.graph.edges = ()
    nodes.append(legal)
    assert compiled.generators == (propose,)
    assert compile_program(declared) is compiled


def test_all_faults_of_a_badly_broken_program_come_at_once():
    wrong_field = generator(prompt="{letf} {left:>3}", name="wrong_spec")(lambda state, completion: [])
    unknown = generator(prompt="{letf}", name="unknown_field")(propose.function)

    @checker
    def takes_words(state: Words) -> bool:
        return True

    @checker(prompt="{candidates} {winner}", kind="vote", name="start")
    def vote(states, completion: str):
        return 0

    join = generator(name="join", aggregates=True)(lambda states: states)
    broken = Program(
        name="",
        generators=[propose, propose, wrong_field, unknown, join, lambda s: [s]],
        checkers=[takes_words, vote, "legal"],
        controller=BestFirstSearch(max_thoughts=10),
        start=Numbers,
        goal="solved",
        answer=lambda: None,
        key=lambda a, b: a,
    )
    found = "\n".join(faults(broken))
    for fault in (
        "name=''; allowed is a non-empty text",
        "two nodes are named 'propose'",
        "is not a generator; decorate the function with @generator",
        "'legal' is not a checker",
        "a node is named 'start', which the program itself uses",
        "goal='solved' is not a function of one argument",
        "answer: the function cannot be called with one argument",
        "key: the function cannot be called with one argument",
        "node 'wrong_spec': template",
        "node 'unknown_field': its prompt uses an unknown field {letf}; known fields: left, state",
        "node 'start': its prompt uses an unknown field {winner}; known fields: candidates, num_candidates",
        "checker 'start' is unreachable: it judges across states, and BestFirstSearch never compares",
        "generator 'join' is unreachable: it aggregates several states, and BestFirstSearch never merges thoughts",
        "checker 'takes_words' takes Words, but start makes Numbers",
        "checker 'takes_words' takes Words, but generator 'propose' makes Numbers",
    ):
        assert fault in found


def test_the_error_counts_and_numbers_its_faults():
    with pytest.raises(CompileError, match=r"(?s)program 'toy' does not compile: 2 faults\n  1\. .*\n  2\. "):
        compile_program(program(generators=[], goal=3))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"generators": propose}, "put it in a list: generators="),
        ({"checkers": None}, "checkers=None; allowed is a list of checkers"),
        ({"generators": []}, "no generator: a search without one has nothing to expand"),
        ({"controller": None}, "controller=None is not a controller"),
        ({"controller": BeamSearch}, "is not a controller"),
        ({"generators": [propose.with_options(name="BeamSearch")]}, "a node is named 'BeamSearch'"),
        (
            {"generators": [generator(aggregates=True, name="join")(lambda s: s)]},
            "every generator aggregates: none can expand the first thought",
        ),
    ],
)
def test_single_faults(changes, fault):
    import re

    assert any(re.search(fault, found) for found in faults(program(**changes)))


def test_a_controller_that_became_wrong_is_a_fault():
    controller = BeamSearch(beam_width=2, max_depth=3)
    controller.beam_width = 0
    assert faults(program(controller=controller)) == (
        "controller BeamSearch: beam_width=0; allowed is a whole number >= 1",
    )


def test_annotations_that_say_little_are_no_fault():
    @generator
    def loose(state) -> list:
        return []

    @checker
    def number(state: float) -> bool:
        return True

    compile_program(
        Program(generators=[loose], checkers=[number], controller=BreadthFirstSearch(max_depth=1), start=int)
    )


# ------------------------------------------------------------------------------------------------ the hash


def hash_of(**changes):
    return compile_program(program(**changes)).hash


def closing_over(value):
    return lambda s: s == value


def test_equal_declarations_have_equal_hashes():
    goal = closing_over(3)
    assert hash_of(goal=goal, start=None) == hash_of(goal=closing_over(3), start=None)


class Target:
    def __init__(self, value):
        self.value = value

    def reached(self, state):
        return state == self.value

    def __call__(self, state):
        return state == self.value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"generators": [propose]}, {"generators": [propose.with_options(prompt="In: {left}")]}),
        ({"generators": [propose]}, {"generators": [propose.with_options(temperature=0.1)]}),
        ({"generators": [propose]}, {"generators": [propose.with_options(n=3)]}),
        ({"generators": [propose]}, {"generators": [propose.with_options(name="p")]}),
        ({"checkers": [legal]}, {"checkers": []}),
        ({"controller": BeamSearch(beam_width=2, max_depth=3)}, {"controller": BeamSearch(beam_width=3, max_depth=3)}),
        ({"goal": closing_over(3)}, {"goal": closing_over(4)}),
        ({"goal": closing_over({1, 2})}, {"goal": closing_over({1, 3})}),
        ({"goal": closing_over(closing_over(1))}, {"goal": closing_over(closing_over(2))}),
        ({"goal": functools.partial(max, 1)}, {"goal": functools.partial(max, 2)}),
        ({"goal": Target(1)}, {"goal": Target(2)}),
        ({"goal": lambda s, limit=1: s}, {"goal": lambda s, limit=2: s}),
        ({"goal": lambda s: s < 1}, {"goal": lambda s: s > 1}),
        (
            {"controller": SelfConsistency(num_samples=2, canonical=lambda a: a)},
            {"controller": SelfConsistency(num_samples=2, canonical=lambda a: a[0])},
        ),
    ],
)
def test_the_hash_changes_with(one, other):
    assert hash_of(**one, start=None) != hash_of(**other, start=None)


def test_a_function_that_closes_over_itself_has_a_hash():
    def make():
        def depth(state):
            return 0 if not state else 1 + depth(state[1:])

        return depth

    assert hash_of(goal=make()) == hash_of(goal=make())


def test_the_hash_is_the_same_in_every_process(tmp_path):
    (tmp_path / "declared.py").write_text(
        textwrap.dedent(
            """
            from fractions import Fraction
            from llmprog import Program, checker, compile_program, generator
            from llmprog.search import BetaStop, SelfConsistency

            def make(words, table, limit):
                @generator(prompt="{state}", stop=("b", "a"))
                def go(state, completion: str):
                    return [completion] if completion in words else table.get(completion)

                @checker
                def short(state):
                    return len(state) < limit

                return go, short

            go, short = make({"x", "y", "z", "w"}, {"k": frozenset({"p", "q", "r"}), "j": object()}, Fraction(7, 2))
            program = Program(
                generators=[go], checkers=[short], goal=lambda s: s in {"a", "b", "c", "d"},
                controller=SelfConsistency(num_samples=3, stopping=BetaStop(0.9)),
            )
            print(compile_program(program).hash)
            """
        )
    )

    def hash_with(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run(
            [sys.executable, "declared.py"], cwd=tmp_path, env=environment, capture_output=True, check=True
        ).stdout

    assert len({hash_with(seed) for seed in ("1", "2", "3")}) == 1


def test_a_replaced_program_is_compiled_anew():
    first = program()
    compile_program(first)
    assert compile_program(replace(first, name="other")).name == "other"
