"""Best-first search and A*: one global frontier, the most promising thought next."""

from __future__ import annotations

import heapq
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from llmprog.errors import NodeError
from llmprog.events import ControllerEvent, ThoughtChecked, ThoughtExpanded
from llmprog.search.controller import (
    Action,
    Controller,
    Expand,
    SearchContext,
    Stop,
    best_thought,
    is_number,
    is_whole,
    require,
)
from llmprog.search.thought_graph import ThoughtGraph


@dataclass(kw_only=True)
class BestFirstSearch(Controller):
    """Expand the open thought of highest score, wherever it is in the graph; ties go to the one found first.

    Anytime: stopped by a limit, it answers with the best thought so far.

    Given ``cost`` it is A* (Hart, Nilsson and Raphael 1968): the thought of least ``f = g + weight * h`` is next, where
    g is the cost of the cheapest path known and h the ``heuristic``; scores do not matter. With an h that never
    overestimates and the default ``weight``, the first goal whose turn comes is the cheapest of all that the generators
    can reach; with a weight w > 1 it costs at most w times that, and is found sooner (Pohl 1970). Until then the
    cheapest goal so far is the answer of a search that is stopped by a limit. Without ``heuristic`` it is Dijkstra's.

    A thought that is found again on a cheaper path is opened again: expanded once more, so that what it leads to
    becomes cheaper too. (A model is then asked for further samples. With a consistent h, and ``batch_size=1``, that
    never happens.) Likewise, with ``max_depth``, one that is found again on a shorter path, so that the limit cuts
    nothing off that a tree would have reached; A* counts the steps of the cheapest path.

    Attributes:
        max_thoughts: Stop when the graph has grown to this many thoughts.
        max_depth: Thoughts at this depth are not expanded; ``None`` sets no limit.
        batch_size: Thoughts expanded at once; 1 is the textbook's algorithm, more trades order for speed.
        cost: What a step costs, >= 0: a function of the states before and after it, or of the state after it alone.
        heuristic: An estimate, from a state, of the cost that is still to come; infinity where no goal can be reached.
        weight: How much the heuristic counts; 0 ignores it.
        stop_on_goal: End at the first goal; A* at the first goal that has been proven cheapest.
    """

    max_thoughts: int
    max_depth: int | None = None
    batch_size: int = 1
    cost: Callable[..., float] | None = None
    heuristic: Callable[[Any], float] | None = None
    weight: float = 1.0
    # (priority, thought, cost that its path had): least first
    heap: list[tuple[float, int, float]] = field(default_factory=lambda: [(0.0, 0, 0.0)], init=False, repr=False)
    arrived: list[int] = field(default_factory=list, init=False, repr=False)
    found_again: list[int] = field(default_factory=list, init=False, repr=False)
    # How far its path was when a thought was last expanded: the path's cost under A*, else its steps.
    expanded_at: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    ends_at_proof: bool = field(default=False, init=False, repr=False)
    num_unfinished: int = field(default=0, init=False, repr=False)
    num_unchecked: int = field(default=0, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        for name in ("max_thoughts", "batch_size"):
            require(found, name, getattr(self, name), "a whole number >= 1", is_whole(getattr(self, name), 1))
        value = self.max_depth
        require(found, "max_depth", value, "a whole number >= 1, or None", value is None or is_whole(value, 1))
        for name, allowed in (("cost", "a function of one or two states"), ("heuristic", "a function of a state")):
            given = getattr(self, name)
            require(found, name, given, f"{allowed}, or None", given is None or callable(given))
        if self.heuristic is not None and self.cost is None:
            found.append("heuristic without cost; give cost= too (lambda state: 1 counts steps)")
        is_weight = is_number(self.weight) and 0 <= self.weight < math.inf
        require(found, "weight", self.weight, "a finite number >= 0", is_weight)
        if self.heuristic is None and self.weight != 1.0:
            found.append(f"weight={self.weight!r} without heuristic has no effect; give heuristic= too")
        return found

    def fresh(self, context: SearchContext) -> Self:
        new = super().fresh(context)
        if self.cost is not None:
            # The first goal found need not be the cheapest, so the search must not end where it is found.
            new.stop_on_goal, new.ends_at_proof = False, self.stop_on_goal
        return new

    @property
    def step_cost(self) -> Callable[[Any, Any], float] | None:
        """What a step costs, checked; ``None`` unless this is A*."""
        function = self.cost
        if function is None:
            return None
        takes_both = _num_parameters(function) >= 2

        def cost(before: Any, after: Any) -> float:
            return _checked("cost", after, lambda: function(before, after) if takes_both else function(after))

        return cost

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtChecked):
            self.arrived.append(event.thought)
            self.num_unchecked -= 1
        elif isinstance(event, ThoughtExpanded):
            self.num_unfinished -= 1
            self.num_unchecked += sum(event.is_new)
            if self.max_depth is not None or self.cost is not None:
                known = zip(event.children, event.is_new, strict=True)
                self.found_again.extend(child for child, is_new in known if not is_new)

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        if len(graph) >= self.max_thoughts:
            return [Stop("max_thoughts")]
        if self.num_unchecked:  # a better thought may be among those still being judged
            return []
        for thought in (*self.arrived, *self.found_again):
            self._open(graph, thought)
        self.arrived.clear()
        self.found_again.clear()
        actions: list[Action] = []
        while self.heap and self.num_unfinished < self.batch_size and len(actions) < capacity:
            if graph.is_goal(self.heap[0][1]):
                if self.num_unfinished:  # what is being expanded may lead to a cheaper one
                    break
                if self.ends_at_proof:
                    return [Stop("goal")]
            _, thought, cost = heapq.heappop(self.heap)
            if not self._is_worth_it(graph, thought, cost):
                continue
            if self.max_depth is not None or self.cost is not None:
                self.expanded_at[thought] = cost if self.cost is not None else graph.depths[thought]
            actions.append(Expand(thought))
            self.num_unfinished += 1
        return actions

    def _open(self, graph: ThoughtGraph, thought: int) -> None:
        """Put a thought that was found, or found again, into the frontier."""
        if self.cost is None:
            if graph.is_open(thought) and self._is_worth_it(graph, thought, 0.0):
                heapq.heappush(self.heap, (-graph.scores[thought], thought, 0.0))
            return
        cost = graph.costs[thought]
        if not graph.is_usable(thought) or cost >= self.expanded_at.get(thought, math.inf):
            return
        estimate = 0.0
        if self.heuristic is not None and not graph.is_goal(thought):
            heuristic, state = self.heuristic, graph.states[thought]
            estimate = _checked("heuristic", state, lambda: heuristic(state), may_be_infinite=True)
        if estimate < math.inf:
            heapq.heappush(self.heap, (cost + self.weight * estimate, thought, cost))

    def _is_worth_it(self, graph: ThoughtGraph, thought: int, cost: float) -> bool:
        """Whether a thought is to be expanded: for the first time, or by a better path than before."""
        if not graph.is_open(thought) or (self.max_depth is not None and graph.depths[thought] >= self.max_depth):
            return False
        if self.cost is not None:  # an entry of the frontier whose path has become cheaper meanwhile is void
            return cost == graph.costs[thought] and cost < self.expanded_at.get(thought, math.inf)
        return self.max_depth is None or graph.depths[thought] < self.expanded_at.get(thought, math.inf)

    def best(self, graph: ThoughtGraph) -> int | None:
        """The goal of highest score (under A* the cheapest), else the thought of highest score."""
        goals = [] if self.cost is None else [t for t in range(1, len(graph)) if graph.is_goal(t)]
        if goals:
            return min(goals, key=lambda thought: graph.costs[thought])
        return best_thought(graph, range(1, len(graph)))


def _num_parameters(function: Callable[..., Any]) -> int:
    """How many states a cost function takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin without a signature
        return 1
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return 2 if any(p.kind is p.VAR_POSITIONAL for p in parameters) else sum(p.default is p.empty for p in taken)


def _checked(part: str, state: Any, function: Callable[[], Any], *, may_be_infinite: bool = False) -> float:
    """What a user's function says of a state, which must be a number >= 0."""
    try:
        value = function()
    except Exception as error:  # any error of a user's function: named and raised again
        raise NodeError(part, f"raised {type(error).__name__}: {error} for the state {state!r}") from error
    if not is_number(value) or value < 0 or (value == math.inf and not may_be_infinite):
        allowed = "a number >= 0" if may_be_infinite else "a finite number >= 0"
        raise NodeError(part, f"returned {value!r} for the state {state!r}; allowed is {allowed}")
    return float(value)
