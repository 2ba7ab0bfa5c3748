"""The journal of a run, as its owner writes it: what a killed process does not take along."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Literal

from llmprog.accounting import Answers, Question
from llmprog.errors import StoreError
from llmprog.runs.database import Database
from llmprog.runs.encoding import (
    QuestionEncoder,
    completions_to_bytes,
    decode,
    json_to_bytes,
    plain_text,
    scores_to_bytes,
)
from llmprog.runs.info import RunInfo
from llmprog.runs.owner import OwnerLock
from llmprog.runs.recall import EarlierCalls
from llmprog.runs.schema import ATTEMPT, CALL, EVENT, MAP_ROW, OUTCOME, QUESTION, Connection
from llmprog.runs.writer import GroupWriter
from llmprog.types import Completion, Logprobs, Request, Scoring, Usage, total_usage

EndStatus = Literal["finished", "stopped", "failed"]

_LONGEST_ERROR = 2000
_KNOWN_QUESTIONS = 4096
_ROWS_AHEAD = 256


class RunJournal:
    """A run that this process is at work on. A store makes it; ``aclose`` lets go of the run.

    Methods may be called by all tasks of an event loop. What they write is on disk when they return; a thread gathers
    what all of them write and syncs it together.

    Attributes:
        id: The run's id.
        info: What it is a run of.
        is_resumed: Whether an earlier session has worked on it, or on the run it was forked from.
        spent: What the run was charged before this session.
        num_unknown: Calls that were sent and never answered, of the session before this one; they are charged at their
            bounds, and sent again when they are asked for again.
        elapsed_s: Seconds that earlier sessions took.
    """

    def __init__(
        self,
        database: Database,
        connection: Connection,
        lock: OwnerLock,
        *,
        run: int,
        id: str,  # noqa: A002 - a run has an id
        info: RunInfo,
        session: int,
        is_resumed: bool,
        spent: Usage,
        num_unknown: int,
        elapsed_s: float,
        last: Mapping[str, int],
        clock: Callable[[], float],
    ) -> None:
        self.id = id
        self.info = info
        self.is_resumed = is_resumed
        self.spent = spent
        self.num_unknown = num_unknown
        self.elapsed_s = elapsed_s
        self._database = database
        self._lock = lock
        self._run = run
        self._session = session
        self._clock = clock
        self._begun = time.monotonic()
        self._numbers = {table: count(number + 1) for table, number in last.items()}
        self._next_call = self._numbers["call"].__next__
        self._questions: dict[str, int] = {}
        self._encoder = QuestionEncoder()
        self._recent: dict[tuple[int, int], tuple[object, object, int]] = {}
        self._paths: weakref.WeakValueDictionary[str, PathJournal] = weakref.WeakValueDictionary()
        self._unasked: dict[str, set[int]] = {}
        self._reader: Connection | None = database.reader() if is_resumed else None
        self._rows_ahead: dict[int, tuple[str, bytes]] = {}
        self._rows_from = self._rows_to = 0
        self._is_closed = False
        self._writer = GroupWriter(database, connection, touch=self._touch, close=database.closing)

    def at(self, path: str) -> PathJournal:
        """The journal of the calls of one path: ``""`` for a plain run, the row's number for a row of a job."""
        found = self._paths.get(path)
        if found is None:
            earlier = None
            if self._reader is not None:
                earlier = EarlierCalls(self._reader, self._run, path, self._session, self._unasked.get(path))
                if earlier.unasked:
                    self._unasked[path] = earlier.unasked
            found = self._paths[path] = PathJournal(self, path, earlier)
        return found

    @property
    def unasked(self) -> int:
        """Settled calls of earlier sessions that nobody asked for again, of the paths that were opened.

        A program that does the same with the same seed asks for all of them.
        """
        return sum(len(calls) for calls in self._unasked.values())

    def event(self, path: str, kind: str, data: Any) -> None:
        """Keep something that happened, in order; it is written with the next group."""
        row = (self._run, next(self._numbers["event"]), path, kind, json_to_bytes(data), self._clock())
        self._writer.post(EVENT, row)

    def row(self, index: int, digest: str) -> dict[str, Any] | None:
        """The result of a row that an earlier session finished, if its input has the same digest."""
        if self._reader is None:
            return None
        if not self._rows_from <= index < self._rows_to:
            self._read_rows(index)
        found = self._rows_ahead.get(index)
        if found is None or found[0] != digest:
            return None
        result: dict[str, Any] = decode(found[1])
        return result

    def _read_rows(self, index: int) -> None:
        if self._reader is None:
            return
        sql = "SELECT number, digest, result FROM map_row WHERE run = ? AND number >= ? ORDER BY number LIMIT ?"
        rows = self._reader.execute(sql, (self._run, index, _ROWS_AHEAD)).fetchall()
        self._rows_ahead = {number: (digest, bytes(result)) for number, digest, result in rows}
        self._rows_from = index
        self._rows_to = rows[-1][0] + 1 if len(rows) == _ROWS_AHEAD else 2**63

    def rows(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """The finished rows: number, digest of the input, result."""
        reader = self._database.reader()
        try:
            yield from finished_rows(reader, self._run)
        finally:
            reader.close()

    async def finish_row(self, index: int, digest: str, result: Mapping[str, Any]) -> None:
        """Keep the result of a row of a job, in place of what an earlier session came to."""
        if self.is_resumed:
            self._writer.post("DELETE FROM map_row WHERE run = ? AND number = ?", (self._run, index))
        row = (self._run, index, digest, json_to_bytes(dict(result)), self._clock())
        await self._writer.write(MAP_ROW, row)

    async def finish(self, status: EndStatus, result: Any) -> None:
        """Keep how the run ended and what came of it."""
        sql = "UPDATE run SET status = ?, result = ?, updated_at = ?, elapsed_s = ? WHERE number = ?"
        await self._writer.write(sql, (status, json_to_bytes(result), self._clock(), self._elapsed(), self._run))

    async def aclose(self) -> None:
        """Write what is queued and let go of the run, which may be resumed then; its status stays as it was."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            sql = "UPDATE run SET owner = NULL, updated_at = ?, elapsed_s = ? WHERE number = ?"
            await self._writer.write(sql, (self._clock(), self._elapsed(), self._run))
        finally:
            if self._reader is not None:
                self._reader.close()
            await self._writer.aclose()
            self._lock.release()

    def _elapsed(self) -> float:
        return self.elapsed_s + time.monotonic() - self._begun

    def _touch(self) -> tuple[str, Sequence[Any]]:
        return "UPDATE run SET updated_at = ?, elapsed_s = ? WHERE number = ?", (
            self._clock(),
            self._elapsed(),
            self._run,
        )

    def _question(self, question: Question) -> int:
        """The number of the row that holds ``question``, which is written where it is new."""
        params = question.params if isinstance(question, Request) else None
        # The samples of a prompt are asked for by requests that share it: its digest need not be made for each of them.
        same = (id(question.prompt), id(params))
        recent = self._recent.get(same)
        if recent is not None and isinstance(question, Request):
            return recent[2]
        digest = question.digest()
        number = self._questions.get(digest)
        if number is None:
            number = self._questions[digest] = next(self._numbers["question"])
            if len(self._questions) > _KNOWN_QUESTIONS:
                del self._questions[next(iter(self._questions))]
            self._writer.post(QUESTION, (self._run, number, bytes.fromhex(digest), self._encoder.encode(question)))
        if params is not None:
            self._recent[same] = question.prompt, params, number  # kept, so that no other object gets their addresses
            if len(self._recent) > _KNOWN_QUESTIONS:
                del self._recent[next(iter(self._recent))]
        return number


class PathJournal:
    """The calls of one path of a run; implements ``llmprog.accounting.CallJournal``."""

    __slots__ = ("__weakref__", "_earlier", "_journal", "_path", "_run", "_write")

    def __init__(self, journal: RunJournal, path: str, earlier: EarlierCalls | None) -> None:
        self._journal = journal
        self._path = path
        self._earlier = earlier
        self._run = journal._run
        self._write = journal._writer.write

    def recall(self, node: str, request: Request) -> Mapping[int, Completion]:
        return {} if self._earlier is None else self._earlier.completions(node, request)

    def recall_scores(self, node: str, scoring: Scoring) -> Sequence[Logprobs] | None:
        return None if self._earlier is None else self._earlier.scores(node, scoring)

    async def send(self, node: str, backend: str, question: Question, bound: Usage) -> int:
        call, row = self._sent(node, backend, question, bound)
        try:
            await self._write(CALL, row)
        except asyncio.CancelledError:  # it was not sent, and nobody else knows its number
            self._journal._writer.post(
                OUTCOME, self._outcome(call, "failed", "model", Usage(), error="cancelled unsent")
            )
            raise
        return call

    async def settle(self, call: int, answers: Answers, usage: Usage, duration_s: float) -> None:
        data = _answers_to_bytes(answers)
        await self._write(OUTCOME, self._outcome(call, "settled", "model", usage, duration_s, data))

    async def fail(self, call: int, error: BaseException, usage: Usage) -> None:
        state = "unknown" if isinstance(error, asyncio.CancelledError) else "failed"
        await self._write(OUTCOME, self._outcome(call, state, "model", usage, error=_describe(error)))

    def note_attempt(self, call: int, error: BaseException, duration_s: float) -> None:
        status = getattr(error, "status", None)
        row = (
            self._run,
            next(self._journal._numbers["attempt"]),
            call,
            _describe(error),
            None if status is None else plain_text(str(status)),
            int(getattr(error, "possibly_billed", False)),
            duration_s,
            self._journal._clock(),
        )
        self._journal._writer.post(ATTEMPT, row)

    async def copy(self, node: str, backend: str, request: Request, completions: Sequence[Completion]) -> None:
        call, row = self._sent(node, backend, request, Usage())
        self._journal._writer.post(CALL, row)
        data = completions_to_bytes(completions)
        await self._write(OUTCOME, self._outcome(call, "settled", "cache", total_usage(completions), 0.0, data))

    def _sent(self, node: str, backend: str, question: Question, bound: Usage) -> tuple[int, Sequence[Any]]:
        journal = self._journal
        first, num = (question.first_sample, question.num_samples) if isinstance(question, Request) else (0, 0)
        number = journal._question(question)
        call = journal._next_call()
        return call, (
            self._run,
            call,
            self._path,
            node,
            backend,
            number,
            first,
            num,
            journal._session,
            journal._clock(),
            bound.calls,
            bound.prompt_tokens,
            bound.completion_tokens,
            bound.usd,
        )

    def _outcome(
        self,
        call: int,
        state: str,
        source: str,
        usage: Usage,
        duration_s: float | None = None,
        answers: bytes | None = None,
        error: str | None = None,
    ) -> Sequence[Any]:
        return (
            self._run,
            call,
            state,
            source,
            usage.calls,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.usd,
            usage.cached_tokens,
            usage.reasoning_tokens,
            usage.cache_hits,
            duration_s,
            answers,
            error,
        )


def finished_rows(reader: Connection, run: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The finished rows of a job, read a few at a time: however slow the reader, no lock is held meanwhile."""
    sql = "SELECT number, digest, result FROM map_row WHERE run = ? AND number > ? ORDER BY number LIMIT ?"
    last = -1
    while rows := reader.execute(sql, (run, last, _ROWS_AHEAD)).fetchall():
        for number, digest, result in rows:
            yield number, digest, decode(bytes(result))
        last = rows[-1][0]


def _answers_to_bytes(answers: Answers) -> bytes:
    completions = [answer for answer in answers if isinstance(answer, Completion)]
    if len(completions) == len(answers):
        return completions_to_bytes(completions)
    scores = [answer for answer in answers if isinstance(answer, Logprobs)]
    if len(scores) != len(answers):
        raise StoreError("the answers of a call are completions or log-probabilities, not both")
    return scores_to_bytes(scores)


def _describe(error: BaseException) -> str:
    return plain_text(f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
