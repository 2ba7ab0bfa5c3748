"""Graph of Thoughts: thoughts are generated, ranked, merged and refined along a declared graph of operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from llmprog.events import ControllerEvent, ThoughtChecked, ThoughtExpanded, ThoughtsCompared
from llmprog.nodes import Checker, Generator
from llmprog.search.controller import Action, Compare, Controller, Expand, Merge, Prune, Stop, require
from llmprog.search.operations import (
    Aggregate,
    Generate,
    GroundTruth,
    KeepBest,
    Operation,
    OperationGraph,
    Refine,
    Score,
    Select,
)
from llmprog.search.thought_graph import ThoughtGraph


@dataclass(kw_only=True)
class GraphOfThoughts(Controller):
    """Runs a graph of operations (Besta et al. 2023, arXiv 2308.09687, sections 3 and 4).

    Operations that do not depend on each other run side by side. The answer is the best thought of the operations that
    no other comes after; of a search that was stopped, the best of what the operations ended with so far.

    Deviations: a thought is judged by the program's checkers when it is found, so ``Score`` asks no model itself (but
    ``Score(compare=True)`` does); and a thought that is found twice is one thought.

    Attributes:
        operations: What is done; an ``OperationGraph``.
        stop_on_goal: End at the first thought that reaches the goal. By default only ``GroundTruth`` looks at the goal.
    """

    compares: ClassVar[bool] = True
    aggregates: ClassVar[bool] = True

    operations: OperationGraph
    stop_on_goal: bool = False
    outputs: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)  # of operations that are done
    # (operation, place among its inputs, tries so far, thought, -1 for all) to be asked for, or asked for by number
    queue: list[tuple[str, int, int, int]] = field(default_factory=list, init=False, repr=False)
    asked: dict[int, tuple[str, int, int, int]] = field(default_factory=dict, init=False, repr=False)
    num_asked: int = field(default=0, init=False, repr=False)
    arrived: list[tuple[int, list[int]]] = field(default_factory=list, init=False, repr=False)
    unchecked: set[int] = field(default_factory=set, init=False, repr=False)
    # What came of each input of the operations under way.
    under_way: dict[str, list[list[int]]] = field(default_factory=dict, init=False, repr=False)
    num_open: dict[str, int] = field(default_factory=dict, init=False, repr=False)  # inputs of it not yet done with
    comparing: list[str] = field(default_factory=list, init=False, repr=False)
    compared: list[str] = field(default_factory=list, init=False, repr=False)
    ranks: dict[int, float] = field(default_factory=dict, init=False, repr=False)  # scores by Score operations
    kept: set[int] = field(default_factory=set, init=False, repr=False)  # by one KeepBest or another
    dropped: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        allowed = "an OperationGraph({name: operation, ...})"
        require(found, "operations", self.operations, allowed, isinstance(self.operations, OperationGraph))
        return found

    def program_faults(self, generators: Sequence[Generator], checkers: Sequence[Checker]) -> list[str]:
        found: list[str] = []
        for name, operation in self.operations.steps:
            if isinstance(operation, Generate | Refine | Aggregate):
                merges = isinstance(operation, Aggregate)
                known = [node.name for node in generators if node.aggregates == merges]
                what = f"generator with aggregates={merges}"
                if operation.generator is not None and operation.generator not in known:
                    there_are = ", ".join(known) or "none"
                    found.append(f"operation {name!r} uses {operation.generator!r}; allowed is a {what}: {there_are}")
                elif not known:
                    found.append(f"operation {name!r} needs a {what}; declare one")
            elif isinstance(operation, Score):
                known = [node.name for node in checkers]
                unknown = [checker for checker in operation.checkers or () if checker not in known]
                if unknown:
                    found.append(f"operation {name!r} counts {unknown}; the checkers are: {', '.join(known) or 'none'}")
                if operation.compare and all(node.kind == "state" for node in checkers):
                    found.append(f"operation {name!r} compares; declare a checker with kind='vote' or 'pairwise'")
        return found

    # -- what happened

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtExpanded):
            self.arrived.append((event.tag, list(dict.fromkeys(event.children))))
            self.unchecked.update(child for child, new in zip(event.children, event.is_new, strict=True) if new)
        elif isinstance(event, ThoughtChecked):
            self.unchecked.discard(event.thought)
        elif isinstance(event, ThoughtsCompared):
            self.compared.append(self.comparing.pop(0))  # results come in the order of dispatch

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        arrived, self.arrived = self.arrived, []
        for number, children in arrived:
            if self.unchecked.isdisjoint(children):
                self._take_in(graph, children, *self.asked.pop(number))
            else:
                self.arrived.append((number, children))
        for name in self.compared:
            self._score(graph, name)
        self.compared.clear()
        if self._begin_ready(graph):
            return [Stop("ground_truth")]
        if len(self.outputs) == len(self.operations.steps):
            return [*self._prunes(), Stop("done")]
        now, self.queue = self.queue[:capacity], self.queue[capacity:]
        return [self._action(graph, item) for item in now]

    def _action(self, graph: ThoughtGraph, item: tuple[str, int, int, int]) -> Action:
        name, _, _, thought = item
        operation = self.operations.operations[name]
        if isinstance(operation, Score):
            self.comparing.append(name)
            return Compare(tuple(self._inputs(graph, name)))
        number = self.num_asked
        self.num_asked += 1
        self.asked[number] = item
        if isinstance(operation, Aggregate):
            inputs = tuple(self._inputs(graph, name))
            return Merge(inputs, tag=number, num_samples=operation.num_samples, generator=operation.generator)
        if isinstance(operation, Generate):
            return Expand(thought, num_samples=operation.num_samples, tag=number, generator=operation.generator)
        generator = operation.generator if isinstance(operation, Refine) else None
        return Expand(thought, num_samples=1, tag=number, generator=generator)

    # -- operations

    def _begin_ready(self, graph: ThoughtGraph) -> bool:
        """Begin every operation whose inputs are there, and do those that take no time; whether a goal ends it all."""
        for name, operation in self.operations.steps:  # in the order declared, which none comes before its inputs in
            if name in self.outputs or name in self.num_open:
                continue
            if not all(other in self.outputs for other in self.operations.after(name)):
                continue
            inputs = self._inputs(graph, name)
            if isinstance(operation, GroundTruth) and any(graph.is_goal(thought) for thought in inputs):
                self.outputs[name] = [thought for thought in inputs if graph.is_goal(thought)]
                return True
            self._begin(graph, name, operation, inputs)
        return False

    def _begin(self, graph: ThoughtGraph, name: str, operation: Operation, inputs: list[int]) -> None:
        if isinstance(operation, Score) and (not operation.compare or len(inputs) < 2):
            self._score(graph, name)
        elif isinstance(operation, Score):
            self._ask_for(name, [-1])
        elif isinstance(operation, Aggregate):
            self._ask_for(name, [-1] if inputs else [])
        elif isinstance(operation, Generate):
            self._ask_for(name, inputs)
        elif isinstance(operation, Refine):
            self._refine(graph, name, operation, inputs)
        else:
            self.outputs[name] = kept = self._kept(graph, operation, inputs)
            if isinstance(operation, KeepBest):
                self.dropped |= dict.fromkeys((thought for thought in inputs if thought not in kept), name)
                self.kept |= set(kept)

    def _ask_for(self, name: str, thoughts: list[int]) -> None:
        """Ask for what an operation needs; one that is given nothing is done."""
        if not thoughts:
            self.outputs[name] = []
            return
        self.num_open[name] = len(thoughts)
        self.under_way[name] = [[] for _ in thoughts]
        self.queue += [(name, place, 0, thought) for place, thought in enumerate(thoughts)]

    def _refine(self, graph: ThoughtGraph, name: str, operation: Refine, inputs: list[int]) -> None:
        self.under_way[name] = [[thought] for thought in inputs]
        tries = [(n, thought) for n, thought in enumerate(inputs) if not self._is_good(graph, operation, thought)]
        self.queue += [(name, place, 0, thought) for place, thought in tries]
        self.num_open[name] = len(tries)
        self._end_if_done(graph, name)

    def _take_in(
        self, graph: ThoughtGraph, children: list[int], name: str, place: int, num_tries: int, thought: int
    ) -> None:
        """What an action has led to, for the operation that asked for it."""
        operation = self.operations.operations[name]
        found = self.under_way[name][place]
        found += children
        if isinstance(operation, Refine):
            last = children[0] if children else thought
            is_good = any(self._is_good(graph, operation, child) for child in children)
            if not is_good and num_tries + 1 < operation.max_tries:
                self.queue.append((name, place, num_tries + 1, last))
                return
        self.num_open[name] -= 1
        self._end_if_done(graph, name)

    def _end_if_done(self, graph: ThoughtGraph, name: str) -> None:
        if self.num_open[name]:
            return
        operation = self.operations.operations[name]
        found = self.under_way.pop(name)
        del self.num_open[name]
        if isinstance(operation, Refine):
            best = [self._best_try(graph, operation, tries) for tries in found]
            found = [[thought] for thought in best if thought is not None]
        self.outputs[name] = list(dict.fromkeys(thought for thoughts in found for thought in thoughts))

    def _best_try(self, graph: ThoughtGraph, operation: Refine, tries: list[int]) -> int | None:
        good = [thought for thought in tries if self._is_good(graph, operation, thought)]
        usable = [thought for thought in tries if graph.is_usable(thought)]
        ranked = sorted(usable, key=lambda thought: -self.rank(graph, thought))
        return next(iter([*good, *ranked]), None)

    def _is_good(self, graph: ThoughtGraph, operation: Refine, thought: int) -> bool:
        is_high = operation.threshold is None or self.rank(graph, thought) >= operation.threshold
        return graph.is_usable(thought) and is_high

    def _kept(self, graph: ThoughtGraph, operation: Operation, inputs: list[int]) -> list[int]:
        if isinstance(operation, KeepBest):
            return sorted(inputs, key=lambda thought: -self.rank(graph, thought))[: operation.num_kept]
        if isinstance(operation, Select):
            where, index = operation.where, operation.index
            if where is not None:
                return [thought for thought in inputs if where(graph.states[thought])]
            return inputs[index : index + 1] if index is not None else []
        return inputs  # KeepValid and GroundTruth: what was refused is left out already

    def _score(self, graph: ThoughtGraph, name: str) -> None:
        operation = self.operations.operations[name]
        inputs = self._inputs(graph, name)
        self.num_open.pop(name, None)
        self.under_way.pop(name, None)
        if isinstance(operation, Score):
            for thought in inputs:
                self.ranks[thought] = sum(
                    verdict.score
                    for checker, verdict in graph.verdicts.get(thought, ())
                    if operation.checkers is None or checker in operation.checkers
                )
        self.outputs[name] = inputs

    def rank(self, graph: ThoughtGraph, thought: int) -> float:
        """The score that counts for a thought: of the last ``Score`` it went through, else of all checkers."""
        return self.ranks.get(thought, graph.scores[thought])

    def _inputs(self, graph: ThoughtGraph, name: str) -> list[int]:
        """The thoughts that an operation is given; the refused only where it is there to mend them."""
        after = self.operations.after(name)
        given = [thought for other in after for thought in self.outputs[other]] if after else [0]
        takes_all = isinstance(self.operations.operations[name], Refine)
        return [thought for thought in dict.fromkeys(given) if takes_all or graph.is_usable(thought)]

    # -- the end

    def _prunes(self) -> list[Prune]:
        """What was given up: ranked, and never kept."""
        given_up = sorted(thought for thought in self.dropped if thought not in self.kept)
        return [Prune(thought, f"not kept by {self.dropped[thought]}") for thought in given_up]

    def best(self, graph: ThoughtGraph) -> int | None:
        """The best thought of the last operations, by score; before they are done, of the latest that is."""
        last = [thought for name in self.operations.last for thought in self.outputs.get(name, ())]
        is_done = len(self.outputs) == len(self.operations.steps)
        earlier: list[list[int]] = [] if is_done else list(reversed(self.outputs.values()))
        for thoughts in (last, *earlier):
            usable = [thought for thought in thoughts if thought and graph.is_usable(thought)]
            if usable:
                return max(usable, key=lambda thought: (graph.is_goal(thought), self.rank(graph, thought)))
        return None if is_done else super().best(graph)
