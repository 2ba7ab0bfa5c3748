"""What sampling controllers share: n independent chains of thought from the root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmprog.events import ControllerEvent, ThoughtChecked, ThoughtExpanded
from llmprog.search.controller import Action, Controller, Expand, is_whole, require
from llmprog.search.thought_graph import Status, ThoughtGraph


@dataclass(kw_only=True)
class ChainController(Controller):
    """Draws chains: each starts at the root and takes one sample per step until it reaches the goal or ``max_depth``.

    A chain whose completion could not be parsed, was refused by a rule or was cut at ``max_tokens`` is invalid.
    Equal thoughts of different chains share a node of the graph, and still count once per chain.

    Attributes:
        num_samples: Chains drawn at most.
        max_depth: Steps per chain.
    """

    num_samples: int
    max_depth: int = 1
    num_started: int = field(default=0, init=False, repr=False)
    num_in_flight: int = field(default=0, init=False, repr=False)
    unchecked: set[int] = field(default_factory=set, init=False, repr=False)
    # (chain, thought or -1, whether it was cut, mean log-probability)
    arrived: list[tuple[int, int, bool, float | None]] = field(default_factory=list, init=False, repr=False)
    num_finished: int = field(default=0, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        for name in ("num_samples", "max_depth"):
            require(found, name, getattr(self, name), "a whole number >= 1", is_whole(getattr(self, name), 1))
        return found

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtExpanded):
            if not event.children:
                self.arrived.append((event.tag, -1, False, None))
                return
            completion = event.completions[0] if event.completions else None
            logprobs = completion.logprobs if completion else None
            mean = logprobs.total / len(logprobs.logprobs) if logprobs and logprobs.logprobs else None
            cut = completion is not None and completion.finish_reason != "stop"
            self.arrived.append((event.tag, event.children[0], cut, mean))
            if event.is_new[0]:
                self.unchecked.add(event.children[0])
        elif isinstance(event, ThoughtChecked):
            self.unchecked.discard(event.thought)

    def advance(self, graph: ThoughtGraph, capacity: int, max_in_flight: int) -> list[Action]:
        """Finish, continue and start chains; calls ``finish_chain`` for each that ended."""
        actions: list[Action] = []
        waiting: list[tuple[int, int, bool, float | None]] = []
        for item in self.arrived:
            chain, thought, cut, mean_logprob = item
            if thought in self.unchecked:
                waiting.append(item)
                continue
            valid = thought >= 0 and not cut and graph.is_usable(thought)
            done = not valid or graph.status(thought) == Status.GOAL or graph.depths[thought] >= self.max_depth
            if done:
                self.num_in_flight -= 1
                self.num_finished += 1
                self.finish_chain(graph, thought if valid else None, mean_logprob)
            else:
                actions.append(Expand(thought, num_samples=1, tag=chain))
        self.arrived = waiting
        while len(actions) < capacity and self.num_started < self.num_samples and self.num_in_flight < max_in_flight:
            actions.append(Expand(0, num_samples=1, tag=self.num_started))
            self.num_started += 1
            self.num_in_flight += 1
        return actions

    def finish_chain(self, graph: ThoughtGraph, thought: int | None, mean_logprob: float | None) -> None:
        """Take note of a chain's last thought; ``None`` if the chain is invalid."""
        raise NotImplementedError

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        raise NotImplementedError
