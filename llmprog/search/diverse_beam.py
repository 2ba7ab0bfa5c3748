"""Diverse beam search over thoughts: sub-trees that do not compete with each other, a beam inside each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmprog.search.controller import Action, Expand, Prune, Stop, best_thought, is_whole, require
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.search.tree_controller import TreeController, by_score


@dataclass(kw_only=True)
class DiverseBeam(TreeController):
    """Diverse verifier tree search (Beeching, Tunstall and Rush 2024, "Scaling test-time compute with open models").

    The first step is sampled ``num_subtrees`` times, and each of its thoughts begins a sub-tree; if there are more,
    they are dealt out by rank. Each sub-tree is a beam of its own: it expands its thoughts, and keeps the
    ``beam_width`` of the highest score among their children, ties in the order generated. So one branch that scores
    well cannot crowd out the others, and no sub-tree waits for another.

    A thought that two sub-trees find belongs to the first that keeps it, unless the other came to it on a shorter path.

    Attributes:
        num_subtrees: Sub-trees.
        max_depth: Levels; the search stops after judging this one.
        beam_width: Thoughts kept per level of a sub-tree; 1 as published.
    """

    num_subtrees: int
    max_depth: int
    beam_width: int = 1
    frontiers: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)  # by sub-tree: to expand
    levels: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)  # by sub-tree: found so far
    num_unfinished: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    depths: dict[int, int] = field(default_factory=dict, init=False, repr=False)  # levels a sub-tree has done
    expanding: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)  # for which sub-trees
    first: list[int] | None = field(default=None, init=False, repr=False)
    has_begun: bool = field(default=False, init=False, repr=False)
    kept_at: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    dropped: set[int] = field(default_factory=set, init=False, repr=False)
    goals: list[int] = field(default_factory=list, init=False, repr=False)
    last_levels: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        for name in ("num_subtrees", "max_depth", "beam_width"):
            require(found, name, getattr(self, name), "a whole number >= 1", is_whole(getattr(self, name), 1))
        return found

    def tell_family(self, parent: int, children: list[int]) -> None:
        waiting = self.expanding.get(parent)
        if not waiting:
            self.first = children
            return
        subtree = waiting.pop(0)
        if not waiting:
            del self.expanding[parent]
        self.levels[subtree].extend(children)
        self.num_unfinished[subtree] -= 1

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        if not self.has_begun:
            if not capacity:
                return []
            self.has_begun = True
            return [Expand(0, num_samples=self.num_subtrees)]
        if self.first is not None:
            self._deal(graph, self.first)
            self.first = None
        elif not self.depths:
            return []  # the first step is under way
        for subtree in [s for s, number in self.num_unfinished.items() if not number]:
            self._next_level(graph, subtree)
        if not self.num_unfinished:
            prunes = [Prune(t, "not in any beam") for t in sorted(self.dropped) if t not in self.kept_at]
            return [*prunes, Stop("max_depth" if self.max_depth in self.kept_at.values() else "exhausted")]
        actions: list[Action] = []
        for subtree, frontier in self.frontiers.items():
            now = frontier[: capacity - len(actions)]
            del frontier[: len(now)]
            for thought in now:
                self.expanding.setdefault(thought, []).append(subtree)
                actions.append(Expand(thought))
        return actions

    def _deal(self, graph: ThoughtGraph, children: list[int]) -> None:
        self.goals += [child for child in children if graph.is_goal(child)]
        ranked = by_score(graph, children)
        for subtree in range(self.num_subtrees):
            self.depths[subtree] = 0
            self._keep(graph, subtree, ranked[subtree :: self.num_subtrees])

    def _next_level(self, graph: ThoughtGraph, subtree: int) -> None:
        found = list(dict.fromkeys(self.levels[subtree]))
        self.goals += [thought for thought in found if graph.is_goal(thought) and thought not in self.goals]
        depth = self.depths[subtree] + 1
        free = [t for t in found if graph.depths[t] == depth and depth < self.kept_at.get(t, depth + 1)]
        self._keep(graph, subtree, free)

    def _keep(self, graph: ThoughtGraph, subtree: int, candidates: list[int]) -> None:
        """Let the best of ``candidates`` be the sub-tree's next level, if it has one."""
        depth = self.depths[subtree] = self.depths[subtree] + 1
        kept = by_score(graph, candidates, self.beam_width)
        self.dropped.update(set(candidates).difference(kept))
        self.kept_at |= dict.fromkeys(kept, depth)
        self.levels[subtree] = []
        if kept:
            self.last_levels[subtree] = kept
        if kept and depth < self.max_depth:
            self.frontiers[subtree], self.num_unfinished[subtree] = list(kept), len(kept)
        else:
            self.frontiers.pop(subtree, None)
            self.num_unfinished.pop(subtree, None)

    def best(self, graph: ThoughtGraph) -> int | None:
        """The best thought that reaches the goal, else the best of the sub-trees' last levels."""
        return best_thought(graph, [*self.goals, *(t for level in self.last_levels.values() for t in level)])
