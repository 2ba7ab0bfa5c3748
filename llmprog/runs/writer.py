"""One thread that writes for a run: whatever has gathered while one group was being synced is the next group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from llmprog.errors import StoreError
from llmprog.runs.database import Database, transaction
from llmprog.runs.schema import Connection, Insert

_MAX_GROUP = 256
_TOUCH_EVERY_S = 1.0

_Statement: TypeAlias = Insert | str
_Item: TypeAlias = tuple[_Statement, Sequence[Any], "asyncio.Future[None] | None"]


class GroupWriter:
    """Writes rows in the order in which they are handed over, and says when they are on disk.

    After an error nothing more is written: every caller, those who wait and those who come, gets a ``StoreError`` with
    its cause.

    Args:
        database: What is written to.
        connection: Its writing connection; from here on it is the writer's own.
        touch: A statement and its values that say how long the run has been going; written about once a second.
        close: Called with the connection at the end.
    """

    def __init__(
        self,
        database: Database,
        connection: Connection,
        *,
        touch: Callable[[], tuple[str, Sequence[Any]]],
        close: Callable[[Connection], None],
    ) -> None:
        self._database = database
        self._connection = connection
        self._touch = touch
        self._close = close
        self._touched = time.monotonic()
        self._queue: list[_Item] = []
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._is_closing = False
        self._failure: StoreError | None = None
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._work, name="llmprog-journal", daemon=True)
        self._thread.start()

    def write(self, statement: _Statement, row: Sequence[Any]) -> asyncio.Future[None]:
        """What is done once the row is on disk, and fails with a ``StoreError`` if it could not be written.

        Raises:
            StoreError: Nothing can be written any more.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit((statement, row, future))
        return future

    def post(self, statement: _Statement, row: Sequence[Any]) -> None:
        """Have the row written with the next group."""
        self._submit((statement, row, None))

    def _submit(self, item: _Item) -> None:
        if self._pid != os.getpid():
            raise StoreError(
                f"a run's journal was opened by process {self._pid} and used by its fork {os.getpid()}: only the "
                "process that opened it can write; open the store after forking, or start processes with 'spawn'"
            )
        with self._lock:
            if self._failure is not None:
                raise StoreError(str(self._failure)) from self._failure.__cause__
            if self._is_closing:
                raise StoreError("a run's journal is closed; nothing more can be written to it")
            self._queue.append(item)
            if len(self._queue) == 1:
                self._ready.notify()

    async def aclose(self) -> None:
        """Write what is left and end the thread."""
        if self._pid != os.getpid():
            return
        with self._ready:
            self._is_closing = True
            self._ready.notify()
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while group := self._next_group():
            try:
                self._write_group(group)
            except Exception as error:  # noqa: BLE001 - told to all who wait: nobody else would hear of it
                failure = self._failure_of(error)
                with self._ready:
                    self._failure = failure
                    group += self._queue
                    self._queue = []
                _resolve(group, failure)
            else:
                _resolve(group, None)
        self._close(self._connection)

    def _failure_of(self, error: Exception) -> StoreError:
        if isinstance(error, self._database.errors):
            failure = self._database.failure(error)
        else:
            failure = StoreError(f"a run's journal: a value cannot be kept: {type(error).__name__}: {error}")
        if failure is not error:
            failure.__cause__ = error
        return failure

    def _next_group(self) -> list[_Item]:
        with self._ready:
            while not self._queue and not self._is_closing:
                self._ready.wait()
            group = self._queue[:_MAX_GROUP]
            del self._queue[:_MAX_GROUP]
            return group

    def _write_group(self, group: list[_Item]) -> None:
        self._database.check()
        inserts: defaultdict[Insert, list[Sequence[Any]]] = defaultdict(list)
        with transaction(self._database, self._connection):
            for statement, row, _ in group:
                if isinstance(statement, Insert):
                    inserts[statement].append(row)
                else:
                    self._connection.execute(statement, row)
            for insert, rows in inserts.items():
                self._database.insert(self._connection, insert, rows)
            if time.monotonic() - self._touched >= _TOUCH_EVERY_S:
                self._connection.execute(*self._touch())
                self._touched = time.monotonic()
        self._database.check()


def _resolve(group: list[_Item], failure: StoreError | None) -> None:
    """Wake those who wait, each event loop once."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = defaultdict(list)
    for _, _, future in group:
        if future is not None:
            by_loop[future.get_loop()].append(future)
    for loop, futures in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_tell, futures, failure)


def _tell(futures: list[asyncio.Future[None]], failure: StoreError | None) -> None:
    for future in futures:
        if future.done():
            continue  # whoever waited was cancelled
        if failure is None:
            future.set_result(None)
        else:
            error = StoreError(str(failure))
            error.__cause__ = failure.__cause__
            future.set_exception(error)
            future.exception()  # whoever waits may be cancelled before it is told
