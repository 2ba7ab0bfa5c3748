"""``Vote``: a program several times, and the answer that most of its runs agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from llmprog.joined import (
    ANSWER,
    INPUT,
    Dataflow,
    Joined,
    JointOutcome,
    PartCall,
    PartOutcome,
    PartRuns,
    called,
    not_callable_with,
    part_names,
    side_by_side,
)
from llmprog.program import ControllerSpec, Program
from llmprog.search.controller import VoteResult, is_whole
from llmprog.search.stopping import StoppingRule, leader_confidence
from llmprog.search.voting import Tally, canonical_answer
from llmprog.signatures import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class _VotingDataflow(Dataflow):
    """A vote's combinator: jobs compare answers in its form, as they do in that of a search that votes."""

    canonical: Callable[[Any], str | None]


@dataclass(frozen=True, eq=False)
class Vote(Joined):
    """``Vote(p, num_samples=5)``: the same input several times, each with a seed of its own; the majority answers.

    ``SelfConsistency`` votes on the chains of one search; this votes on whole programs. Answers are compared in
    canonical form. Runs that are not solved do not vote and are counted. Ties go to the answer first seen, by number of
    the run. The runs are called ``0``, ``1`` …; ``Result.votes`` has the histogram.

    Cut short, the answer is that of the votes so far.

    Attributes:
        program: What is run.
        num_samples: Runs at most.
        canonical: Maps an answer to the text it is compared by, ``None`` for no vote; numbers as exact rationals and
            folded text by default.
        stopping: ``BetaStop`` or ``WindowStop`` to run it fewer times than allowed; ``None`` runs all side by side.
        name: For messages and records.
    """

    program: Program
    _: KW_ONLY
    num_samples: int
    canonical: Callable[[Any], str | None] = canonical_answer
    stopping: StoppingRule | None = None
    name: str = "vote"

    def dataflow(self) -> ControllerSpec:
        return _VotingDataflow(name="Vote", settings=self.parameters(), canonical=self.canonical)

    @property
    def parts(self) -> Mapping[str, Program]:
        return part_names([self.program], "part")

    def parameters(self) -> Mapping[str, Any]:
        return {"num_samples": self.num_samples, "canonical": self.canonical, "stopping": self.stopping}

    def faults(self) -> Iterator[str]:
        if not is_whole(self.num_samples, 1):
            yield f"num_samples={self.num_samples!r}; allowed is a whole number >= 1"
        fault = not_callable_with("canonical", self.canonical, None)
        if fault:
            yield fault
        if self.stopping is not None and not hasattr(self.stopping, "should_stop"):
            yield f"stopping={self.stopping!r}; allowed is None, BetaStop(...) or WindowStop(...)"

    def flow(self) -> Iterator[tuple[str, str]]:
        (name,) = self.parts
        yield from ((INPUT, "Vote"), ("Vote", name), (name, "Vote"), ("Vote", ANSWER))

    def signature(self, parts: Mapping[str, Signature]) -> Signature:
        (part,) = parts.values()
        return part

    async def run_parts(self, given: Any, runs: PartRuns) -> JointOutcome:
        (name,) = self.parts
        count = _Count(self)
        cut = None
        while cut is None and not count.has_stopped and count.num_begun < self.num_samples:
            numbers = range(count.num_begun, min(self.num_samples, count.num_begun + count.batch_size))
            calls = (PartCall(part=name, given=given, label=str(i), draw=i) for i in numbers)
            outcomes = await side_by_side(runs, calls, None, ends=lambda outcome: outcome.is_cut)
            for outcome in outcomes:
                count.add(outcome)
            cut = next((o for o in outcomes if o.is_cut), None)
        return count.outcome(cut)


class _Count:
    """The votes of one run of a ``Vote``, counted in the order of its samples."""

    def __init__(self, vote: Vote) -> None:
        self._vote = vote
        self._tally = Tally(canonical=lambda answer: called("canonical", vote.canonical, answer))
        self._forms: list[str | None] = []
        self._first: dict[str, PartOutcome] = {}
        self.num_begun = 0
        self.has_stopped = False
        self.batch_size = vote.num_samples if vote.stopping is None else vote.stopping.batch_size

    def add(self, outcome: PartOutcome) -> None:
        """Count one sample; one that comes after the vote has stopped does not vote."""
        self.num_begun += outcome.was_begun
        if self.has_stopped or not outcome.was_begun:
            return
        form = self._tally.add(outcome.answer if outcome.solved else None, None)
        self._forms.append(form)
        if form is not None:
            self._first.setdefault(form, outcome)
        rule = self._vote.stopping
        if rule is not None:
            votes = sorted(map(round, self._tally.votes.values()), reverse=True)
            self.has_stopped = rule.should_stop(votes, self._forms)

    def outcome(self, cut: PartOutcome | None) -> JointOutcome:
        ranking = self._tally.ranking()
        leader = self._first[ranking[0][0]] if ranking else None
        votes = VoteResult(
            histogram=tuple((self._first[form].answer, number) for form, number in ranking),
            confidence=leader_confidence([round(number) for _, number in ranking]),
            num_samples=self.num_begun,
            num_valid=sum(form is not None for form in self._forms),
            num_allowed=self._vote.num_samples,
        )
        stopped = cut.stopped if cut is not None else "confident" if self.has_stopped else "num_samples"
        return JointOutcome(
            answer=None if leader is None else leader.answer,
            solved=leader is not None,
            stopped=stopped,
            explanation=None if leader is not None else f"none of {self.num_begun} runs voted",
            votes=votes,
            source=None if leader is None else leader.label,
        )
