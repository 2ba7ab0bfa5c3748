"""What counts as an answer in each form, and that no reply makes reading it raise or take long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.errors import OptionError
from llmprog.programs.answers import answer_reader, json_form, last_match, stated_answer, stated_json


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>2 or 3</think>\n<answer>3</answer>", "3"),
        ("Answer: 2\n<answer> **3** </answer>", "3"),
        ("<answer>the answer", None),
        ("Answer: 4 <answer>", "4 <answer>"),
    ],
)
def test_an_answer_in_tags_comes_first(reply: str, answer: str | None) -> None:
    assert stated_answer(reply) == answer


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [
        (r"\d+", "56"),
        (r"result (\d+)", "34"),
        (r"(?i)RESULT (?P<n>\d+)", "34"),
        (r"none (\d+)", None),
        (r"(z)?result", None),  # the group took no part
    ],
)
def test_the_last_match_counts(pattern: str, answer: str | None) -> None:
    assert last_match("result 12\nresult 34, not 56", pattern) == answer


def test_a_pattern_that_never_ends_is_given_up() -> None:
    begun = time.monotonic()
    assert last_match("a" * 60 + "!", r"(a|aa)+$") is None
    assert time.monotonic() - begun < 100  # of what would take ages


@pytest.mark.parametrize(
    ("reply", "path", "answer"),
    [
        ('{"answer": 42}', "answer", "42"),
        ('{"answer": " Paris "}', "$.answer", "Paris"),
        ('First {"answer": 1}, no:\n```json\n{"answer": 2}\n```', "answer", "2"),
        ('{"answer": 1} {"other": 2}', "answer", None),  # the last is what was asked for
        ('{"a": {"b": [{"c": true}]}}', "a.b[0].c", "true"),
        ('{"a": {"answer": 3}}', "answer", None),  # the outermost is what was asked for
        ('{"answer": null}', "answer", None),
        ('{"answer": ""}', "answer", None),
        ("[7, 8]", "[1]", "8"),
        ("[7, 8]", "[2]", None),
        ('{"answer": {"x": 1}}', "answer", '{"x": 1}'),
        ('{"answer": 1', "answer", None),
        ("Answer: 1", "answer", None),
    ],
)
def test_json_is_found_anywhere_and_read_at_a_path(reply: str, path: str, answer: str | None) -> None:
    assert stated_json(reply, path) == answer


@pytest.mark.parametrize("path", ["answer", "$.result.value", "steps[0].n", "found[*]"])
def test_what_a_model_is_shown_is_what_is_read(path: str) -> None:
    assert stated_json(f"Like this: {json_form(path, 'é42')}", path) == "é42"


@pytest.mark.parametrize("unit", ["{", "[", '["', '{"a":', "{}", "[1]", "[[]]", '{"answer": 1}'])
def test_hostile_json_is_read_in_bounded_time(unit: str) -> None:
    begun = time.process_time()
    stated_json(unit * (200_000 // len(unit)), "answer")
    assert time.process_time() - begun < 5


@given(st.text() | st.text(st.sampled_from('{}[]":,1a b=')))
def test_no_reply_makes_reading_it_raise(reply: str) -> None:
    for settings in ({"answer": "regex", "pattern": r"(\w+)\s*="}, {"answer": "json", "path": "a[0].b"}):
        found = answer_reader(**settings)(reply)
        assert found is None or found == found.strip() != ""


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"answer": "regex"}, "answer='regex' needs pattern="),
        ({"answer": "regex", "pattern": "("}, r"pattern='\(': not a regular expression"),
        ({"answer": "json", "path": "a..b"}, r"path='a\.\.b'; allowed are names and places"),
        ({"answer": "text", "pattern": "x"}, "pattern='x' has no effect with answer=text"),
        ({"answer": "number", "path": "x"}, "path='x' has no effect with answer=number"),
        ({"answer": "colour"}, "answer='colour'; allowed are text, number, choice, regex, json"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        answer_reader(**settings)
