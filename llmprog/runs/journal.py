"""The journal of a run, as its owner writes it: what a killed process does not take along."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Literal

from llmprog.accounting import Question
from llmprog.runs.database import Database
from llmprog.runs.encoding import QuestionEncoder, decode, json_to_bytes
from llmprog.runs.info import RunInfo
from llmprog.runs.owner import OwnerLock
from llmprog.runs.path_journal import (
    CopiedCall,
    EncodedQuestion,
    EndedCall,
    FailedAttempt,
    PathJournal,
    QuestionKey,
    RecentQuestions,
    SentCall,
)
from llmprog.runs.recall import EarlierCalls, SettledCall, settled_calls
from llmprog.runs.schema import ATTEMPT, CALL, EVENT, MAP_ROW, OUTCOME, QUESTION, Connection
from llmprog.runs.writer import GroupWriter
from llmprog.types import Usage

EndStatus = Literal["finished", "stopped", "failed"]

_KNOWN_QUESTIONS = 4096
_ROWS_AHEAD = 256
_NOTHING = Usage()


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
        last: Mapping[str, int],
        clock: Callable[[], float],
        spent: Usage = _NOTHING,
        num_unknown: int = 0,
        elapsed_s: float = 0.0,
    ) -> None:
        self.id = id
        self.info = info
        self.is_resumed = session > 1
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
        self._recent: RecentQuestions[int] = RecentQuestions()
        self._paths: weakref.WeakValueDictionary[str, PathJournal] = weakref.WeakValueDictionary()
        self._unasked: dict[str, set[int]] = {}
        self._reader: Connection | None = database.reader() if self.is_resumed else None
        self._rows_ahead: dict[int, tuple[str, bytes]] = {}
        self._rows_from = self._rows_to = 0
        self._is_closed = False
        self._writer = GroupWriter(database, connection, touch=self._touch, close=database.closing)
        self._write = self._writer.write

    def at(self, path: str) -> PathJournal:
        """The journal of the calls of one path: ``""`` for a plain run, the row's number for a row of a job.

        Keep it while the path is being searched: of a resumed run, opening it reads where its settled calls are.
        """
        found = self._paths.get(path)
        if found is None:
            earlier = None
            if self._reader is not None:
                earlier = EarlierCalls(self._reader, self._run, path, self._session, self._unasked.get(path))
                if earlier.unasked:
                    self._unasked[path] = earlier.unasked
            found = self._paths[path] = PathJournal(self, path, earlier)
        return found

    def nested_paths(self) -> dict[str, list[str]]:
        """The paths within each row that earlier sessions made calls at: those of nested programs."""
        if self._reader is None:
            return {}
        sql = "SELECT DISTINCT path FROM call WHERE run = ? AND path LIKE ?"
        found: dict[str, list[str]] = {}
        for (path,) in self._reader.execute(sql, (self._run, "%/%")).fetchall():
            found.setdefault(path.partition("/")[0], []).append(path)
        return found

    def settled_calls(self, path: str, *, of_this_session: bool) -> list[SettledCall]:
        """The settled calls of a path with their answers, for another process to search on: ``at``, all at once.

        Args:
            path: The path.
            of_this_session: Whether those of this session are among them, since the process that made them is gone.
        """
        if self._reader is None and not of_this_session:
            return []
        if self._reader is None:
            self._reader = self._database.reader()
        found = settled_calls(self._reader, self._run, path, self._session + of_this_session)
        earlier = {call.call for call in found}
        if not of_this_session and earlier:
            self._unasked.setdefault(path, earlier)
        return found

    def note_asked(self, path: str, calls: Iterable[int]) -> None:
        """Count these as asked for, of the calls that ``settled_calls`` gave."""
        self._unasked.get(path, set()).difference_update(calls)

    @property
    def unasked(self) -> int:
        """Settled calls of earlier sessions that nobody asked for again, of the paths that were opened.

        A program that does the same with the same seed asks for all of them.
        """
        return sum(len(calls) for calls in self._unasked.values())

    def event(self, path: str, kind: str, data: Any) -> None:
        """Keep something that happened, in order; it is written with the next group."""
        self.encoded_event(path, kind, json_to_bytes(data))

    def encoded_event(self, path: str, kind: str, data: bytes) -> None:
        """``event``, of what ``json_to_bytes`` has made."""
        self._writer.post(EVENT, (self._run, next(self._numbers["event"]), path, kind, data, self._clock()))

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
            try:
                await self._writer.aclose()
            finally:
                self._lock.release()

    def _elapsed(self) -> float:
        return self.elapsed_s + time.monotonic() - self._begun

    def _touch(self) -> tuple[str, Sequence[Any]]:
        return "UPDATE run SET updated_at = ?, elapsed_s = ? WHERE number = ?", (
            self._clock(),
            self._elapsed(),
            self._run,
        )

    def question(self, question: Question) -> int:
        number = self._recent.get(question)
        if number is None:
            digest = question.digest()
            number = self._questions.get(digest)
            if number is None:
                number = self.number_of(EncodedQuestion(digest, self._encoder.encode(question)))
            self._recent.put(question, number)
        return number

    def number_of(self, question: EncodedQuestion) -> int:
        """The number of the row that holds ``question``, which is written where it is new."""
        number = self._questions.get(question.digest)
        if number is None:
            number = self._questions[question.digest] = next(self._numbers["question"])
            if len(self._questions) > _KNOWN_QUESTIONS:
                del self._questions[next(iter(self._questions))]
            row = (self._run, number, bytes.fromhex(question.digest), question.content)
            self._writer.post(QUESTION, row)
        return number

    async def send_call(self, sent: SentCall) -> int:
        call, row = self._call_row(sent[:6], sent.bound)
        try:
            await self._write(CALL, row)
        except asyncio.CancelledError:  # it was not sent, and nobody else knows its number
            unsent = EndedCall(call, "failed", _NOTHING, error="cancelled unsent")
            self._writer.post(OUTCOME, self._outcome_row(unsent, "model"))
            raise
        return call

    async def end_call(self, ended: EndedCall) -> None:
        await self._write(OUTCOME, self._outcome_row(ended, "model"))

    def note_attempt(self, attempt: FailedAttempt) -> None:
        call, error, status, is_billed, duration_s = attempt
        number = next(self._numbers["attempt"])
        self._writer.post(ATTEMPT, (self._run, number, call, error, status, int(is_billed), duration_s, self._clock()))

    async def copy_call(self, copied: CopiedCall) -> None:
        call, row = self._call_row(copied[:6], _NOTHING)
        self._writer.post(CALL, row)
        ended = EndedCall(call, "settled", copied.usage, 0.0, copied.answers)
        await self._write(OUTCOME, self._outcome_row(ended, "cache"))

    def _call_row(self, asked: tuple[str, str, str, QuestionKey, int, int], bound: Usage) -> tuple[int, Sequence[Any]]:
        path, node, backend, question, first_sample, num_samples = asked
        number = question if isinstance(question, int) else self.number_of(question)
        call = self._next_call()
        return call, (
            *(self._run, call, path, node, backend, number, first_sample, num_samples),
            *(self._session, self._clock()),
            *(bound.calls, bound.prompt_tokens, bound.completion_tokens, bound.usd),
        )

    def _outcome_row(self, ended: EndedCall, source: str) -> Sequence[Any]:
        usage = ended.usage
        return (
            *(self._run, ended.call, ended.state, source),
            *(usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.usd),
            *(usage.cached_tokens, usage.reasoning_tokens, usage.cache_hits),
            *(ended.duration_s, ended.answers, ended.error),
        )


def finished_rows(reader: Connection, run: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The finished rows of a job, read a few at a time: however slow the reader, no lock is held meanwhile."""
    sql = "SELECT number, digest, result FROM map_row WHERE run = ? AND number > ? ORDER BY number LIMIT ?"
    last = -1
    while rows := reader.execute(sql, (run, last, _ROWS_AHEAD)).fetchall():
        for number, digest, result in rows:
            yield number, digest, decode(bytes(result))
        last = rows[-1][0]
