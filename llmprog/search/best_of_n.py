"""Best of n: sample chains, return the one the checkers score highest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmprog.search.chain_controller import ChainController
from llmprog.search.controller import Action, Stop, best_thought, is_whole, require
from llmprog.search.thought_graph import ThoughtGraph


@dataclass(kw_only=True)
class BestOfN(ChainController):
    """``num_samples`` chains; the answer is the one with the highest score, the first of them among equals.

    With a goal and ``stop_on_goal`` (the default) the first chain that reaches it ends the search.

    Attributes:
        batch_size: Chains in flight at once; ``None`` draws all at once, 1 saves the most calls.
    """

    batch_size: int | None = None
    finished: list[int] = field(default_factory=list, init=False, repr=False)

    def faults(self) -> list[str]:
        found = super().faults()
        value = self.batch_size
        require(found, "batch_size", value, "a whole number >= 1, or None", value is None or is_whole(value, 1))
        return found

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        self.settle(graph)
        if self.num_finished == self.num_samples:
            return [Stop("num_samples")]
        return self.advance(capacity, self.batch_size or self.num_samples)

    def finish_chain(self, graph: ThoughtGraph, thought: int | None, mean_logprob: float | None) -> None:
        if thought is not None:
            self.finished.append(thought)

    def best(self, graph: ThoughtGraph) -> int | None:
        """The finished chain that reaches the goal, else has the highest score."""
        return best_thought(graph, self.finished)
