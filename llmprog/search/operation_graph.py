"""Graphs of operations: what is to be done with thoughts, declared beforehand, and as it stands in a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

from llmprog.errors import OptionError
from llmprog.fingerprint import function_name
from llmprog.search.controller import is_whole, require
from llmprog.search.operations import Generating, Operation
from llmprog.search.thought_graph import Thought

Choice: TypeAlias = Callable[[tuple[Thought, ...]], str | None]

_WITHIN = ": "  # between the name of a Decide and those of the operations it chose, so in no name itself


@dataclass(frozen=True)
class OperationGraph:
    """Operations by name, and what feeds what.

    ::

        OperationGraph({
            "split": Generate(generator="split"),
            "left": Select(index=0),
            "right": Select(index=1, after="split"),
            "both": Aggregate(generator="merge", num_samples=5, after=("left", "right")),
            "best": KeepBest(),
        })

    It is immutable. ``str`` of it is a picture: each operation with its parameters, below those it comes after, and
    below a ``Decide`` the graphs that it may choose.

    Args:
        operations: By name, in the order in which those that are ready are begun; an operation comes after those whose
            thoughts it is given.

    Raises:
        OptionError: It has faults; all of them are listed.
    """

    operations: Mapping[str, Operation] = field(repr=False)
    steps: tuple[tuple[str, Operation], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        is_mapping = isinstance(self.operations, Mapping)
        faults = list(self._faults()) if is_mapping else [f"{self.operations!r} is no mapping of names to operations"]
        if faults:
            raise OptionError("OperationGraph: " + "; ".join(faults))
        steps: list[tuple[str, Operation]] = []
        for name, operation in self.operations.items():
            after = operation.after
            if after is None:
                after = (steps[-1][0],) if steps else ()
            steps.append((name, replace(operation, after=(after,) if isinstance(after, str) else after)))
        object.__setattr__(self, "steps", tuple(steps))
        object.__setattr__(self, "operations", dict(steps))

    def _faults(self) -> Iterator[str]:
        if not self.operations:
            yield "no operations; give at least one"
        known: list[str] = []
        for name, operation in self.operations.items():
            if not isinstance(name, str) or not name or _WITHIN in name:
                yield f"{name!r} names an operation; allowed is a non-empty text without {_WITHIN!r}"
            if not isinstance(operation, Operation) or type(operation) in (Operation, Generating):
                yield f"operation {name!r} is {operation!r}; allowed are Generate(...), KeepBest(...) and the like"
                continue
            yield from (f"operation {name!r}: {fault}" for fault in operation.faults())
            after = operation.after if isinstance(operation.after, tuple) else (operation.after,)
            for other in after:
                if other is not None and other not in known:
                    declared = ", ".join(map(str, known)) or "none"
                    yield f"operation {name!r} comes after {other!r}, not declared before it; declared: {declared}"
            known.append(name)

    def after(self, name: str) -> tuple[str, ...]:
        """The operations whose thoughts this one is given; empty where it is given the first thought."""
        after = self.operations[name].after
        return after if isinstance(after, tuple) else ()

    @property
    def last(self) -> tuple[str, ...]:
        """The operations that no other comes after."""
        used = {other for name, _ in self.steps for other in self.after(name)}
        return tuple(name for name, _ in self.steps if name not in used)

    def all_steps(self, prefix: str = "") -> Iterator[tuple[str, Operation]]:
        """Every operation by name, those of graphs that may be chosen included, as ``decide: plan: name``."""
        for name, operation in self.steps:
            yield prefix + name, operation
            if isinstance(operation, Decide):
                for plan, graph in operation.plans.items():
                    yield from graph.all_steps(f"{prefix}{name}{_WITHIN}{plan}{_WITHIN}")

    def __str__(self) -> str:
        return "\n".join(self._lines("start"))

    def _lines(self, source: str) -> Iterator[str]:
        for name, operation in self.steps:
            yield f"{', '.join(self.after(name)) or source} → {name}: {_describe(operation)}"
            if isinstance(operation, Decide):
                for plan, graph in operation.plans.items():
                    yield f"  {name} chooses {plan!r}:"
                    yield from (f"    {line}" for line in graph._lines("given"))

    def __repr__(self) -> str:
        return "; ".join(line.strip() for line in str(self).splitlines())

    def to_dot(self) -> str:
        """Graphviz source."""
        inner = list(self._dot_lines("", "", "  "))
        return "\n".join(["digraph operations {", "  node [shape=box];", '  "" [shape=point];', *inner, "}"])

    def _dot_lines(self, prefix: str, source: str, margin: str) -> Iterator[str]:
        for name, operation in self.steps:
            node = _quoted(prefix + name)
            label = _quoted(f"{name}\n{_describe(operation)}").replace("\n", "\\n")
            yield f"{margin}{node} [label={label}];"
            sources = [prefix + other for other in self.after(name)] or [source]
            yield from (f"{margin}{_quoted(other)} -> {node};" for other in sources)
            if not isinstance(operation, Decide):
                continue
            for plan, graph in operation.plans.items():
                inner = f"{prefix}{name}{_WITHIN}{plan}{_WITHIN}"
                yield f"{margin}subgraph {_quoted('cluster ' + inner)} {{"
                yield f"{margin}  label={_quoted(plan)};"
                yield from graph._dot_lines(inner, prefix + name, margin + "  ")
                yield f"{margin}}}"
                yield from (f"{margin}{_quoted(inner + last)} -> {node};" for last in graph.last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decide(Operation):
    """Choose what comes next from the thoughts so far: one of several graphs of operations, again and again.

    The first operations of the graph that is chosen are given the thoughts of this one, and then the choice is made
    again with what that graph ended with. It ends with what it has once nothing more is chosen.

    Attributes:
        choose: From the thoughts, the name of the graph to do now; ``None`` to end. It must depend on them alone: then
            the same seed makes the same choices.
        plans: The graphs by name.
        max_rounds: Choices at most; it ends with what it has after so many.
    """

    choose: Choice
    plans: Mapping[str, OperationGraph]
    max_rounds: int = 1

    def faults(self) -> list[str]:
        found: list[str] = []
        require(found, "choose", self.choose, "a function of a tuple of thoughts", callable(self.choose))
        is_mapping = isinstance(self.plans, Mapping) and bool(self.plans)
        are_graphs = is_mapping and all(isinstance(plan, OperationGraph) for plan in self.plans.values())
        require(found, "plans", self.plans, "{name: OperationGraph(...), ...}, at least one", are_graphs)
        require(found, "max_rounds", self.max_rounds, "a whole number >= 1", is_whole(self.max_rounds, 1))
        return found


@dataclass(frozen=True, slots=True)
class Step:
    """An operation as it stands in a run.

    Attributes:
        operation: What is done.
        after: The steps whose thoughts it is given.
        within: The round of a ``Decide`` that it belongs to, which gives it thoughts where ``after`` is empty; empty
            for the operations of the graph itself.
    """

    operation: Operation
    after: tuple[str, ...]
    within: str = ""


def round_of(decide: str, number: int) -> str:
    """What a round of a ``Decide`` is called; its steps' names begin with it. Rounds count from 1."""
    return f"{decide} {number}{_WITHIN}"


def unfold(graph: OperationGraph, chosen: Mapping[str, Sequence[str]], within: str = "") -> dict[str, Step]:
    """The steps by name, in the order in which those that are ready are begun.

    Args:
        graph: What was declared.
        chosen: What every ``Decide`` has chosen so far, round by round.
        within: The round that the graph was chosen in.
    """
    steps: dict[str, Step] = {}
    for name, operation in graph.steps:
        steps[within + name] = Step(operation, tuple(within + other for other in graph.after(name)), within)
        if isinstance(operation, Decide):
            for number, plan in enumerate(chosen.get(within + name, ()), 1):
                steps |= unfold(operation.plans[plan], chosen, round_of(within + name, number))
    return steps


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _describe(operation: Operation) -> str:
    """An operation with those of its parameters that are not the default; the graphs it may choose are shown apart."""
    defaults = {f.name: f.default for f in fields(operation)}
    given = {name: getattr(operation, name) for name in defaults if name not in ("after", "plans")}
    shown = (f"{name}={_shown(value)}" for name, value in given.items() if value != defaults[name])
    return f"{type(operation).__name__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if isinstance(value, functools.partial):
        return function_name(value.func)
    return function_name(value) if callable(value) else repr(value)
