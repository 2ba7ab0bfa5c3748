"""Graphs of operations: how they read, and which are refused when a program is declared or compiled."""

from __future__ import annotations

import pytest
from merge_sorting import (
    LEVEL,
    Part,
    merge_sort,
    merge_tree,
    more_than_one,
    sort,
    sorting,
)

from llmprog import Program
from llmprog.errors import CompileError, OptionError
from llmprog.search import (
    Aggregate,
    Decide,
    Generate,
    GraphOfThoughts,
    KeepBest,
    Operation,
    OperationGraph,
    Refine,
    Score,
    Select,
)


def test_a_graph_shows_what_may_be_chosen():
    graph = merge_tree().controller.operations
    assert str(graph).splitlines() == [
        "start → split: Generate(generator='one_by_one')",
        "split → merge: Decide(choose=more_than_one, max_rounds=20)",
        "  merge chooses 'level':",
        "    given → pairs: Aggregate(size=2)",
        "    pairs → best: KeepBest(per=<lambda>)",
    ]
    assert [name for name, _ in graph.all_steps()] == ["split", "merge", "merge: level: pairs", "merge: level: best"]
    assert '"merge: level: best" -> "merge";' in graph.to_dot()
    assert '"merge" -> "merge: level: pairs";' in graph.to_dot()


def test_what_may_be_chosen_is_checked_when_the_program_is_compiled():
    plans = {"mend": OperationGraph({"mend": Refine(generator="mend")})}
    decide = Decide(choose=more_than_one, plans=plans)
    with pytest.raises(CompileError, match="operation 'second: mend: mend' uses 'mend'"):
        sorting({"first": Generate(generator="sort"), "second": decide}).run("1")


def test_a_graph_of_operations_can_be_read_back():
    graph = OperationGraph(merge_sort())
    assert str(graph).splitlines() == [
        "start → split: Generate(generator='split')",
        "split → part 0: Select(index=0)",
        "part 0 → sort 0: Generate(generator='sort', num_samples=3)",
        "sort 0 → score 0: Score()",
        "score 0 → best 0: KeepBest()",
        "split → part 1: Select(index=1)",
        "part 1 → sort 1: Generate(generator='sort', num_samples=3)",
        "sort 1 → score 1: Score()",
        "score 1 → best 1: KeepBest()",
        "best 0, best 1 → merge: Aggregate(generator='merge', num_samples=3)",
        "merge → best: KeepBest()",
    ]
    assert graph.last == ("best",)
    assert graph.after("merge") == ("best 0", "best 1")
    assert "split → part 0: Select(index=0); part 0 → sort 0" in repr(GraphOfThoughts(operations=graph))
    assert '"best 0" -> "merge";' in graph.to_dot()
    assert '"" -> "split";' in graph.to_dot()


def test_the_hash_of_a_program_depends_on_its_operations():
    from llmprog import compile_program

    def digest(**changes):
        return compile_program(sorting(merge_sort() | changes)).hash

    assert digest() == digest()
    assert digest() != digest(best=KeepBest(num_kept=2))
    assert digest() != digest(best=KeepBest(after="best 0"))


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ({}, "no operations; give at least one"),
        ([Generate()], "is no mapping of names to operations"),
        ({"a": Generate(num_samples=0)}, "operation 'a': num_samples=0; allowed is a whole number >= 1, or None"),
        ({"a": Generate(), "b": KeepBest(num_kept=0)}, "operation 'b': num_kept=0"),
        ({"a": Select()}, "operation 'a': give index= or where=, one of the two"),
        ({"a": Select(index=1, where=bool)}, "one of the two"),
        ({"a": Select(index=-1)}, "index=-1; allowed is a whole number >= 0"),
        ({"a": Refine(max_tries=0)}, "max_tries=0"),
        ({"a": Refine(threshold="high")}, "threshold='high'; allowed is a number, or None"),
        ({"a": KeepBest(after="b"), "b": Generate()}, "operation 'a' comes after 'b', not declared before it"),
        ({"": Generate()}, "'' names an operation; allowed is a non-empty text without ': '"),
        ({"a 1: b": Generate()}, "'a 1: b' names an operation; allowed is a non-empty text without ': '"),
        ({"a": "generate"}, "operation 'a' is 'generate'; allowed are"),
        ({"a": Operation()}, "operation 'a' is Operation"),
        ({"a": Aggregate(size=1)}, "size=1; allowed is a whole number >= 2, or None"),
        ({"a": KeepBest(per="place")}, "per='place'; allowed is a function of a state"),
        ({"a": Decide(choose="level", plans={})}, "choose='level'; allowed is a function of a tuple of thoughts"),
        ({"a": Decide(choose=len, plans={})}, "plans={}; allowed is {name: OperationGraph"),
        ({"a": Decide(choose=len, plans={"b": {}})}, "allowed is {name: OperationGraph"),
        ({"a": Decide(choose=len, plans={"b": LEVEL}, max_rounds=0)}, "max_rounds=0"),
    ],
)
def test_a_graph_of_operations_with_faults_is_refused(operations, message):
    with pytest.raises(OptionError, match=message):
        OperationGraph(operations)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            Generate(generator="merge"),
            "uses 'merge'; allowed is a generator with aggregates=False: split, sort, correct",
        ),
        (Aggregate(generator="sort"), "uses 'sort'; allowed is a generator with aggregates=True: merge"),
        (Refine(generator="mend"), "uses 'mend'"),
        (Score(checkers=("taste",)), r"counts \['taste'\]; the checkers are: few_errors"),
        (Score(compare=True), "compares; declare a checker with kind='vote' or 'pairwise'"),
    ],
)
def test_a_program_that_lacks_what_an_operation_needs_does_not_compile(operation, message):
    with pytest.raises(CompileError, match=message):
        sorting({"first": Generate(generator="sort"), "second": operation}).run("1")


def test_a_program_without_an_aggregating_generator_does_not_compile():
    program = Program(generators=[sort], controller=GraphOfThoughts(operations=OperationGraph({"a": Aggregate()})))
    with pytest.raises(CompileError, match="operation 'a' needs a generator with aggregates=True; declare one"):
        program.run(Part((1,)))


def test_operations_that_are_no_graph_are_refused():
    with pytest.raises(OptionError, match=r"allowed is an OperationGraph\("):
        GraphOfThoughts(operations={"a": Generate()})
