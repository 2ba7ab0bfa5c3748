from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.parsers import choice, last_word, rating, value_of_words

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


@given(st.text())
def test_any_text_gives_a_value_or_none(text: str) -> None:
    last_word(text, VALUES)
    assert rating(text) is None or 1 <= (rating(text) or 0) <= 10
    choice(text, 5)
