"""The runs of a store, searched and a page at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any
from weakref import WeakKeyDictionary

from llmprog.errors import StoreError
from llmprog.pictures.text import cut
from llmprog.runs.run import Run
from llmprog.runs.store import RunStore, newest_first
from llmprog.templates import format_value

MOST_RUNS = 500
"""The most that are given at once."""

_FRESH_S = 1.0
_MOST_CHARACTERS = 300  # of an input or an answer in the list
_COUNTS = ("rows", "solved", "failed", "judged", "correct", "accuracy")


class RunList:
    """The runs of a store. It may be asked from several threads.

    Args:
        store: Where they are kept.
        clock: Seconds that only grow: a list is looked up anew after one of them.
    """

    def __init__(self, store: RunStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: Sequence[Run] = ()
        self._known: dict[str, tuple[Any, Run]] = {}  # each with its stamp
        self._rows: WeakKeyDictionary[Run, dict[str, Any]] = WeakKeyDictionary()
        self._read_at: float | None = None

    def page(self, *, query: str, status: str, program: str, offset: int, limit: int) -> dict[str, Any]:
        """Some of the runs that match, newest first, and how many match in all.

        Args:
            query: Part of an id; or words that all have to occur: in program, input, answer, status or problem.
            status: Only runs of this status; empty for all.
            program: Only runs of this program; empty for all.
            offset: How many that match to pass over.
            limit: How many to give, at most ``MOST_RUNS``.

        Raises:
            StoreError: The store cannot be read.
        """
        runs = self._listed()
        found = [
            run
            for run in runs
            if (not status or run.status == status)
            and (not program or run.info.program == program)
            and _has(run, query.casefold())
        ]
        return {
            "total": len(found),
            "store": str(self._store),
            "programs": sorted({run.info.program for run in runs if run.info.program}),
            "runs": [self._row_of(run) for run in found[offset : offset + min(limit, MOST_RUNS)]],
        }

    def _row_of(self, run: Run) -> dict[str, Any]:
        """A run in short, as it was when it was listed if it had ended by then."""
        row = self._rows.get(run)
        if row is None:
            row = self._row(run)
            if run.status != "running" and row["problem"] is None:
                self._rows[run] = row
        return row

    def _row(self, run: Run) -> dict[str, Any]:
        """A run in short; what has become unreadable since it was listed is listed with the reason."""
        usage, problem, status = None, run.problem, str(run.status)
        if problem is None:
            try:
                with self._store.open(run.id) as own, own.reporting():  # not the one listed, which other threads share
                    usage = asdict(own.usage)
            except StoreError as error:
                problem, status = str(error), "unreadable"
        answer = _answer(run)
        return {
            "id": run.id,
            "program": run.info.program,
            "kind": run.info.kind,
            "input": cut(_input(run), _MOST_CHARACTERS),
            "status": status,
            "problem": problem,
            "began_at": run.created_at or None,
            "elapsed_s": run.elapsed_s,
            "usage": usage,
            "answer": None if answer is None else cut(format_value(answer), _MOST_CHARACTERS),
            "solved": run.result.get("solved") if isinstance(run.result, dict) else None,
            "job": _job(run),
            "error": _error(run),
        }

    def _listed(self) -> Sequence[Run]:
        with self._lock:  # who types into the search box asks again before the first answer is there
            now = self._clock()
            if self._read_at is None or now - self._read_at >= _FRESH_S:
                self._known = {run_id: self._looked_up(run_id, stamp) for run_id, stamp in self._store.stamps().items()}
                self._runs, self._read_at = newest_first(run for _, run in self._known.values()), now
            return self._runs

    def _looked_up(self, run_id: str, stamp: Any) -> tuple[Any, Run]:
        """A run and its stamp; one that has ended and was not written to since is not read again."""
        before, run = self._known.get(run_id, (None, None))
        if run is None or stamp is None or stamp != before or run.status == "running" or run.problem is not None:
            run = self._store.glance(run_id)
        return stamp, run


def _has(run: Run, query: str) -> bool:
    if query in run.id:  # as a whole: the digits of a question are in many ids
        return True
    parts = (run.info.program, run.info.kind, run.status, run.problem or "", format_value(_answer(run)))
    text = " ".join((*parts, _input(run))).casefold()
    return all(word in text for word in query.split())


def _answer(run: Run) -> Any:
    return run.result.get("answer") if isinstance(run.result, dict) else None


def _input(run: Run) -> str:
    """The input as a reader knows it; of a job, which columns it reads."""
    given = run.info.input
    if run.info.kind == "map" and isinstance(given, dict):
        return ", ".join(f"{what}: {format_value(column)}" for what, column in given.items() if column is not None)
    return format_value(given)


def _job(run: Run) -> dict[str, Any] | None:
    """What came of a job, as its counts."""
    if run.info.kind != "map" or not isinstance(run.result, dict):
        return None
    return {name: run.result[name] for name in _COUNTS if name in run.result}


def _error(run: Run) -> str | None:
    """What ended a run that failed."""
    error = run.result.get("error") if isinstance(run.result, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return None if message is None else cut(format_value(message), _MOST_CHARACTERS)
