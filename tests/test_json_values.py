"""Values of users as JSON values: none is refused, and what JSON can say stays as it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction

import pytest

from llmprog.json_values import as_json

cyclic: list = [1]
cyclic += [cyclic, cyclic]
deep: list = []
for _ in range(20_000):
    deep = [deep]


@dataclass(frozen=True)
class Unwritten:
    def __str__(self):
        raise ValueError("no text yet")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a": [1, 2.5, None, True, "x"]}, {"a": [1, 2.5, None, True, "x"]}),
        (Fraction(1, 2), "1/2"),
        ({"b", "a", "c"}, ["a", "b", "c"]),
        ({(0, 1): "#", 2: [Fraction(1, 3)]}, {"(0, 1)": "#", "2": ["1/3"]}),
        (cyclic, [1, "<list>", "<list>"]),
        ([10**5000 % 7, 1 << 20_000], [10**5000 % 7, f"{1 << 20_000:#x}"]),
        (Unwritten(), "<Unwritten>"),
        ({Unwritten(): 1}, {"<Unwritten>": 1}),
    ],
)
def test_what_has_no_form_in_json_is_its_text(value, kept):
    assert as_json(value) == kept
    assert as_json(as_json(value)) == kept


def test_a_value_that_is_too_deep_is_cut_off():
    assert json.dumps(as_json(deep)).count("[") == 100
