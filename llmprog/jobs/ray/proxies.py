"""A job's journal, budget and rate limits as a worker sees them: everything is asked of the owner."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from llmprog.accounting import Question
from llmprog.backends.bounds import times
from llmprog.backends.remote.limits import CallRate
from llmprog.backends.shares import Allowance, Rate
from llmprog.jobs.ray.mailbox import Mailbox
from llmprog.jobs.ray.messages import (
    KeepEvent,
    Reserve,
    ReserveRate,
    Settle,
    SettleRate,
    TakeThoughts,
)
from llmprog.runs.encoding import QuestionEncoder, json_to_bytes
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
from llmprog.runs.recall import SentCalls, SettledCall
from llmprog.types import Usage

_KNOWN_NUMBERS = 4096
_NOTHING = Usage()


class RemoteJournal:
    """The job's journal; implements ``llmprog.accounting.Journal`` and ``CallWriter``.

    Questions and answers are encoded, and their secrets blacked out, before they leave this process: it knows the keys
    that it sends, which the owner may not.

    Attributes:
        id: The run's id.
    """

    def __init__(self, mailbox: Mailbox, id: str) -> None:  # noqa: A002 - a run has an id
        self.id = id
        self._mailbox = mailbox
        self._settled: dict[str, SentCalls] = {}
        self._encoder = QuestionEncoder()
        self._recent: RecentQuestions[EncodedQuestion] = RecentQuestions()
        self._numbers: dict[str, int] = {}

    def open(self, settled: Mapping[str, Sequence[SettledCall]]) -> None:
        """Have calls that settled earlier recalled, by path."""
        for path, calls in settled.items():
            self._settled[path] = SentCalls(calls)

    def close(self, settled: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
        """Forget them; returns those that were asked for."""
        return {path: self._settled.pop(path).asked for path in settled}

    def at(self, path: str) -> PathJournal:
        return PathJournal(self, path, self._settled.get(path))

    def event(self, path: str, kind: str, data: Any) -> None:
        self._mailbox.tell(KeepEvent(path, kind, json_to_bytes(data)))

    def question(self, question: Question) -> QuestionKey:
        encoded = self._recent.get(question)
        if encoded is None:
            encoded = EncodedQuestion(question.digest(), self._encoder.encode(question))
            self._recent.put(question, encoded)
        return self._numbers.get(encoded.digest, encoded)

    async def send_call(self, sent: SentCall) -> int:
        call: int
        call, number = await self._mailbox.ask(sent, self._drop)
        if isinstance(sent.question, EncodedQuestion):
            self._numbers[sent.question.digest] = number
            if len(self._numbers) > _KNOWN_NUMBERS:
                del self._numbers[next(iter(self._numbers))]
        return call

    def _drop(self, sent: tuple[int, int]) -> None:
        """A call was noted, and whoever wanted to send it has been cancelled."""
        self._mailbox.tell(EndedCall(sent[0], "failed", _NOTHING, error="cancelled unsent"))

    async def end_call(self, ended: EndedCall) -> None:
        await self._mailbox.ask(ended)

    def note_attempt(self, attempt: FailedAttempt) -> None:
        self._mailbox.tell(attempt)

    async def copy_call(self, copied: CopiedCall) -> None:
        await self._mailbox.ask(copied)


class RemoteLedger:
    """The job's budget; implements ``llmprog.accounting.Spending``.

    Args:
        mailbox: Where the owner is asked.
        limits_thoughts: Whether thoughts are limited; if so, the worker stands still while it asks for some.
    """

    def __init__(self, mailbox: Mailbox, *, limits_thoughts: bool) -> None:
        self._mailbox = mailbox
        self._limits_thoughts = limits_thoughts
        self._deadline: float | None = None
        self._exhausted: str | None = None

    def end_in(self, left_s: float | None) -> None:
        """The time is up in ``left_s`` seconds; clocks of different machines have nothing in common but their pace."""
        self._deadline = None if left_s is None else time.monotonic() + left_s

    async def reserve(self, each: Usage, count: int) -> int:
        granted: int = await self._mailbox.ask(
            Reserve(each, count), lambda late: self._mailbox.tell(Settle(times(each, late), _NOTHING))
        )
        return granted

    async def settle(self, reserved: Usage, actual: Usage) -> None:
        self._mailbox.tell(Settle(reserved, actual))  # nothing depends on when; if it fails, the job ends

    def take_thoughts(self, count: int) -> int:
        if not self._limits_thoughts:
            self._mailbox.tell(TakeThoughts(count))
            return count
        granted: int
        granted, self._exhausted = self._mailbox.ask_blocking(TakeThoughts(count))
        return granted

    @property
    def deadline(self) -> float | None:
        return self._deadline

    def out_of_time(self) -> bool:
        is_up = self._deadline is not None and time.monotonic() >= self._deadline
        if is_up:
            self._exhausted = self._exhausted or "seconds: the time is up"
        return is_up

    @property
    def exhausted(self) -> str | None:
        return self._exhausted


class RemoteShare:
    """This worker's share of the endpoint accounts; implements ``llmprog.backends.shares.AccountShare``.

    Args:
        mailbox: Where the owner is asked.
        index: Which of the workers it is, from 0.
        num_workers: How many there are.
    """

    def __init__(self, mailbox: Mailbox, index: int, num_workers: int) -> None:
        self._mailbox = mailbox
        self._index = index
        self._num_workers = num_workers

    def concurrency(self, maximum: int) -> int:
        return maximum // self._num_workers + (self._index < maximum % self._num_workers)

    def rate(self, account: str, requests_per_minute: float | None, tokens_per_minute: float | None) -> Rate:
        if requests_per_minute is None and tokens_per_minute is None:
            return CallRate(None, None)
        return _RemoteRate(self._mailbox, account, requests_per_minute, tokens_per_minute)


class _RemoteRate:
    def __init__(
        self, mailbox: Mailbox, account: str, requests_per_minute: float | None, tokens_per_minute: float | None
    ) -> None:
        self._mailbox = mailbox
        self._limits = account, requests_per_minute, tokens_per_minute

    async def reserve(self, num_tokens: int) -> Allowance:
        number = await self._mailbox.ask(
            ReserveRate(*self._limits, num_tokens), lambda late: self._mailbox.tell(SettleRate(late, None))
        )
        return _RemoteAllowance(self._mailbox, number)


class _RemoteAllowance:
    __slots__ = ("_mailbox", "_number")

    def __init__(self, mailbox: Mailbox, number: int) -> None:
        self._mailbox = mailbox
        self._number = number

    def settle(self, num_tokens: int) -> None:
        self._mailbox.tell(SettleRate(self._number, num_tokens))

    def release(self) -> None:
        self._mailbox.tell(SettleRate(self._number, None))
