"""Depth-first search over thoughts, with pruning by value and backtracking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmprog.search.controller import Action, Expand, Prune, Stop, is_number, is_whole, require
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.search.tree_controller import TreeController, by_score


@dataclass(kw_only=True)
class DepthFirstSearch(TreeController):
    """Tree of Thoughts, depth-first (Yao et al. 2023, arXiv 2305.10601, algorithm 2).

    Children are visited in descending value; those below ``value_threshold`` are pruned; a thought without
    promising children is left for the next best one. A thought that is found again on a shorter path than
    before is visited again, so that ``max_depth`` cuts nothing off that a tree would have reached.

    Attributes:
        max_depth: Thoughts at this depth are not expanded.
        value_threshold: Lowest score worth visiting; ``None`` prunes nothing.
        max_children: Children visited per thought, best first; ``None`` visits all.
        max_thoughts: Stop when the graph has grown to this many thoughts; ``None`` sets no limit.
    """

    max_depth: int
    value_threshold: float | None = None
    max_children: int | None = None
    max_thoughts: int | None = None
    stack: list[int] = field(default_factory=lambda: [0], init=False, repr=False)
    arrived: list[int] = field(default_factory=list, init=False, repr=False)
    is_waiting: bool = field(default=False, init=False, repr=False)
    expanded_at: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        require(found, "max_depth", self.max_depth, "a whole number >= 1", is_whole(self.max_depth, 1))
        for name in ("max_children", "max_thoughts"):
            value = getattr(self, name)
            require(found, name, value, "a whole number >= 1, or None", value is None or is_whole(value, 1))
        value = self.value_threshold
        require(found, "value_threshold", value, "a number, or None", value is None or is_number(value))
        return found

    def tell_family(self, parent: int, children: list[int]) -> None:
        self.arrived = children
        self.is_waiting = False

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        if self.is_waiting or not capacity:
            return []
        actions: list[Action] = []
        self.stack.extend(reversed(self._worth_visiting(graph, actions)))
        self.arrived = []
        if self.max_thoughts is not None and len(graph) >= self.max_thoughts:
            return [*actions, Stop("max_thoughts")]
        while self.stack:
            thought = self.stack.pop()
            depth = graph.depths[thought]
            if depth < min(self.max_depth, self.expanded_at.get(thought, self.max_depth)) and graph.is_open(thought):
                self.expanded_at[thought] = depth
                self.is_waiting = True
                return [*actions, Expand(thought)]
        return [*actions, Stop("exhausted")]

    def _worth_visiting(self, graph: ThoughtGraph, actions: list[Action]) -> list[int]:
        ranked = by_score(graph, self.arrived)
        if self.value_threshold is not None:
            low = [t for t in ranked if graph.scores[t] < self.value_threshold]
            actions.extend(Prune(t, "value below the threshold") for t in low)
            ranked = ranked[: len(ranked) - len(low)]
        if self.max_children is not None:
            beyond = [t for t in ranked[self.max_children :] if t not in self.expanded_at]
            actions.extend(Prune(t, "beyond max_children") for t in beyond)
            ranked = ranked[: self.max_children]
        return ranked
