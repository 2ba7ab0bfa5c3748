"""Whatever a model says, a program of a file takes or leaves it; whatever it is given, it takes or says why not."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from forms import program, search
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprog.errors import InputError

PARSERS = [
    "text", "stated_answer", "last_number", "last_line", "lines", "rating", "expression",
    {"regex": {"pattern": r"(?P<value>\w+)|(\d)", "which": "all"}}, {"json_path": {"path": "a[*].b", "which": "all"}},
    {"json_path": {"path": "$"}}, {"choices": {"options": ["yes", "no", "é"]}},
]  # fmt: skip
KINDS = ["text", "integer", "number", "boolean", "list of text", "list of number"]
RULES = [
    {"not_empty": {}}, {"matches": {"pattern": "(a+)+b", "whole": False}}, {"equals": {"to": "{question}"}},
    {"is_number": {"lowest": -1, "highest": 1, "whole": True}}, {"one_of": {"options": ["a", "1/2"]}},
    {"contains": {"text": "{question}"}}, {"length": {"min_words": 1, "max_characters": 5}},
    {"json_schema": {"schema": {"type": "object", "properties": {"a": {"pattern": "x+"}}}}},
    {"arithmetic": {"equals": "{question}", "numbers": "question"}},
]  # fmt: skip

said = st.one_of(
    st.text(max_size=60),
    st.text("0123456789+-*/()=., \n", max_size=60),
    st.text('[]{}":,ab01e \n', max_size=60),
    st.sampled_from(
        ["9" * 5000, "1" * 39 + "/" + "7" * 39, "[" * 3000, '{"a": [{"b": 1e999}]}', "1/0", "1" + ",000" * 900]
    ),
)


def built(kind: str) -> Any:
    nodes = [{"name": f"g{i}", "prompt": "?", "parse": parse, "into": "answer"} for i, parse in enumerate(PARSERS)]
    checkers = []
    for number, rule in enumerate(RULES):
        ((name, parameters),) = rule.items()
        checkers.append({"name": f"c{number}", "rule": {name: {"field": "answer", **parameters}}})
    state = {"question": "text", "answer": kind}
    return program(search(state=state, generators=nodes, checkers=checkers, goal={"not_empty": {"field": "answer"}}))


PROGRAMS = {kind: built(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(reply=said, question=st.text(min_size=1, max_size=20).filter(str.strip))
def test_any_reply_is_parsed_and_judged(kind: str, reply: str, question: str) -> None:
    made = PROGRAMS[kind]
    state = made.start(question)
    for node in made.generators:
        for following in node.function(state, reply):
            hash(following)
            assert str(following) is not None
            for checker in made.checkers:
                verdict = checker.function(following)
                assert verdict.valid or verdict.reason
            made.goal(following)
            made.answer(following)


inputs = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | said,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=5,
)


def taking(kind: str, fields: list[str]) -> Any:
    node = {"name": "g", "prompt": "{a}", "parse": "text", "into": "answer"}
    state = dict.fromkeys(fields, kind) | {"answer": "text"}
    return program(search(state=state, input=fields, generators=[node]))


TAKING = {kind: [taking(kind, ["a"]), taking(kind, ["a", "b"])] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(given_input=inputs)
def test_any_input_is_taken_or_refused(kind: str, given_input: object) -> None:
    for made in TAKING[kind]:
        for value in (given_input, json.dumps(given_input, default=str)):
            with contextlib.suppress(InputError):  # any other error fails
                hash(made.start(value))
