from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import open_store
from llmprog.events import CallSettled, CompletionDelta
from llmprog.programs.sudoku import sudoku
from llmprog.redaction import register_secret
from llmprog.running import canvas_records
from llmprog.running.canvas_records import MOST_CALLS, MOST_SIZE, MOST_STEPS, CanvasCourse, CanvasRecords
from llmprog.types import CanvasToken, Delta, Prompt, Request, Usage
from llmprog.viewer.canvases import full_steps

BOARD = "1 . 3 .\n. . . 2\n. 1 . .\n. . 4 ."

tokens = st.one_of(
    st.just(CanvasToken(None)),
    st.builds(CanvasToken, st.sampled_from(["a", " b", "\n", "c"]), st.sampled_from([None, 0.25, 1.0])),
)
canvases = st.lists(st.lists(tokens, max_size=6).map(tuple), min_size=2, max_size=60)


def piece(canvas: tuple[CanvasToken, ...], sample: int = 0) -> Delta:
    text = "".join(token.text or "▒" for token in canvas)
    return Delta(sample=sample, text=text, replaces=True, canvas=canvas)


def course_of(pieces: list[Delta]) -> list[dict[str, Any]]:
    course = CanvasCourse()
    for at, delta in enumerate(pieces):
        course.add(delta, 100 + at / 2)
    return course.to_json()


def read(steps: list[dict[str, Any]]) -> list[tuple[CanvasToken, ...]]:
    found = full_steps({"steps": steps})
    return [tuple(CanvasToken(*token) for token in step["tokens"]) for step in found]


@given(canvases)
def test_what_is_written_reads_as_it_was(course) -> None:
    changing = [course[0], *(after for before, after in itertools.pairwise(course) if before != after)]
    steps = course_of([piece(canvas) for canvas in course])
    if len(changing) < 2:
        assert steps == []
    else:
        assert read(steps) == changing


@given(canvases, st.integers(2, 9))
def test_of_many_steps_some_are_kept_evenly_apart_and_the_last_always(course, most) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas_records, "MOST_STEPS", most)
        changing = [course[0], *(after for before, after in itertools.pairwise(course) if before != after)]
        steps = read(course_of([piece(canvas) for canvas in course]))
    if len(changing) < 2:
        return
    assert len(steps) <= most
    assert steps[-1] == changing[-1]
    stride = 2 ** next(i for i in range(9) if -(-(len(changing) - 1) // 2**i) + 1 <= most)
    assert steps[:-1] == changing[:-1:stride]


def test_a_course_takes_bounded_memory() -> None:
    course = CanvasCourse()
    for step in range(3 * MOST_STEPS):
        course.add(piece(tuple(CanvasToken(f"{step}", 0.5) for _ in range(1000))), step)
    steps = course.to_json()
    assert 2 < len(steps) <= MOST_STEPS
    assert sum(len(step["changes"]) for step in steps) <= MOST_SIZE
    assert steps[-1]["at"] == 3 * MOST_STEPS - 1


def test_times_count_from_the_first_step() -> None:
    steps = course_of([piece((CanvasToken(None),) * 2), piece((CanvasToken("a", 0.5), CanvasToken(None)))])
    assert steps == [{"at": 0.0, "changes": [], "length": 2}, {"at": 0.5, "changes": [[0, "a", 0.5]], "length": 2}]


def test_texts_without_tokens_are_steps_too_and_a_call_made_again_begins_anew() -> None:
    pieces = [Delta(sample=0, text=text, replaces=True) for text in ("x", "xy", "", "?▒", "!b", "ab")]
    assert course_of(pieces) == [{"at": 0.0, "text": "?▒"}, {"at": 0.5, "text": "!b"}, {"at": 1.0, "text": "ab"}]
    assert full_steps({"steps": course_of(pieces)})[-1] == {"at": 1.0, "text": "ab"}


@pytest.mark.parametrize(
    "pieces",
    [
        [Delta(sample=0, text="a"), Delta(sample=0, text="b")],
        [Delta(sample=0, text="", replaces=True), Delta(sample=0, text="a"), Delta(sample=0, text="b")],
        [Delta(sample=0, text="whole", replaces=True)],
        [Delta(sample=0, text=text, replaces=True, is_reasoning=True) for text in "ab"],
    ],
    ids=["pieces", "pieces begun again", "one piece", "reasoning"],
)
def test_of_what_is_no_course_nothing_is_kept(pieces) -> None:
    assert course_of(pieces) == []


def test_a_secret_is_not_kept_in_pieces() -> None:
    register_secret("s3cret-in-a-canvas")
    parts = [CanvasToken(None), CanvasToken(" s3cret-", 0.5), CanvasToken("in-a-"), CanvasToken("canvas", 1.0)]
    shown = [piece((parts[0], *parts[1:i])) for i in range(1, 5)]
    assert len(course_of(shown[:3])) == 3
    assert course_of(shown) == []


class Kept:
    """A journal of events."""

    id = "run"

    def __init__(self) -> None:
        self.events: list[tuple[str, str, Any]] = []

    def event(self, path: str, kind: str, data: Any) -> None:
        self.events.append((path, kind, data))


def test_an_event_is_written_when_the_call_settles() -> None:
    kept, request = Kept(), Request(prompt=Prompt.from_text("?"), num_samples=2, first_sample=5)
    records = CanvasRecords(kept, "3/a", clock=itertools.count(10).__next__)
    blank, done = (CanvasToken(None),), (CanvasToken("a", 0.5),)
    for canvas, sample in itertools.product((blank, done), (1, 0)):
        records(CompletionDelta("node", request, piece(canvas, sample)))
    assert kept.events == []
    settled = CallSettled("node", request, Usage(), 0.1)
    for _ in range(2):
        records(settled)
    assert [(path, kind, data["call"], data["sample"]) for path, kind, data in kept.events] == [
        ("3/a", "canvas", request.digest(), 5),
        ("3/a", "canvas", request.digest(), 6),
    ]
    assert [step["at"] for step in kept.events[0][2]["steps"]] == [0, 2]


def test_calls_that_never_settle_are_let_go_of() -> None:
    kept = Kept()
    records = CanvasRecords(kept, "")
    requests = [Request(prompt=Prompt.from_text(f"{i}")) for i in range(MOST_CALLS + 1)]
    for request, text in itertools.product(requests, (None, "a")):
        records(CompletionDelta("node", request, piece((CanvasToken(text),))))
    for request in requests[:2]:
        records(CallSettled("node", request, Usage(), 0.1))
    assert [data["call"] for _, _, data in kept.events] == [requests[1].digest()]


@pytest.mark.parametrize("backend", ["local:puzzles?decoder=masked_diffusion", "local:puzzles?decoder=hybrid"])
def test_a_run_that_streams_keeps_its_canvases(tmp_path, backend) -> None:
    store, program = open_store(tmp_path), sudoku()
    runs = [program.run(BOARD, backend=backend, seed=1, store=store, stream=stream) for stream in (False, True)]
    assert runs[0].answer == runs[1].answer
    with store.open(runs[0].run_id) as run:
        assert list(run.events(kind="canvas")) == []
    with store.open(runs[1].run_id) as run:
        found = {(e.data["call"], e.data["sample"]): full_steps(e.data) for e in run.events(kind="canvas")}
        completions = {
            (call.question.digest(), call.first_sample + i): completion
            for call in run.calls()
            for i, completion in enumerate(call.completions)
        }
    assert found.keys() == completions.keys()
    assert len(found) >= 2
    for key, steps in found.items():
        last = "".join(text for text, _ in steps[-1]["tokens"])
        assert last.split() == completions[key].text.split()
        assert {text for text, _ in steps[0]["tokens"]} >= {None}
        assert [step["at"] for step in steps] == sorted(step["at"] for step in steps)


def test_of_a_run_that_writes_left_to_right_nothing_is_kept(tmp_path) -> None:
    store = open_store(tmp_path)
    result = sudoku().run(BOARD, backend="local:puzzles", seed=1, store=store, stream=True)
    with store.open(result.run_id) as run:
        assert "canvas" not in run.counts().events


def test_blanks_of_a_template_are_told_as_they_are_filled(tmp_path) -> None:
    store, told = open_store(tmp_path), []
    results = [
        sudoku(method="edit").run(
            BOARD,
            backend="local:puzzles?decoder=masked_diffusion",
            seed=1,
            store=store,
            stream=stream,
            on_event=told.append if stream else None,
        )
        for stream in (False, True)
    ]
    assert results[0].answer == results[1].answer
    with store.open(results[1].run_id) as run:
        (first, *_) = [full_steps(event.data) for event in run.events(kind="canvas")]
    given = [text for text, probability in first[0]["tokens"] if text is not None]
    assert "".join(given).split() == ["1", "3", "2", "1", "4"]
    assert any(isinstance(event, CompletionDelta) for event in told)
