"""Reading YAML and JSON: what is a text and what a number, where everything stands, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from llmprog.documents import MAX_CHARACTERS, MAX_DEPTH, Mark, read_document
from llmprog.errors import SpecError
from llmprog.spec import form_text


def value_of(text: str, file: str = "x.yaml") -> object:
    document = read_document(text, file)
    document.refuse()
    return document.value


def refused(text: str, file: str = "x.yaml") -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        value_of(text, file)
    return caught.value.faults


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("12", 12),
        ("-3", -3),
        ("1e3", 1000),
        ("1.5e-1", 0.15),
        (".5", 0.5),
        ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("'12'", "12"),
        ('"true"', "true"),
    ],
)
def test_plain_words_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = value_of(f"key: {text}")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)  # a mapping, as was just seen


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
def test_a_file_may_say_which_version_it_is_of_and_is_read_by_the_same_rules(version: str) -> None:
    assert value_of(f"%YAML {version}\n---\nkey: no\nalso: 1:20") == {"key": "no", "also": "1:20"}


def test_keys_are_texts_whatever_they_look_like() -> None:
    assert value_of("yes: 1\n24: 2\ntrue: 3") == {"yes": 1, "24": 2, "true": 3}


def test_every_value_and_key_knows_its_line_and_column() -> None:
    document = read_document("a:\n  - b: 1\n    c: [x, y]\n", "x.yaml")
    assert document.mark(("a", 0, "c", 1)) == Mark(3, 12)
    assert document.mark(("a", 0, "c"), at_key=True) == Mark(3, 5)
    assert document.mark(("a", 0, "nowhere", "deeper")) == Mark(2, 5)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3:1: 'a' is given twice; first in line 1"),
        ("a: !!python/object/apply:os.system [ls]", "x.yaml:1:4: the tag tag:yaml.org,2002:python/object/apply:os.sys"),
        ("a: !mine 1", "x.yaml:1:4: the tag !mine"),
        ("a: 1\n<<: {b: 2}", "x.yaml:2:1: << does not merge here"),
        ('a: 1\nb: "\\ud800"', "x.yaml:2:4: half of a character"),
        ('"\\ud800": 1', "x.yaml:1:1: half of a character"),
        ("a: *nothing", "x.yaml:1:4: the alias *nothing stands for nothing"),
        ("a: &x [*x]", "x.yaml:1:8: the alias *x stands inside what it stands for"),
        ("a: 1\n---\nb: 2", "x.yaml:2:1: a second document"),
        ("a: .inf", "x.yaml:1:4: .inf: allowed are finite numbers"),
        ("a: 1e999", "x.yaml:1:4: 1e999: too large"),
        ("a: 007", "x.yaml:1:4: 007 begins with 0"),
        ("a: 1234567890123456789012", "x.yaml:1:4: 12345678901234567890… has more than 18 digits"),
        ("[a]: 1", "x.yaml:1:1: a key that is no text"),
        ("a: b: c", "x.yaml:1:5: no YAML: mapping values are not allowed here"),
        ("a: @x", "x.yaml:1:4: no YAML: while scanning for the next token"),
        ("a: 'x", "x.yaml:1:6: no YAML: while scanning a quoted scalar"),
        ("'a':1", "x.yaml:1:4: no YAML: expected '<document start>', but found '<scalar>'; quote"),
        ("%YAML 2.0\n---\na: 1", "x.yaml:1:1: no YAML: found incompatible YAML document"),
        ("a: b\x00c", "x.yaml:1:5: the character"),
        ("", "x.yaml:1:1: the file is empty"),
        ("# nothing but a comment", "x.yaml:1:1: the file is empty"),
    ],
)
def test_what_is_no_plain_data_is_refused_with_its_place(text: str, fault: str) -> None:
    assert refused(text)[0].startswith(fault)


def test_several_faults_are_reported_at_once_in_order() -> None:
    faults = refused("a: !x 1\nb: 2\nb: 3\nc: 08")
    assert [fault.split(": ")[0] for fault in faults] == ["x.yaml:1:4", "x.yaml:3:1", "x.yaml:4:4"]


def test_aliases_are_expanded_each_with_the_place_of_what_it_stands_for() -> None:
    document = read_document("a: &x {n: 1}\nb: [*x, *x]\nc: &y [*x]\nd: *y", "x.yaml")
    document.refuse()
    assert document.value == {"a": {"n": 1}, "b": [{"n": 1}, {"n": 1}], "c": [{"n": 1}], "d": [{"n": 1}]}
    assert document.value["b"][0] is not document.value["b"][1]


def test_a_billion_laughs_end_soon() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "more than 20000 values" in refused("\n".join(lines))[0]


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_depth_is_limited(opening: str) -> None:
    assert f"nested deeper than {MAX_DEPTH}" in refused(opening * 5000)[0]
    assert "nested deeper" in refused("[" * 200_000, "x.json")[0]


def test_size_is_limited() -> None:
    assert f"allowed are up to {MAX_CHARACTERS}" in refused("a: " + "x" * MAX_CHARACTERS)[0]


def test_json_is_read_as_json() -> None:
    text = '{\n\t"a": "\\ud83d\\ude00\\n", "b":[1,2.5e1,null,true], "\\ud83d\\ude00": "no"\n}'
    assert value_of(text, "x.json") == {"a": "😀\n", "b": [1, 25, None, True], "😀": "no"}
    assert refused('{"a": 1,}', "x.json")[0].startswith("x.json:1:")
    assert "given twice" in refused('{"a": 1, "a": 2}', "x.json")[0]
    assert refused("a: 1", "x.json")[0].startswith("x.json:1:1: no JSON")


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
tricky = st.sampled_from(
    ["no", "on", "1e3", "0x1", "007", "12", "~", "null", "true", "- a", "a: b", "#c", " x ", "\n", "a\nb\n"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | words
    | tricky
    | st.floats(-1e6, 1e6).map(lambda x: x + 0.5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(words, values, min_size=1, max_size=4))
def test_what_is_written_is_read_back_as_the_same(form: dict[str, object]) -> None:
    assert value_of(form_text(form, "yaml")) == form
    assert value_of(form_text(form, "json"), "x.json") == form


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    places: set[bool] = set()
    for file in ("x.yaml", "x.json"):
        try:
            value_of(text, file)
        except SpecError as error:
            places.update(fault.startswith(f"{file}:") for fault in error.faults)
    assert places <= {True}


def test_values_agree_with_another_reader_where_the_versions_of_yaml_agree() -> None:
    text = "a: [1, -2.5, x, 'y z', null, {b: c}]\nd: |\n  two\n  lines\ne: >\n  folded\n  text\nf: \"\\u00e9\"\n"
    assert value_of(text) == YAML(typ="safe", pure=True).load(text)
    assert json.loads(form_text(value_of(text), "json")) == YAML(typ="safe", pure=True).load(text)
