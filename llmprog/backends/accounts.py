"""What happens around each call of a run: it is paid from a budget, kept in a journal, or found in a cache."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from llmprog.accounting import CallJournal, Question, Spending
from llmprog.backends.base import Backend
from llmprog.backends.bounds import usage_of_answers
from llmprog.errors import BackendError, LLMProgError
from llmprog.types import (
    Completion,
    Logprobs,
    Request,
    Scoring,
    Usage,
)

A = TypeVar("A", bound="Sequence[Completion] | Sequence[Logprobs]")

_SETTLE_S = 5.0  # a cancelled call is written down within this time, or left as unknown
NOTHING = Usage()


class CompletionCache(Protocol):
    """Completions of earlier runs."""

    def get(self, backend_id: str, honours_seed: bool, request: Request) -> Mapping[int, Completion]:
        """Those of ``request`` that are known, by sample index; they cost nothing."""
        ...

    def put(self, backend_id: str, honours_seed: bool, request: Request, completions: Sequence[Completion]) -> None:
        """Keep ``completions`` of ``request``."""
        ...


@dataclass(slots=True)
class Attempts:
    """The attempts of one call: each that may be billed is paid for by itself."""

    accounts: Accounts
    call: int | None
    bound: Usage
    is_reserved: bool = True  # ``bound`` is set aside for the attempt under way

    async def again(self, error: BackendError, duration_s: float) -> None:
        """Note a failed attempt before the next is made.

        Raises:
            BudgetExceededError: The budget does not allow another.
        """
        accounts = self.accounts
        if accounts.journal is not None and self.call is not None:
            accounts.journal.note_attempt(self.call, error, duration_s)
        if error.possibly_billed and accounts.spending is not None:
            self.is_reserved = False
            await accounts.spending.settle(self.bound, self.bound)
            await accounts.spending.reserve(self.bound, 1)
            self.is_reserved = True


attempts: ContextVar[Attempts | None] = ContextVar("llmprog_attempts", default=None)
"""The call that is under way, for backends that make several attempts of one."""


class Accounts:
    """Where a run's calls are paid, kept and found again.

    Args:
        journal: Keeps them; ``None`` keeps nothing.
        spending: Allows them; ``None`` allows all.
        cache: Knows those of earlier runs; ``None`` where none is wanted.
    """

    def __init__(
        self,
        journal: CallJournal | None = None,
        spending: Spending | None = None,
        cache: CompletionCache | None = None,
    ) -> None:
        self.journal = journal
        self.spending = spending
        self.cache = cache
        self._settling: set[asyncio.Task[None]] = set()

    async def recall(self, node: str, backend: Backend, request: Request) -> dict[int, Completion]:
        """Completions of ``request`` that need not be asked for, by sample index."""
        found = {} if self.journal is None else dict(self.journal.recall(node, request))
        if self.cache is None or len(found) >= request.num_samples:
            return found
        cached = self.cache.get(backend.id, backend.capabilities.seed, request)
        hits = {index: completion for index, completion in cached.items() if index not in found}
        if self.journal is not None:
            for part in parts_of(request, hits):
                await self.journal.copy(node, backend.id, part, [hits[i] for i in samples_of(part)])
        return found | hits

    def recall_scores(self, node: str, scoring: Scoring) -> Sequence[Logprobs] | None:
        """Likelihoods that need not be asked for."""
        return None if self.journal is None else self.journal.recall_scores(node, scoring)

    async def reserve(self, each: Usage, count: int) -> int:
        """For how many of ``count`` completions the budget has room, at least 1.

        Raises:
            BudgetExceededError: For none.
        """
        return count if self.spending is None else await self.spending.reserve(each, count)

    async def call(
        self, node: str, backend: Backend, question: Question, bound: Usage, send: Callable[[], Awaitable[A]]
    ) -> A:
        """What ``send`` returns, written down before it is handed out; ``bound`` has been reserved, and is settled.

        Raises:
            StoreError: The call could not be written down, so it was not sent; or its answer could not.
        """
        number = None
        if self.journal is not None:
            try:
                number = await self.journal.send(node, backend.id, question, bound)
            except BaseException:
                await self._settle(bound, NOTHING)
                raise
        made = Attempts(self, number, bound)
        token = attempts.set(made)
        begun = time.monotonic()
        try:
            answers = await send()
        except BaseException as error:
            charge = bound if made.is_reserved and _may_be_billed(error) else NOTHING
            await self._in_spite_of_cancellation(
                self._fail(number, error, bound if made.is_reserved else None, charge, time.monotonic() - begun)
            )
            raise
        finally:
            attempts.reset(token)
        usage = usage_of_answers(question, answers, bound)
        await self._settle(bound, usage)
        if self.journal is not None and number is not None:
            await self.journal.settle(number, answers, usage, time.monotonic() - begun)
        if self.cache is not None and isinstance(question, Request):
            completions = [answer for answer in answers if isinstance(answer, Completion)]
            self.cache.put(backend.id, backend.capabilities.seed, question, completions)
        return answers

    async def _settle(self, reserved: Usage | None, actual: Usage) -> None:
        if self.spending is not None and reserved is not None:
            await self.spending.settle(reserved, actual)

    async def _fail(
        self, number: int | None, error: BaseException, reserved: Usage | None, charge: Usage, duration_s: float
    ) -> None:
        await self._settle(reserved, charge)
        if self.journal is not None and number is not None:
            await self.journal.fail(number, error, charge, duration_s)

    async def _in_spite_of_cancellation(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        await asyncio.wait({task}, timeout=_SETTLE_S)
        if task.done() and not task.cancelled():
            task.exception()  # the call's own error is the one to raise


def _may_be_billed(error: BaseException) -> bool:
    """Whether a call that ended so may have reached a model: our own errors know, others leave it open."""
    return error.possibly_billed if isinstance(error, BackendError) else not isinstance(error, LLMProgError)


def samples_of(request: Request) -> range:
    """The sample indices that ``request`` asks for."""
    return range(request.first_sample, request.first_sample + request.num_samples)


def parts_of(request: Request, samples: Iterable[int]) -> list[Request]:
    """``request`` for those of ``samples`` it asks for, in as few requests as there are gaps between them."""
    wanted = set(samples)
    found = [i for i in samples_of(request) if i in wanted]
    runs = [[i for _, i in run] for _, run in itertools.groupby(enumerate(found), lambda pair: pair[1] - pair[0])]
    return [replace(request, first_sample=run[0], num_samples=len(run)) for run in runs]
