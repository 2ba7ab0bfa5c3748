"""One worker thread that decodes whatever waits as one batch.

Callers are coroutines. What they submit in the same breath (a whole search frontier) becomes one batch: a loop's
submissions are handed over once it has turned ``GATHER_TURNS`` times and ``GATHER_WINDOW_S`` have passed without
another. Further requests that arrive while a batch is decoded form the next one.

A cancelled caller's rows are dropped, before or during decoding, and nobody else notices. An error reaches the callers
whose rows cause it: a batch that fails is decoded again caller by caller. A batch that does not fit into memory is
halved, and so is every later one.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from llmprog.backends.local.decoders.base import Continuation, Decoder, Row, Written
from llmprog.errors import BackendError, LLMProgError
from llmprog.log import Log

GATHER_TURNS = 3
"""Turns of an idle event loop without a submission after which its submissions are handed over."""
GATHER_WINDOW_S = 0.0003
"""The least time without a submission before that; a reply may pass through a thread before the next is asked for."""

_log = Log("llmprog.local")


@dataclass(slots=True, eq=False)
class _Job:
    """What one caller waits for: a result for each of its items."""

    kind: Literal["decode", "score"]
    items: Sequence[Any]
    future: asyncio.Future[list[Any]]
    results: list[Any] = field(init=False)
    next_item: int = 0  # items before it have been taken into batches
    missing: int = field(init=False)
    is_over: bool = False  # cancelled or failed: nothing of it is decoded any more

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


class Engine:
    """Runs a decoder for many callers at once."""

    def __init__(
        self, decoder: Decoder, *, backend: str, max_batch_rows: int = 256, threads: int | None = None
    ) -> None:
        """An engine whose thread starts with the first submission.

        Args:
            decoder: Used by the worker thread only.
            backend: Id of the backend, for messages.
            max_batch_rows: Most rows decoded together.
            threads: CPU threads of one operation; ``None`` leaves torch's own choice.
        """
        self._decoder = decoder
        self._backend = backend
        self._max_batch_rows = max_batch_rows
        self._lock = threading.Lock()
        self._queue: deque[_Job] = deque()
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

    async def decode(self, rows: Sequence[Row]) -> list[Written]:
        """Every row written, in order."""
        return await self._submit("decode", rows)

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

    async def _submit(self, kind: Literal["decode", "score"], items: Sequence[Any]) -> list[Any]:
        if self._is_closed:
            raise self._error("is closed; open it again")
        if not items:
            return []
        loop = asyncio.get_running_loop()
        job = _Job(kind, items, loop.create_future())
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
        """Decode batch after batch until nothing waits."""
        while True:
            with self._lock:
                batch = self._take()
                if not batch:
                    self._drain = None
                    return
            self._process(batch)

    def _take(self) -> list[_Item]:
        """The next batch: items of waiting jobs of the first job's kind, first come first served."""
        batch: list[_Item] = []
        left: deque[_Job] = deque()
        while self._queue and len(batch) < self._max_batch_rows:
            job = self._queue.popleft()
            if job.is_over:
                continue
            if batch and job.kind != batch[0][0].kind:
                left.append(job)
                continue
            end = min(len(job.items), job.next_item + self._max_batch_rows - len(batch))
            batch += [(job, i) for i in range(job.next_item, end)]
            job.next_item = end
            if end < len(job.items):
                left.append(job)
        self._queue.extendleft(reversed(left))
        return batch

    def _process(self, batch: list[_Item]) -> None:
        """Decode a batch and deliver the jobs that this completes."""
        batch = [item for item in batch if not item[0].is_over]
        if not batch:
            return
        jobs = list(dict.fromkeys(job for job, _ in batch))
        try:
            results = self._run(jobs[0].kind, batch, jobs)
        except Exception as error:  # noqa: BLE001 - the boundary: every error goes to the callers it belongs to
            self._recover(error, batch, jobs)
            return
        done: list[_Job] = []
        for (job, i), result in zip(batch, results, strict=True):
            job.results[i] = result
            job.missing -= 1
            if not job.missing:
                done.append(job)
        self._deliver(done)

    def _run(self, kind: Literal["decode", "score"], batch: list[_Item], jobs: list[_Job]) -> Sequence[Any]:
        items = [job.items[i] for job, i in batch]
        if kind == "score":
            return self._decoder.score(items)

        def cancelled() -> Collection[int]:
            if not any(job.is_over for job in jobs):
                return ()
            return {place for place, (job, _) in enumerate(batch) if job.is_over}

        if hasattr(self._decoder, "decode"):
            return self._decoder.decode(items, cancelled)  # type: ignore[no-any-return]
        writing = self._decoder.start()
        writing.admit(dict(enumerate(items)))
        found: dict[int, Written] = {}
        while len(writing):
            writing.drop(cancelled())
            found |= writing.step()
        return [found.get(place) for place in range(len(items))]

    def _recover(self, error: Exception, batch: list[_Item], jobs: list[_Job]) -> None:
        """Decode a failed batch in smaller parts, or tell its only caller."""
        if _is_out_of_memory(error) and len(batch) > 1:
            half = (len(batch) + 1) // 2
            self._max_batch_rows = min(self._max_batch_rows, half)
            _log.warning("batch did not fit into memory", backend=self._backend, rows=len(batch), retried_with=half)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._process(batch[:half])
            self._process(batch[half:])
        elif len(jobs) > 1:
            for job in jobs:
                self._process([item for item in batch if item[0] is job])
        else:
            job = jobs[0]
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


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
