"""Self-consistency: sample chains of thought, forget the reasoning, vote on the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmprog.search.chain_controller import ChainController
from llmprog.search.controller import Action, Stop, VoteResult, require
from llmprog.search.stopping import StoppingRule, leader_confidence
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.search.voting import Tally, canonical_answer


@dataclass(kw_only=True)
class SelfConsistency(ChainController):
    """Majority vote over ``num_samples`` chains (Wang et al. 2022, arXiv 2203.11171).

    Answers are compared in canonical form. Invalid and truncated chains do not vote and are counted. Ties go to the
    answer whose chains have the higher mean log-probability, where the backend reports it, else to the first seen.

    Attributes:
        stopping: ``BetaStop`` or ``WindowStop`` to draw fewer samples than allowed; ``None`` draws all.
        canonical: Maps an answer to the text it is compared by, ``None`` for no vote; numbers as exact
            rationals and folded text by default.
    """

    stop_on_goal: bool = False
    stopping: StoppingRule | None = None
    canonical: Callable[[Any], str | None] = canonical_answer
    # Of each chain in the order they finished: its last thought (-1 without), mean log-probability, weight.
    counted: list[tuple[int, float | None, float]] = field(default_factory=list, init=False, repr=False)
    forms: list[str | None] = field(default_factory=list, init=False, repr=False)
    has_stopped: bool = field(default=False, init=False, repr=False)
    tally: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def faults(self) -> list[str]:
        found = super().faults()
        is_rule = self.stopping is None or hasattr(self.stopping, "should_stop")
        require(found, "stopping", self.stopping, "None, BetaStop(...) or WindowStop(...)", is_rule)
        require(found, "stop_on_goal", self.stop_on_goal, "False: a vote hears every sample", not self.stop_on_goal)
        return found

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        self.settle(graph)
        if self.has_stopped:
            return [Stop("confident")]
        if self.num_finished == self.num_samples:
            return [Stop("num_samples")]
        if self.stopping is None:
            return self.advance(capacity, self.num_samples)
        # Whole rounds: a sample of the next round would be drawn for nothing if this round settles the vote.
        batch_size = self.stopping.batch_size
        return self.advance(capacity, batch_size - self.num_finished % batch_size)

    def finish_chain(self, graph: ThoughtGraph, thought: int | None, mean_logprob: float | None) -> None:
        if self.has_stopped:
            return
        answer = None if thought is None else self._context.answer(graph.states[thought])
        form = None if answer is None else self.canonical(answer)
        weight = 0.0 if thought is None or form is None else self.weigh(graph, thought, mean_logprob)
        self.counted.append((-1 if thought is None else thought, mean_logprob, weight))
        self.forms.append(form)
        if form is not None:
            self.tally[form] = self.tally.get(form, 0) + 1
        if self.stopping is not None:
            votes = sorted(self.tally.values(), reverse=True)
            self.has_stopped = self.stopping.should_stop(votes, self.forms)

    def weigh(self, graph: ThoughtGraph, thought: int, mean_logprob: float | None) -> float:
        """What a chain's vote counts: one."""
        return 1

    def _ranking(self) -> list[tuple[str, int, float]]:
        """Answers in canonical form, the first thought that gave each, and their votes; most votes first."""
        tally = Tally(canonical=lambda form: form)
        first: dict[str, int] = {}
        for form, (thought, mean_logprob, weight) in zip(self.forms, self.counted, strict=True):
            tally.add(form, mean_logprob, weight)
            if form is not None:
                first.setdefault(form, thought)
        return [(form, first[form], num_votes) for form, num_votes in tally.ranking()]

    def best(self, graph: ThoughtGraph) -> int | None:
        """The first thought that gave the winning answer."""
        ranking = self._ranking()
        return ranking[0][1] if ranking else None

    def votes(self, graph: ThoughtGraph) -> VoteResult:
        """The histogram, the leader's confidence, samples used against samples allowed."""
        ranking = self._ranking()
        return VoteResult(
            histogram=tuple((self._context.answer(graph.states[thought]), n) for _, thought, n in ranking),
            confidence=self._confidence([n for _, _, n in ranking]),
            num_samples=self.num_started,
            num_valid=sum(form is not None for form in self.forms),
            num_allowed=self.num_samples,
        )

    @property
    def num_ballots(self) -> int:
        return len(self.counted)

    def _confidence(self, votes: Sequence[float]) -> float | None:
        return leader_confidence([round(number) for number in votes])
