"""What is new in a run since one last looked: for whoever follows it while it goes on.

Each method gives what has come since it was called before, so nothing is read twice; what a run holds is never changed,
only added to, but for the outcomes of calls, of which those still awaited are looked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmprog.runs.encoding import decode
from llmprog.runs.run import EventRecord, Run
from llmprog.runs.schema import USAGE_COLUMNS
from llmprog.types import Usage

_AT_ONCE = 500  # parameters of one statement

_OUTCOME = f"outcome.call, outcome.state, outcome.source, outcome.duration_s, outcome.error, {', '.join(f'outcome.{name}' for name in USAGE_COLUMNS)}"  # noqa: E501
_CALLS = (
    "SELECT call.id, call.path, call.node, call.backend, call.question, call.first_sample, call.num_samples, "  # noqa: S608 - constants only
    f"call.session, call.sent_at, {_OUTCOME} FROM call "
    "LEFT JOIN outcome ON outcome.run = call.run AND outcome.call = call.id "
    "WHERE call.run = ? AND call.id > ? ORDER BY call.id LIMIT ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentRecord:
    """A call that was sent.

    Attributes:
        id: Its number.
        path: Whose it is.
        node: The node that asked.
        backend: Id of the backend.
        question: Number of what was asked.
        first_sample: Number of its first completion among all samples of the question.
        num_samples: How many completions it asks for; 0 for likelihoods.
        session: In which session of the run it was sent, from 1: a run that is resumed has several.
        sent_at: Seconds since 1970.
    """

    id: int
    path: str
    node: str
    backend: str
    question: int
    first_sample: int
    num_samples: int
    session: int
    sent_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRecord:
    """What became of a call: ``settled``, ``failed`` or ``unknown``; its answers are in ``Run.calls``."""

    call: int
    state: str
    source: str
    duration_s: float | None
    error: str | None
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """A failed attempt of a call that another followed.

    Attributes:
        id: Its number.
        call: The call.
        error: Why it failed.
        status: What an HTTP server answered; ``None`` where none did.
        is_billed: Whether it may be billed.
        duration_s: How long it took.
        at: When it had failed, in seconds since 1970.
    """

    id: int
    call: int
    error: str
    status: str | None
    is_billed: bool
    duration_s: float | None
    at: float | None


class RunTail:
    """Reads a run from its beginning, and then what is added to it.

    Args:
        run: The run; it stays the caller's to close.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last: dict[str, int] = {}
        self._awaited: set[int] = set()
        self._rows: set[int] = set()
        self._next_rows: deque[int] = deque()
        self._early: list[AttemptRecord] = []

    def events(self, limit: int) -> list[EventRecord]:
        """The next events in order, ``limit`` at most."""
        sql = "SELECT seq, path, kind, data, at FROM event WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?"
        return [
            EventRecord(seq=seq, path=path, kind=kind, data=decode(bytes(data)), at=at)
            for seq, path, kind, data, at in self._next("event", sql, limit)
        ]

    def questions(self, limit: int) -> list[tuple[int, str]]:
        """The next questions: their numbers and digests."""
        sql = "SELECT id, digest FROM question WHERE run = ? AND id > ? ORDER BY id LIMIT ?"
        return [(number, bytes(digest).hex()) for number, digest in self._next("question", sql, limit)]

    def calls(self, limit: int) -> tuple[list[SentRecord], list[OutcomeRecord]]:
        """The next calls, and the outcomes of those among them that have one."""
        sent: list[SentRecord] = []
        outcomes: list[OutcomeRecord] = []
        for row in self._next("call", _CALLS, limit):
            call, path, node, backend, question, first_sample, num_samples, session, sent_at = row[:9]
            sent.append(
                SentRecord(
                    id=call,
                    path=path,
                    node=node,
                    backend=backend,
                    question=question,
                    first_sample=first_sample,
                    num_samples=num_samples,
                    session=session,
                    sent_at=sent_at,
                )
            )
            if row[9] is None:
                self._awaited.add(call)
            else:
                outcomes.append(_outcome(row[9:]))
        return sent, outcomes

    def outcomes(self) -> list[OutcomeRecord]:
        """Outcomes of calls that had none when they were read."""
        found: list[OutcomeRecord] = []
        awaited = sorted(self._awaited)
        for begin in range(0, len(awaited), _AT_ONCE):
            some = awaited[begin : begin + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            sql = f"SELECT {_OUTCOME} FROM outcome WHERE run = ? AND call IN ({marks})"  # noqa: S608 - constants only
            found += map(_outcome, self._run.reader().execute(sql, (self._run.number, *some)).fetchall())
        self._awaited.difference_update(outcome.call for outcome in found)
        return found

    def attempts(self, limit: int) -> list[AttemptRecord]:
        """The next failed attempts of the calls that have been read."""
        sql = (
            "SELECT id, call, error, status, is_billed, duration_s, at FROM attempt WHERE run = ? AND id > ? "
            "ORDER BY id LIMIT ?"
        )
        self._early += [
            AttemptRecord(
                id=number, call=call, error=error, status=status, is_billed=bool(is_billed), duration_s=took, at=at
            )
            for number, call, error, status, is_billed, took, at in self._next("attempt", sql, limit)
        ]
        last = self._last.get("call", 0)
        found = [attempt for attempt in self._early if attempt.call <= last]
        self._early = [attempt for attempt in self._early if attempt.call > last]
        return found

    def rows(self, limit: int) -> list[tuple[int, dict[str, Any]]]:
        """Further finished rows of a job: numbers and results. They finish in any order."""
        reader, run = self._run.reader(), self._run.number
        if not self._next_rows:
            if self._run.num_rows <= len(self._rows):
                return []
            numbers = reader.execute("SELECT number FROM map_row WHERE run = ? ORDER BY number", (run,)).fetchall()
            self._next_rows.extend(number for (number,) in numbers if number not in self._rows)
        some = [self._next_rows.popleft() for _ in range(min(limit, _AT_ONCE, len(self._next_rows)))]
        marks = ", ".join("?" * len(some))
        sql = f"SELECT number, result FROM map_row WHERE run = ? AND number IN ({marks}) ORDER BY number"  # noqa: S608 - constants only
        self._rows.update(some)
        return [(number, decode(bytes(result))) for number, result in reader.execute(sql, (run, *some)).fetchall()]

    def _next(self, table: str, sql: str, limit: int) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = (
            self._run.reader().execute(sql, (self._run.number, self._last.get(table, 0), limit)).fetchall()
        )
        if rows:
            self._last[table] = rows[-1][0]
        return rows


def _outcome(row: Sequence[Any]) -> OutcomeRecord:
    call, state, source, duration_s, error = row[:5]
    return OutcomeRecord(
        call=call, state=state, source=source, duration_s=duration_s, error=error, usage=Usage(*row[5:])
    )
