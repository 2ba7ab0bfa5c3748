"""What the calls of a run are held to: a budget that is asked before each, and a journal that is told of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from llmprog.types import Completion, Logprobs, Request, Scoring, Usage

Question: TypeAlias = Request | Scoring
Answers: TypeAlias = Sequence[Completion] | Sequence[Logprobs]


class CallJournal(Protocol):
    """Keeps the calls of one search where a killed process does not take them along.

    A call is known by its position: the node that asked, what it asked (``digest()``) and the sample index; never by
    the order of execution. So a run that is begun anew with the same seed finds what had settled.
    """

    def recall(self, node: str, request: Request) -> Mapping[int, Completion]:
        """Those completions of ``request`` that settled earlier, by sample index (``first_sample`` counted)."""
        ...

    def recall_scores(self, node: str, scoring: Scoring) -> Sequence[Logprobs] | None:
        """The likelihoods that ``scoring`` asks for, if they settled earlier."""
        ...

    async def send(self, node: str, backend: str, question: Question, bound: Usage) -> int:
        """Note that a call is about to be sent, which may cost up to ``bound``; returns its number.

        It returns when that is on disk: a call whose fate is unknown after a crash counts as paid, at its bound.

        Raises:
            StoreError: It could not be written; the call must not be sent.
        """
        ...

    async def settle(self, call: int, answers: Answers, usage: Usage, duration_s: float) -> None:
        """Keep the answers of a call; they may be used once this returns.

        Raises:
            StoreError: They could not be written.
        """
        ...

    async def fail(self, call: int, error: BaseException, usage: Usage, duration_s: float) -> None:
        """Note that a call failed or was cancelled, and what is charged for it (its bound where it may be billed)."""
        ...

    def note_attempt(self, call: int, error: BaseException, duration_s: float) -> None:
        """Note an attempt of a call that failed and is followed by another."""
        ...

    async def copy(self, node: str, backend: str, request: Request, completions: Sequence[Completion]) -> None:
        """Keep completions that came from the cache, so that a resumed run does not depend on it."""
        ...


class Journal(Protocol):
    """Keeps what the searches of a run leave."""

    @property
    def id(self) -> str:
        """The run's id."""
        ...

    def at(self, path: str) -> CallJournal:
        """The journal of the calls of one search: ``""`` for a plain run, the row's number for a row of a job."""
        ...

    def event(self, path: str, kind: str, data: Any) -> None:
        """Keep something that happened, JSON values, in order."""
        ...


class Spending(Protocol):
    """A budget as the calls of a run see it: set aside the most a call may cost, then settle what it did cost."""

    async def reserve(self, each: Usage, count: int) -> int:
        """Set aside ``each`` for up to ``count`` completions; returns for how many, at least 1.

        Where calls under way may yet cost less than was set aside for them, it waits for them.

        Raises:
            BudgetExceededError: Not one more completion can be paid for; the message says which limit is reached.
        """
        ...

    async def settle(self, reserved: Usage, actual: Usage) -> None:
        """Give back what was ``reserved`` and charge ``actual``, in which nothing is unknown."""
        ...

    def take_thoughts(self, count: int) -> int:
        """How many of ``count`` new thoughts the budget allows; they count as made."""
        ...

    @property
    def deadline(self) -> float | None:
        """When the time is up, in seconds of ``time.monotonic``."""
        ...

    def out_of_time(self) -> bool:
        """Whether the time is up; if so, ``exhausted`` says it."""
        ...

    @property
    def exhausted(self) -> str | None:
        """Which limit first stopped something, and how much of it was spent; ``None`` where none did."""
        ...
