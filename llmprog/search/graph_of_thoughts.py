"""Graph of Thoughts: thoughts are generated, ranked, merged and refined along a graph of operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from llmprog.errors import DeclarationError
from llmprog.events import ControllerEvent, ThoughtChecked, ThoughtExpanded, ThoughtsCompared
from llmprog.nodes import Checker, Generator
from llmprog.search.controller import Action, Compare, Controller, Expand, Merge, Prune, Stop, require
from llmprog.search.judging import call_function
from llmprog.search.operation_graph import Decide, OperationGraph, Step, round_of, unfold
from llmprog.search.operations import (
    Aggregate,
    Generate,
    Generating,
    GroundTruth,
    KeepBest,
    Operation,
    Refine,
    Score,
    Select,
)
from llmprog.search.thought_graph import ThoughtGraph


@dataclass(kw_only=True)
class GraphOfThoughts(Controller):
    """Runs a graph of operations (Besta et al. 2023, arXiv 2308.09687, sections 3 and 4).

    Operations that do not depend on each other run side by side. ``Decide`` chooses further ones from the thoughts so
    far. The answer is the best thought of the operations that no other comes after; of a search that was stopped, the
    best of what the latest operation has found so far.

    Deviations: a thought is judged by the program's checkers when it is found, so ``Score`` asks no model itself (but
    ``Score(compare=True)`` does); a thought that is found twice is one thought; and the graph may grow while it runs,
    where the paper's is fixed beforehand.

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
    chosen: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)  # by each Decide, in order
    given: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)  # to each round of one

    def __post_init__(self) -> None:
        super().__post_init__()
        self._unfold()

    def _unfold(self) -> None:
        """Bring the steps up to date with what was chosen."""
        self._steps: dict[str, Step] = unfold(self.operations, self.chosen)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._unfold()

    def faults(self) -> list[str]:
        found: list[str] = []
        allowed = "an OperationGraph({name: operation, ...})"
        require(found, "operations", self.operations, allowed, isinstance(self.operations, OperationGraph))
        return found

    def program_faults(self, generators: Sequence[Generator], checkers: Sequence[Checker]) -> list[str]:
        found: list[str] = []
        for name, operation in self.operations.all_steps():
            if isinstance(operation, Generating | Refine):
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
        if self._is_done():
            return [*self._prunes(), Stop("done")]
        now, self.queue = self.queue[:capacity], self.queue[capacity:]
        return [self._action(graph, item) for item in now]

    def _action(self, graph: ThoughtGraph, item: tuple[str, int, int, int]) -> Action:
        name, place, _, thought = item
        operation = self._steps[name].operation
        if isinstance(operation, Score):
            self.comparing.append(name)
            return Compare(tuple(self._inputs(graph, name)))
        number = self.num_asked
        self.num_asked += 1
        self.asked[number] = item
        if isinstance(operation, Aggregate):
            merged = tuple(self._groups(operation, self._inputs(graph, name))[place])
            return Merge(merged, tag=number, num_samples=operation.num_samples, generator=operation.generator)
        if isinstance(operation, Generate):
            return Expand(thought, num_samples=operation.num_samples, tag=number, generator=operation.generator)
        generator = operation.generator if isinstance(operation, Refine) else None
        return Expand(thought, num_samples=1, tag=number, generator=generator)

    # -- operations

    def _is_done(self) -> bool:
        return all(name in self.outputs for name, _ in self.operations.steps)

    def _begin_ready(self, graph: ThoughtGraph) -> bool:
        """Begin every operation whose inputs are there, and do those that take no time; whether a goal ends it all."""
        while ready := [name for name, step in self._steps.items() if self._is_ready(name, step)]:
            for name in ready:
                operation = self._steps[name].operation
                inputs = self._inputs(graph, name)
                if isinstance(operation, GroundTruth) and any(graph.is_goal(thought) for thought in inputs):
                    self.outputs[name] = [thought for thought in inputs if graph.is_goal(thought)]
                    return True
                self._begin(graph, name, operation, inputs)
        return False

    def _is_ready(self, name: str, step: Step) -> bool:
        if name in self.outputs or name in self.num_open:
            return False
        if name in self.chosen:  # the operations that it chose last come before the next choice
            return all(other in self.outputs for other in self._last_of_round(name))
        return all(other in self.outputs for other in step.after)

    def _begin(self, graph: ThoughtGraph, name: str, operation: Operation, inputs: list[int]) -> None:
        if isinstance(operation, Decide):
            self._decide(graph, name, operation, inputs)
        elif isinstance(operation, Score) and (not operation.compare or len(inputs) < 2):
            self._score(graph, name)
        elif isinstance(operation, Score):
            self._ask_for(name, [-1])
        elif isinstance(operation, Aggregate):
            self._aggregate(name, operation, inputs)
        elif isinstance(operation, Generate):
            self._ask_for(name, inputs)
        elif isinstance(operation, Refine):
            self._refine(graph, name, operation, inputs)
        else:
            self.outputs[name] = kept = self._kept(graph, name, operation, inputs)
            if isinstance(operation, KeepBest):
                self.dropped |= dict.fromkeys((thought for thought in inputs if thought not in kept), name)
                self.kept |= set(kept)

    def _decide(self, graph: ThoughtGraph, name: str, operation: Decide, inputs: list[int]) -> None:
        before = self.chosen.get(name, [])
        plan = None
        if len(before) < operation.max_rounds:
            thoughts = tuple(graph[thought] for thought in inputs)
            plan = call_function(f"{name}: choose", operation.choose, thoughts)
        if plan is None:
            self.outputs[name] = inputs
            return
        if not isinstance(plan, str) or plan not in operation.plans:
            known = ", ".join(map(repr, operation.plans))
            raise DeclarationError(f"operation {name!r} chose {plan!r}; its plans are {known}, and None ends it")
        self.chosen[name] = [*before, plan]
        self.given[round_of(name, len(before) + 1)] = inputs
        self._unfold()

    def _last_of_round(self, name: str) -> list[str]:
        """The steps whose thoughts the next choice of a ``Decide`` is made from."""
        operation, chosen = self._steps[name].operation, self.chosen[name]
        if not isinstance(operation, Decide):
            return []
        return [round_of(name, len(chosen)) + last for last in operation.plans[chosen[-1]].last]

    def _groups(self, operation: Aggregate, inputs: list[int]) -> list[list[int]]:
        """What is merged with what."""
        size = operation.size or max(1, len(inputs))
        return [inputs[i : i + size] for i in range(0, len(inputs), size)]

    def _aggregate(self, name: str, operation: Aggregate, inputs: list[int]) -> None:
        groups = self._groups(operation, inputs)
        is_left_over = operation.size is not None and len(inputs) % operation.size == 1
        self._ask_for(name, [-1] * (len(groups) - is_left_over))
        if is_left_over and name in self.outputs:
            self.outputs[name] = groups[-1]
        elif is_left_over:
            self.under_way[name].append(groups[-1])

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
        operation = self._steps[name].operation
        found = self.under_way[name][place]
        found += children
        if isinstance(operation, Refine):
            last = children[0] if children else thought
            is_good = any(self._is_good(graph, operation, child) for child in children)
            is_better = any(self.rank(graph, child) > self.rank(graph, thought) for child in children)
            goes_on = is_better or not operation.while_better
            if not is_good and goes_on and num_tries + 1 < operation.max_tries:
                self.queue.append((name, place, num_tries + 1, last))
                return
        self.num_open[name] -= 1
        self._end_if_done(graph, name)

    def _end_if_done(self, graph: ThoughtGraph, name: str) -> None:
        if self.num_open[name]:
            return
        operation = self._steps[name].operation
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

    def _kept(self, graph: ThoughtGraph, name: str, operation: Operation, inputs: list[int]) -> list[int]:
        if isinstance(operation, KeepBest):
            parts: dict[Any, list[int]] = {}
            for thought in inputs:
                of = operation.per and call_function(f"{name}: per", operation.per, graph.states[thought])
                parts.setdefault(of, []).append(thought)
            ranked = (sorted(part, key=lambda thought: -self.rank(graph, thought)) for part in parts.values())
            return [thought for part in ranked for thought in part[: operation.num_kept]]
        if isinstance(operation, Select):
            where, index = operation.where, operation.index
            if where is not None:
                return [t for t in inputs if call_function(f"{name}: where", where, graph.states[t])]
            return inputs[index : index + 1] if index is not None else []
        return inputs  # KeepValid and GroundTruth: what was refused is left out already

    def _score(self, graph: ThoughtGraph, name: str) -> None:
        operation = self._steps[name].operation
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
        step = self._steps[name]
        after = self._last_of_round(name) if name in self.chosen else step.after
        first = self.given[step.within] if step.within else [0]
        given = [thought for other in after for thought in self.outputs[other]] if after else first
        takes_all = isinstance(step.operation, Refine)
        return [thought for thought in dict.fromkeys(given) if takes_all or graph.is_usable(thought)]

    # -- the end

    def _prunes(self) -> list[Prune]:
        """What was given up: ranked, and never kept."""
        given_up = sorted(thought for thought in self.dropped if thought not in self.kept)
        return [Prune(thought, f"not kept by {self.dropped[thought]}") for thought in given_up]

    def _found_under_way(self) -> list[list[int]]:
        """What operations have found that are not done, with what has arrived since they were last asked about."""
        found = {name: [t for thoughts in places for t in thoughts] for name, places in self.under_way.items()}
        for number, children in self.arrived:
            found[self.asked[number][0]] += [child for child in children if child not in self.unchecked]
        return list(found.values())

    def best(self, graph: ThoughtGraph) -> int | None:
        """The best thought of the last operations, by score; before they are done, of the latest that has found any."""
        last = [thought for name in self.operations.last for thought in self.outputs.get(name, ())]
        is_done = self._is_done()
        earlier = [] if is_done else [*reversed(self._found_under_way()), *reversed(self.outputs.values())]
        for thoughts in (last, *earlier):
            usable = [thought for thought in thoughts if thought and graph.is_usable(thought)]
            if usable:
                return max(usable, key=lambda thought: (graph.is_goal(thought), self.rank(graph, thought)))
        return None if is_done else super().best(graph)
