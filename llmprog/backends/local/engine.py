"""One worker thread that decodes what its callers ask for, together.

Callers are coroutines. What they submit in the same breath (a whole search frontier) begins together: a loop's
submissions are handed over once it has turned ``GATHER_TURNS`` times and ``GATHER_WINDOW_S`` have passed without
another. What arrives later joins the rows under way between two steps, where the decoder can take it in and there is
room; where it cannot, it is written beside them, step by step in turn.

A cancelled caller's rows leave, and nobody else notices. An error reaches the callers whose rows cause it: rows whose
step failed are written again caller by caller. Rows that do not fit into memory are written again, half of them at a
time, and so is everything later. A row's text depends on the row alone, so writing it again changes nothing.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from llmprog.backends.local.decoders.base import Continuation, Decoder, Row, Seen, Writing, Written
from llmprog.errors import BackendError, LLMProgError
from llmprog.log import Log

GATHER_TURNS = 3
"""Turns of an idle event loop without a submission after which its submissions are handed over."""
GATHER_WINDOW_S = 0.0003
"""The least time without a submission before that; a reply may pass through a thread before the next is asked for."""
MOST_BESIDE = 2
"""Writings under way at a time where rows cannot join them: what comes meanwhile is gathered for the next."""
SCORED_AT_ONCE = 32
"""Most continuations scored between two steps: rows under way wait for them."""

_log = Log("llmprog.local")


Watcher = Callable[[int, tuple[int, ...], Seen | None], None]
"""Told on the caller's loop how one of its rows reads now: which one, its canvas, and what ``Writing.seen`` gives."""


@dataclass(slots=True, eq=False)
class _Job:
    """What one caller waits for: a result for each of its items."""

    kind: Literal["decode", "score"]
    items: Sequence[Any]
    future: asyncio.Future[list[Any]]
    watch: Watcher | None = None
    results: list[Any] = field(init=False)
    missing: int = field(init=False)
    is_over: bool = False  # cancelled or failed: nothing of it is decoded any more
    is_alone: bool = False  # its rows share no writing with others, one of which failed

    def __post_init__(self) -> None:
        self.results = [None] * len(self.items)
        self.missing = len(self.items)


@dataclass(slots=True)
class _Gathering:
    """Submissions of one event loop that have not been handed over."""

    jobs: list[_Job] = field(default_factory=list)
    quiet_turns: int = 0
    last_submission_s: float = 0.0


_Item = tuple[_Job, int]
_News = tuple[Watcher, int, tuple[int, ...], Seen | None]


@dataclass(slots=True, eq=False)
class _Running:
    """Rows under way: by their tickets, whose they are."""

    writing: Writing
    items: dict[int, _Item] = field(default_factory=dict)
    is_alone: bool = False


@dataclass(slots=True)
class EngineCounts:
    """What an engine has done so far.

    Attributes:
        rows: Rows written.
        steps: Steps made, each of which wrote a part of many rows.
        row_steps: Those rows, added up over the steps.
        restarts: Rows written again after an error of another row, or for want of memory.
    """

    rows: int = 0
    steps: int = 0
    row_steps: int = 0
    restarts: int = 0

    @property
    def rows_per_step(self) -> float:
        """How many rows were written together on average."""
        return self.row_steps / self.steps if self.steps else 0.0


class Engine:
    """Runs a decoder for many callers at once."""

    def __init__(
        self, decoder: Decoder, *, backend: str, max_batch_rows: int = 256, threads: int | None = None
    ) -> None:
        """An engine whose thread starts with the first submission.

        Args:
            decoder: Used by the worker thread only.
            backend: Id of the backend, for messages.
            max_batch_rows: Most rows under way at a time.
            threads: CPU threads of one operation; ``None`` leaves torch's own choice.
        """
        self._decoder = decoder
        self._backend = backend
        self._max_rows = max_batch_rows  # under way at a time; less once memory has run out, and likewise the next
        self._max_scored = min(max_batch_rows, SCORED_AT_ONCE)
        self._lock = threading.Lock()
        self._queue: deque[_Job] = deque()  # handed over; the rest is the worker's
        self._waiting: deque[_Item] = deque()
        self._to_score: deque[_Item] = deque()
        self._running: list[_Running] = []
        self._next_ticket = 0
        self.counts = EngineCounts()
        self._unfinished: set[_Job] = set()
        self._drain: ThreadFuture[None] | None = None
        self._is_closed = False
        self._gatherings: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Gathering] = weakref.WeakKeyDictionary()
        # An executor's threads end with the interpreter, unlike a plain thread that waits for work.
        self._executor = ThreadPoolExecutor(
            1,
            thread_name_prefix="llmprog-local",
            initializer=None if threads is None else partial(torch.set_num_threads, threads),
        )

    async def decode(self, rows: Sequence[Row], watch: Watcher | None = None) -> list[Written]:
        """Every row written, in order; ``watch`` is told after every step what each reads then."""
        return await self._submit("decode", rows, watch)

    async def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """See ``Decoder.score``."""
        return await self._submit("score", continuations)

    async def aclose(self) -> None:
        """End the worker thread; callers that still wait get a ``BackendError``. Calling it twice is harmless."""
        with self._lock:
            self._is_closed = True
            unfinished = list(self._unfinished)
            drain = self._drain
        error = self._error("was closed while a call was in flight")
        for job in unfinished:
            job.is_over = True
            _call(job.future.get_loop(), partial(_settle, job, error))
        if drain is not None:
            await asyncio.wrap_future(drain)
        self._executor.shutdown(wait=True)

    async def _submit(
        self, kind: Literal["decode", "score"], items: Sequence[Any], watch: Watcher | None = None
    ) -> list[Any]:
        if self._is_closed:
            raise self._error("is closed; open it again")
        if not items:
            return []
        loop = asyncio.get_running_loop()
        job = _Job(kind, items, loop.create_future(), watch)
        with self._lock:
            self._unfinished.add(job)
        gathering = self._gatherings.setdefault(loop, _Gathering())
        gathering.jobs.append(job)
        gathering.quiet_turns = 0
        gathering.last_submission_s = time.monotonic()
        if len(gathering.jobs) == 1:
            loop.call_soon(self._turn, loop, gathering)
        try:
            return await job.future
        finally:
            job.is_over = True
            with self._lock:
                self._unfinished.discard(job)

    def _turn(self, loop: asyncio.AbstractEventLoop, gathering: _Gathering) -> None:
        """Hand the gathered jobs over, or look again in the loop's next turn."""
        gathering.quiet_turns += 1
        waited_s = time.monotonic() - gathering.last_submission_s
        if gathering.quiet_turns <= GATHER_TURNS or waited_s < GATHER_WINDOW_S:
            loop.call_soon(self._turn, loop, gathering)
            return
        jobs, gathering.jobs = gathering.jobs, []
        with self._lock:
            self._queue.extend(jobs)
            if self._drain is None and not self._is_closed:
                self._drain = self._executor.submit(self._work)

    # From here on: the worker thread.

    def _work(self) -> None:
        """Write and score until nothing is left to do."""
        while True:
            with self._lock:
                self._take()
                if not (self._waiting or self._to_score or self._running):
                    self._drain = None
                    return
            try:
                self._turn_once()
            except Exception as error:  # noqa: BLE001 - the boundary: whoever waits is told, and the next are served
                self._give_up(error)

    def _turn_once(self) -> None:
        self._score_next()
        self._admit()
        for running in list(self._running):
            self._step(running)

    def _give_up(self, error: Exception) -> None:
        """Tell every caller of an error that belongs to none of them."""
        items = [*self._waiting, *self._to_score, *(item for run in self._running for item in run.items.values())]
        self._waiting.clear()
        self._to_score.clear()
        self._running.clear()
        for job in dict.fromkeys(job for job, _ in items):
            self._fail(job, error)

    def _take(self) -> None:
        """Take over what has been submitted."""
        while self._queue:
            job = self._queue.popleft()
            target = self._to_score if job.kind == "score" else self._waiting
            target.extend((job, i) for i in range(len(job.items)))

    def _score_next(self) -> None:
        """Score some of what waits."""
        items: list[_Item] = []
        while self._to_score and len(items) < self._max_scored:
            items.append(self._to_score.popleft())
        items = [item for item in items if not item[0].is_over]
        if items:
            self._score(items)

    def _score(self, items: Sequence[_Item]) -> None:
        found, error = self._try_to_score(items)
        if error is None:
            self._settle_items(dict(zip(items, found, strict=True)))
            return
        jobs = list(dict.fromkeys(job for job, _ in items))
        if _is_out_of_memory(error) and len(items) > 1:
            half = (len(items) + 1) // 2
            self._max_scored = min(self._max_scored, half)
            self._free_memory("scores did not fit into memory", len(items), half)
            self._score(items[:half])
            self._score(items[half:])
        elif len(jobs) > 1:
            for job in jobs:
                self._score([item for item in items if item[0] is job])
        else:
            self._fail(jobs[0], error)

    def _try_to_score(self, items: Sequence[_Item]) -> tuple[Sequence[Any], Exception | None]:
        try:
            return self._decoder.score([job.items[i] for job, i in items]), None
        except Exception as error:  # noqa: BLE001 - the boundary: every error goes to the callers it belongs to
            return [], _without_tensors(error)

    def _admit(self) -> None:
        """Let rows that wait join those under way, first come first served, as far as there is room."""
        while self._waiting:
            if self._waiting[0][0].is_over:
                self._waiting.popleft()
                continue
            free = self._max_rows - sum(len(running.items) for running in self._running)
            items = self._next_items(free)
            if not items or not self._may_open(items[0][0]):
                return
            running: _Running | None = None
            try:
                running = self._open_for(items[0][0])
                count = running.writing.room([job.items[i] for job, i in items])
                if count:
                    self._join(running, items[:count])
            except Exception as error:  # noqa: BLE001 - the boundary: every error goes to the callers it belongs to
                failure, culprits = _without_tensors(error), items[:1]
            else:
                if count < len(items):
                    return
                continue
            if running is None or culprits[0] in self._waiting:  # nothing was changed: it never joined
                self._put_off(failure, culprits[0])
            else:
                self._recover(running, failure)

    def _may_open(self, job: _Job) -> bool:
        """Whether rows of ``job`` may join a writing or begin one beside those under way."""
        if job.is_alone:
            return sum(running.is_alone for running in self._running) < MOST_BESIDE
        return self._decoder.takes_joiners or len(self._running) < MOST_BESIDE

    def _next_items(self, count: int) -> list[_Item]:
        """The next ``count`` items that may be written together, or fewer."""
        head = self._waiting[0][0]
        items: list[_Item] = []
        for item in self._waiting:
            if len(items) >= count or (item[0] is not head if head.is_alone else item[0].is_alone):
                break
            if not item[0].is_over:
                items.append(item)
        return items

    def _open_for(self, job: _Job) -> _Running:
        """The writing that rows of ``job`` may join; a new one where there is none."""
        if self._decoder.takes_joiners and not job.is_alone:
            for running in self._running:
                if not running.is_alone:
                    return running
        running = _Running(self._decoder.start(), is_alone=job.is_alone)
        self._running.append(running)
        return running

    def _join(self, running: _Running, items: Sequence[_Item]) -> None:
        tickets = {self._next_ticket + i: item for i, item in enumerate(items)}
        self._next_ticket += len(items)
        taken = set(items)
        self._waiting = deque(item for item in self._waiting if item not in taken)
        running.items |= tickets  # before they join: an error of their joining is theirs
        running.writing.admit({ticket: job.items[i] for ticket, (job, i) in tickets.items()})

    def _step(self, running: _Running) -> None:
        """Make a step, after those have left whose callers are gone."""
        gone = {ticket for ticket, (job, _) in running.items.items() if job.is_over}
        for ticket in gone:
            del running.items[ticket]
        try:
            if gone:
                running.writing.drop(gone)
            if running.items:
                self.counts.steps += 1
                self.counts.row_steps += len(running.items)
                found = running.writing.step()
                self.counts.rows += len(found)
                self._settle_items({running.items.pop(ticket): written for ticket, written in found.items()})
                self._tell_watchers(running)
        except Exception as error:  # noqa: BLE001 - the boundary: every error goes to the callers it belongs to
            failure = _without_tensors(error)
        else:
            if not running.items:
                self._running.remove(running)
            return
        self._recover(running, failure)

    def _tell_watchers(self, running: _Running) -> None:
        told: dict[asyncio.AbstractEventLoop, list[_News]] = {}
        for ticket, (job, i) in running.items.items():
            if job.watch is not None and not job.is_over:
                news = job.watch, i, running.writing.text(ticket), running.writing.seen(ticket)
                told.setdefault(job.future.get_loop(), []).append(news)
        for loop, all_news in told.items():
            _call(loop, partial(_tell, all_news))

    def _recover(self, running: _Running, error: Exception) -> None:
        """Write the rows of ``running``, which failed, once more, in smaller parts, or tell their only caller."""
        self._running.remove(running)
        items = list(running.items.values())
        del running.writing  # what it holds is not used any more
        jobs = list(dict.fromkeys(job for job, _ in items))
        others = sum(len(other.items) for other in self._running)
        if _is_out_of_memory(error) and len(items) + others > 1:
            # A row by itself waits for the others; many are halved.
            most = others if len(items) == 1 else (len(items) + 1) // 2
            self._max_rows = min(self._max_rows, most)
            self._free_memory("rows did not fit into memory", len(items) + others, most)
        elif len(jobs) > 1:
            for job in jobs:
                job.is_alone = True
        else:
            self._fail(jobs[0], error)
            return
        self.counts.restarts += len(items)
        self._waiting.extendleft(reversed(items))

    def _put_off(self, error: Exception, item: _Item) -> None:
        """Let a row wait for memory that others hold, or tell its caller that it cannot be written."""
        others = sum(len(running.items) for running in self._running)
        if _is_out_of_memory(error) and others:
            self._max_rows = min(self._max_rows, others)
            self._free_memory("another row did not fit into memory", others + 1, others)
        else:
            self._fail(item[0], error)

    def _free_memory(self, problem: str, rows: int, most: int) -> None:
        """Say that memory has run out, and give back what nobody uses."""
        _log.warning(problem, backend=self._backend, rows=rows, retried_with=most)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _fail(self, job: _Job, error: Exception) -> None:
        if _is_out_of_memory(error):
            failure: Exception = self._error("a single row does not fit into memory; shorten it")
        elif isinstance(error, LLMProgError):
            failure = error
        else:
            failure = self._error(f"{type(error).__name__}: {error}")
        if failure is not error:
            failure.__cause__ = error
        job.is_over = True
        _call(job.future.get_loop(), partial(_settle, job, failure))

    def _settle_items(self, found: Mapping[_Item, Any]) -> None:
        """Note results, and deliver the jobs that these complete."""
        done: list[_Job] = []
        for (job, i), result in found.items():
            job.results[i] = result
            job.missing -= 1
            if not job.missing:
                done.append(job)
        self._deliver(done)

    def _deliver(self, jobs: list[_Job]) -> None:
        """Wake the callers, those of one loop in one go: what they ask next should be gathered together again."""
        loops: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        for job in jobs:
            if not job.is_over:
                loops.setdefault(job.future.get_loop(), []).append(job)
        for loop, finished in loops.items():
            _call(loop, partial(_settle_all, finished))

    def _error(self, message: str) -> BackendError:
        return BackendError(message, backend=self._backend)


def _tell(all_news: Sequence[_News]) -> None:
    for watch, row, canvas, seen in all_news:
        watch(row, canvas, seen)


def _settle_all(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        _settle(job, None)


def _settle(job: _Job, error: Exception | None) -> None:
    """Give a caller its results or its error; runs on the caller's loop."""
    job.is_over = True
    if job.future.done():
        return
    if error is None:
        job.future.set_result(job.results)
    else:
        job.future.set_exception(error)


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        # The loop was closed under its callers: nobody is left to tell.
        _log.debug("event loop closed before its result was delivered")


def _without_tensors(error: Exception) -> Exception:
    """The error; a want of memory is cut off from the frames that hold what had no room."""
    return error.with_traceback(None) if _is_out_of_memory(error) else error


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator and CUDA's libraries raise plain RuntimeErrors.
    signs = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
