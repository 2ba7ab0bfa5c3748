from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.parsers import (
    all_numbers,
    choice,
    json_at,
    json_in,
    json_steps,
    last_number,
    last_option,
    last_word,
    listed_lines,
    rating,
    value_of_words,
)

VALUES = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("4 6: 24 yes\nsure", "sure"),
        ("It is LIKELY, not sure\n\n  Impossible. ", "impossible"),
        ("sure\nI cannot tell", None),
        ("surely", None),
        ("", None),
    ],
)
def test_the_last_word_of_the_last_line_counts(text: str, word: str | None) -> None:
    assert last_word(text, VALUES) == word


def test_values_of_words_are_summed() -> None:
    assert value_of_words(["sure", "x\nlikely", "hm"], VALUES, otherwise=0.5) == pytest.approx(21.5)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Score: 7", 7.0),
        ("8.5 out of 10", 10.0),
        ("9.25", 9.25),
        ("11", None),
        ("none", None),
        ("1.2.3", None),
        ("x7", None),
    ],
)
def test_a_grade_off_the_scale_is_no_grade(text: str, value: float | None) -> None:
    assert rating(text) == value


@pytest.mark.parametrize(("text", "index"), [("The best choice is 2", 1), ("0", None), ("4", None), ("2.5", None)])
def test_a_choice_is_numbered_from_one(text: str, index: int | None) -> None:
    assert choice(text, 3) == index


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 apples, 4 pears", 4),
        ("it costs $1,234.50.", Fraction(2469, 2)),
        ("between -2 and -7/2", Fraction(-7, 2)),
        ("no number", None),
        ("version v2", None),
    ],
)
def test_the_last_number_is_exact(text: str, number: Fraction | None) -> None:
    assert last_number(text) == number


def test_all_numbers_come_in_their_order() -> None:
    assert all_numbers("4, 9 and 10/4; x3") == [4, 9, Fraction(5, 2)]


def test_lines_of_lists_lose_their_bullets() -> None:
    assert listed_lines("Steps:\n 1. one\n\n- 2 + 2\n(3) three\n* * four\n-5") == [
        "Steps:", "one", "2 + 2", "three", "four", "-5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("sure? No: NOT SURE.", "not sure"),
        ("unsure", None),
        ("C++ or C", "C"),
        ("I take C++.", "C++"),
        ("", None),
    ],
)
def test_the_last_option_is_a_word_of_its_own(text: str, option: str | None) -> None:
    assert last_option(text, ["sure", "not sure", "C", "C++"]) == option


def test_an_option_may_be_told_by_its_case() -> None:
    assert last_option("A, then a", ["A"], ignore_case=False) == "A"
    assert last_option("a", ["A"], ignore_case=False) is None
    assert last_option("a", []) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('So: {"a": [1, {"b": 2}]} or {"c": 3}, I think', {"c": 3}),
        ("```json\n[1, 2]\n```", [1, 2]),
        ("[not] {json}", None),
        ("plain", None),
        ("[" * 5000, None),
    ],
)
def test_json_is_found_in_text(text: str, found: object) -> None:
    assert json_in(text) == found


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", [{"a": [{"b": 1}, {"b": 2}, 3]}]),
        ("$.a[1].b", [2]),
        ("a[-1]", [3]),
        ("a[*].b", [1, 2]),
        ("$.a[7]", []),
        ("$.x.y", []),
    ],
)
def test_paths_lead_to_what_is_there(path: str, found: list[object]) -> None:
    steps = json_steps(path)
    assert steps is not None
    assert json_at({"a": [{"b": 1}, {"b": 2}, 3]}, steps) == found


@pytest.mark.parametrize("path", ["a..b", "$[x]", "a b", "$.a[", "a[1.5]"])
def test_what_is_no_path_is_none(path: str) -> None:
    assert json_steps(path) is None


@given(st.text())
def test_any_text_gives_a_value_or_none(text: str) -> None:
    last_number(text)
    listed_lines(text)
    last_option(text, ["a", "b c"])
    json_in(text)
    last_word(text, VALUES)
    assert rating(text) is None or 1 <= (rating(text) or 0) <= 10
    choice(text, 5)
