"""What had settled before a run was resumed, by the position of each call in the search."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

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
_ANSWERS = (
    f"SELECT call.id, outcome.source, outcome.answers {_SETTLED} AND call.id >= ? ORDER BY call.id LIMIT {_AHEAD}"
)


class EarlierCalls:
    """The settled calls of one path: where each is, in memory; what it gave, on disk until somebody asks.

    Args:
        reader: A connection to the run.
        run: The run's number.
        path: The path.
        session: Calls of sessions before this one count.
        unasked: Those that nobody had asked for, where somebody had opened the path in this session before.

    Attributes:
        unasked: Numbers of the calls that nobody has asked for.
    """

    def __init__(self, reader: Connection, run: int, path: str, session: int, unasked: set[int] | None = None) -> None:
        self._reader = reader
        self._where = (run, path, session)
        self._calls: dict[tuple[str, bytes], list[tuple[int, int, int]]] = {}
        self._answers: OrderedDict[int, tuple[str, bytes]] = OrderedDict()
        for call, node, digest, first_sample, num_samples in reader.execute(f"{_INDEX} ORDER BY call.id", self._where):
            self._calls.setdefault((node, bytes(digest)), []).append((call, first_sample, num_samples))
        everything = {call for calls in self._calls.values() for call, _, _ in calls}
        self.unasked = everything if unasked is None else unasked

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
        if call not in self._answers:
            for number, source, data in self._reader.execute(_ANSWERS, (*self._where, call)):
                self._answers[number] = source, bytes(data)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        source, data = self._answers[call]
        try:
            return source, read(data)
        except StoreError as error:
            raise StoreError(f"call {call} cannot be read: {error}; begin the run anew") from error
