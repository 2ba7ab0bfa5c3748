"""From programs to forms and back: registered programs, programs of functions with names, generated forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forms import search
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmprog import Program, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Apply, Branch, Loop, Map, Parallel, Reduce, Sequence, Vote
from llmprog.compile import compile_program
from llmprog.errors import SpecError
from llmprog.programs import arithmetic, catalog
from llmprog.search import (
    Aggregate,
    BeamSearch,
    BestFirstSearch,
    BetaStop,
    Generate,
    GraphOfThoughts,
    KeepBest,
    OperationGraph,
    Prompter,
    RollbackRules,
    Select,
    SelfConsistency,
    TreeOfThoughtController,
    WeightedVote,
)
from llmprog.spec import dump_program, form_text, program_form, read_program, reference_form
from llmprog.types import Choices, JsonSchema, Regex

HERE = str(Path(__file__).resolve())


def hash_of(program: Program) -> str:
    return compile_program(program).hash


@pytest.mark.parametrize("name", catalog.names())
@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_a_registered_program_is_written_as_its_name_and_its_parameters(name: str, kind: Any) -> None:
    text = form_text(reference_form(name, {}), kind)
    again = read_program(text, file=f"x.{kind}")
    assert hash_of(again) == hash_of(catalog.find(name).build())


def test_parameters_of_a_registered_program_are_kept() -> None:
    values = {"num_samples": 7, "stopping": "beta", "confidence": 0.9}
    again = read_program(form_text(reference_form("arithmetic", values), "yaml"))
    assert hash_of(again) == hash_of(catalog.find("arithmetic").build(**values))
    assert hash_of(again) != hash_of(arithmetic())


def test_a_program_of_functions_with_names_is_written_in_full_and_answers_the_same() -> None:
    pytest.importorskip("torch")
    program = arithmetic(num_samples=4)
    text = dump_program(program)
    again = read_program(text, trust=["llmprog.programs.arithmetic"])
    assert hash_of(again) == hash_of(program)
    question = "(17 + 25) * 3 - 40"
    first, second = (p.run(question, backend="local:puzzles", seed=3) for p in (program, again))
    assert (first.answer, first.votes) == (second.answer, second.votes)
    assert first.graph.to_json() == second.graph.to_json()
    with pytest.raises(SpecError, match="--trust"):
        read_program(text)


# -------------------------------------------------------------------------------- functions of this very file


@generator(prompt="{state}", n=2, stop="\n")
def say(state: str, completion: str) -> str:
    return completion


@generator(aggregates=True)
def merge(states: tuple[str, ...]) -> str:
    return " ".join(states)


@checker
def short(state: str) -> bool:
    return len(state) < 9


def length(state: str) -> int:
    return len(state)


def cost(before: str, after: str) -> float:
    return abs(len(after) - len(before)) + 1.0


def first_word(text: str) -> str | None:
    return text.split(maxsplit=1)[0] if text.split() else None


def as_text(parts: list[str]) -> str:
    return " ".join(map(str, parts))


def words(number: object) -> list[str]:
    return str(number).split()


def both(a: str, b: str) -> str:
    return a + b


def searched(controller: Any, **parts: Any) -> Program:
    nodes = [say, merge] if controller.aggregates else [say]
    return Program(generators=nodes, checkers=[short], controller=controller, name="own", **parts)


def pair_text(pair: tuple[str, str]) -> str:
    return " ".join(pair)


PLAN = OperationGraph({
    "one": Generate(generator="say"),
    "left": Select(index=0),
    "right": Select(where=short.function, after="one"),
    "both": Aggregate(generator="merge", after=("left", "right")),
    "best": KeepBest(num_kept=2),
})  # fmt: skip
ASK = searched(BestFirstSearch(max_thoughts=3, cost=cost, heuristic=length), goal=short.function)
OWN = [
    ASK,
    searched(GraphOfThoughts(operations=PLAN), key=length, answer=first_word, explain=first_word, start=str),
    searched(
        TreeOfThoughtController(
            max_depth=2, policy=RollbackRules(max_visits=2, patience=None), prompter=Prompter(max_dialogue=None)
        )
    ),
    searched(SelfConsistency(num_samples=3, stopping=BetaStop(0.8), canonical=first_word)),
    searched(WeightedVote(num_samples=3, weight="score")),
    Sequence(
        Apply(first_word),
        arithmetic(),
        Apply(words),
        Map(ASK, concurrency=2, on_unsolved=None),
        Apply(as_text),
        Loop(ASK, until=short.function, max_rounds=3),
        Apply(words),
        Reduce(Apply(pair_text, name="two"), associative=True, initial="x"),
        Vote(ASK, num_samples=3, canonical=first_word),
        Parallel({"a": ASK, "b": Apply(first_word)}, join=both),
        Branch(length, {"1": ASK}, otherwise=ASK),
        Branch(ASK, {"x": arithmetic()}),
        name="all",
    ),
]


@pytest.mark.parametrize("program", OWN, ids=lambda program: type(program).__name__)
@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_programs_of_functions_in_a_file_come_back_as_the_same(program: Program, kind: Any) -> None:
    text = dump_program(program, kind)
    again = read_program(text, file=f"own.{kind}", trust=[HERE, __name__])
    assert hash_of(again) == hash_of(program)
    assert dump_program(again, kind) == text


def test_a_part_that_is_a_registered_program_is_written_by_its_name() -> None:
    assert '"arithmetic"' in json.dumps(program_form(OWN[-1])["sequence"][1])


def test_what_cannot_be_written_is_named_all_of_it() -> None:
    @generator
    def inner(state: str) -> list[str]:
        return []

    class Mine:
        def decide(self, situation: Any, rng: Any) -> Any:
            return None

        def is_done(self, state: Any) -> bool:
            return False

    program = Sequence(
        Program(
            start=lambda text: text,
            generators=[inner],
            controller=TreeOfThoughtController(max_depth=1, policy=Mine()),
            goal=Mine().is_done,
            name="closed",
        ),
        Branch(length, {3: ASK}, name="keys"),
        name="whole",
    )
    with pytest.raises(SpecError) as caught:
        dump_program(program)
    said = "\n".join(caught.value.faults)
    for part in (
        "program 'whole': whole: start: ", "<lambda> is a lambda; define it with def",
        "generator 'inner'", "is made inside another function", "Mine has no written form; what has one: RollbackRules",
        "goal: ", "the key 3 of a case is no text",
    ):  # fmt: skip
        assert part in said, said


# -------------------------------------------------------------------------------------------- generated forms

names = st.sampled_from(["a", "b", "topic", "answer_1"])
texts = st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=10)
kinds = st.sampled_from(["text", "integer", "number", "boolean", "list of text", "list of number"])
small = st.integers(1, 9)
floats = st.integers(1, 40).map(lambda n: n / 8)

parsers = st.one_of(
    st.sampled_from(["text", "stated_answer", "last_number", "last_line", "lines", "rating", "expression"]),
    st.just({"regex": {"pattern": r"(?P<x>\d+)", "which": "all"}}),
    st.lists(texts.filter(bool), min_size=1, max_size=3).map(lambda options: {"choices": {"options": options}}),
    st.just({"json_path": {"path": "$.x[*]", "which": "all"}}),
)
windows = small.map(lambda n: {"WindowStop": {"window": n + 5}})
stopping = st.sampled_from([0.6, 0.75]).map(lambda x: {"BetaStop": {"confidence": x}}) | windows
controllers = st.one_of(
    st.builds(lambda n, s: {"SelfConsistency": {"num_samples": n, "stopping": s}}, small, stopping),
    st.builds(lambda n, d: {"BeamSearch": {"beam_width": n, "max_depth": d}}, small, small),
    st.builds(lambda n, c: {"MonteCarloTreeSearch": {"num_simulations": n, "max_depth": 2, "exploration_constant": c}},
              small, floats),
    st.just({"MonteCarloTreeSearch": {"num_simulations": 3, "max_depth": 2, "value_range": [0.5, 2.5]}}),
    st.builds(lambda v: {"TreeOfThoughtController": {"max_depth": 2, "policy": {"RollbackRules": {"max_visits": v}}}},
              st.integers(1, 4)),
    st.just({"DepthFirstSearch": {"max_depth": 3, "value_threshold": 1.5, "stop_on_goal": False}}),
)  # fmt: skip


@st.composite
def rules(draw: Any, fields: list[str], depth: int = 0) -> Any:
    field = {"field": draw(st.sampled_from(fields))} if fields != ["value"] else {}
    options = [
        st.just({"not_empty": field} if field else "not_empty"),
        texts.map(lambda text: {"equals": {**field, "to": text}}),
        small.map(lambda n: {"is_number": {**field, "lowest": n, "whole": True}}),
        st.just({"matches": {**field, "pattern": "a+", "whole": False}}),
        small.map(lambda n: {"length": {**field, "max_words": n}}),
    ]
    if depth < 2:
        inner = rules(fields, depth + 1)
        options += [st.lists(inner, min_size=1, max_size=2).map(lambda found: {"every": found})]
        options += [inner.map(lambda found: {"none": found})]
    return draw(st.one_of(options))


@st.composite
def searches(draw: Any) -> Any:
    fields = draw(st.lists(names, min_size=2, max_size=4, unique=True))
    typed = {name: draw(kinds) for name in fields}
    template = st.sampled_from(["", *(f"{{{name}}}" for name in fields)]).flatmap(
        lambda use: texts.map(lambda text: f"{text}{use} {{{{x}}}}")
    )
    if draw(st.booleans()):
        typed[fields[-1]] = {"type": "number", "default": draw(small)}
    form: dict[str, Any] = {"name": draw(st.sampled_from(["p", "q r"])), "state": typed}
    if draw(st.booleans()):
        form["input"] = fields[:2]
    form["generators"] = []
    for number in range(draw(st.integers(1, 2))):
        prompt: Any = draw(template)
        if draw(st.booleans()):
            prompt = {
                "system": draw(template),
                "examples": [{"user": "u", "assistant": draw(template)}],
                "user": prompt,
            }
        node: dict[str, Any] = {"name": f"g{number}", "prompt": prompt}
        if draw(st.booleans()):
            node["num_samples"] = draw(st.integers(2, 5))
        sampling = draw(
            st.sampled_from([None, {"temperature": 0.5, "stop": ["\n"]}, {"guided": {"choices": ["a", "b"]}}])
        )
        if sampling is not None:
            node["sampling"] = sampling
        node["parse"] = draw(parsers)
        into = draw(st.sampled_from([fields[-1], {fields[-1]: "completion"}, dict.fromkeys(fields, "{value}")]))
        form["generators"].append(node | {"into": into})
    if draw(st.booleans()):
        rule = draw(rules(fields))
        form["checkers"] = [{"name": "c", "rule": rule}, {"name": "d", "prompt": draw(template), "judge": "yes_no"}]
        form["checkers"] += [{"name": "e", "prompt": "?", "judge": {"words": {"values": {"sure": draw(floats)}}}}]
    form["controller"] = draw(controllers)
    for label, part in (("goal", rules(fields)), ("answer", st.sampled_from(fields) | template),
                        ("key", st.just(fields[:2]) | st.sampled_from(fields)), ("explain", template)):  # fmt: skip
        if draw(st.booleans()):
            form[label] = draw(part)
    return form


def joined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"name": "s", "sequence": parts}),
        inner.map(lambda part: {"name": "m", "map": {"program": part, "on_unsolved": "skip"}}),
        st.builds(lambda a, b: {"name": "par", "parallel": {"programs": {"a": a, "b": b}, "join": "{a}{b}"}},
                  inner, inner),
        st.builds(lambda a, rule: {"name": "l", "loop": {"program": a, "until": rule, "max_rounds": 2}},
                  inner, rules(["value"])),
        st.builds(lambda a, b, on: {"name": "br", "branch": {"on": on, "cases": {"x": a}, "otherwise": b}},
                  inner, inner, parsers),
        st.builds(lambda a, s: {"name": "v", "vote": {"program": a, "num_samples": 3, "stopping": s}}, inner, stopping),
    )  # fmt: skip


applied = parsers.map(lambda tool: {"name": "ap", "apply": tool})
programs = st.recursive(searches() | applied, joined, max_leaves=4)


@settings(max_examples=50, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # to shrink takes minutes
@given(programs)
def test_a_generated_form_becomes_a_program_and_the_same_form_again(form: dict[str, Any]) -> None:
    first = read_program(form_text(form, "yaml"))
    assert program_form(first) == form
    second = read_program(form_text(program_form(first), "json"), file="x.json")
    assert hash_of(second) == hash_of(first)


@generator(prompt="{state}", guided=JsonSchema('{"type": "object"}'))
def as_json(state: str, completion: str) -> str:
    return completion


@checker(prompt="{first} or {second}?", kind="pairwise", max_tokens=3)
def longer(first: str, second: str, completion: str) -> float:
    return 1.0


def test_guided_output_and_comparers_are_written() -> None:
    for guided in (JsonSchema('{"type": "object"}'), Regex("a+"), Choices(("a", "b"))):
        nodes = [as_json.with_options(guided=guided)]
        program = Program(generators=nodes, checkers=[longer], controller=BeamSearch(beam_width=1, max_depth=1))
        assert hash_of(read_program(dump_program(program), trust=[HERE, __name__])) == hash_of(program)


def test_a_change_of_any_part_changes_the_hash() -> None:
    base = search(goal={"equals": {"field": "answer", "to": 1}}, explain="no {answer}", key="answer")
    hashes = {hash_of(read_program(form_text(base, "yaml")))}
    changes: list[dict[str, Any]] = [
        {"goal": {"equals": {"field": "answer", "to": 2}}},
        {"key": "question"},
        {"answer": "question"},
        {"state": {"question": "text", "answer": "number"}},
        {"generators": [{"name": "reply", "prompt": "{question}?", "parse": "text", "into": "answer"}]},
        {"generators": [{"name": "reply", "prompt": "{question}", "parse": "last_line", "into": "answer"}]},
        {"generators": [{"name": "reply", "prompt": "{question}", "parse": "text", "into": "question"}]},
        {"checkers": [{"name": "c", "rule": {"not_empty": {"field": "answer"}}}]},
        {"controller": {"BestOfN": {"num_samples": 2}}},
    ]
    for change in changes:
        hashes.add(hash_of(read_program(form_text(base | change, "yaml"))))
    assert len(hashes) == len(changes) + 1


def test_a_form_with_parameters_is_written_with_their_values() -> None:
    text = "parameters: {n: 3}\n" + form_text(search(controller={"BestOfN": {"num_samples": "{n}"}}), "yaml")
    built = read_program(text, n=5)
    assert program_form(built) == search(controller={"BestOfN": {"num_samples": 5}})
    answer = read_program(dump_program(built)).run("q", backend=ScriptedBackend(lambda prompt, sample: "r")).answer
    assert answer == "r"
