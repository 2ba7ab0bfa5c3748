"""A run as it is read: by commands, by exports, by whoever wants to know what it did."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from llmprog.errors import StoreError
from llmprog.runs.charges import charged
from llmprog.runs.database import Database
from llmprog.runs.encoding import (
    completions_from_bytes,
    decode,
    json_object,
    question_from_bytes,
    scores_from_bytes,
)
from llmprog.runs.info import INFO_COLUMNS, RunInfo
from llmprog.runs.journal import finished_rows
from llmprog.runs.schema import USAGE_COLUMNS, Connection
from llmprog.types import Completion, Logprobs, Request, Scoring, Usage

Status = Literal["running", "interrupted", "finished", "stopped", "failed", "unreadable"]
CallState = Literal["sent", "settled", "failed", "unknown"]

_CHUNK = 256
_NUMBER = re.compile(r"\d+")

_RUN = (
    "SELECT number, status, created_at, updated_at, elapsed_s, owner, forked_from, result, sessions, "  # noqa: S608 - constants only
    f"{INFO_COLUMNS} FROM run WHERE id = ?"
)
_BOUND = ["calls", "prompt_tokens", "completion_tokens", "usd"]
_CALLS = (
    "SELECT call.id, call.path, call.node, call.backend, COALESCE(outcome.state, 'sent'), outcome.source, "  # noqa: S608
    "question.content, call.first_sample, call.num_samples, call.sent_at, outcome.duration_s, outcome.answers, "
    "outcome.error, "
    "(SELECT COUNT(*) FROM attempt WHERE attempt.run = call.run AND attempt.call = call.id), "
    f"{', '.join(f'call.bound_{name}' for name in _BOUND)}, {', '.join(f'outcome.{name}' for name in USAGE_COLUMNS)} "
    "FROM call JOIN question ON question.run = call.run AND question.id = call.question "
    "LEFT JOIN outcome ON outcome.run = call.run AND outcome.call = call.id WHERE call.run = ? AND call.id > ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One call to a backend, as the journal holds it.

    Attributes:
        id: Number of the call, in the order of sending.
        path: Whose call: ``""`` of a plain run, else the row of a job.
        node: The node that asked.
        backend: Id of the backend.
        state: ``sent`` (under way, or cut off), ``settled``, ``failed`` or ``unknown`` (it may have been answered).
        source: Where the answer is from: ``model``, ``cache``, or ``fork`` (the run that this one was forked from).
        question: What was asked.
        first_sample: Number of the first completion among all samples of the question.
        completions: What was answered; ``None`` where nothing was, and for likelihoods.
        scores: The likelihoods, where these were asked for.
        usage: What is charged; at its bound while its fate is not known.
        bound: The most it could cost, as reckoned before it was sent.
        sent_at: Seconds since 1970, for show: clocks are changed.
        duration_s: From sending to settling or failing.
        error: Why it failed.
        attempts: Failed attempts before the last.
    """

    id: int
    path: str
    node: str
    backend: str
    state: CallState
    source: str | None
    question: Request | Scoring
    first_sample: int
    completions: Sequence[Completion] | None
    scores: Sequence[Logprobs] | None
    usage: Usage
    bound: Usage
    sent_at: float
    duration_s: float | None
    error: str | None
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """Something that happened in a run; ``seq`` is its place in the order."""

    seq: int
    path: str
    kind: str
    data: Any
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCounts:
    """How much a run holds.

    Attributes:
        calls: Calls by state.
        events: Events by kind.
        rows: Finished rows of a job.
    """

    calls: Mapping[str, int]
    events: Mapping[str, int]
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Errors of one kind.

    Attributes:
        of: Whether they ended a ``call``, or an ``attempt`` that another followed.
        error: The first of them.
        count: How many there are that differ from it in numbers only.
    """

    of: Literal["call", "attempt"]
    error: str
    count: int

    @property
    def is_cancelled(self) -> bool:
        """Whether nothing was wrong: the calls were not needed any more, or somebody interrupted them."""
        return self.error.startswith(("CancelledError", "cancelled"))


def _place(path: str) -> tuple[int, str, str]:
    row, _, within = path.partition("/")
    return len(row), row, within


class Run:
    """A run, read only; a store opens it. It may be under way: what it says is what is on disk at the time.

    Attributes:
        id: The run's id.
        number: By which the tables know it.
        info: What it is a run of; empty where it cannot be read.
        status: ``running``; ``interrupted`` (no process is at work on it, and it did not end); ``finished``;
            ``stopped`` (by a budget or an interrupt); ``failed``; ``unreadable``.
        problem: Why it cannot be read, where it cannot.
        created_at: Seconds since 1970.
        updated_at: Seconds since 1970; of a run under way up to some seconds ago.
        elapsed_s: Seconds that were spent on it, in all sessions.
        owner: The process at work on it: ``pid``, ``host``, ``since``, ``command``.
        result: What came of it, as JSON values.
        forked_from: Id of the run that it was forked from.
        num_sessions: How often work on it has begun: 1, and 1 more each time that it is resumed.
    """

    def __init__(self, id: str, database: Database, is_owned: Callable[[Connection, int], bool]) -> None:  # noqa: A002
        self.id = id
        self.problem: str | None = None
        self._database = database
        self._is_owned = is_owned
        self._reader: Connection | None = None
        self.refresh()

    def refresh(self) -> None:
        """Read anew what has become of the run.

        Raises:
            StoreError: It is not there any more, or it cannot be read.
        """
        self.close()  # an open file would still be read after it was deleted
        try:
            reader = self.reader()
            row = reader.execute(_RUN, (self.id,)).fetchone()
            if row is None:
                raise StoreError(f"run {self.id}: there is no such run")
            self.number = int(row[0])
            self.status: Status = row[1]
            self.created_at, self.updated_at, self.elapsed_s = row[2:5]
            self.owner: Mapping[str, Any] | None = None
            if self.status == "running":
                if self._is_owned(reader, self.number):
                    self.owner = json_object(row[5])
                else:
                    self.status = "interrupted"
            self.forked_from: str | None = row[6]
            self.result: Any = None if row[7] is None else decode(bytes(row[7]))
            self.num_sessions = int(row[8])
            self.info = RunInfo.from_row(row[9:])
        except self._database.errors as error:
            self.close()
            raise self._database.failure(error) from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def unreadable(cls, id: str, problem: str) -> Run:  # noqa: A002
        """A run of which no more can be said than why it cannot be read."""
        run = cls.__new__(cls)
        run.id, run.number, run.status, run.problem = id, 0, "unreadable", problem
        run.num_sessions = 0
        run.created_at = run.updated_at = run.elapsed_s = 0.0
        run.owner = run.forked_from = run.result = run._reader = None
        empty: dict[str, Any] = {"program": "", "program_hash": "", "program_text": ""}
        run.info = RunInfo(kind="run", **empty, input=None, config={}, versions={})
        return run

    @property
    def usage(self) -> Usage:
        """What the run is charged: calls whose fate is not known count at their bounds."""
        return charged(self.reader(), self.number)

    @property
    def num_rows(self) -> int:
        """How many rows of a job are finished."""
        sql = "SELECT COUNT(*) FROM map_row WHERE run = ?"
        return int(self.reader().execute(sql, (self.number,)).fetchone()[0])

    def counts(self) -> RunCounts:
        """How many calls, events and finished rows there are."""
        reader = self.reader()
        calls = reader.execute(
            "SELECT COALESCE(outcome.state, 'sent'), COUNT(*) FROM call LEFT JOIN outcome ON outcome.run = call.run "
            "AND outcome.call = call.id WHERE call.run = ? GROUP BY 1",
            (self.number,),
        ).fetchall()
        events = reader.execute(
            "SELECT kind, COUNT(*) FROM event WHERE run = ? GROUP BY kind", (self.number,)
        ).fetchall()
        return RunCounts(calls=dict(calls), events=dict(events), rows=self.num_rows)

    def failures(self) -> list[Failure]:
        """What went wrong, the most frequent first."""
        found: dict[tuple[Literal["call", "attempt"], str], Failure] = {}
        tables: tuple[tuple[Literal["call", "attempt"], str], ...] = (("call", "outcome"), ("attempt", "attempt"))
        for of, table in tables:
            sql = f"SELECT error FROM {table} WHERE run = ? AND error IS NOT NULL"  # noqa: S608 - constants only
            for (error,) in self.reader().execute(sql, (self.number,)):
                kind = (of, _NUMBER.sub("#", error))
                known = found.get(kind)
                found[kind] = Failure(
                    of=of, error=known.error if known else error, count=known.count + 1 if known else 1
                )
        return sorted(found.values(), key=lambda failure: (-failure.count, failure.of, failure.error))

    def calls(self, path: str | None = None) -> Iterator[CallRecord]:
        """The calls in the order of sending, of all paths or of one."""
        yield from (self._call(row) for row in self._chunks(_CALLS, "call.id", path, "call.path"))

    def call(self, number: int) -> CallRecord:
        """The call with this number.

        Raises:
            StoreError: There is none, or it cannot be read.
        """
        sql = f"{_CALLS} ORDER BY call.id LIMIT 1"
        row = self.reader().execute(sql, (self.number, number - 1)).fetchone()
        if row is None or row[0] != number:
            raise StoreError(f"run {self.id}: it has no call {number}")
        return self._call(row)

    def events(self, path: str | None = None, kind: str | None = None) -> Iterator[EventRecord]:
        """The events in order, of all paths or of one, of all kinds or of one."""
        sql = "SELECT seq, path, kind, data, at FROM event WHERE run = ? AND seq > ?"
        for seq, of, what, data, at in self._chunks(sql, "seq", path, "path"):
            if kind is None or what == kind:
                yield EventRecord(seq=seq, path=of, kind=what, data=decode(bytes(data)), at=at)

    def paths(self) -> list[str]:
        """The paths of the searches that were begun: ``""`` of a plain run, the rows of a job in their order.

        After each come those of the programs within it: ``PATH/…``.
        """
        sql = "SELECT DISTINCT path FROM event WHERE run = ?"
        found = [path for (path,) in self.reader().execute(sql, (self.number,)).fetchall()]
        return sorted(found, key=_place)

    def rows(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """The finished rows of a job: number, digest of the input, result."""
        yield from finished_rows(self.reader(), self.number)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Errors of the database, such as of a damaged file, become those of a store.

        Raises:
            StoreError: What is read inside cannot be.
        """
        try:
            yield
        except self._database.errors as error:
            raise self._database.failure(error) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reader(self) -> Connection:
        """A connection that only reads; it is closed with the run.

        Raises:
            StoreError: The run cannot be read.
        """
        if self.problem is not None:
            raise StoreError(f"run {self.id}: it cannot be read: {self.problem}")
        if self._reader is None:
            self._reader = self._database.reader()
        return self._reader

    def _chunks(self, sql: str, key: str, path: str | None, path_column: str) -> Iterator[Sequence[Any]]:
        """Rows a few at a time: however slow the reader, no snapshot is held meanwhile."""
        if path is not None:
            sql += f" AND {path_column} = ?"
        sql += f" ORDER BY {key} LIMIT {_CHUNK}"
        last = 0
        while True:
            rows = self.reader().execute(sql, (self.number, last, *([] if path is None else [path]))).fetchall()
            yield from rows
            if len(rows) < _CHUNK:
                return
            last = rows[-1][0]

    def _call(self, row: Sequence[Any]) -> CallRecord:
        call, path, node, backend, state, source, content, first, num, sent_at, duration_s, answers, error, attempts = (
            row[:14]
        )
        bound = Usage(*row[14:18])
        usage = bound if state == "sent" else Usage(*row[18:])
        try:
            completions = scores = None
            if answers is not None and num:
                completions = completions_from_bytes(bytes(answers))
            elif answers is not None:
                scores = scores_from_bytes(bytes(answers))
            question = question_from_bytes(bytes(content), first, num or 1)
        except StoreError as fault:
            raise StoreError(f"run {self.id}: call {call} cannot be read: {fault}") from fault
        return CallRecord(
            id=call,
            path=path,
            node=node,
            backend=backend,
            state=state,
            source=source,
            question=question,
            first_sample=first,
            completions=completions,
            scores=scores,
            usage=usage,
            bound=bound,
            sent_at=sent_at,
            duration_s=duration_s,
            error=error,
            attempts=attempts,
        )
