"""Breadth-first search: every thought of a level before any of the next, without a barrier between levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmprog.search.controller import Action, Expand, Prune, Stop, is_whole, require
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.search.tree_controller import TreeController, by_score


@dataclass(kw_only=True)
class BreadthFirstSearch(TreeController):
    """Expand thoughts in the order they were found (Yao et al. 2023, arXiv 2305.10601, algorithm 1, all states kept).

    Since nothing is selected among a level, a thought may be expanded as soon as its own family is judged.

    Attributes:
        max_depth: Thoughts at this depth are not expanded.
        branching_factor: Children kept per thought, best scores first; ``None`` keeps all.
        max_thoughts: Stop when the graph has grown to this many thoughts; ``None`` sets no limit.
    """

    max_depth: int
    branching_factor: int | None = None
    max_thoughts: int | None = None
    queue: list[int] = field(default_factory=lambda: [0], init=False, repr=False)
    queued: set[int] = field(default_factory=lambda: {0}, init=False, repr=False)
    num_taken: int = field(default=0, init=False, repr=False)
    arrived: list[list[int]] = field(default_factory=list, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        require(found, "max_depth", self.max_depth, "a whole number >= 1", is_whole(self.max_depth, 1))
        for name in ("branching_factor", "max_thoughts"):
            value = getattr(self, name)
            require(found, name, value, "a whole number >= 1, or None", value is None or is_whole(value, 1))
        return found

    def tell_family(self, parent: int, children: list[int]) -> None:
        self.arrived.append(children)

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        actions: list[Action] = []
        for family in self.arrived:
            kept = set(by_score(graph, family, self.branching_factor))
            for child in family:
                if child in kept and graph.depths[child] < self.max_depth and child not in self.queued:
                    self.queue.append(child)
                    self.queued.add(child)
                elif child not in kept and graph.is_open(child) and child not in self.queued:
                    actions.append(Prune(child, "beyond the branching factor"))
        self.arrived.clear()
        if self.max_thoughts is not None and len(graph) >= self.max_thoughts:
            return [Stop("max_thoughts")]
        while capacity and self.num_taken < len(self.queue):
            actions.append(Expand(self.queue[self.num_taken]))
            self.num_taken += 1
            capacity -= 1
        return actions
