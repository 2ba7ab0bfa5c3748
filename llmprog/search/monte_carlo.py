"""Monte Carlo tree search: simulations that go where values are high or where little is known yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from llmprog.search.controller import Action, Expand, Stop, best_thought, is_number, is_whole, require
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.search.tree_controller import TreeController


@dataclass(kw_only=True)
class MonteCarloTreeSearch(TreeController):
    """UCT (Kocsis and Szepesvári 2006; Browne et al. 2012, algorithm 2) over thoughts.

    A simulation *selects*: from the root to the child of highest ``Q + c * sqrt(ln N_parent / max(1, n))`` until it
    comes to a thought that has not been expanded. It *expands* that thought, goes on to its best new child, *evaluates*
    it, and *backs up* the value along its path.

    * Q is scaled to [0, 1], so that ``exploration_constant`` means the same for every program. A child that has not
      been visited counts with its own score.
    * On a graph, visits and values belong to the thought, not to the edge: what one path has learned of a thought is
      known to all paths that lead to it. A path visits no thought twice; ``max_depth`` counts its steps.
    * Deviation: a thought that leads nowhere (a goal, at ``max_depth``, without valid children) is evaluated once. Its
      value cannot change, so a second visit would only use up a simulation. When nothing else is left, the search ends.
    * Side by side, a simulation counts along its path as a visit of value 0 until it ends (virtual loss, Chaslot et
      al. 2008), and thoughts that are just being expanded are passed over, so that simulations spread out.

    Attributes:
        num_simulations: Simulations at most. Each expands one thought, or as many as its rollout takes.
        max_depth: Steps per path at most.
        exploration_constant: c; 0 only exploits. √2 is UCB1's for values in [0, 1].
        evaluation: ``score`` takes what the checkers said of the thought. ``random_rollout`` and ``greedy_rollout`` go
            on, to a random child or to the one of highest score, until the path ends, and take what the checkers said
            of its last thought. What a rollout expanded stays in the tree, since it is paid for.
        backup: ``mean`` of the values backed up to a thought, or their ``max``.
        num_parallel: Simulations side by side; 1 is the textbook's algorithm.
        value_range: The scores that mean 0 and 1; beyond them is cut off. ``None``: the lowest and the highest score so
            far (as MuZero scales, Schrittwieser et al. 2020, equation 5).
        selection: Without a goal the answer is at the end of the path of most ``visits`` (robust child), or of highest
            ``value`` (max child).
    """

    num_simulations: int
    max_depth: int
    exploration_constant: float = math.sqrt(2)
    evaluation: Literal["score", "random_rollout", "greedy_rollout"] = "score"
    backup: Literal["mean", "max"] = "mean"
    num_parallel: int = 1
    value_range: tuple[float, float] | None = None
    selection: Literal["visits", "value"] = "visits"
    visits: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    totals: dict[int, float] = field(default_factory=dict, init=False, repr=False)  # for max, the maximum
    ways: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)  # children of expanded thoughts
    # Steps below a thought within which there is nothing left to find.
    exhausted: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    lowest: float | None = field(default=None, init=False, repr=False)
    highest: float | None = field(default=None, init=False, repr=False)
    paths: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)  # of simulations under way
    rolling: set[int] = field(default_factory=set, init=False, repr=False)  # those that are in their rollout
    on_the_way: dict[int, int] = field(default_factory=dict, init=False, repr=False)  # how many of them go through it
    expanding: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)  # who waits for it
    queue: list[int] = field(default_factory=list, init=False, repr=False)
    arrived: list[tuple[int, list[int]]] = field(default_factory=list, init=False, repr=False)
    num_started: int = field(default=0, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        for name in ("num_simulations", "max_depth", "num_parallel"):
            require(found, name, getattr(self, name), "a whole number >= 1", is_whole(getattr(self, name), 1))
        value = self.exploration_constant
        is_constant = is_number(value) and 0 <= value < math.inf
        require(found, "exploration_constant", value, "a finite number >= 0", is_constant)
        for name, known in (
            ("evaluation", ("score", "random_rollout", "greedy_rollout")),
            ("backup", ("mean", "max")),
            ("selection", ("visits", "value")),
        ):
            value = getattr(self, name)
            require(found, name, value, f"{', '.join(known[:-1])} or {known[-1]}", value in known)
        ends = self.value_range
        is_range = isinstance(ends, tuple) and len(ends) == 2 and all(is_number(end) for end in ends)
        is_range = is_range and ends is not None and -math.inf < ends[0] < ends[1] < math.inf
        require(found, "value_range", ends, "two finite numbers (low, high), or None", ends is None or is_range)
        return found

    def tell_family(self, parent: int, children: list[int]) -> None:
        self.arrived.append((parent, children))

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        for parent, children in self.arrived:
            self.ways[parent] = children
            for child in children:
                self._see(graph, child)
        arrived, self.arrived = self.arrived, []
        for parent, _ in arrived:
            for simulation in self.expanding.pop(parent):
                self._advance(graph, simulation)
        is_exhausted = False
        while not is_exhausted and len(self.queue) < capacity and len(self.paths) < self.num_parallel:
            if self.num_started == self.num_simulations:
                break
            path = self._select(graph)
            if not path:
                is_exhausted = path is not None
                break
            self._start(graph, path)
        now, self.queue = self.queue[:capacity], self.queue[capacity:]
        if not self.paths and (is_exhausted or self.num_started == self.num_simulations):
            return [Stop("exhausted" if is_exhausted else "num_simulations")]
        return [Expand(thought) for thought in now]

    # -- one simulation

    def _select(self, graph: ThoughtGraph) -> list[int] | None:
        """The path to the thought that a simulation begins with.

        ``None`` while all that is left waits for others, empty where nothing is left.
        """
        path = [0]
        busy: set[int] = set()
        while path:
            thought, steps_left = path[-1], self.max_depth - len(path) + 1
            ways = self.ways.get(thought)
            if graph.is_goal(thought) or not steps_left or (ways is None and thought not in self.expanding):
                return path
            open_ways = [
                child
                for child in ways or ()
                if graph.is_usable(child) and child not in path and self.exhausted.get(child, -1) < steps_left - 1
            ]
            free = [child for child in open_ways if child not in busy]
            if free:
                path.append(max(free, key=lambda child: self.uct(graph, thought, child)))
                continue
            if ways is None or open_ways:
                busy.add(thought)
            else:
                self._exhaust(thought, steps_left)
            path.pop()
        return None if busy else path

    def _start(self, graph: ThoughtGraph, path: list[int]) -> None:
        number = self.num_started
        self.num_started += 1
        self.paths[number] = []
        for thought in path:
            self._extend(number, thought)
        self._advance(graph, number)

    def _advance(self, graph: ThoughtGraph, number: int) -> None:
        """Take a simulation on to its end, or to a thought that must be expanded first."""
        path = self.paths[number]
        while not graph.is_goal(path[-1]) and len(path) <= self.max_depth:
            thought = path[-1]
            if thought not in self.ways:
                if thought not in self.expanding:
                    self.queue.append(thought)
                self.expanding.setdefault(thought, []).append(number)
                return
            ways = [child for child in self.ways[thought] if graph.is_usable(child) and child not in path]
            if not ways:
                break
            if number not in self.rolling:
                self._extend(number, max(ways, key=lambda child: self.uct(graph, thought, child)))
                if self.evaluation == "score":
                    break
                self.rolling.add(number)
            elif self.evaluation == "greedy_rollout":
                self._extend(number, max(ways, key=lambda child: graph.scores[child]))
            else:
                self._extend(number, self._context.rng.choice(ways))
        self._end(graph, number)

    def _extend(self, number: int, thought: int) -> None:
        self.paths[number].append(thought)
        self.on_the_way[thought] = self.on_the_way.get(thought, 0) + 1

    def _end(self, graph: ThoughtGraph, number: int) -> None:
        """Evaluate the last thought of a simulation's path and back the value up."""
        path = self.paths.pop(number)
        self.rolling.discard(number)
        last = path[-1]
        value = graph.scores[last]
        if graph.is_goal(last) or not any(map(graph.is_usable, self.ways.get(last, (last,)))):
            self._exhaust(last, self.max_depth)
        elif len(path) > self.max_depth:
            self._exhaust(last, 0)
        for thought in path:
            self.on_the_way[thought] -= 1
            if not self.on_the_way[thought]:
                del self.on_the_way[thought]
            num_visits = self.visits.get(thought, 0)
            self.visits[thought] = num_visits + 1
            if self.backup == "mean":
                self.totals[thought] = self.totals.get(thought, 0.0) + value
            else:
                self.totals[thought] = max(self.totals.get(thought, value), value)

    def _exhaust(self, thought: int, steps: int) -> None:
        self.exhausted[thought] = max(steps, self.exhausted.get(thought, 0))

    # -- values

    def _see(self, graph: ThoughtGraph, thought: int) -> None:
        if self.value_range is None and graph.is_usable(thought):
            score = graph.scores[thought]
            self.lowest = score if self.lowest is None else min(self.lowest, score)
            self.highest = score if self.highest is None else max(self.highest, score)

    def value(self, graph: ThoughtGraph, thought: int) -> float:
        """Q: what has been backed up to a thought, or its own score before that; scaled to [0, 1]."""
        num_visits = self.visits.get(thought, 0)
        if not num_visits:
            value = graph.scores[thought]
        else:
            value = self.totals[thought] / (num_visits if self.backup == "mean" else 1)
        low, high = self.value_range or (self.lowest or 0.0, self.highest or 0.0)
        return min(1.0, max(0.0, (value - low) / (high - low))) if low < high else 0.5

    def uct(self, graph: ThoughtGraph, parent: int, child: int) -> float:
        """``Q + c * sqrt(ln N_parent / max(1, n))``, with simulations under way counted as visits of value 0."""
        num_visits, num_virtual = self.visits.get(child, 0), self.on_the_way.get(child, 0)
        known = max(1, num_visits)
        value = self.value(graph, child) * known / (known + num_virtual)
        num_parent = max(1, self.visits.get(parent, 0) + self.on_the_way.get(parent, 0))
        return value + self.exploration_constant * math.sqrt(math.log(num_parent) / max(1, num_visits + num_virtual))

    def best(self, graph: ThoughtGraph) -> int | None:
        """The goal of highest score, else the end of the path that ``selection`` follows."""
        goals = [thought for thought in range(len(graph)) if graph.is_goal(thought)]
        path = [0]
        while not goals:
            visited = [c for c in self.ways.get(path[-1], ()) if c in self.visits and c not in path]
            if not visited:
                break
            path.append(max(visited, key=lambda child: self._rank(graph, child)))
        if goals or len(path) == 1:
            return best_thought(graph, goals or range(1, len(graph)))
        return path[-1]

    def _rank(self, graph: ThoughtGraph, thought: int) -> tuple[float, float]:
        visits, value = float(self.visits[thought]), self.value(graph, thought)
        return (visits, value) if self.selection == "visits" else (value, visits)
