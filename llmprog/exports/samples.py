"""What each completion of a run was worth: the ground that training data is made on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from llmprog.errors import OptionError
from llmprog.exports.records import prompt_of
from llmprog.exports.thoughts import KeptThoughts, read_thoughts
from llmprog.runs.run import CallRecord, Run
from llmprog.search.voting import canonical_answer
from llmprog.types import Completion, Prompt, Request

Basis = Literal["gold", "goal", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A completion of a question, and what it was worth.

    Attributes:
        index: Which sample of the question it is.
        completion: What the model wrote.
        reward: 1 where it led to a verified result, else 0; without verification the score of what it led to, and
            ``None`` where that is not known.
        is_verified: Whether it led to a verified result.
    """

    index: int
    completion: Completion
    reward: float | None
    is_verified: bool


@dataclass(slots=True, kw_only=True)
class Group:
    """The samples of one question.

    Attributes:
        path: ``""`` of a plain run, else the row of the job; of a program within it ``PATH/…``.
        node: The generator that asked.
        call: The question's digest.
        prompt: What was asked.
        basis: What rewards are by: the right answer (``gold``), the program's ``goal``, or checkers' scores.
        samples: Those whose worth is known, by index.
    """

    path: str
    node: str
    call: str
    prompt: Prompt
    basis: Basis
    samples: list[Sample] = field(default_factory=list)


def groups_of(run: Run) -> Iterator[Group]:
    """The questions that generators asked, those of one search after the other.

    At any time one search is in memory. Of a job, finished rows count.
    """
    if run.info.kind != "map":
        for path in run.paths():
            yield from _groups(run, path, None, has_gold=False)
        return
    has_gold = _gold_column(run) is not None
    searches: dict[str, list[str]] = {}
    for path in run.paths():
        searches.setdefault(path.partition("/")[0], []).append(path)
    for number, _, result in run.rows():
        if result.get("error") is None:
            gold = result.get("gold")
            for path in searches.get(str(number), []):
                yield from _groups(run, path, None if gold == "" else gold, has_gold=has_gold)


def refuse_unverified(run: Run, *, scores_do: bool) -> None:
    """Make sure that there is something by which the run's results are known to be good.

    Args:
        run: The run.
        scores_do: Whether scores of checkers are enough.

    Raises:
        OptionError: There is nothing; the message says what is missing.
    """
    if _gold_column(run) is not None:
        return
    if any(event.data["has_goal"] for event in run.events(kind="began")):
        return
    if scores_do and any(entry["score"] for event in run.events(kind="verdicts") for entry in event.data):
        return
    missing = "the program has no goal" + (", no checker gave a score" if scores_do else "")
    how = "give the program a goal=, or run it as a job over rows with right answers: llmprog map … --gold COLUMN"
    raise OptionError(f"run {run.id}: nothing says which of its results are right: {missing}; {how}")


def _gold_column(run: Run) -> Any:
    given = run.info.input
    return given.get("gold") if run.info.kind == "map" and isinstance(given, dict) else None


def _groups(run: Run, path: str, gold: Any, *, has_gold: bool) -> Iterator[Group]:
    thoughts = read_thoughts(run, path)
    basis = _basis(thoughts, gold, has_gold=has_gold, is_within="/" in path)
    if basis is None:
        return
    verified = thoughts.with_ancestors(_verified(thoughts, basis, gold))
    taken_in = _TakenIn(thoughts)
    nodes = {thought.node for thought in thoughts.by_id.values() if thought.call is not None}
    found: dict[str, Group] = {}
    drawn: set[tuple[str, int]] = set()
    for call in run.calls(path):
        question = call.question
        if call.completions is None or call.node not in nodes or not isinstance(question, Request):
            continue
        digest = question.digest()
        group = found.get(digest)
        if group is None:
            group = Group(path=path, node=call.node, call=digest, prompt=prompt_of(call), basis=basis)
            found[digest] = group
        for index, completion in enumerate(call.completions, call.first_sample):
            if (digest, index) not in drawn and taken_in.has(digest, index, call):
                drawn.add((digest, index))
                ids = thoughts.by_sample.get((digest, index), [])
                is_verified = not verified.isdisjoint(ids)
                reward = _score(thoughts, ids) if basis == "score" else float(is_verified)
                group.samples.append(Sample(index=index, completion=completion, reward=reward, is_verified=is_verified))
    for group in found.values():
        group.samples.sort(key=lambda sample: sample.index)
        yield group


def _basis(thoughts: KeptThoughts, gold: Any, *, has_gold: bool, is_within: bool) -> Basis | None:
    if gold is not None and not (is_within and thoughts.has_goal):  # a program within another has a goal of its own
        return "gold"
    if thoughts.has_goal:
        return "goal"
    return None if has_gold else "score"  # a row without a right answer says nothing where others have one


def _verified(thoughts: KeptThoughts, basis: Basis, gold: Any) -> list[int]:
    """The thoughts that are known to be right."""
    if basis == "score":
        return []
    ends = [t for t in thoughts.by_id.values() if t.is_valid and (t.is_goal or not thoughts.has_goal)]
    if basis == "gold":
        wanted = canonical_answer(gold)
        ends = [t for t in ends if wanted is not None and canonical_answer(t.answer) == wanted]
    return [thought.id for thought in ends]


def _score(thoughts: KeptThoughts, ids: list[int]) -> float | None:
    """The best score of what a sample led to."""
    return max((thoughts.by_id[i].score for i in ids if thoughts.by_id[i].is_valid), default=None)


class _TakenIn:
    """Tells samples that led to nothing from those that the search ended without having looked at.

    Samples of a question are taken in in their order. So one that led to nothing was looked at if a later one was, or
    if the search went on until all samples had come.
    """

    def __init__(self, thoughts: KeptThoughts) -> None:
        self._samples = thoughts.by_sample
        self._has_all = thoughts.stopped == "num_samples"
        self._last: dict[str, int] = {}
        for digest, index in thoughts.by_sample:
            self._last[digest] = max(index, self._last.get(digest, -1))

    def has(self, digest: str, index: int, call: CallRecord) -> bool:
        if (digest, index) in self._samples:
            return True
        if call.source == "fork":
            return False  # perhaps the program that it was forked for never asked for it
        return self._has_all or index < self._last.get(digest, -1)
