from __future__ import annotations

import pytest

from llmprog.errors import InputError, OptionError
from llmprog.jobs.inputs import InputOf
from llmprog.jobs.rows import Row


def row(values, line=3, fault=None):
    return Row(index=1, line=line, values=values, fault=fault)


@pytest.mark.parametrize(
    ("spec", "gold", "values", "expected"),
    [
        (None, None, {"anything": [4, 9]}, [4, 9]),
        (None, None, {"id": 7, "question": "Why?"}, "Why?"),
        (None, None, {"prompt": "p", "question": "Why?"}, "Why?"),
        (None, "a", {"q": "Why?", "a": "since"}, "Why?"),
        ("q", None, {"q": "Why?", "question": "no"}, "Why?"),
        ("{q} ({n}, {l})\nAnswer:", None, {"q": "Why?", "n": 3, "l": [1, 2]}, "Why? (3, 1 2)\nAnswer:"),
        ("{q}", None, {"{q}": "a column of that name", "q": 1}, "a column of that name"),
    ],
)
def test_the_input_is_a_column_or_a_template(spec, gold, values, expected):
    inputs = InputOf(spec, gold=gold)
    inputs.resolve(values)
    assert inputs.of(row(values)) == expected


@pytest.mark.parametrize(
    ("spec", "gold", "complaint"),
    [
        (None, None, r"which column is it\? .*; columns: a, b"),
        ("c", None, "no column 'c'; columns: a, b"),
        ("{a} {c}", None, "no column 'c'; columns: a, b"),
        (None, "c", "right answers: no column 'c'; columns: a, b"),
    ],
)
def test_what_the_first_row_cannot_give_is_said_before_anything_is_paid(spec, gold, complaint):
    with pytest.raises(OptionError, match=complaint):
        InputOf(spec, gold=gold).resolve({"a": 1, "b": 2})


@pytest.mark.parametrize("spec", ["{a", "{a.b}", "{a!r}"])
def test_a_malformed_template_is_an_option_error(spec):
    with pytest.raises(OptionError, match="template"):
        InputOf(spec)


def test_a_row_without_the_column_is_an_input_error_with_its_line():
    inputs = InputOf("{q} {n}")
    with pytest.raises(InputError, match="line 3: no column 'n'; columns: q"):
        inputs.of(row({"q": 1}))
    with pytest.raises(InputError, match="row 1: no column 'q'"):
        inputs.of(row({"n": 1}, line=None))
    with pytest.raises(InputError, match="line 3: bad"):
        inputs.of(row({}, fault="line 3: bad"))


def test_an_empty_right_answer_is_none():
    inputs = InputOf("q", gold="a")
    assert inputs.gold_of(row({"q": 1, "a": 0})) == 0
    assert inputs.gold_of(row({"q": 1, "a": ""})) is None
    assert inputs.gold_of(row({"q": 1})) is None
    assert InputOf("q").gold_of(row({"a": 1})) is None


def test_rows_have_equal_digests_when_nothing_of_them_and_of_the_question_changed():
    inputs = InputOf("q", gold="a")
    one = inputs.digest(row({"q": "\ud800 Why?", "a": 1}))
    assert one == InputOf("q", gold="a").digest(row({"a": 1, "q": "\ud800 Why?"}, line=99))
    others = {
        inputs.digest(row({"q": "Why", "a": 1})),
        inputs.digest(row({"q": "\ud800 Why?", "a": "1"})),
        inputs.digest(row({"q": "\ud800 Why?", "a": 1, "note": None})),
        InputOf("q").digest(row({"q": "\ud800 Why?", "a": 1})),
        inputs.digest(row({}, fault="not JSON")),
    }
    assert one not in others
    assert len(others) == 5
