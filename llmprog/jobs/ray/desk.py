"""Where the owner does what one worker asks for: journal, budget and rate limits are kept here and nowhere else."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from llmprog.accounting import Spending
from llmprog.backends.bounds import times
from llmprog.backends.remote.limits import Allotment, CallRate
from llmprog.errors import LLMProgError
from llmprog.jobs.ray.messages import (
    Answer,
    KeepEvent,
    Message,
    Operation,
    Reserve,
    ReserveRate,
    RowDone,
    Settle,
    SettleRate,
    Spent,
    TakeThoughts,
)
from llmprog.runs.journal import RunJournal
from llmprog.runs.path_journal import CopiedCall, EndedCall, FailedAttempt, SentCall
from llmprog.runs.recall import SettledCall
from llmprog.types import Usage

_NOTHING = Usage()
_RATE_WINDOW_S = 60.0  # after it, what a request took of a limit per minute counts no more


class JobAccounts:
    """What all workers of a job share.

    Args:
        journal: Of the job's run; ``None`` keeps nothing.
        ledger: The budget; ``None`` sets no limit.
        on_spent: Told what calls cost, as they come back.
    """

    def __init__(
        self, journal: RunJournal | None, ledger: Spending | None, on_spent: Callable[[Usage], None] | None
    ) -> None:
        self.journal = journal
        self.ledger = ledger
        self.on_spent = on_spent
        self._rates: dict[str, CallRate] = {}
        self._paths = {} if journal is None else {row: set(paths) for row, paths in journal.nested_paths().items()}

    def note_path(self, path: str) -> None:
        """Calls are made at ``path``."""
        row, slash, _ = path.partition("/")
        if slash:
            self._paths.setdefault(row, set()).add(path)

    def settled_calls(self, row: str, *, is_repeated: bool) -> dict[str, list[SettledCall]]:
        """The calls of a row that need not be made again, by path; with those of this session if ``is_repeated``."""
        if self.journal is None:
            return {}
        paths = (row, *self._paths.get(row, ()))
        found = {path: self.journal.settled_calls(path, of_this_session=is_repeated) for path in paths}
        return {path: calls for path, calls in found.items() if calls}

    def row_done(self, done: RowDone, row: str) -> None:
        """A row has come to its end."""
        self._paths.pop(row, None)
        if self.journal is not None:
            for path, calls in done.asked.items():
                self.journal.note_asked(path, calls)

    def rate(self, asked: ReserveRate) -> CallRate:
        """The limits per minute of an account, one for all workers."""
        if asked.account not in self._rates:
            self._rates[asked.account] = CallRate(asked.requests_per_minute, asked.tokens_per_minute)
        return self._rates[asked.account]


class Desk:
    """Does what one worker asks for, and settles what it leaves behind when it dies.

    Args:
        accounts: What all workers share.
        answer: Sends an answer.
        row_done: Told of a row that came to its end.
        failed: Told of an error that nobody waits for: it ends the job.
    """

    def __init__(
        self,
        accounts: JobAccounts,
        *,
        answer: Callable[[Answer], None],
        row_done: Callable[[RowDone], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._accounts = accounts
        self._answer = answer
        self._row_done = row_done
        self._failed = failed
        self._at_work: dict[asyncio.Task[None], bool] = {}  # and whether it only waits for room
        self._reserved: Counter[Usage] = Counter()
        self._open_calls: dict[int, Usage] = {}
        self._allotments: OrderedDict[int, tuple[float, Allotment]] = OrderedDict()
        self._num_allotments = 0

    def take(self, messages: Sequence[Message]) -> None:
        """Do what the messages ask for, begun in their order."""
        for number, operation in messages:
            if isinstance(operation, RowDone):
                self._row_done(operation)
            elif not self._do_at_once(number, operation):
                task = asyncio.create_task(self._answered(number, operation))
                self._at_work[task] = isinstance(operation, Reserve | ReserveRate)
                task.add_done_callback(lambda done: self._at_work.pop(done, None))

    async def close(self) -> None:
        """Charge and note what a worker that is gone has left: its calls under way may be billed."""
        for task, is_waiting in self._at_work.items():
            if is_waiting:
                task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        journal, ledger = self._accounts.journal, self._accounts.ledger
        for call, bound in self._open_calls.items():
            if ledger is not None and self._reserved[bound] > 0:
                self._reserved[bound] -= 1
                await ledger.settle(bound, bound)
            if journal is not None:
                await journal.end_call(EndedCall(call, "unknown", bound, error="the worker that made it is gone"))
        self._open_calls.clear()
        for reserved in self._reserved.elements():  # without a journal, nobody knows what of it was sent
            if ledger is not None:
                await ledger.settle(reserved, reserved if journal is None else _NOTHING)
        self._reserved.clear()

    def _do_at_once(self, number: int | None, operation: Operation) -> bool:
        """Whether ``operation`` was one that does not take time, and is done."""
        journal, ledger = self._accounts.journal, self._accounts.ledger
        if isinstance(operation, KeepEvent) and journal is not None:
            journal.encoded_event(operation.path, operation.kind, operation.data)
        elif isinstance(operation, FailedAttempt) and journal is not None:
            journal.note_attempt(operation)
        elif isinstance(operation, TakeThoughts) and ledger is not None:
            granted = ledger.take_thoughts(operation.num_thoughts)
            if number is not None:
                self._answer(Answer(number, (granted, ledger.exhausted)))
        elif isinstance(operation, SettleRate):
            self._settle_rate(operation)
        elif isinstance(operation, Spent):
            if self._accounts.on_spent is not None:
                self._accounts.on_spent(operation.usage)
        else:
            return False
        return True

    async def _do(self, operation: Operation) -> Any:
        journal, ledger = self._accounts.journal, self._accounts.ledger
        if isinstance(operation, ReserveRate):
            return await self._reserve_rate(operation)
        if ledger is not None and isinstance(operation, Reserve):
            granted = await ledger.reserve(operation.each, operation.num_samples)
            self._reserved[times(operation.each, granted)] += 1
            return granted
        if ledger is not None and isinstance(operation, Settle):
            self._reserved[operation.reserved] -= 1
            return await ledger.settle(*operation)
        if journal is not None and isinstance(operation, SentCall):
            self._accounts.note_path(operation.path)
            question = operation.question
            number = question if isinstance(question, int) else journal.number_of(question)
            call = await journal.send_call(operation._replace(question=number))
            self._open_calls[call] = operation.bound
            return call, number
        if journal is not None and isinstance(operation, EndedCall):
            await journal.end_call(operation)
            return self._open_calls.pop(operation.call, None)
        if journal is not None and isinstance(operation, CopiedCall):
            self._accounts.note_path(operation.path)
            return await journal.copy_call(operation)
        raise LLMProgError(f"a Ray worker asked for {type(operation).__name__}, which this job does not have")

    async def _reserve_rate(self, asked: ReserveRate) -> int:
        allotment = await self._accounts.rate(asked).reserve(asked.num_tokens)
        now = time.monotonic()
        while self._allotments and next(iter(self._allotments.values()))[0] + _RATE_WINDOW_S < now:
            self._allotments.popitem(last=False)
        self._num_allotments += 1
        self._allotments[self._num_allotments] = now, allotment
        return self._num_allotments

    def _settle_rate(self, operation: SettleRate) -> None:
        _, allotment = self._allotments.pop(operation.number, (0.0, None))
        if allotment is None:
            return
        if operation.num_tokens is None:
            allotment.release()
        else:
            allotment.settle(operation.num_tokens)

    async def _answered(self, number: int | None, operation: Operation) -> None:
        try:
            value = await self._do(operation)
        except LLMProgError as error:
            if number is None:
                self._failed(error)
            else:
                self._answer(Answer(number, None, error))
        except Exception as error:  # noqa: BLE001 - handed on: it ends the job
            self._failed(error)
        else:
            if number is not None:
                self._answer(Answer(number, value))
