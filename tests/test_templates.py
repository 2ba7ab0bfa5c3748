from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from llmprog.errors import DeclarationError
from llmprog.templates import (
    field_names,
    format_value,
    prompt_for_pair,
    prompt_for_state,
    prompt_for_vote,
    render,
    state_fields,
)
from llmprog.types import Prompt


@dataclass(frozen=True)
class Numbers:
    left: tuple[Fraction, ...]
    steps: tuple[str, ...] = ()

    @property
    def count(self):
        return len(self.left)

    @cached_property
    def total(self):
        return sum(self.left)

    def method(self):
        return "never in a prompt"


STATE = Numbers((Fraction(4), Fraction(9, 2)), ("4 + 5 = 9", "9 / 2 = 9/2"))


def text_for(template, state=STATE):
    return prompt_for_state(template, state).text


def test_fields_and_properties_are_filled_in():
    assert text_for("Input: {left}\n{steps}\n{count} {total}") == "Input: 4 9/2\n4 + 5 = 9\n9 / 2 = 9/2\n2 17/2"


def test_doubled_braces_are_literal():
    assert text_for('{{"left": "{left}"}}') == '{"left": "4 9/2"}'
    assert field_names("{{left}}") == ()


def test_braces_in_a_value_stay_as_they_are():
    assert render("{a}", {"a": "{b} {{c}} {"}) == "{b} {{c}} {"


def test_an_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(
        DeclarationError, match="no field 'letf' in Numbers; known fields: left, steps, count, total, state"
    ):
        text_for("{letf}")


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{left:>10}", r"field \{left:>10\} is not a plain name"),
        ("{left!r}", r"field \{left!r\} is not a plain name"),
        ("{left.__class__}", "is not a plain name"),
        ("{left[0]}", "is not a plain name"),
        ("{}", "is not a plain name"),
        ("{0}", "is not a plain name"),
        ("{left", r"write \{\{ and \}\} for literal braces"),
        ("left}", r"write \{\{ and \}\} for literal braces"),
    ],
)
def test_anything_but_a_plain_name_is_refused(template, complaint):
    with pytest.raises(DeclarationError, match=complaint):
        field_names(template)


@given(st.text(max_size=40))
def test_any_text_is_a_template_or_a_declaration_error(text):
    try:
        names = field_names(text)
    except DeclarationError:
        return
    render(text, dict.fromkeys(names, "x"))


@given(st.text(max_size=40))
def test_escaped_text_comes_out_as_it_went_in(text):
    assert render(text.replace("{", "{{").replace("}", "}}"), {}) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("text", "text"),
        (3, "3"),
        (Fraction(1, 3), "1/3"),
        ((), ""),
        ([4, 9.5, Fraction(2, 3)], "4 9.5 2/3"),
        (["a", "b"], "a\nb"),
        (((1, 2), (3, 4)), "1 2\n3 4"),
        ({3, 1, 2}, "1 2 3"),
        (frozenset({"b", "a"}), "a\nb"),
        (True, "True"),
    ],
)
def test_how_values_are_written(value, text):
    assert format_value(value) == text


def test_fields_of_every_kind_of_state():
    class Model(BaseModel):
        left: int

    assert state_fields(Numbers) == ("left", "steps", "count", "total", "state")
    assert "left" in state_fields(Model)
    assert state_fields(namedtuple("Point", "x y"))[:2] == ("x", "y")
    assert state_fields(str) == ("state",)
    assert state_fields(dict) is None


def test_a_prompt_function_may_return_text_or_a_prompt():
    assert prompt_for_state(lambda s: f"{s.count}", STATE) == Prompt.from_text("2")
    assert prompt_for_state(lambda s: Prompt.from_text("x", system="y"), STATE).text == "y\nx"
    with pytest.raises(DeclarationError, match="a prompt function returned 5; allowed: str, Prompt or Template"):
        prompt_for_state(lambda s: 5, STATE)


def test_prompts_across_states():
    assert prompt_for_vote("{num_candidates}:\n{candidates}", ["a", "b"]).text == "2:\nChoice 1:\na\nChoice 2:\nb"
    assert prompt_for_vote("|".join, ["a", "b"]).text == "a|b"
    assert prompt_for_pair("{first} or {second}?", "a", "b").text == "a or b?"
    assert prompt_for_pair(lambda a, b: a + b, "a", "b").text == "ab"
