"""The thoughts of a run, read back from its journal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmprog.errors import StoreError
from llmprog.runs.run import EventRecord, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a checker said of a thought."""

    checker: str
    score: float
    valid: bool
    reason: str


@dataclass(slots=True, kw_only=True)
class KeptThought:
    """A thought as the journal holds it.

    Attributes:
        id: Its number in the search; 0 is the root.
        parents: What it was made from; empty for the root.
        node: The generator that made it; empty for the root.
        sample: Which sample of the question it was parsed from.
        call: The question's digest; ``None`` for a thought that was not parsed from a completion.
        state: Its state in short.
        is_goal: Whether it reaches the program's goal.
        answer: What it would be answered with; ``None`` where it cannot be.
        judgements: What the checkers said.
        pruned_because: Why the controller gave it up; ``None`` where it did not.
    """

    id: int
    parents: tuple[int, ...]
    node: str
    sample: int
    call: str | None
    state: str
    is_goal: bool
    answer: str | None
    judgements: tuple[Judgement, ...] = ()
    pruned_because: str | None = None

    @property
    def score(self) -> float:
        """The sum of its checkers' scores."""
        return sum(judgement.score for judgement in self.judgements)

    @property
    def is_valid(self) -> bool:
        """Whether no checker refused it."""
        return all(judgement.valid for judgement in self.judgements)

    def to_json(self) -> dict[str, Any]:
        """It as JSON values."""
        return {
            "id": self.id,
            "parents": list(self.parents),
            "node": self.node,
            "sample": self.sample,
            "call": self.call,
            "state": self.state,
            "goal": self.is_goal,
            "answer": self.answer,
            "score": _number(self.score),
            "valid": self.is_valid,
            "pruned_because": self.pruned_because,
            "verdicts": [
                {"checker": j.checker, "score": _number(j.score), "valid": j.valid, "reason": j.reason}
                for j in self.judgements
            ],
        }


@dataclass(slots=True)
class KeptThoughts:
    """The thoughts of one search.

    Attributes:
        has_goal: Whether the program has a goal.
        by_id: The thoughts, in the order in which they came.
        by_sample: The ids of the thoughts that were parsed from a sample of a question.
        stopped: Why the search ended; ``None`` where it did not.
        best: The thought it ended with.
    """

    has_goal: bool = False
    by_id: dict[int, KeptThought] = field(default_factory=dict)
    by_sample: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    stopped: str | None = None
    best: int | None = None

    def __len__(self) -> int:
        return len(self.by_id)

    def with_ancestors(self, thoughts: Iterable[int]) -> set[int]:
        """``thoughts`` and all that they were made from."""
        found: set[int] = set()
        todo = list(thoughts)
        while todo:
            thought = todo.pop()
            if thought not in found:
                found.add(thought)
                todo += self.by_id[thought].parents
        return found

    def tree(self) -> Iterator[tuple[int, KeptThought]]:
        """Every thought once, with its depth, each below its first parent."""
        children: dict[int, list[int]] = {}
        for thought in self.by_id.values():
            if thought.parents:
                children.setdefault(thought.parents[0], []).append(thought.id)
        todo = [(0, thought.id) for thought in reversed(self.by_id.values()) if not thought.parents]
        while todo:
            depth, number = todo.pop()
            yield depth, self.by_id[number]
            todo += [(depth + 1, child) for child in reversed(children.get(number, []))]


def read_thoughts(run: Run, path: str = "") -> KeptThoughts:
    """The thoughts of a plain run, or of a row of a job.

    Args:
        run: The run.
        path: ``""``, or the row's number.

    Raises:
        StoreError: They cannot be read.
    """
    found = KeptThoughts()
    for event in run.events(path):
        try:
            if event.kind == "began":  # a run that is resumed goes through its thoughts again
                found = KeptThoughts(has_goal=bool(event.data["has_goal"]))
            else:
                _take_in(found, event)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"run {run.id}: event {event.seq} cannot be read: {type(error).__name__}: {error}"
            ) from error
    return found


def _number(value: float) -> float | str:
    """JSON has no infinities: they are written as text."""
    return value if math.isfinite(value) else str(value)


def _take_in(found: KeptThoughts, event: EventRecord) -> None:
    if event.kind == "thoughts":
        for entry in event.data:
            thought = int(entry["again"] if "again" in entry else entry["id"])
            if "again" not in entry:
                found.by_id[thought] = _thought(thought, entry, found)
            if entry["call"] is not None:
                found.by_sample.setdefault((entry["call"], entry["sample"]), []).append(found.by_id[thought].id)
    elif event.kind == "verdicts":
        said: dict[int, list[Judgement]] = {}
        for entry in event.data:
            judgement = Judgement(
                checker=str(entry["checker"]),
                score=float(entry["score"]),
                valid=bool(entry["valid"]),
                reason=str(entry["reason"] or ""),
            )
            said.setdefault(entry["thought"], []).append(judgement)
        for number, judgements in said.items():  # each time all that was said of a thought until then
            found.by_id[number].judgements = tuple(judgements)
    elif event.kind == "pruned":
        for entry in event.data:
            found.by_id[entry["thought"]].pruned_because = str(entry["reason"])
    elif event.kind == "finished":
        found.stopped, found.best = str(event.data["stopped"]), event.data["thought"]


def _thought(number: int, entry: Mapping[str, Any], found: KeptThoughts) -> KeptThought:
    parents = tuple(int(parent) for parent in entry["parents"])
    unknown = [parent for parent in parents if parent not in found.by_id]
    if unknown:
        raise ValueError(f"thought {number} has a parent {unknown[0]} that came after it, or never")
    answer = entry.get("answer")
    return KeptThought(
        id=number,
        parents=parents,
        node=str(entry["node"]),
        sample=int(entry["sample"]),
        call=None if entry["call"] is None else str(entry["call"]),
        state=str(entry["state"]),
        is_goal=bool(entry["goal"]),
        answer=None if answer is None else str(answer),
    )
