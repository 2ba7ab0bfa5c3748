"""Best-first search: one global frontier, the most promising thought next."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmprog.events import ControllerEvent, ThoughtChecked, ThoughtExpanded
from llmprog.search.controller import Action, Controller, Expand, Stop, is_whole, require
from llmprog.search.thought_graph import ThoughtGraph


@dataclass(kw_only=True)
class BestFirstSearch(Controller):
    """Expand the open thought of highest score, wherever it is in the graph; ties go to the one found first.

    Anytime: stopped by a limit, it answers with the best thought so far.

    With ``max_depth``, a thought that is found again on a shorter path is considered again, so that the limit cuts
    nothing off that a tree would have reached.

    Attributes:
        max_thoughts: Stop when the graph has grown to this many thoughts.
        max_depth: Thoughts at this depth are not expanded; ``None`` sets no limit.
        batch_size: Thoughts expanded at once; 1 is the textbook's algorithm, more trades order for speed.
    """

    max_thoughts: int
    max_depth: int | None = None
    batch_size: int = 1
    heap: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)], init=False, repr=False)
    arrived: list[int] = field(default_factory=list, init=False, repr=False)
    found_again: list[int] = field(default_factory=list, init=False, repr=False)
    expanded_at: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    num_unfinished: int = field(default=0, init=False, repr=False)
    num_unchecked: int = field(default=0, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        for name in ("max_thoughts", "batch_size"):
            require(found, name, getattr(self, name), "a whole number >= 1", is_whole(getattr(self, name), 1))
        value = self.max_depth
        require(found, "max_depth", value, "a whole number >= 1, or None", value is None or is_whole(value, 1))
        return found

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtChecked):
            self.arrived.append(event.thought)
            self.num_unchecked -= 1
        elif isinstance(event, ThoughtExpanded):
            self.num_unfinished -= 1
            self.num_unchecked += sum(event.is_new)
            if self.max_depth is not None:
                known = zip(event.children, event.is_new, strict=True)
                self.found_again.extend(child for child, is_new in known if not is_new)

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        if len(graph) >= self.max_thoughts:
            return [Stop("max_thoughts")]
        if self.num_unchecked:  # a better thought may be among those still being judged
            return []
        for thought in (*self.arrived, *self.found_again):
            if graph.is_open(thought) and self._is_within_depth(graph, thought):
                heapq.heappush(self.heap, (-graph.scores[thought], thought))
        self.arrived.clear()
        self.found_again.clear()
        actions: list[Action] = []
        while self.heap and self.num_unfinished < self.batch_size and len(actions) < capacity:
            thought = heapq.heappop(self.heap)[1]
            if not self._is_within_depth(graph, thought):
                continue
            if self.max_depth is not None:
                self.expanded_at[thought] = graph.depths[thought]
            actions.append(Expand(thought))
            self.num_unfinished += 1
        return actions

    def _is_within_depth(self, graph: ThoughtGraph, thought: int) -> bool:
        """Whether the depth limit lets the thought be expanded: the first time, or at a smaller depth than before."""
        if self.max_depth is None:
            return True
        return graph.depths[thought] < min(self.max_depth, self.expanded_at.get(thought, self.max_depth))
