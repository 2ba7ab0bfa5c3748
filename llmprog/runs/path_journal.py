"""The calls of one search as its journal keeps them: encoded, their secrets blacked out, then handed to who writes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from llmprog.accounting import Answers, Question
from llmprog.errors import StoreError
from llmprog.runs.encoding import completions_to_bytes, plain_text, scores_to_bytes
from llmprog.types import Completion, Logprobs, Request, Scoring, Usage, total_usage

T = TypeVar("T")

_LONGEST_ERROR = 2000
_RECENT = 4096


class EncodedQuestion(NamedTuple):
    """What was asked, as a journal keeps it.

    Attributes:
        digest: Of the question itself, in hex.
        content: What ``QuestionEncoder`` made of it.
    """

    digest: str
    content: bytes


class RecentQuestions(Generic[T]):
    """What is known of the questions that were asked last.

    The samples of a prompt are asked for by requests that share it: its digest need not be made for each of them.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[object, object, T]] = {}

    def get(self, question: Question) -> T | None:
        """What is known of ``question``, by the identity of its prompt and parameters."""
        if not isinstance(question, Request):
            return None
        known = self._known.get((id(question.prompt), id(question.params)))
        return None if known is None else known[2]

    def put(self, question: Question, value: T) -> None:
        """Remember it."""
        if isinstance(question, Request):
            prompt, params = question.prompt, question.params
            self._known[id(prompt), id(params)] = prompt, params, value  # kept, so that no other gets their addresses
            if len(self._known) > _RECENT:
                del self._known[next(iter(self._known))]


QuestionKey: TypeAlias = "int | EncodedQuestion"
"""A question by its number in the journal or, where that is not known, by its content."""


class SentCall(NamedTuple):
    """A call that is about to be sent."""

    path: str
    node: str
    backend: str
    question: QuestionKey
    first_sample: int
    num_samples: int
    bound: Usage


class EndedCall(NamedTuple):
    """What became of a call: ``settled``, ``failed`` or ``unknown``."""

    call: int
    state: str
    usage: Usage
    duration_s: float | None = None
    answers: bytes | None = None
    error: str | None = None


class FailedAttempt(NamedTuple):
    """A failed attempt that another follows."""

    call: int
    error: str
    status: str | None
    is_billed: bool
    duration_s: float


class CopiedCall(NamedTuple):
    """A call whose answers came from the cache."""

    path: str
    node: str
    backend: str
    question: QuestionKey
    first_sample: int
    num_samples: int
    usage: Usage
    answers: bytes


class CallWriter(Protocol):
    """Writes what happens to calls: a run's journal, or what passes it on to the process that has the journal.

    Nothing that it is given holds a secret.
    """

    def question(self, question: Question) -> QuestionKey:
        """How ``question`` is referred to from now on."""
        ...

    async def send_call(self, sent: SentCall) -> int:
        """Note a call; its number, once that is on disk."""
        ...

    async def end_call(self, ended: EndedCall) -> None:
        """Keep what became of a call; it is on disk when this returns."""
        ...

    def note_attempt(self, attempt: FailedAttempt) -> None:
        """Note an attempt, with the next group that is written."""
        ...

    async def copy_call(self, copied: CopiedCall) -> None:
        """Keep a call and its answers; they are on disk when this returns."""
        ...


class KnownCalls(Protocol):
    """Calls of a path that had settled before."""

    def completions(self, node: str, request: Request) -> Mapping[int, Completion]:
        """Those that ``request`` asks for, by sample index."""
        ...

    def scores(self, node: str, scoring: Scoring) -> Sequence[Logprobs] | None:
        """The likelihoods that ``scoring`` asks for."""
        ...


class PathJournal:
    """The calls of one path of a run; implements ``llmprog.accounting.CallJournal``.

    Args:
        writer: Who writes them.
        path: The path.
        earlier: What had settled before; ``None`` for nothing.
    """

    __slots__ = ("__weakref__", "_earlier", "_path", "_writer")

    def __init__(self, writer: CallWriter, path: str, earlier: KnownCalls | None) -> None:
        self._writer = writer
        self._path = path
        self._earlier = earlier

    def recall(self, node: str, request: Request) -> Mapping[int, Completion]:
        return {} if self._earlier is None else self._earlier.completions(node, request)

    def recall_scores(self, node: str, scoring: Scoring) -> Sequence[Logprobs] | None:
        return None if self._earlier is None else self._earlier.scores(node, scoring)

    async def send(self, node: str, backend: str, question: Question, bound: Usage) -> int:
        first, count = _samples_of(question)
        writer = self._writer
        sent = SentCall(self._path, node, backend, writer.question(question), first, count, bound)
        return await writer.send_call(sent)

    async def settle(self, call: int, answers: Answers, usage: Usage, duration_s: float) -> None:
        await self._writer.end_call(EndedCall(call, "settled", usage, duration_s, _answers_to_bytes(answers)))

    async def fail(self, call: int, error: BaseException, usage: Usage, duration_s: float) -> None:
        state = "unknown" if isinstance(error, asyncio.CancelledError) else "failed"
        await self._writer.end_call(EndedCall(call, state, usage, duration_s, error=_describe(error)))

    def note_attempt(self, call: int, error: BaseException, duration_s: float) -> None:
        status = getattr(error, "status", None)
        is_billed = bool(getattr(error, "possibly_billed", False))
        said = None if status is None else plain_text(str(status))
        self._writer.note_attempt(FailedAttempt(call, _describe(error), said, is_billed, duration_s))

    async def copy(self, node: str, backend: str, request: Request, completions: Sequence[Completion]) -> None:
        first, count = _samples_of(request)
        writer, data = self._writer, completions_to_bytes(completions)
        key, usage = writer.question(request), total_usage(completions)
        await writer.copy_call(CopiedCall(self._path, node, backend, key, first, count, usage, data))


def _samples_of(question: Question) -> tuple[int, int]:
    """The first sample that is asked for, and how many; none for likelihoods."""
    return (question.first_sample, question.num_samples) if isinstance(question, Request) else (0, 0)


def _answers_to_bytes(answers: Answers) -> bytes:
    completions = [answer for answer in answers if isinstance(answer, Completion)]
    if len(completions) == len(answers):
        return completions_to_bytes(completions)
    scores = [answer for answer in answers if isinstance(answer, Logprobs)]
    if len(scores) != len(answers):
        raise StoreError("the answers of a call are completions or log-probabilities, not both")
    return scores_to_bytes(scores)


def _describe(error: BaseException) -> str:
    return plain_text(f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
