"""Guided output is checked on this side."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends.remote.guided import guided_fields, violation
from llmprog.backends.remote.profiles import built_in_profiles, get_profile
from llmprog.errors import OptionError
from llmprog.types import Choices, JsonSchema, Regex

POINT = JsonSchema.of(
    {
        "type": "object",
        "properties": {"x": {"type": "integer", "minimum": 0}, "name": {"type": "string", "pattern": "^(a+)+$"}},
        "required": ["x"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize("text", ['{"x": 1}', ' {"name": "aaa", "x": 0}\n'])
def test_what_satisfies_a_schema(text):
    assert violation(text, POINT) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSON"),
        ("```json\n{}\n```", "JSON"),
        ('{"x": 1} and more', "JSON"),
        ("{}", "'x' is a required property"),
        ('{"x": -1}', "['x']"),
        ('{"x": 1, "y": 2}', "'y'"),
        ('{"x": 1, "x": 2}', "repeated key"),
        ('{"x": NaN}', "NaN"),
        ('{"x": Infinity}', "Infinity"),
        ('{"x": 1, "name": "b"}', "does not match"),
        ("[" * 100_000, "deep"),
        ('{"x":' * 100_000, "deep"),
    ],
)
def test_what_does_not(text, words):
    assert words in violation(text, POINT)


def test_a_huge_text_is_not_even_read():
    begun = time.perf_counter()
    for guided in (POINT, Regex("x*")):
        assert "100000000 characters" in violation("x" * 100_000_000, guided)
    assert time.perf_counter() - begun < 100


def test_a_long_violation_stays_short():
    assert len(violation('{"x": "' + "y" * 1_000_000 + '"}', POINT)) < 600


def test_nesting_that_json_takes_but_validation_may_not():
    tree = JsonSchema.of({"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"})
    for depth in (5, 200, 900):
        text = "[" * depth + "]" * depth
        assert violation(text, tree) in {None, "it nests too deeply to be checked against the schema"}
    assert violation("[[1]]", tree).startswith("at [0][0]")


def test_a_regex_matches_as_a_whole():
    assert violation("12", Regex("[0-9]+")) is None
    assert "does not match" in violation("12x", Regex("[0-9]+"))


def test_a_regex_that_would_run_for_ever():
    assert "took over 0.25 s" in violation("a" * 5_000 + "b", Regex(r"(?:a|aa|a?a?)+c?(?=d)"))
    pattern = JsonSchema.of({"type": "string", "pattern": r"^(.*a){12}b"})
    assert "took over 0.25 s" in violation('"' + "a" * 3_000 + '"', pattern)


@pytest.mark.parametrize("text", ["yes ", "Yes", "", "yesno"])
def test_choices_word_for_word(text):
    assert violation("yes", Choices(("yes", "no"))) is None
    assert "none of the 2 choices" in violation(text, Choices(("yes", "no")))


@pytest.mark.parametrize(
    "guided",
    [
        JsonSchema("{"),
        JsonSchema("[]"),
        JsonSchema('{"type": "objekt"}'),
        JsonSchema('{"$ref": "http://127.0.0.1:9/schema.json"}'),
        JsonSchema('{"pattern": "("}'),
        JsonSchema('{"a":' * 100_000),
        Regex("("),
    ],
)
def test_a_form_that_is_itself_wrong(guided):
    with pytest.raises(OptionError) as caught:
        violation('"x"', guided)
    assert "\n" not in str(caught.value)


@given(st.text(), st.sampled_from([POINT, Regex("[a-z]*"), Choices(("a",))]))
def test_no_text_raises(text, guided):
    assert violation(text, guided) is None or isinstance(violation(text, guided), str)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4).map(tuple))
def test_choices_as_a_regex_match_just_themselves(options):
    pattern = guided_fields(Choices(options), get_profile("sglang"), backend="test")["regex"]
    assert all(re.fullmatch(pattern, option) for option in options)
    assert not re.fullmatch(pattern, "".join(options) + "!")


def test_every_promised_kind_has_a_wire_form():
    forms = {"json": POINT, "regex": Regex("a"), "choices": Choices(("a",))}
    for profile in built_in_profiles().values():
        for kind in profile.guided:
            assert guided_fields(forms[kind], profile, backend="test")
