"""The thought graph: what a search has found so far.

Nodes are thoughts, edges say "this generator made that from this". Equal states (by ``key``) are one
thought with several arrivals, and an aggregated thought has several parents. The structure is append-only
and stored by column, so that a million thoughts fit in memory; ``graph[i]`` gives a ``Thought`` view.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from llmprog.errors import MissingExtraError
from llmprog.nodes import Verdict
from llmprog.templates import shown_value
from llmprog.types import Completion

if TYPE_CHECKING:
    import networkx as nx


class Status(IntEnum):
    """Where a thought stands."""

    OPEN = 0
    INVALID = 1
    PRUNED = 2
    GOAL = 3


class Arrival(NamedTuple):
    """One way a thought was reached.

    Attributes:
        parents: The thoughts it was made from; empty for the root.
        generator: The generator's name; empty for the root.
        sample: Index of the completion it was parsed from.
        completion: That completion; ``None`` for plain Python generators.
    """

    parents: tuple[int, ...]
    generator: str
    sample: int
    completion: Completion | None


@dataclass(frozen=True, slots=True)
class Thought:
    """A view of one thought in its graph."""

    graph: ThoughtGraph
    id: int

    @property
    def state(self) -> Any:
        """The user's state."""
        return self.graph.states[self.id]

    @property
    def score(self) -> float:
        """The sum of its checkers' scores."""
        return self.graph.scores[self.id]

    @property
    def depth(self) -> int:
        """Steps from the root along its path, the shortest known (or the cheapest, where steps have a cost)."""
        return self.graph.depths[self.id]

    @property
    def status(self) -> Status:
        """Open, invalid, pruned or goal."""
        return self.graph.status(self.id)

    @property
    def verdicts(self) -> tuple[tuple[str, Verdict], ...]:
        """What each checker said, by checker name."""
        return tuple(self.graph.verdicts.get(self.id, ()))

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """Every way it was reached; the first is the one its path follows."""
        return self.graph.arrivals(self.id)

    @property
    def parents(self) -> tuple[Thought, ...]:
        """The thoughts it was made from, over all arrivals, without repetition."""
        ids = dict.fromkeys(p for arrival in self.arrivals for p in arrival.parents)
        return tuple(Thought(self.graph, i) for i in ids)


class ThoughtGraph:
    """An append-only store of thoughts; thought ids count from 0, the root.

    Args:
        key: States with equal keys are one thought; by default states that are equal.
        step_cost: What the step from one state to another costs, 0 at least. With it a thought's path is the cheapest
            one known, whose cost is in ``costs``; by default it is the one of fewest steps.
    """

    __slots__ = (
        "_completion_refs", "_completions", "_extra", "_first_parents", "_generator_ids", "_generators", "_ids",
        "_many_parents", "_prune_reasons", "_samples", "_statuses", "_step_cost", "costs", "depths", "key", "scores",
        "states", "verdicts",
    )  # fmt: skip

    def __init__(
        self,
        key: Callable[[Any], Hashable] | None = None,
        step_cost: Callable[[Any, Any], float] | None = None,
    ) -> None:
        self.key = key
        self._step_cost = step_cost
        self.costs = array("d")
        self.states: list[Any] = []
        self.scores = array("d")
        self.depths = array("i")
        self.verdicts: dict[int, list[tuple[str, Verdict]]] = {}
        self._statuses = bytearray()
        self._first_parents = array("q")
        self._generator_ids = array("H")
        self._samples = array("i")
        self._completion_refs = array("q")
        self._generators: list[str] = [""]
        self._completions: list[Completion] = []
        self._ids: dict[Hashable, int] = {}
        self._extra: dict[int, list[Arrival]] = {}
        self._many_parents: dict[int, tuple[int, ...]] = {}
        self._prune_reasons: dict[int, str] = {}

    # -- writing (the runtime's side)

    def key_of(self, state: Any) -> Hashable:
        """The key that decides whether two states are one thought.

        Raises:
            TypeError: The state (or what ``key`` returned for it) is not hashable.
        """
        value: Hashable = state if self.key is None else self.key(state)
        hash(value)
        return value

    def find(self, key: Hashable) -> int | None:
        """The id of the thought with this key, if there is one."""
        return self._ids.get(key)

    def add_generator(self, name: str) -> int:
        """Register a generator; returns the number ``add`` wants."""
        self._generators.append(name)
        return len(self._generators) - 1

    def add_completion(self, completion: Completion) -> int:
        """Keep a completion; returns the reference ``add`` wants."""
        self._completions.append(completion)
        return len(self._completions) - 1

    def add(
        self,
        state: Any,
        key: Hashable,
        parents: tuple[int, ...] = (),
        generator: int = 0,
        sample: int = 0,
        completion: int = -1,
    ) -> tuple[int, bool]:
        """Add a state, or another arrival at a known one; returns its id and whether it is new.

        A known thought reached by a better path (shorter, or cheaper where steps have a cost) takes over the new state,
        depth and path; the old arrival stays on record.
        """
        depth = 1 + max((self.depths[p] for p in parents), default=-1)
        step_cost = self._step_cost
        cost = 0.0
        if step_cost is not None:
            cost = max((self.costs[p] + step_cost(self.states[p], state) for p in parents), default=0.0)
        known = self._ids.get(key)
        if known is not None:
            arrival = Arrival(parents, self._generators[generator], sample, self._completion(completion))
            is_better = depth < self.depths[known] if step_cost is None else cost < self.costs[known]
            if parents and is_better:
                self._extra.setdefault(known, []).append(self._first_arrival(known))
                self.states[known] = state
                self.depths[known] = depth
                if step_cost is not None:
                    self.costs[known] = cost
                self._set_origin(known, parents, generator, sample, completion)
            else:
                self._extra.setdefault(known, []).append(arrival)
            return known, False
        new = len(self.states)
        self._ids[key] = new
        self.states.append(state)
        self.scores.append(0.0)
        self.depths.append(depth)
        if step_cost is not None:
            self.costs.append(cost)
        self._statuses.append(0)
        self._first_parents.append(parents[0] if parents else -1)
        self._generator_ids.append(generator)
        self._samples.append(sample)
        self._completion_refs.append(completion)
        if len(parents) > 1:
            self._many_parents[new] = parents
        return new, True

    def _set_origin(self, thought: int, parents: tuple[int, ...], generator: int, sample: int, completion: int) -> None:
        self._first_parents[thought] = parents[0]
        self._many_parents.pop(thought, None)
        if len(parents) > 1:
            self._many_parents[thought] = parents
        self._generator_ids[thought] = generator
        self._samples[thought] = sample
        self._completion_refs[thought] = completion

    def record_verdict(self, thought: int, checker: str, verdict: Verdict) -> None:
        """Keep a checker's verdict: its score is added, and an invalid one marks the thought."""
        self.scores[thought] += verdict.score
        if not verdict.valid:
            self._statuses[thought] = Status.INVALID
        self.verdicts.setdefault(thought, []).append((checker, verdict))

    def mark_goal(self, thought: int) -> None:
        """Mark a thought as solving the problem."""
        self._statuses[thought] = Status.GOAL

    def prune(self, thought: int, reason: str) -> None:
        """Mark an open thought as given up by the controller, with its reason."""
        if self._statuses[thought] == Status.OPEN:
            self._statuses[thought] = Status.PRUNED
            self._prune_reasons[thought] = reason

    # -- reading

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, thought: int) -> Thought:
        if not 0 <= thought < len(self.states):
            raise IndexError(f"thought {thought}: the graph has thoughts 0..{len(self.states) - 1}")
        return Thought(self, thought)

    def __iter__(self) -> Iterator[Thought]:
        return (Thought(self, i) for i in range(len(self.states)))

    def status(self, thought: int) -> Status:
        """Where the thought stands."""
        return Status(self._statuses[thought])

    def is_open(self, thought: int) -> bool:
        """Whether the thought may still be expanded (neither invalid, pruned nor a goal)."""
        return self._statuses[thought] == 0

    def is_goal(self, thought: int) -> bool:
        """Whether the thought solves the problem."""
        return self._statuses[thought] == Status.GOAL

    def is_usable(self, thought: int) -> bool:
        """Whether the thought may be an answer (neither invalid nor pruned)."""
        return self._statuses[thought] in (0, 3)

    def prune_reason(self, thought: int) -> str:
        """Why the controller gave the thought up; empty where it did not."""
        return self._prune_reasons.get(thought, "")

    def parents_of(self, thought: int) -> tuple[int, ...]:
        """Parents along the thought's own (best) path; empty for the root."""
        if thought in self._many_parents:
            return self._many_parents[thought]
        parent = self._first_parents[thought]
        return () if parent < 0 else (parent,)

    def arrivals(self, thought: int) -> tuple[Arrival, ...]:
        """Every way the thought was reached; the first is the one its path follows."""
        return (self._first_arrival(thought), *self._extra.get(thought, ()))

    def path(self, thought: int) -> list[Thought]:
        """The thoughts from the root to this one, by first parents."""
        ids = [thought]
        while (parent := self._first_parents[ids[-1]]) >= 0:
            ids.append(parent)
        return [Thought(self, i) for i in reversed(ids)]

    def _first_arrival(self, thought: int) -> Arrival:
        return Arrival(
            self.parents_of(thought),
            self._generators[self._generator_ids[thought]],
            self._samples[thought],
            self._completion(self._completion_refs[thought]),
        )

    def _completion(self, reference: int) -> Completion | None:
        return None if reference < 0 else self._completions[reference]

    # -- views

    def to_networkx(self) -> nx.MultiDiGraph[int]:
        """A ``MultiDiGraph``: one node per thought, one edge per parent and arrival.

        Raises:
            MissingExtraError: networkx is not installed.
        """
        try:
            import networkx as nx
        except ImportError as error:
            raise MissingExtraError("a graph of thoughts for networkx", error.name or "networkx", "graph") from error
        graph: nx.MultiDiGraph[int] = nx.MultiDiGraph()
        for thought in self:
            graph.add_node(
                thought.id, state=thought.state, score=thought.score, depth=thought.depth,
                status=thought.status.name.lower(), verdicts=thought.verdicts,
            )  # fmt: skip
        for thought in self:
            for arrival in thought.arrivals:
                for parent in arrival.parents:
                    graph.add_edge(parent, thought.id, generator=arrival.generator, sample=arrival.sample)
        return graph

    def to_json(self) -> str:
        """One JSON document: ``{"thoughts": [...]}`` with provenance, in thought order."""

        def describe(thought: Thought) -> dict[str, Any]:
            return {
                "id": thought.id,
                "state": format_state(thought.state),
                "score": thought.score,
                "depth": thought.depth,
                "status": thought.status.name.lower(),
                "pruned_because": self.prune_reason(thought.id),
                "verdicts": [
                    {"checker": name, "valid": v.valid, "score": v.score, "reason": v.reason}
                    for name, v in thought.verdicts
                ],
                "arrivals": [
                    {
                        "parents": list(a.parents),
                        "generator": a.generator,
                        "sample": a.sample,
                        "completion": a.completion.text if a.completion else None,
                    }
                    for a in thought.arrivals
                ],
            }

        return json.dumps({"thoughts": [describe(t) for t in self]})

    def to_dot(self) -> str:
        """Graphviz source; goals are doubly framed, refused thoughts dashed."""

        def quote(text: str) -> str:
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

        lines = ["digraph thoughts {", "  node [shape=box];"]
        for thought in self:
            style = {Status.GOAL: ", peripheries=2", Status.INVALID: ", style=dashed", Status.PRUNED: ", style=dashed"}
            label = f"{format_state(thought.state)}\nscore {thought.score:g}"
            lines.append(f"  {thought.id} [label={quote(label)}{style.get(thought.status, '')}];")
        for thought in self:
            for arrival in thought.arrivals:
                lines += [f"  {p} -> {thought.id} [label={quote(arrival.generator)}];" for p in arrival.parents]
        return "\n".join([*lines, "}"])

    def render(self, *, max_thoughts: int = 200, describe: Callable[[Any], str] | None = None) -> str:
        """The graph as an indented tree of plain text; a merged thought is drawn once, then referred to.

        Args:
            max_thoughts: Lines drawn at most; what is left out is counted on the last line.
            describe: How a state is written; its fields in short by default.
        """
        describe = describe or format_state
        children: dict[int, list[int]] = {}
        for thought in range(1, len(self)):
            for parent in dict.fromkeys(p for a in self.arrivals(thought) for p in a.parents):
                children.setdefault(parent, []).append(thought)
        marks = {Status.OPEN: "", Status.INVALID: " ✗", Status.PRUNED: " ✂", Status.GOAL: " ★"}
        lines: list[str] = []
        drawn: set[int] = set()
        stack: list[tuple[int, str, str]] = [(0, "", "")] if len(self) else []
        while stack and len(lines) < max_thoughts:
            thought, head, indent = stack.pop()
            again = thought in drawn
            text = f"{head}[{thought}] {printable(describe(self.states[thought]))}"
            if again:
                lines.append(f"{text} (drawn above)")
                continue
            drawn.add(thought)
            lines.append(f"{text}  {self.scores[thought]:g}{marks[self.status(thought)]}")
            below = children.get(thought, [])
            for i, child in reversed(list(enumerate(below))):
                last = i == len(below) - 1
                stack.append((child, indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  ")))
        left_out = len(self) - len(drawn)
        return "\n".join([*lines, f"… {left_out} more thoughts"] if left_out else lines)

    def to_svg(self, *, max_thoughts: int = 300, describe: Callable[[Any], str] | None = None) -> str:
        """The graph as a picture, a file of its own; the path to the first goal stands out.

        Args:
            max_thoughts: Thoughts drawn at most, 1 at least: the path's, then the best; the others are counted.
            describe: How a state is written; its fields in short by default.
        """
        from llmprog.search.graph_picture import graph_picture

        return graph_picture(self, max_thoughts=max_thoughts, describe=describe).document()

    def _repr_svg_(self) -> str:
        return self.to_svg(max_thoughts=120)

    def _repr_html_(self) -> str:
        from llmprog.search.graph_picture import graph_html

        return graph_html(self)


def format_state(state: Any) -> str:
    """A state in short, on one line, for people."""
    return describe_state(state)[0]


def describe_state(state: Any) -> tuple[str, str | None]:
    """A state in short, on one line, and in full with its line breaks; ``None`` where the short form has all of it."""
    fields: list[str] = list(getattr(state, "__dataclass_fields__", ()) or getattr(state, "_fields", ()))
    if "__str__" in vars(type(state)) or not fields:
        parts = [shown_value(state)]
    else:
        shown = ((name, shown_value(getattr(state, name))) for name in fields)
        parts = [f"{name}={value}" for name, value in shown if value]
    whole = ", ".join(parts)
    short = printable(" ".join(whole.split()))
    if len(short) > 120:
        short = short[:117] + "..."
    return short, None if short == whole else "\n".join(parts)


def printable(text: str) -> str:
    """``text`` with control characters escaped: a model's text must not drive the terminal that shows it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
