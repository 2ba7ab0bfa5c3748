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
    counted: list[tuple[int, float | None]] = field(default_factory=list, init=False, repr=False)
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
        limit = self.num_samples if self.stopping is None else self.stopping.batch_size
        actions = self.advance(graph, capacity, limit)
        if self.has_stopped:
            return [Stop("confident")]
        if not actions and self.num_finished == self.num_samples:
            return [Stop("num_samples")]
        return actions

    def finish_chain(self, graph: ThoughtGraph, thought: int | None, mean_logprob: float | None) -> None:
        if self.has_stopped:
            return
        answer = None if thought is None else self._context.answer(graph.states[thought])
        form = None if answer is None else self.canonical(answer)
        self.counted.append((-1 if thought is None else thought, mean_logprob))
        self.forms.append(form)
        if form is not None:
            self.tally[form] = self.tally.get(form, 0) + 1
        if self.stopping is not None:
            votes = sorted(self.tally.values(), reverse=True)
            self.has_stopped = self.stopping.should_stop(votes, self.forms)

    def _ranking(self) -> list[tuple[str, int]]:
        tally = Tally(canonical=lambda form: form)
        for form, (_, mean_logprob) in zip(self.forms, self.counted, strict=True):
            tally.add(form, mean_logprob)
        return tally.ranking()

    def best(self, graph: ThoughtGraph) -> int | None:
        """The first thought that gave the winning answer."""
        ranking = self._ranking()
        if not ranking:
            return None
        return self.counted[self.forms.index(ranking[0][0])][0]

    def votes(self, graph: ThoughtGraph) -> VoteResult:
        """The histogram, the leader's confidence, samples used against samples allowed."""
        ranking = self._ranking()
        first = {form: self.counted[self.forms.index(form)][0] for form, _ in ranking}
        return VoteResult(
            histogram=tuple((self._context.answer(graph.states[first[form]]), n) for form, n in ranking),
            confidence=leader_confidence([n for _, n in ranking]),
            num_samples=self.num_started,
            num_valid=sum(form is not None for form in self.forms),
            num_allowed=self.num_samples,
        )
