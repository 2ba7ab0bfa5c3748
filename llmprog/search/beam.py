"""Beam search over thoughts: level by level, keeping the best states of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from llmprog.events import ControllerEvent, ThoughtsCompared
from llmprog.search.controller import Action, Compare, Expand, Prune, Stop, best_thought, is_whole, require
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.search.tree_controller import TreeController, by_score


@dataclass(kw_only=True)
class BeamSearch(TreeController):
    """Tree of Thoughts, breadth-first (Yao et al. 2023, arXiv 2305.10601, algorithm 1).

    Each level expands every kept state, judges what it led to, and keeps the best ``beam_width`` states; ties
    keep the order in which they were generated. Checkers across states judge the whole level at once.

    Attributes:
        beam_width: States kept per level (b in the paper).
        max_depth: Levels (T in the paper); the search stops after judging this level.
        branching_factor: Children kept per state before the level is compared; ``None`` keeps all.
        selection: ``greedy`` keeps the best scores; ``sample`` draws without replacement, with probabilities
            proportional to the scores (which then must not be negative).
    """

    compares: ClassVar[bool] = True

    beam_width: int
    max_depth: int
    branching_factor: int | None = None
    selection: Literal["greedy", "sample"] = "greedy"
    frontier: list[int] = field(default_factory=lambda: [0], init=False, repr=False)
    level: list[int] = field(default_factory=list, init=False, repr=False)
    num_unfinished: int = field(default=1, init=False, repr=False)
    depth: int = field(default=0, init=False, repr=False)
    goals: list[int] = field(default_factory=list, init=False, repr=False)
    last_level: list[int] = field(default_factory=list, init=False, repr=False)
    comparison: Literal["none", "asked", "done"] = field(default="none", init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        for name in ("beam_width", "max_depth"):
            require(found, name, getattr(self, name), "a whole number >= 1", is_whole(getattr(self, name), 1))
        value = self.branching_factor
        require(found, "branching_factor", value, "a whole number >= 1, or None", value is None or is_whole(value, 1))
        require(found, "selection", self.selection, "greedy or sample", self.selection in ("greedy", "sample"))
        return found

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtsCompared):
            self.comparison = "done"
        else:
            super().tell(event)

    def tell_family(self, parent: int, children: list[int]) -> None:
        self.level.append(-1)  # a family boundary, for the branching factor
        self.level.extend(children)
        self.num_unfinished -= 1

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        if self.frontier:
            now, self.frontier = self.frontier[:capacity], self.frontier[capacity:]
            return [Expand(thought) for thought in now]
        if self.num_unfinished or self.comparison == "asked" or not capacity:
            return []
        candidates = self._candidates(graph)
        if self._context.has_comparers and len(candidates) > 1 and self.comparison == "none":
            self.comparison = "asked"
            return [Compare(tuple(candidates))]
        return self._next_level(graph, candidates, capacity)

    def _candidates(self, graph: ThoughtGraph) -> list[int]:
        families: list[list[int]] = []
        for thought in self.level:
            if thought < 0:
                families.append([])
            elif graph.depths[thought] == self.depth + 1:
                families[-1].append(thought)
        kept: dict[int, None] = {}
        for family in families:
            chosen = set(by_score(graph, family, self.branching_factor))
            kept.update(dict.fromkeys(thought for thought in family if thought in chosen))
        return sorted(kept)

    def _next_level(self, graph: ThoughtGraph, candidates: list[int], capacity: int) -> Sequence[Action]:
        self.last_level = candidates or self.last_level
        self.goals += [t for t in self.level if t >= 0 and graph.is_goal(t)]
        self.depth += 1
        selected = self._select(graph, candidates)
        pruned = {thought for thought in self.level if thought >= 0} - set(selected)
        actions: list[Action] = [Prune(t, "not in the beam") for t in sorted(pruned) if graph.depths[t] == self.depth]
        self.level, self.comparison = [], "none"
        if self.depth >= self.max_depth or not selected:
            return [Stop("max_depth" if selected else "exhausted")]
        self.frontier, self.num_unfinished = selected, len(selected)
        return [*actions, *self.ask(graph, capacity)]

    def _select(self, graph: ThoughtGraph, candidates: list[int]) -> list[int]:
        if self.selection == "greedy":
            return by_score(graph, candidates, self.beam_width)
        # Weighted sampling without replacement: the largest u^(1/w), Efraimidis and Spirakis 2006; in logarithms,
        # since u^(1/w) is 0 for nearly every u where w is small.
        rng = self._context.rng
        keys = {t: math.log(1.0 - rng.random()) / max(graph.scores[t], 1e-300) for t in candidates}
        return sorted(sorted(candidates, key=lambda t: -keys[t])[: self.beam_width])

    def best(self, graph: ThoughtGraph) -> int | None:
        """The best thought that reaches the goal, else the best of the deepest level judged."""
        return best_thought(graph, [*self.goals, *self.last_level])
