"""A worker: a process that runs rows, many at once, in an event loop of its own."""

from __future__ import annotations

import asyncio
import os
import pickle
import platform
import threading
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata

from llmprog.background_loop import start
from llmprog.errors import LLMProgError, restored
from llmprog.events import CallSettled, Event
from llmprog.jobs.executor import LocalExecutor
from llmprog.jobs.ray.mailbox import Mailbox
from llmprog.jobs.ray.messages import Answer, Hello, Parcel, RowDone, Setup, Spent, Work
from llmprog.jobs.ray.proxies import RemoteJournal, RemoteLedger, RemoteShare
from llmprog.redaction import redact
from llmprog.running.chosen_backends import ChosenBackends
from llmprog.running.execution import RunContext
from llmprog.runs.cache import CallCache
from llmprog.types import Usage

_TELL_EVERY_S = 0.1  # what was spent, for the owner's progress display


class RowWorker:
    """What Ray makes an actor of. Ray calls it in one event loop; rows are worked on in another, as by ``local``.

    Args:
        setup: The pickled ``Setup``.
    """

    def __init__(self, setup: bytes) -> None:
        self._setup = setup
        self._rows: _Rows | None = None

    async def prepare(self) -> Hello | LLMProgError:
        """Load the program and its backends."""
        mailbox = Mailbox()

        async def load() -> _Rows:
            return _Rows(pickle.loads(self._setup), mailbox)  # noqa: S301 - from the owner, who made this process

        try:
            self._rows = await asyncio.wrap_future(start(load()))
        except LLMProgError as error:
            return portable(error)
        except Exception as error:  # noqa: BLE001 - whatever is missing here is said where somebody reads it
            return LLMProgError(
                f"a Ray worker on {platform.node()} cannot load the program: {type(error).__name__}: "
                f"{redact(str(error))[:500]}; what the program imports must be installed there"
            )
        return Hello(metadata.version("llmprog"), os.getpid(), platform.node())

    async def deliver(self, parcels: bytes) -> None:
        """Take in what the owner sends."""
        if self._rows is not None:
            self._rows.take(pickle.loads(parcels))  # noqa: S301 - from the owner, who made this process

    async def collect(self) -> bytes:
        """What is to be told to the owner, once there is something."""
        if self._rows is None:
            return pickle.dumps([])
        return await self._rows.mailbox.collect()

    async def aclose(self) -> None:
        """Write what waits to be written."""
        if self._rows is not None:
            await asyncio.to_thread(self._rows.close)


class _Rows:
    """The rows that are worked on, and what they need."""

    def __init__(self, setup: Setup, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._journal = None if setup.run_id is None else RemoteJournal(mailbox, setup.run_id)
        self._ledger = None
        if setup.has_budget:
            self._ledger = RemoteLedger(mailbox, limits_thoughts=setup.limits_thoughts)
        self._cache = setup.cache
        backends = ChosenBackends(setup.compiled, setup.backend)
        backends.share_accounts(RemoteShare(mailbox, setup.worker, setup.num_workers))
        self._executor = LocalExecutor(
            setup.compiled,
            backends,
            RunContext(journal=self._journal, ledger=self._ledger, cache=self._cache, stop=self._stop),
            max_in_flight=setup.max_in_flight,
            on_event=self._count,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._spent = Usage()
        self._telling: asyncio.TimerHandle | None = None

    def take(self, parcels: Sequence[Parcel]) -> None:
        """Take in what the owner sends; called in another event loop."""
        answers = [parcel for parcel in parcels if isinstance(parcel, Answer)]
        works = [parcel for parcel in parcels if isinstance(parcel, Work)]
        if len(answers) + len(works) < len(parcels):
            self._stop.set()
        if answers:
            self.mailbox.deliver(answers)
        if works:
            self._loop.call_soon_threadsafe(self._begin, works)

    def close(self) -> None:
        """Write what waits to be written."""
        if isinstance(self._cache, CallCache):
            self._cache.close()

    def _begin(self, works: Sequence[Work]) -> None:
        for work in works:
            task = self._loop.create_task(self._work(work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, work: Work) -> None:
        if self._ledger is not None:
            self._ledger.end_in(work.left_s)
        result, failure = None, None
        try:
            if self._journal is not None:
                self._journal.open(work.settled)
            task = pickle.loads(work.task)  # noqa: S301 - from the owner, who made this process
            result = replace(await self._executor.run(task), row=None)
        except LLMProgError as error:
            failure = portable(error)
        except Exception as error:  # noqa: BLE001 - raised by the owner: it ends the job, as it does in one process
            failure = LLMProgError(
                f"a Ray worker failed at row {work.path}: {type(error).__name__}: {redact(str(error))[:500]}"
            )
        asked = {} if self._journal is None else self._journal.close(work.settled)
        self._tell_spent()
        self.mailbox.tell(RowDone(work.number, result, failure, asked))

    def _count(self, _row: int, event: Event) -> None:
        if isinstance(event, CallSettled) and not event.is_recalled:
            self._spent += event.usage
            if self._telling is None:
                self._telling = self._loop.call_later(_TELL_EVERY_S, self._tell_spent)

    def _tell_spent(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
            self.mailbox.tell(Spent(self._spent))
            self._spent = Usage()


def portable(error: LLMProgError) -> LLMProgError:
    """``error`` as another process can read it: of a class of ours, its details plain values, without secrets."""
    ours = (kind for kind in type(error).__mro__ if kind.__module__ == LLMProgError.__module__)
    kind: type[LLMProgError] = next(ours)
    made = restored(kind, (redact(str(error)),))
    for name, value in vars(error).items():
        if isinstance(value, str | int | float | None):
            setattr(made, name, redact(value) if isinstance(value, str) else value)
    return made
