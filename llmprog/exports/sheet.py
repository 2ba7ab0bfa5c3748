"""The calls of a run as CSV, for spreadsheets."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator

from llmprog.exports.records import answers_of, prompt_of
from llmprog.redaction import redact
from llmprog.runs.run import CallRecord, Run
from llmprog.types import Request

COLUMNS = (
    "call", "row", "node", "backend", "state", "source", "first_sample", "num_samples", "calls", "prompt_tokens",
    "completion_tokens", "usd", "duration_s", "attempts", "question", "answers", "error",
)  # fmt: skip

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_LONGEST_CELL = 32_000  # what spreadsheets take is 32,767 characters


def csv_lines(run: Run) -> Iterator[str]:
    """A header and one line for each call.

    A text that a spreadsheet would take for a formula gets an apostrophe in front; control characters are left out, and
    texts that no cell holds are cut. The samples of a call are in one cell, apart by a line ``---``.
    """
    yield _line(COLUMNS)
    for call in run.calls():
        yield _line(_cells(call))


def _cells(call: CallRecord) -> tuple[object, ...]:
    usage = call.usage
    return (
        call.id,
        call.path,
        text_cell(call.node),
        text_cell(call.backend),
        call.state,
        call.source or "",
        call.first_sample,
        call.question.num_samples if isinstance(call.question, Request) else 0,
        usage.calls,
        usage.prompt_tokens,
        usage.completion_tokens,
        "" if usage.usd is None else usage.usd,
        "" if call.duration_s is None else call.duration_s,
        call.attempts,
        text_cell(prompt_of(call).text),
        text_cell("\n---\n".join(answers_of(call))),
        text_cell(call.error or ""),
    )


def text_cell(text: str) -> str:
    """A text as a spreadsheet shows it and does not compute it."""
    clean = "".join(c for c in redact(text) if c in "\n\t" or unicodedata.category(c)[0] != "C")
    cut = clean if len(clean) <= _LONGEST_CELL else clean[:_LONGEST_CELL] + "…"
    return "'" + cut if cut.startswith(_FORMULA) else cut


def _line(cells: tuple[object, ...]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
