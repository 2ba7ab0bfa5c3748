"""Writing YAML: how it is laid out, and that readers take it for what it was."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from llmprog.documents import read_values
from llmprog.spec.writing import yaml_text

LAID_OUT = """\
name: toy
empty: []
nothing: {}
nodes:
- name: think
  prompt: |
    Input: {left}

      Answer:
  samples: 2
- - 1.5
  - true
  - null
- plain
state:
  left:
    type: words
long: one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
  seventeen eighteen nineteen twenty
"""


def test_mappings_and_lists_are_in_block_style_and_long_texts_are_folded() -> None:
    value = {
        "name": "toy",
        "empty": [],
        "nothing": {},
        "nodes": [
            {"name": "think", "prompt": "Input: {left}\n\n  Answer:\n", "samples": 2},
            (1.5, True, None),
            "plain",
        ],
        "state": {"left": {"type": "words"}},
        "long": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty",
    }
    assert yaml_text(value) == LAID_OUT


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a b", "a b"),
        ("{left} is left", "'{left} is left'"),
        ("it's", "it's"),
        ("'tis", "'''tis'"),
        ("a: b", "'a: b'"),
        ("a #b", "'a #b'"),
        ("a#b:c", "a#b:c"),
        ("- a", "'- a'"),
        ("-a", "-a"),
        (" a ", "' a '"),
        ("no", "'no'"),
        ("12:30", "'12:30'"),
        ("0x1f", "'0x1f'"),
        ("2024-01-02", "'2024-01-02'"),
        ("4 9 10 13", "4 9 10 13"),
        ("1/2", "1/2"),
        ("", '""'),
        ("12", '"12"'),
        ("1e3", '"1e3"'),
        ("null", '"null"'),
        ("007", '"007"'),
        ("a\tb\x07\u2028", '"a\\tb\\x07\\u2028"'),
        ("a \nb", '"a \\nb"'),
        ("\n", '"\\n"'),
        ("a\nb", "|-\n    a\n    b"),
        ("a\nb\n\n", "|+\n    a\n    b\n"),
        (" a\nb\n", "|2\n     a\n    b"),
        ("😀 é", "😀 é"),
    ],
)
def test_a_text_stands_as_it_is_where_nothing_else_could_be_meant(text: str, written: str) -> None:
    form = {"in": {"it": text}}
    assert yaml_text(form) == f"in:\n  it: {written}\n"
    assert read_values(yaml_text(form), "x.yaml") == form


@pytest.mark.parametrize(
    ("number", "written"),
    [(3, "3"), (0.5, "0.5"), (1e-7, "1.0e-07"), (1e20, "1.0e+20"), (float("-inf"), "-.inf"), (float("nan"), ".nan")],
)
def test_numbers_are_numbers_to_every_reader(number: float, written: str) -> None:
    assert yaml_text([number]) == f"- {written}\n"


@pytest.mark.parametrize("key", ["k" * 5000, "two\nlines", "a: b", "? a", ""])
@pytest.mark.parametrize("value", ["x", ["x"], {"x": 1}, []])
def test_any_text_can_be_a_key(key: str, value: object) -> None:
    form = {"a": {key: value, "after": 1}}
    assert read_values(yaml_text(form), "x.yaml") == form


def test_what_is_no_plain_value_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Fraction\(1, 2\) cannot be written; allowed are mappings"):
        yaml_text({"a": [Fraction(1, 2)]})
    with pytest.raises(TypeError, match="the key 1 cannot be written; keys are texts"):
        yaml_text({1: "a"})


words = st.lists(st.text("abc:#-'\"{}[],&*!|>%@`?=~ \n\\0129._é😀\x07", max_size=8), max_size=40).map(" ".join)
tricky = st.sampled_from(["yes", "Off", "=", "<<", "1:20:30", "0b1", "0o7", "1_000", ".5", "+1", "...", "--- a", "!x"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | words | tricky,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(words.filter(lambda word: word != "<<"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
def test_other_readers_take_it_for_the_same(value: object) -> None:
    for version in ((1, 1), (1, 2)):
        reader = YAML(typ="safe", pure=True)
        reader.version = version
        assert reader.load(yaml_text(value)) == value
