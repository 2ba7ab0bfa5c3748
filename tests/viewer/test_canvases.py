from __future__ import annotations

import pytest

from llmprog.errors import StoreError
from llmprog.viewer.canvases import MOST_TOKENS, full_steps


def test_steps_are_read_whole() -> None:
    steps = [
        {"at": 0.0, "changes": [[1, "b", None]], "length": 3},
        {"at": 0.5, "changes": [[0, "a", 0.25]], "length": 3},
        {"at": 0.75, "changes": [[1, None, None]], "length": 2},
        {"at": 1, "changes": [], "length": 3},
    ]
    mask = [None, None]
    assert full_steps({"call": "d", "sample": 0, "steps": steps}) == [
        {"at": 0.0, "tokens": [mask, ["b", None], mask]},
        {"at": 0.5, "tokens": [["a", 0.25], ["b", None], mask]},
        {"at": 0.75, "tokens": [["a", 0.25], mask]},
        {"at": 1.0, "tokens": [["a", 0.25], mask, mask]},
    ]
    assert full_steps({"steps": [{"at": None, "text": "a▒"}]}) == [{"at": None, "text": "a▒"}]


def test_steps_do_not_change_with_each_other() -> None:
    first, second = full_steps({"steps": [{"at": 0, "changes": [[0, "a", 1.0]], "length": 1}] * 2})
    first["tokens"][0] = ["b", 0.5]
    assert second["tokens"] == [["a", 1.0]]


@pytest.mark.parametrize(
    "step",
    [
        {"at": 0, "changes": [[1, "a", 0.5]], "length": 1},
        {"at": 0, "changes": [[-1, "a", 0.5]], "length": 1},
        {"at": 0, "changes": [["x", "a", 0.5]], "length": 1},
        {"at": 0, "changes": [[0, "a"]], "length": 1},
        {"at": 0, "changes": [[0, "a", "high"]], "length": 1},
        {"at": 0, "changes": [], "length": MOST_TOKENS + 1},
        {"at": 0, "changes": [], "length": -1},
        {"at": "now", "changes": [], "length": 1},
        {"changes": [], "length": 1},
        {"at": 0},
        7,
    ],
)
def test_what_is_no_canvas_is_refused(step) -> None:
    with pytest.raises(StoreError, match="a recorded canvas cannot be read"):
        full_steps({"steps": [step]})


def test_an_event_without_steps_is_refused() -> None:
    for data in ({}, {"steps": None}):
        with pytest.raises(StoreError, match="a recorded canvas cannot be read"):
            full_steps(data)


def test_a_few_bytes_do_not_fill_all_memory() -> None:
    steps = [{"at": 0.0, "length": MOST_TOKENS, "changes": []} for _ in range(1000)]
    with pytest.raises(StoreError, match="tokens together"):
        full_steps({"call": "a", "sample": 0, "steps": steps})
