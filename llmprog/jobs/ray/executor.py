"""Works on the rows of a job in the processes of a Ray cluster."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llmprog.compile import CompiledProgram
from llmprog.errors import InputError, LLMProgError
from llmprog.jobs.ray.cluster import Cluster
from llmprog.jobs.ray.desk import JobAccounts
from llmprog.jobs.ray.messages import Setup
from llmprog.jobs.ray.options import RayOptions
from llmprog.jobs.ray.placement import Placement, place
from llmprog.jobs.ray.portable_code import PortableCode
from llmprog.jobs.ray.remote_worker import RemoteWorker, WorkerDiedError
from llmprog.jobs.ray.worker import RowWorker
from llmprog.jobs.result import RowResult, RowTask, result_of_error
from llmprog.log import Log
from llmprog.running.chosen_backends import BackendChoice, ChosenBackends
from llmprog.running.execution import RunContext
from llmprog.runs.journal import RunJournal
from llmprog.runs.ledger import Ledger
from llmprog.types import Usage

_MOST_DEATHS = 3  # of the workers that a row was on; then the row is to blame
_MOST_EARLY_DEATHS = 3  # of a worker and its replacements before any of them finished a row; then the job is to blame
_ACTOR_CONCURRENCY = 16  # calls of one actor at once: what is sent there, what is fetched, how it ends
_STOP_POLL_S = 0.1
_OTHERS_S = 10.0  # how long the first worker waits for the others
_SAY_SO_AFTER_S = 30.0

_log = Log("llmprog.jobs")


class RayExecutor:
    """Rows are given to the worker that has the fewest; those of a worker that died are given to another.

    This process alone writes the journal and keeps the budget and the limits per minute: workers ask for every call.

    Args:
        compiled: The program.
        choice: What it runs on.
        backends: The same, opened.
        context: The job's journal, budget and cache.
        options: Which cluster, and how many workers.
        max_in_flight: Actions that the search of one row may have under way at once.
        on_spent: Told what calls cost, as they come back; it must not block.
    """

    def __init__(
        self,
        compiled: CompiledProgram,
        choice: BackendChoice | None,
        backends: ChosenBackends,
        context: RunContext[RunJournal],
        *,
        options: RayOptions,
        max_in_flight: int,
        on_spent: Callable[[Usage], None] | None = None,
    ) -> None:
        self._compiled = compiled
        self._choice = choice
        self._backends = backends
        self._context = context
        self._options = options
        self._max_in_flight = max_in_flight
        self._accounts = JobAccounts(context.journal, context.ledger, on_spent)
        self._workers: list[RemoteWorker] = []
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._cluster: Cluster | None = None
        self._code: PortableCode | None = None

    async def __aenter__(self) -> RayExecutor:
        """Begin Ray or join it, and wait for the workers: for the first as long as it takes.

        Raises:
            OptionError: The cluster or the number of workers is not possible, or the program cannot be sent.
            LLMProgError: Workers cannot load the program.
        """
        try:
            await self._open()
        except BaseException as error:
            await self.__aexit__(type(error), error)
            raise
        return self

    async def _open(self) -> None:
        self._cluster = cluster = await asyncio.to_thread(Cluster.open, self._options)
        placement = place(self._choice, self._options, cluster, self._backends)
        self._code = PortableCode(cluster.ray.cloudpickle)
        setups = [self._code.setup(self._setup(index, placement)) for index in range(placement.num_workers)]
        self._tasks = [asyncio.create_task(self._keep(setup, placement)) for setup in setups]
        if self._context.stop is not None:
            self._tasks.append(asyncio.create_task(self._watch(self._context.stop)))
        saying = asyncio.get_running_loop().call_later(
            _SAY_SO_AFTER_S, lambda: _log.warning("still waiting for a Ray worker", each=placement.each)
        )
        try:
            await self._free_worker()
        finally:
            saying.cancel()
        with suppress(TimeoutError):  # a job of few rows would be given to the first worker as a whole
            async with asyncio.timeout(_OTHERS_S):
                while self._failure is None and sum(w.is_alive for w in self._workers) < placement.num_workers:
                    self._changed.clear()
                    await self._changed.wait()

    async def __aexit__(
        self, _kind: type[BaseException] | None = None, error: BaseException | None = None, _trace: object = None
    ) -> None:
        """End all workers, and Ray where it was begun for this job."""
        cluster, self._cluster = self._cluster, None
        closing = None if cluster is None else threading.Thread(target=cluster.close, name="llmprog-ray-end")
        is_given_up = isinstance(error, asyncio.CancelledError | GeneratorExit)
        if closing is not None and is_given_up:
            closing.start()  # nobody waits for it but the end of the process
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in self._workers), return_exceptions=True)
        if self._code is not None:
            self._code.close()
        if closing is not None and not is_given_up:
            closing.start()
            await asyncio.to_thread(closing.join)

    async def run(self, task: RowTask) -> RowResult:
        try:
            data = self._portable(task)
        except InputError as error:
            return result_of_error(task, error)
        for num_deaths in range(_MOST_DEATHS):
            worker = await self._free_worker()
            try:
                result = await worker.run(task, data, is_repeated=num_deaths > 0)
            except WorkerDiedError:
                continue
            if result.stopped == "budget" and self._context.ledger is not None:
                self._context.ledger.out_of_time()  # if that was it, the ledger says so
            return result
        return result_of_error(
            task, LLMProgError(f"row {task.index}: {_MOST_DEATHS} Ray workers died while they were at work on it")
        )

    def _portable(self, task: RowTask) -> bytes:
        if self._code is None:
            raise LLMProgError("a RayExecutor works inside `async with` only")
        return self._code.task(task)

    async def _free_worker(self) -> RemoteWorker:
        """The worker with the fewest rows, once there is one."""
        while True:
            if self._failure is not None:
                raise self._failure
            alive = [worker for worker in self._workers if worker.is_alive]
            if alive:
                return min(alive, key=lambda worker: worker.num_rows)
            self._changed.clear()
            await self._changed.wait()

    async def _keep(self, setup: bytes, placement: Placement) -> None:
        """Keep one worker going: when it dies, another takes its place."""
        num_early_deaths = 0
        while self._failure is None:
            worker = self._begin(setup, placement)
            self._workers.append(worker)
            try:
                await worker.open()
                self._changed.set()
                if self._context.stop is not None and self._context.stop.is_set():
                    worker.stop()
                await worker.gone.wait()
            except WorkerDiedError:
                pass
            except LLMProgError as error:
                self._fail(error)
            self._workers.remove(worker)
            num_early_deaths = 0 if worker.num_done else num_early_deaths + 1
            if num_early_deaths >= _MOST_EARLY_DEATHS:
                self._fail(LLMProgError(f"{num_early_deaths} Ray workers died one after the other; see Ray's logs"))
            elif self._failure is None:
                _log.warning("a Ray worker died; another takes its place", pid=worker.pid)

    def _begin(self, setup: bytes, placement: Placement) -> RemoteWorker:
        if self._cluster is None:
            raise LLMProgError("a RayExecutor works inside `async with` only")
        ray: Any = self._cluster.ray
        made = ray.remote(RowWorker).options(
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus,
            max_concurrency=_ACTOR_CONCURRENCY,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )
        return RemoteWorker(ray, made.remote(setup), self._accounts, self._fail)

    def _setup(self, index: int, placement: Placement) -> Setup:
        context = self._context
        ledger = context.ledger
        return Setup(
            compiled=self._compiled,
            backend=self._choice,
            max_in_flight=self._max_in_flight,
            run_id=None if context.journal is None else context.journal.id,
            has_budget=ledger is not None,
            limits_thoughts=isinstance(ledger, Ledger) and ledger.budget.thoughts is not None,
            cache=context.cache,
            worker=index,
            num_workers=placement.num_workers,
        )

    async def _watch(self, stop: threading.Event) -> None:
        while not stop.is_set():  # noqa: ASYNC110 - it is set by threads and signal handlers
            await asyncio.sleep(_STOP_POLL_S)
        for worker in self._workers:
            if worker.is_alive:
                worker.stop()

    def _fail(self, error: BaseException) -> None:
        """End the job: nobody gets a worker any more."""
        self._failure = self._failure or error
        self._changed.set()
