"""Universal self-consistency: where answers cannot be counted, a model picks the most consistent one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from llmprog.events import ControllerEvent, ThoughtsCompared
from llmprog.nodes import Checker, Generator, checker
from llmprog.parsers import choice
from llmprog.search.chain_controller import ChainController
from llmprog.search.controller import Action, Compare, Stop, VoteResult, require
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.templates import format_value


@dataclass(kw_only=True)
class UniversalSelfConsistency(ChainController):
    """``num_samples`` chains, of which a vote checker picks the most consistent (Chen et al. 2023, arXiv 2311.17311).

    The program declares that checker; ``most_consistent`` makes one that asks as the paper does. It is shown every
    chain that has an answer, in the order they finished, equal ones as often as they came: that is what consistency is.
    Invalid and truncated chains do not take part and are counted. Chains that all agree need no judge.

    Ties between choices go to the thought that more chains came to, then to the higher mean log-probability where the
    backend reports it for all, then to the first seen.
    """

    compares: ClassVar[bool] = True

    stop_on_goal: bool = False
    # Of each valid chain in the order they finished: its last thought and mean log-probability.
    finished: list[tuple[int, float | None]] = field(default_factory=list, init=False, repr=False)
    num_verdicts: dict[int, int] = field(default_factory=dict, init=False, repr=False)  # before the comparison
    comparison: Literal["none", "asked", "done"] = field(default="none", init=False, repr=False)

    def faults(self) -> list[str]:
        found = super().faults()
        require(found, "stop_on_goal", self.stop_on_goal, "False: a vote hears every sample", not self.stop_on_goal)
        return found

    def program_faults(self, generators: Sequence[Generator], checkers: Sequence[Checker]) -> list[str]:
        if any(node.kind != "state" for node in checkers):
            return []
        return ["no vote checker picks among the chains; give checkers=[most_consistent()], or one of kind='vote'"]

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtsCompared):
            self.comparison = "done"
        else:
            super().tell(event)

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        self.settle(graph)
        if self.num_finished < self.num_samples:
            return self.advance(capacity, self.num_samples)
        thoughts = tuple(thought for thought, _ in self.finished)
        if self.comparison == "done" or len(set(thoughts)) <= 1:
            return [Stop("num_samples")]
        if self.comparison == "asked" or not capacity:
            return []
        self.comparison = "asked"
        self.num_verdicts = {thought: len(graph.verdicts.get(thought, ())) for thought in thoughts}
        return [Compare(thoughts)]

    def finish_chain(self, graph: ThoughtGraph, thought: int | None, mean_logprob: float | None) -> None:
        if thought is not None and self._context.answer(graph.states[thought]) is not None:
            self.finished.append((thought, mean_logprob))

    def _ranking(self, graph: ThoughtGraph) -> list[tuple[int, float]]:
        """Distinct thoughts with the choices that fell on them; how many chains they are, where none was asked for."""
        chains: dict[int, list[float | None]] = {}
        for thought, mean_logprob in self.finished:
            chains.setdefault(thought, []).append(mean_logprob)
        chosen = {thought: float(len(logprobs)) for thought, logprobs in chains.items()}
        if self.comparison == "done":
            for thought in chosen:
                new = graph.verdicts.get(thought, [])[self.num_verdicts[thought] :]
                chosen[thought] = sum(verdict.score for _, verdict in new)
        is_known = all(logprob is not None for _, logprob in self.finished)

        def rank(thought: int) -> tuple[float, int, float]:
            known = [logprob for logprob in chains[thought] if logprob is not None] if is_known else []
            mean = sum(known) / len(known) if known else 0.0
            return -chosen[thought], -len(chains[thought]), -mean

        return [(thought, chosen[thought]) for thought in sorted(chains, key=rank)]

    def best(self, graph: ThoughtGraph) -> int | None:
        """The chain that was picked; before that, the one most chains agree with."""
        ranking = self._ranking(graph)
        return ranking[0][0] if ranking else None

    def votes(self, graph: ThoughtGraph) -> VoteResult:
        """How often each answer was picked; samples used against samples allowed."""
        return VoteResult(
            histogram=tuple((self._context.answer(graph.states[t]), number) for t, number in self._ranking(graph)),
            confidence=None,
            num_samples=self.num_started,
            num_valid=len(self.finished),
            num_allowed=self.num_samples,
        )


def most_consistent(
    *,
    question: Callable[[Any], str] | None = None,
    response: Callable[[Any], str] = format_value,
    n: int = 1,
    name: str = "most_consistent",
    **sampling: Any,
) -> Checker:
    """A vote checker that asks a model for the most consistent of several responses (arXiv 2311.17311).

    Unlike in the paper the choice is asked for at the end, so that a model may reason before it.

    Args:
        question: The question, from a state; left out by default.
        response: The text of a response, from a state; its fields by default.
        n: Times the model is asked; each choice is a vote.
        name: As for ``checker``.
        **sampling: As for ``checker``.
    """

    def prompt(states: Sequence[Any]) -> str:
        asked = "" if question is None else f" to the question: {question(states[0])}"
        listed = "\n\n".join(f"Response {i}:\n{response(state)}" for i, state in enumerate(states, 1))
        return (
            f"I have generated the following responses{asked}\n\n{listed}\n\nEvaluate these responses. Select the most "
            "consistent response based on majority consensus. End your answer with the line\n"
            "The most consistent response is Response X\n"
        )

    @checker(prompt=prompt, n=n, name=name, kind="vote", **sampling)
    def pick(states: Sequence[Any], completion: str) -> int | None:
        return choice(completion, len(states))

    return pick
