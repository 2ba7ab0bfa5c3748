"""What workers tell and ask the owner, and what it sends them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from llmprog.backends.accounts import CompletionCache
from llmprog.compile import CompiledProgram
from llmprog.errors import LLMProgError
from llmprog.jobs.result import RowResult
from llmprog.running.chosen_backends import BackendChoice
from llmprog.runs.path_journal import CopiedCall, EndedCall, FailedAttempt, SentCall
from llmprog.runs.recall import SettledCall
from llmprog.types import Usage

# ------------------------------------------------------------------------------------------- from workers


class Reserve(NamedTuple):
    """Ask the budget for up to ``num_samples`` completions; the answer is for how many there is room."""

    each: Usage
    num_samples: int


class Settle(NamedTuple):
    """Give back what was reserved, charge what it did cost."""

    reserved: Usage
    actual: Usage


class TakeThoughts(NamedTuple):
    """New thoughts; the answer is how many the budget allows, and the sentence about what is exhausted."""

    num_thoughts: int


class KeepEvent(NamedTuple):
    """Something that happened in a search."""

    path: str
    kind: str
    data: bytes


class ReserveRate(NamedTuple):
    """Room for a request and its tokens in an account's limits per minute; the answer is a number to settle it by."""

    account: str
    requests_per_minute: float | None
    tokens_per_minute: float | None
    num_tokens: int


class SettleRate(NamedTuple):
    """What a request took of that room; ``None`` where nothing was sent."""

    number: int
    num_tokens: int | None


class Spent(NamedTuple):
    """What the calls that came back since the last such message cost."""

    usage: Usage


class RowDone(NamedTuple):
    """A row's result, or the error that ends the job; of its settled calls those that were asked for, by path."""

    number: int
    result: RowResult | None
    error: LLMProgError | None
    asked: dict[str, tuple[int, ...]]


# A call that a worker sends is a ``SentCall``, answered with its number and its question's; what becomes of it an
# ``EndedCall``. All that is written is answered once it is on disk, but for a ``FailedAttempt``.
Operation: TypeAlias = (
    Reserve
    | Settle
    | TakeThoughts
    | SentCall
    | EndedCall
    | FailedAttempt
    | CopiedCall
    | KeepEvent
    | ReserveRate
    | SettleRate
    | Spent
    | RowDone
)


class Message(NamedTuple):
    """An operation; it is answered under its number, where it has one."""

    number: int | None
    operation: Operation


# ------------------------------------------------------------------------------------------- to workers


class Setup(NamedTuple):
    """What a worker needs to know once.

    Attributes:
        compiled: The program.
        backend: What it runs on.
        max_in_flight: Actions that the search of one row may have under way at once.
        run_id: The job's run; ``None`` where none is kept.
        has_budget: Whether there is a budget to ask.
        limits_thoughts: Whether it limits thoughts.
        cache: Completions of other runs.
        worker: Which of the workers it is, from 0.
        num_workers: How many share the accounts.
    """

    compiled: CompiledProgram
    backend: BackendChoice | None
    max_in_flight: int
    run_id: str | None
    has_budget: bool
    limits_thoughts: bool
    cache: CompletionCache | None
    worker: int
    num_workers: int


class Hello(NamedTuple):
    """A worker that is ready."""

    version: str
    pid: int
    node: str


class Work(NamedTuple):
    """A row to work on.

    Attributes:
        number: By which its result is told.
        task: The pickled ``RowTask``.
        path: Its path in the journal; programs within it have paths that begin with it and a slash.
        settled: Calls of it that settled earlier, by path.
        left_s: Seconds until the budget's time is up.
    """

    number: int
    task: bytes
    path: str
    settled: dict[str, list[SettledCall]]
    left_s: float | None


class Answer(NamedTuple):
    """The answer to a message: a value, or an error to be raised."""

    number: int
    value: Any
    error: LLMProgError | None = None


class Stop(NamedTuple):
    """Begin nothing new, take in what is under way."""


Parcel: TypeAlias = "Work | Answer | Stop"
