"""One worker as the owner sees it: rows go there, and what it asks for is done at its desk."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

from llmprog.errors import LLMProgError
from llmprog.jobs.ray.desk import Desk, JobAccounts
from llmprog.jobs.ray.messages import Parcel, RowDone, Stop, Work
from llmprog.jobs.result import RowResult, RowTask

_CLOSE_S = 5.0


class WorkerDiedError(Exception):
    """The worker is gone; its rows are to be worked on by another."""


@dataclass(slots=True)
class _Row:
    task: RowTask
    result: asyncio.Future[RowResult]


class RemoteWorker:
    """A Ray actor, its desk, and the rows that it is at work on.

    Args:
        ray: The package.
        actor: The actor.
        accounts: What all workers share.
        failed: Told of an error that ends the job.

    Attributes:
        num_done: Rows that came to an end there.
        pid: Of its process.
        gone: Set once it is gone and everything that it left behind is settled.
    """

    def __init__(self, ray: Any, actor: Any, accounts: JobAccounts, failed: Callable[[BaseException], None]) -> None:
        self.num_done = 0
        self.pid = 0
        self.gone = asyncio.Event()
        self._failed = failed
        self._ray = ray
        self._actor = actor
        self._accounts = accounts
        self._desk = Desk(accounts, answer=self._post, row_done=self._row_done, failed=failed)
        self._rows: dict[int, _Row] = {}
        self._num_rows = 0
        self._out: list[Parcel] = []
        self._has_mail = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._dying: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        """Whether rows can be given to it."""
        return self.pid > 0 and self._dying is None

    @property
    def num_rows(self) -> int:
        """Rows that it is at work on."""
        return len(self._rows)

    async def open(self) -> None:
        """Have it load the program.

        Raises:
            WorkerDiedError: It died of it.
            LLMProgError: It cannot.
        """
        try:
            said = await self._actor.prepare.remote()
        except self._ray.exceptions.RayError as error:
            self._die()
            raise WorkerDiedError(str(error)) from error
        if isinstance(said, LLMProgError):
            self._die()
            raise said
        here = metadata.version("llmprog")
        if said.version != here:
            self._die()
            raise LLMProgError(f"llmprog is of version {here} here and {said.version} on {said.node}; install the same")
        self.pid = said.pid
        self._tasks = [asyncio.create_task(self._until_it_dies(work)) for work in (self._send(), self._receive())]

    async def run(self, task: RowTask, data: bytes, *, is_repeated: bool) -> RowResult:
        """What a row comes to there.

        Args:
            task: The row.
            data: The same as bytes.
            is_repeated: Whether another worker had begun with it in this session.

        Raises:
            WorkerDiedError: It died meanwhile.
            LLMProgError: No row can be worked on.
        """
        if not self.is_alive:
            raise WorkerDiedError("the worker died")
        path = str(task.index)
        ledger = self._accounts.ledger
        settled = self._accounts.settled_calls(path, is_repeated=is_repeated)
        deadline = None if ledger is None else ledger.deadline
        left_s = None if deadline is None else deadline - time.monotonic()
        self._num_rows += 1
        row = _Row(task, asyncio.get_running_loop().create_future())
        number, self._rows[self._num_rows] = self._num_rows, row
        self._post(Work(number, data, path, settled, left_s))
        try:
            return await row.result
        finally:
            self._rows.pop(number, None)

    def stop(self) -> None:
        """Have it begin nothing new."""
        self._post(Stop())

    async def close(self) -> None:
        """End it: in good order where it has no rows, else at once."""
        if self.is_alive and not self._rows:
            with suppress(self._ray.exceptions.RayError, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._actor.aclose.remote()
        self._die()
        await self.gone.wait()

    def _post(self, parcel: Parcel) -> None:
        self._out.append(parcel)
        self._has_mail.set()

    async def _send(self) -> None:
        while True:
            await self._has_mail.wait()
            self._has_mail.clear()
            out, self._out = self._out, []
            await self._actor.deliver.remote(pickle.dumps(out, protocol=5))

    async def _receive(self) -> None:
        while True:
            messages = await self._actor.collect.remote()
            self._desk.take(pickle.loads(messages))  # noqa: S301 - from a process that this one has started

    async def _until_it_dies(self, work: Awaitable[None]) -> None:
        try:
            await work
        except self._ray.exceptions.RayError:
            self._die()
        except Exception as error:  # noqa: BLE001 - handed on: it ends the job
            self._failed(error)
            self._die()

    def _row_done(self, done: RowDone) -> None:
        row = self._rows.pop(done.number, None)
        if row is None or row.result.done():
            return
        self.num_done += 1
        self._accounts.row_done(done, str(row.task.index))
        if done.result is not None:
            row.result.set_result(replace(done.result, row=row.task.row))
        else:
            row.result.set_exception(done.error or LLMProgError("a Ray worker ended a row without a result"))

    def _die(self) -> None:
        if self._dying is None:
            self._dying = asyncio.create_task(self._bury())

    async def _bury(self) -> None:
        """Make sure that it is gone, settle what it leaves behind, then have its rows worked on by others."""
        for task in self._tasks:
            task.cancel()
        with suppress(Exception):  # it may be gone for long, and Ray with it
            if self._ray.is_initialized():
                self._ray.kill(self._actor)
        try:
            await self._desk.close()
        except Exception as error:  # noqa: BLE001 - handed on: it ends the job
            self._failed(error)
        finally:
            for row in list(self._rows.values()):
                if not row.result.done():
                    row.result.set_exception(WorkerDiedError("the worker died"))
            self.gone.set()
