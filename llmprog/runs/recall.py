"""What had settled before a run was resumed, by the position of each call in the search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from llmprog.errors import StoreError
from llmprog.runs.encoding import completions_from_bytes, scores_from_bytes
from llmprog.runs.schema import Connection
from llmprog.types import Completion, Logprobs, Request, Scoring, Usage

A = TypeVar("A")

_AHEAD = 64  # answers are read in the order in which they were asked for, which is nearly that in which they will be
_KEPT = 4 * _AHEAD

_SETTLED = (
    "FROM call JOIN outcome ON outcome.run = call.run AND outcome.call = call.id "
    "WHERE call.run = ? AND call.path = ? AND call.session < ? AND outcome.state = 'settled'"
)
_INDEX = "SELECT call.id, call.node, question.digest, call.first_sample, call.num_samples " + _SETTLED.replace(
    "WHERE", "JOIN question ON question.run = call.run AND question.id = call.question WHERE"
)
_EVERYTHING = _INDEX.replace(" FROM", ", outcome.source, outcome.answers FROM")
_ANSWERS = (
    f"SELECT call.id, outcome.source, outcome.answers {_SETTLED} AND call.id >= ? ORDER BY call.id LIMIT {_AHEAD}"
)


class SettledCalls(ABC):
    """The settled calls of one path: where each is in the search; what it gave is looked up when somebody asks.

    Args:
        index: Of each call its number, node, the digest of its question, its first sample and how many it has.
        unasked: Those that nobody had asked for, where somebody had opened the path in this session before.

    Attributes:
        unasked: Numbers of the calls that nobody has asked for.
    """

    def __init__(self, index: Iterable[tuple[int, str, bytes, int, int]], unasked: set[int] | None = None) -> None:
        self._calls: dict[tuple[str, bytes], list[tuple[int, int, int]]] = {}
        for call, node, digest, first_sample, num_samples in index:
            self._calls.setdefault((node, bytes(digest)), []).append((call, first_sample, num_samples))
        everything = {call for calls in self._calls.values() for call, _, _ in calls}
        self.unasked = everything if unasked is None else unasked

    @abstractmethod
    def _lookup(self, call: int) -> tuple[str, bytes]:
        """Where the answers of a call came from, and the answers."""

    def completions(self, node: str, request: Request) -> Mapping[int, Completion]:
        """Those that ``request`` asks for, by sample index."""
        found: dict[int, Completion] = {}
        wanted = range(request.first_sample, request.first_sample + request.num_samples)
        calls = self._calls.get((node, bytes.fromhex(request.digest())), ()) if self._calls else ()
        for call, first, count in calls:
            if first >= wanted.stop or first + count <= wanted.start:
                continue
            source, completions = self._answer(call, completions_from_bytes)
            for sample, completion in enumerate(completions, first):
                if sample in wanted and sample not in found:
                    found[sample] = replace(completion, usage=Usage()) if source == "fork" else completion
        return found

    def scores(self, node: str, scoring: Scoring) -> Sequence[Logprobs] | None:
        """The likelihoods that ``scoring`` asks for."""
        calls = self._calls.get((node, bytes.fromhex(scoring.digest()))) if self._calls else None
        if not calls:
            return None
        for call, _, _ in calls:  # asked more than once, it was answered more than once
            self.unasked.discard(call)
        return self._answer(calls[0][0], scores_from_bytes)[1]

    def _answer(self, call: int, read: Callable[[bytes], A]) -> tuple[str, A]:
        self.unasked.discard(call)
        source, data = self._lookup(call)
        try:
            return source, read(data)
        except StoreError as error:
            raise StoreError(f"call {call} cannot be read: {error}; begin the run anew") from error


class EarlierCalls(SettledCalls):
    """Settled calls that stay on disk until somebody asks for them.

    Args:
        reader: A connection to the run.
        run: The run's number.
        path: The path.
        session: Calls of sessions before this one count.
        unasked: As for ``SettledCalls``.
    """

    def __init__(self, reader: Connection, run: int, path: str, session: int, unasked: set[int] | None = None) -> None:
        self._reader = reader
        self._where = (run, path, session)
        self._answers: OrderedDict[int, tuple[str, bytes]] = OrderedDict()
        super().__init__(reader.execute(f"{_INDEX} ORDER BY call.id", self._where), unasked)

    def _lookup(self, call: int) -> tuple[str, bytes]:
        if call not in self._answers:
            for number, source, data in self._reader.execute(_ANSWERS, (*self._where, call)):
                self._answers[number] = source, bytes(data)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        return self._answers[call]


class SettledCall(NamedTuple):
    """A settled call and its answers, to be sent to another process."""

    call: int
    node: str
    digest: bytes
    first_sample: int
    num_samples: int
    source: str
    answers: bytes


def settled_calls(reader: Connection, run: int, path: str, session: int) -> list[SettledCall]:
    """The calls of ``path`` that settled in sessions before ``session``."""
    found = reader.execute(f"{_EVERYTHING} ORDER BY call.id", (run, path, session))
    return [
        SettledCall(call, node, bytes(digest), first_sample, num_samples, source, bytes(answers))
        for call, node, digest, first_sample, num_samples, source, answers in found
    ]


class SentCalls(SettledCalls):
    """Settled calls that another process has sent."""

    def __init__(self, calls: Sequence[SettledCall]) -> None:
        self._answers = {call.call: (call.source, call.answers) for call in calls}
        super().__init__(call[:5] for call in calls)

    @property
    def asked(self) -> tuple[int, ...]:
        """Numbers of the calls that somebody has asked for."""
        return tuple(self._answers.keys() - self.unasked)

    def _lookup(self, call: int) -> tuple[str, bytes]:
        return self._answers[call]
