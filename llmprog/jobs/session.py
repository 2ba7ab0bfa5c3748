"""One session of a job: rows are read, worked on side by side, kept and handed on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from llmprog.errors import InputError, LLMProgError
from llmprog.jobs.executor import UNFINISHED, Executor
from llmprog.jobs.inputs import InputOf
from llmprog.jobs.result import RowResult, RowTask, result_of_error
from llmprog.jobs.rows import Row
from llmprog.json_values import as_json
from llmprog.runs.journal import RunJournal
from llmprog.search.calls import derive_seed

_AHEAD = 4  # rows that may be read before the one that is next in order is done, times the rows worked on at once


class Session:
    """Works on rows until they are done, the budget is spent, somebody stops it or nothing can be worked on.

    However it ends, no row that was begun is thrown away: those in flight are waited for. At most ``concurrency`` rows
    are worked on, and as many results wait to be taken; in order, four times as many.

    Args:
        rows: The rows.
        inputs: What of a row is its input.
        executor: Works on a row.
        journal: Where finished rows are kept and found again; ``None`` keeps none.
        seed: The job's; each row gets one of its own from it.
        concurrency: Rows worked on at once.
        in_order: Whether results come in the order of the rows.
        stop: Once set, no further row is begun.

    Attributes:
        stopped: Why it ended: ``finished``, ``budget``, ``interrupted`` or ``error``.
        num_rows: How many rows there are, once all have been read.
    """

    def __init__(
        self,
        rows: AsyncIterator[Row],
        inputs: InputOf,
        executor: Executor,
        journal: RunJournal | None,
        *,
        seed: int,
        concurrency: int,
        in_order: bool,
        stop: threading.Event,
    ) -> None:
        self.stopped = "finished"
        self.num_rows: int | None = None
        self._rows = rows
        self._inputs = inputs
        self._executor = executor
        self._journal = journal
        self._seed = seed
        self._concurrency = concurrency
        self._in_order = in_order
        self._stop = stop
        self._num_read = 0
        self._reading = asyncio.Lock()
        self._done: asyncio.Queue[RowResult | None] = asyncio.Queue(maxsize=concurrency)
        # In order: results that wait for the one before them.
        self._handing_on = asyncio.Lock()
        self._waiting: dict[int, RowResult] = {}
        self._next_index = 0
        self._moved = asyncio.Event()

    async def results(self) -> AsyncGenerator[RowResult]:
        """The rows' results as they come, or in order.

        Raises:
            LLMProgError: No row can be worked on, or their results cannot be kept; raised after the rows in flight.
        """
        workers = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]
        watcher = asyncio.create_task(self._watch(workers))
        try:
            while (result := await self._done.get()) is not None:
                yield result
            error = await watcher
            if error is not None:
                raise error
        except (GeneratorExit, asyncio.CancelledError):  # whoever takes the results has had enough of them
            self._end("interrupted")
            raise
        finally:
            for task in (*workers, watcher):
                task.cancel()
            await asyncio.gather(*workers, watcher, return_exceptions=True)

    async def _watch(self, workers: list[asyncio.Task[None]]) -> BaseException | None:
        """Wait for all workers, hand on what waits, and end the results; returns the error that ended the job."""
        errors: list[BaseException] = []
        running = set(workers)
        while running:
            ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            errors += [error for worker in ended if (error := _error_of(worker)) is not None]
            if errors:
                self._end("error")
        for index in sorted(self._waiting):
            await self._done.put(self._waiting[index])
        await self._done.put(None)
        return errors[0] if errors else None

    def _end(self, reason: str) -> None:
        """Begin no further row."""
        if self.stopped == "finished" or reason == "error":
            self.stopped = reason
        self._moved.set()

    async def _work(self) -> None:
        while (next_one := await self._next()) is not None:
            task, digest = next_one
            result = await self._executor.run(task)
            if result.stopped in UNFINISHED:
                self._end(result.stopped)
            else:
                await self._keep(result, digest)

    async def _next(self) -> tuple[RowTask, str] | None:
        """The next row that needs work, and its digest; rows that need none are handed on."""
        async with self._reading:
            while self.stopped == "finished" and self.num_rows is None:
                if self._stop.is_set():
                    self._end("interrupted")
                    break
                if self._in_order and self._num_read - self._next_index >= _AHEAD * self._concurrency:
                    self._moved.clear()
                    await self._moved.wait()
                    continue
                try:
                    row = await anext(self._rows, None)
                except BaseException:
                    self._end("error")
                    raise
                if row is None:
                    self.num_rows = self._num_read
                    break
                self._num_read += 1
                next_one = await self._begin(row)
                if next_one is not None:
                    return next_one
        return None

    async def _begin(self, row: Row) -> tuple[RowTask, str] | None:
        digest = self._inputs.digest(row) if self._journal is not None else ""
        seed = derive_seed(self._seed, row.index)
        try:
            given = self._inputs.of(row)
        except InputError as error:
            values = row.values if row.fault is None else None
            await self._keep(
                replace(result_of_error(RowTask(row.index, row.values, None, None, seed), error), row=values), digest
            )
            return None
        known = None if self._journal is None else self._journal.row(row.index, digest)
        if known is not None and known["error"] is None:
            await self._hand_on(RowResult.from_json(known | {"row": row.values}))
            return None
        gold = self._inputs.gold_of(row)
        return RowTask(row.index, row.values, given, gold, seed), digest

    async def _keep(self, result: RowResult, digest: str) -> None:
        """Put a result into the journal, of its row only the right answer (the data holds the rest); hand it on."""
        if self._journal is not None:
            gold = as_json((result.row or {}).get(self._inputs.gold or ""))
            await self._journal.finish_row(result.index, digest, result.to_json() | {"row": None, "gold": gold})
        await self._hand_on(result)

    async def _hand_on(self, result: RowResult) -> None:
        if not self._in_order:
            await self._done.put(result)
            return
        async with self._handing_on:
            self._waiting[result.index] = result
            while self._next_index in self._waiting:
                await self._done.put(self._waiting.pop(self._next_index))
                self._next_index += 1
                self._moved.set()


def _error_of(worker: asyncio.Task[None]) -> BaseException | None:
    if worker.cancelled():  # not by us: we do it when nobody waits for the results any more
        return LLMProgError(
            "the work on a row was cancelled from within it; does one of its nodes raise CancelledError?"
        )
    return worker.exception()
