"""Graphs of operations that are decided on the way, as YAML: plans within plans, written and read back."""

from __future__ import annotations

import pytest

from llmprog import Program, compile_program, generator
from llmprog.errors import SpecError
from llmprog.search import Aggregate, Decide, Generate, GraphOfThoughts, KeepBest, OperationGraph, Refine, Thought
from llmprog.spec import dump_program, json_schema, read_program


@generator
def count(number: int) -> list[int]:
    return list(range(10, 10 + number))


@generator(aggregates=True)
def add(numbers: tuple[int, ...]) -> list[int]:
    return [sum(numbers)]


def until_one_is_left(thoughts: tuple[Thought, ...]) -> str | None:
    return "level" if len(thoughts) > 1 else None


def tens(number: int) -> int:
    return number // 10


INNER = Decide(choose=until_one_is_left, plans={"level": OperationGraph({"best": KeepBest()})})
LEVEL = OperationGraph(
    {
        "pairs": Aggregate(size=2),
        "best": KeepBest(per=tens),
        "inner": INNER,
        "mend": Refine(generator="count", while_better=True),
    }
)
PLAN = OperationGraph(
    {
        "count": Generate(generator="count"),
        "add": Decide(choose=until_one_is_left, plans={"level": LEVEL, "other": LEVEL}, max_rounds=9),
    }
)
PROGRAM = Program(generators=[count, add], controller=GraphOfThoughts(operations=PLAN), name="decided")


def test_plans_are_written_and_read_back() -> None:
    text = dump_program(PROGRAM)
    again = read_program(text, trust=[__name__])
    assert compile_program(again).hash == compile_program(PROGRAM).hash
    assert str(again.controller.operations) == str(PLAN)  # a GraphOfThoughts
    assert again.run(3).graph.to_json() == PROGRAM.run(3).graph.to_json()


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("size: 2", "size: 1", "operation 'pairs': size=1; allowed is a whole number >= 2, or None"),
        ("size: 2", "sise: 2", "Decide.plans.level.pairs.Aggregate.sise: unknown key 'sise'"),
        ("max_rounds: 9", "max_rounds: 0", "max_rounds=0; allowed is a whole number >= 1"),
    ],
)
def test_faults_inside_plans_have_their_place(right: str, wrong: str, complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_program(dump_program(PROGRAM).replace(right, wrong, 1), file="x.yaml", trust=[__name__])
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("x.yaml:")


def test_the_schema_allows_plans_within_plans() -> None:
    plans = json_schema()["$defs"]["Decide"]["properties"]["plans"]
    assert "OperationForm" in str(plans)
