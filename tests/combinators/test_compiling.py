"""Joined programs are compiled like any other: faults are found together, types are held against each other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import pytest
from joining import asking, counting, word

from llmprog import Program, compile_program, generator
from llmprog.combinators import Apply, Branch, Loop, Map, Parallel, Reduce, Sequence, Vote
from llmprog.errors import CompileError
from llmprog.search import BestOfN, BetaStop


def faults_of(program):
    with pytest.raises(CompileError) as caught:
        compile_program(program)
    return list(caught.value.faults)


def giving(kind, name="give"):
    def give(value):
        raise AssertionError("never called")

    give.__annotations__["return"] = kind
    return Apply(give, name=name)


def taking(kind, name="take", gives=None):
    def take(value):
        raise AssertionError("never called")

    take.__annotations__["value"] = kind
    if gives is not None:
        take.__annotations__["return"] = gives
    return Apply(take, name=name)


# ----------------------------------------------------------------------------------------------- faults


def test_all_faults_are_told_at_once():
    broken = Program(generators=[], controller=None, name="broken")
    program = Sequence(broken, "write", Map(counting(), concurrency=0, name="a/b"), giving(str), taking(int), name="")
    assert faults_of(program) == [
        "part 'broken': no generator: a search without one has nothing to expand; give generators=[...]",
        "part 'broken': controller=None is not a controller; give one such as BeamSearch(beam_width=5, max_depth=3)",
        "part 'part-2': 'write' is not a program; wrap a function in Apply(...)",
        "a part is called 'a/b'; allowed is a text without '/' and '.': rename it, a program with name=...",
        "name=''; allowed is a non-empty text",
    ]


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        (Sequence(), "no parts: give the programs to run one after the other"),
        (Sequence(asking("input")), "a part is called 'input', which the joined program itself uses"),
        (Map(asking("Map")), "a part is called 'Map', which the joined program itself uses"),
        (Map(counting(), on_unsolved="drop"), "on_unsolved='drop'; allowed are 'error', 'skip' and None"),
        (Branch("key", {"a": counting()}), "on='key' is not a function"),
        (Branch(lambda: 1, {"a": counting()}), "on: the function cannot be called with one argument (too many"),
        (Branch(len, {}), "no cases: give programs by key"),
        (Branch(len, [counting()]), "cases=[Program("),
        (Branch(len, {1: counting(), "1": counting()}), "case 1: another part is called '1' too"),
        (Branch(len, {"otherwise": counting()}), "case 'otherwise': another part is called 'otherwise' too"),
        (Loop(counting(), until=None, max_rounds=2), "until=None is not a function"),
        (Loop(counting(), until=bool, max_rounds=0), "max_rounds=0; allowed is a whole number >= 1"),
        (Reduce(Apply(sum), associative="yes"), "associative='yes'; allowed are True and False"),
        (Vote(counting(), num_samples=True), "num_samples=True; allowed is a whole number >= 1"),
        (Vote(counting(), num_samples=1, canonical="x"), "canonical='x' is not a function"),
        (Vote(counting(), num_samples=1, stopping=3), "stopping=3; allowed is None, BetaStop(...) or WindowStop(...)"),
        (Parallel({}), "no parts: give the programs that share the input, by name"),
        (Parallel([counting()]), "programs=[Program("),
        (Parallel({1: counting()}), "a part is called 1; allowed is a text without '/' and '.'"),
        (Parallel({"a": counting()}, join=lambda b: b), "join: the function cannot be called with a (missing"),
        (Apply("x"), "function='x' is not a function"),
        (Apply(lambda a, b: a), "function: the function cannot be called with one argument (missing"),
    ],
)
def test_a_fault_says_what_is_allowed(program, fault):
    assert any(found.startswith(fault) for found in faults_of(program)), faults_of(program)


# ------------------------------------------------------------------------------------------------ types


@dataclass(frozen=True)
class Plan:
    text: str


class DetailedPlan(Plan):
    pass


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (str, int), (str, list), (list[str], str), (list[str], list[int]), (dict[str, int], dict[str, str]),
        (tuple[int, str], tuple[int, int]), (tuple[int, int], tuple[int, int, int]), (tuple[str, ...], list[str]),
        (str | int, str), (Plan, DetailedPlan), (str, Iterable[str]), (bytes, Iterable[int]), (int, str | bytes),
        (list[tuple[str, int]], list[tuple[str, str]]), (tuple[str, ...], tuple[int, ...]),
    ],
)  # fmt: skip
def test_an_answer_that_does_not_fit_the_next_input_is_a_fault(given, wanted):
    (fault,) = faults_of(Sequence(giving(given), taking(wanted)))
    assert fault.startswith("part 'take' takes ")
    assert ", but part 'give' gives " in fault


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (int, float), (bool, int), (str | None, str), (DetailedPlan, Plan), (list[str], Iterable[str]),
        (list, list[str]), (tuple[int, int], Iterable[int]), (dict[str, int], Iterable[str]),
        (str, str | int), (list[bool], list[int]),
        (tuple[str, ...], tuple[str, str]), (str, object), ("unknown", int), (None, int), (str, "NoSuchName"),
    ],
)  # fmt: skip
def test_what_fits_or_is_not_known_compiles(given, wanted):
    compile_program(Sequence(giving(given), taking(wanted)))


def test_a_fault_names_both_parts_and_types():
    program = Sequence(giving(list[str], name="split"), taking(int | float, name="add"))
    assert faults_of(program) == ["part 'add' takes int | float, but part 'split' gives list[str]"]


def test_the_types_of_a_search_are_those_of_start_and_answer():
    def start(text: str) -> Plan:
        return Plan(text)

    def answer(plan: Plan) -> Fraction:
        return Fraction(plan.text)

    @generator
    def grow(plan: Plan) -> list[Plan]:
        return [plan]

    options = {"generators": [grow], "controller": BestOfN(num_samples=1)}
    signature = compile_program(Program(**options, start=start, answer=answer)).signature
    assert (signature.takes, signature.gives) == ((str,), Fraction)
    signature = compile_program(Program(**options)).signature
    assert (signature.takes, signature.gives) == ((Plan,), Plan)
    signature = compile_program(Program(**options, start=Plan)).signature
    assert (signature.takes, signature.gives) == ((str,), Plan)
    assert faults_of(
        Sequence(Program(**options, start=start, answer=answer, name="a"), Program(**options, name="b"))
    ) == ["part 'b' takes Plan, but part 'a' gives Fraction"]


def types_of(program):
    signature = compile_program(program).signature
    return signature.takes, signature.gives


def test_combinators_say_what_they_take_and_give():
    part = taking(str, gives=int)
    assert types_of(Sequence(part, taking(int, name="b", gives=Plan))) == ((str,), Plan)
    assert types_of(Map(part)) == ((Iterable[str],), list[int])
    assert types_of(Vote(part, num_samples=2)) == ((str,), int)
    assert types_of(Branch(len, {1: part, 2: taking(bytes, gives=Plan)})) == ((str | bytes,), int | Plan)
    assert types_of(Parallel({"text": taking(int, gives=str)}, join=Plan)) == ((int,), Plan)
    assert types_of(Reduce(taking(tuple[int, str], gives=int))) == ((Iterable[str],), int)


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        (
            Sequence(giving(str), Map(taking(str, name="one"))),
            "part 'map' takes Iterable[str], but part 'give' gives str",
        ),
        (
            Sequence(Map(giving(str)), Map(taking(int), name="second")),
            "part 'second' takes Iterable[int], but part 'map' gives list[str]",
        ),
        (
            Loop(taking(str, gives=int), until=bool, max_rounds=2),
            "part 'take' takes str, but gives int, which is the input of the next round",
        ),
        (Reduce(taking(str)), "part 'take' takes str, but it is handed a tuple of two"),
        (
            Reduce(taking(tuple[int, str], gives=str)),
            "part 'take' takes int as the first of two, but gives str, which is handed to it",
        ),
        (
            Reduce(taking(tuple[int, str], gives=int), associative=True),
            "part 'take' takes str as the second of two, but gives int, which is handed to it",
        ),
        (
            Parallel({"text": giving(int)}, join=Plan),
            "join takes text: str, but part 'text' gives int",
        ),
        (
            Sequence(giving(int), Parallel({"a": taking(int), "b": taking(str)})),
            "part 'parallel' takes str, but part 'give' gives int",
        ),
    ],
)  # fmt: skip
def test_types_are_held_against_each_other_inside_combinators(program, fault):
    assert faults_of(program) == [fault]


# ------------------------------------------------------------------------------------------ graph and hash


def test_the_graph_says_what_feeds_what():
    parts = {"title": asking("title"), "text": asking("write")}
    program = Sequence(asking("plan"), Parallel(parts, name="page"), Apply(len), name="all")
    compiled = compile_program(program)
    assert list(compiled.graph.edges) == [("input", "plan"), ("plan", "page"), ("page", "len"), ("len", "answer")]
    assert compiled.graph.nodes["page"]["calls_model"]
    assert not compiled.graph.nodes["len"]["calls_model"]
    page = compiled.parts["page"]
    assert set(page.graph.edges) == {
        ("input", "title"), ("input", "text"), ("title", "Parallel"), ("text", "Parallel"), ("Parallel", "answer")
    }  # fmt: skip
    assert compiled.graph.nodes["page"]["hash"] == page.hash
    loop = compile_program(Loop(counting(), until=bool, max_rounds=2))
    assert set(loop.graph.edges) == {("input", "count"), ("count", "Loop"), ("Loop", "count"), ("Loop", "answer")}
    branch = compile_program(Branch(asking("kind"), {"a": counting()}, otherwise=counting()))
    assert ("on", "Branch") in branch.graph.edges
    assert ("Branch", "otherwise") in branch.graph.edges


def test_what_a_joined_program_does_is_what_its_hash_is_over():
    a, b, join = asking("a"), asking("b"), Apply("-".join)
    programs = [
        Sequence(a, b), Sequence(b, a), Sequence(a, a), Sequence(a), Sequence(a, b, name="other"), Map(a), Map(b),
        Map(a, concurrency=2), Map(a, on_unsolved="skip"), Loop(a, until=bool, max_rounds=2),
        Loop(a, until=bool, max_rounds=3), Loop(a, until=lambda text: True, max_rounds=2), Reduce(join),
        Reduce(join, associative=True), Reduce(join, initial="x"), Vote(a, num_samples=2), Vote(a, num_samples=3),
        Vote(a, num_samples=3, stopping=BetaStop()), Branch(len, {1: a}), Branch(len, {2: a}),
        Branch(len, {1: a}, otherwise=b), Parallel({"a": a}), Parallel({"b": a}), Parallel({"text": a}),
        Parallel({"text": a}, join=Plan),
        Apply(lambda x: x), Apply(lambda x: x + 1), Apply(" ".join), Apply(",".join), Apply(Plan, name="plan"),
        Apply(DetailedPlan, name="plan"), Apply(len, name="plan"),
    ]  # fmt: skip
    hashes = [compile_program(program).hash for program in programs]
    assert len(set(hashes)) == len(hashes)
    assert compile_program(Sequence(asking("a"), asking("b"))).hash == hashes[0]


SCRIPT = """
from llmprog import compile_program
from llmprog.combinators import Apply, Map, Sequence, Vote
print(compile_program(Sequence(Apply(str.split), Map(Vote(Apply(len), num_samples=3)), Apply(sum))).hash)
"""


def test_the_hash_is_the_same_in_every_process():
    hashes = {
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(hashes) == 1


def test_the_declaration_can_be_read():
    lines = compile_program(
        Sequence(asking("plan"), Apply(str.split), Map(counting(), concurrency=3))
    ).declaration.splitlines()
    text = "\n".join(line.strip() for line in lines)
    assert "combinator: 'Sequence'" in text
    assert "part: 'plan'" in text
    assert "concurrency: 3" in text


def test_a_compiled_program_is_remembered():
    program = Sequence(asking("a"))
    assert compile_program(program) is compile_program(program)
    assert word("a b", 0) == "a(b)"
