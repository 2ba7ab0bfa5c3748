"""Graphs of operations: what is to be done with thoughts, declared beforehand, as a value that can be read back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llmprog.errors import OptionError
from llmprog.search.controller import is_number, is_whole, require


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What operations have in common. An operation is done once all those it comes ``after`` are done.

    It is given their thoughts, in that order and without repetition, and ends with thoughts of its own. Thoughts that a
    checker refused go no further than ``KeepValid`` and ``Refine``; the other operations pass them over.

    Attributes:
        after: Names of the operations whose thoughts it is given. By default the operation declared just before; the
            first is given the thought that the program starts with, and ``after=()`` gives it to any other.
    """

    after: str | tuple[str, ...] | None = None

    def faults(self) -> list[str]:
        """What is wrong with the parameters, one sentence each."""
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate(Operation):
    """Expand each thought; ends with what they lead to.

    Attributes:
        generator: Name of the generator; all that do not aggregate by default.
        num_samples: Samples per thought; the generator's own ``n`` by default.
    """

    generator: str | None = None
    num_samples: int | None = None

    def faults(self) -> list[str]:
        found: list[str] = []
        _require_samples(found, self.num_samples)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate(Operation):
    """Merge all thoughts into new ones, of which each descends from all of them.

    Attributes:
        generator: Name of a generator with ``aggregates=True``; all of them by default.
        num_samples: Samples; the generator's own ``n`` by default.
    """

    generator: str | None = None
    num_samples: int | None = None

    def faults(self) -> list[str]:
        found: list[str] = []
        _require_samples(found, self.num_samples)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Operation):
    """Say by what the operations that follow rank thoughts; ends with the thoughts it was given.

    Every thought is judged by the program's checkers when it is found, and ranked by the sum of their scores.

    Attributes:
        checkers: Names of the checkers whose scores count from here on; all of them by default.
        compare: Have the vote and pairwise checkers judge the thoughts against each other first.
    """

    checkers: tuple[str, ...] | None = None
    compare: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepBest(Operation):
    """Keep the thoughts of the highest score; ties go to those given first.

    Attributes:
        num_kept: How many.
    """

    num_kept: int = 1

    def faults(self) -> list[str]:
        found: list[str] = []
        require(found, "num_kept", self.num_kept, "a whole number >= 1", is_whole(self.num_kept, 1))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepValid(Operation):
    """Keep the thoughts that no checker refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Select(Operation):
    """Keep some of the thoughts for a branch of their own.

    Attributes:
        index: The thought at this place among those given, from 0.
        where: Those whose state it is true of. Give one of the two.
    """

    index: int | None = None
    where: Callable[[Any], bool] | None = None

    def faults(self) -> list[str]:
        found: list[str] = []
        require(found, "index", self.index, "a whole number >= 0", self.index is None or is_whole(self.index, 0))
        require(found, "where", self.where, "a function of a state", self.where is None or callable(self.where))
        if (self.index is None) == (self.where is None):
            found.append("give index= or where=, one of the two")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Refine(Operation):
    """Validate each thought, and improve it while it is not good enough, at most ``max_tries`` times.

    A thought is good enough if no checker refused it and its score reaches ``threshold``. It ends with the first good
    one of the thought and its improvements, each made from the one before; without one, with the best of those that
    were not refused.

    Attributes:
        generator: Name of the generator that improves; all that do not aggregate by default.
        max_tries: Improvements at most.
        threshold: Lowest score that is good enough; ``None`` asks for validity alone.
    """

    generator: str | None = None
    max_tries: int = 3
    threshold: float | None = None

    def faults(self) -> list[str]:
        found: list[str] = []
        require(found, "max_tries", self.max_tries, "a whole number >= 1", is_whole(self.max_tries, 1))
        value = self.threshold
        require(found, "threshold", value, "a number, or None", value is None or is_number(value))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundTruth(Operation):
    """End the search if one of the thoughts reaches the program's goal; else it ends with the thoughts it was given."""


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

    It is immutable. ``str`` of it is a picture: each operation with its parameters, below those it comes after.

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
            if not isinstance(name, str) or not name:
                yield f"{name!r} names an operation; allowed is a non-empty text"
            if not isinstance(operation, Operation) or type(operation) is Operation:
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

    def __str__(self) -> str:
        return "\n".join(
            f"{', '.join(self.after(name)) or 'start'} → {name}: {_describe(operation)}"
            for name, operation in self.steps
        )

    def __repr__(self) -> str:
        return "; ".join(str(self).splitlines())

    def to_dot(self) -> str:
        """Graphviz source."""

        def quote(text: str) -> str:
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

        lines = ["digraph operations {", "  node [shape=box];", '  "" [shape=point];']
        for name, operation in self.steps:
            label = quote(f"{name}\n{_describe(operation)}").replace("\n", "\\n")
            lines.append(f"  {quote(name)} [label={label}];")
            lines += [f"  {quote(other)} -> {quote(name)};" for other in self.after(name) or ("",)]
        return "\n".join([*lines, "}"])


def _require_samples(found: list[str], value: int | None) -> None:
    require(found, "num_samples", value, "a whole number >= 1, or None", value is None or is_whole(value, 1))


def _describe(operation: Operation) -> str:
    """An operation with those of its parameters that are not the default."""
    given = {f.name: getattr(operation, f.name) for f in fields(operation) if f.name != "after"}
    defaults = {f.name: f.default for f in fields(operation)}
    shown = (
        f"{name}={getattr(value, '__qualname__', None) or repr(value)}"
        for name, value in given.items()
        if value != defaults[name]
    )
    return f"{type(operation).__name__}({', '.join(shown)})"
