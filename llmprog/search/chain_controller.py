"""What sampling controllers share: n independent chains of thought from the root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmprog.events import ControllerEvent, ThoughtChecked, ThoughtExpanded
from llmprog.search.controller import Action, Controller, Expand, is_whole, require
from llmprog.search.thought_graph import ThoughtGraph


@dataclass(kw_only=True)
class ChainController(Controller):
    """Draws chains: each starts at the root and takes one sample per step until it reaches the goal or ``max_depth``.

    A chain whose completion could not be parsed, was refused by a checker or was cut at ``max_tokens`` is invalid.
    Equal thoughts of different chains share a node of the graph, and still count once per chain.

    Attributes:
        num_samples: Chains drawn at most.
        max_depth: Steps per chain.
    """

    num_samples: int
    max_depth: int = 1
    num_started: int = field(default=0, init=False, repr=False)
    num_finished: int = field(default=0, init=False, repr=False)
    unchecked: set[int] = field(default_factory=set, init=False, repr=False)
    # Of each chain in flight: steps done, summed log-probability of its tokens (None if unknown) and their number.
    # The graph's depth is no count of steps: a chain may walk through thoughts that others reached sooner.
    progress: dict[int, tuple[int, float | None, int]] = field(default_factory=dict, init=False, repr=False)
    # (chain, thought or -1 if there is none, whether it was cut)
    arrived: list[tuple[int, int, bool]] = field(default_factory=list, init=False, repr=False)
    # (chain, thought) to be expanded
    ready: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        for name in ("num_samples", "max_depth"):
            require(found, name, getattr(self, name), "a whole number >= 1", is_whole(getattr(self, name), 1))
        return found

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtExpanded):
            chain = event.tag
            num_steps, total, num_tokens = self.progress[chain]
            completion = event.completions[0] if event.completions else None
            logprobs = completion.logprobs if completion else None
            if logprobs is None or total is None:
                total = None
            else:
                total, num_tokens = total + logprobs.total, num_tokens + len(logprobs.logprobs)
            self.progress[chain] = (num_steps + 1, total, num_tokens)
            cut = completion is not None and completion.finish_reason != "stop"
            self.arrived.append((chain, event.children[0] if event.children else -1, cut))
            if event.is_new and event.is_new[0]:
                self.unchecked.add(event.children[0])
        elif isinstance(event, ThoughtChecked):
            self.unchecked.discard(event.thought)

    def settle(self, graph: ThoughtGraph) -> None:
        """Take note of what has arrived and been judged; calls ``finish_chain`` for each chain that ended."""
        waiting: list[tuple[int, int, bool]] = []
        for item in self.arrived:
            chain, thought, cut = item
            if thought in self.unchecked:
                waiting.append(item)
                continue
            num_steps, total, num_tokens = self.progress[chain]
            valid = thought >= 0 and not cut and graph.is_usable(thought)
            if valid and not graph.is_goal(thought) and num_steps < self.max_depth:
                self.ready.append((chain, thought))
                continue
            del self.progress[chain]
            self.num_finished += 1
            mean_logprob = total / num_tokens if total is not None and num_tokens else None
            self.finish_chain(graph, thought if valid else None, mean_logprob)
        self.arrived = waiting

    def advance(self, capacity: int, max_in_flight: int) -> list[Action]:
        """Continue chains, and start new ones while fewer than ``max_in_flight`` are under way."""
        now, self.ready = self.ready[:capacity], self.ready[capacity:]
        actions: list[Action] = [Expand(thought, num_samples=1, tag=chain) for chain, thought in now]
        while len(actions) < capacity and self.num_started < self.num_samples and len(self.progress) < max_in_flight:
            actions.append(Expand(0, num_samples=1, tag=self.num_started))
            self.progress[self.num_started] = (0, 0.0, 0)
            self.num_started += 1
        return actions

    def finish_chain(self, graph: ThoughtGraph, thought: int | None, mean_logprob: float | None) -> None:
        """Take note of a chain's last thought; ``None`` if the chain is invalid."""
        raise NotImplementedError

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        raise NotImplementedError
