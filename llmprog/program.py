"""``Program``: what a user declares. It is compiled when first run, or by ``compile_program``."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from llmprog.errors import CompileError
from llmprog.nodes import Checker, Generator


class ControllerSpec(Protocol):
    """The part of a controller that declaring and compiling need.

    Attributes:
        compares: Whether it asks for judgements across states (vote and pairwise checkers).
        aggregates: Whether it merges several states into one.
    """

    compares: ClassVar[bool]
    aggregates: ClassVar[bool]

    @property
    def name(self) -> str:
        """The algorithm's name."""
        ...

    def parameters(self) -> Mapping[str, Any]:
        """The declared parameters and their values."""
        ...

    def faults(self) -> list[str]:
        """What is wrong with the parameters, one sentence each."""
        ...

    def program_faults(self, generators: Sequence[Generator], checkers: Sequence[Checker]) -> list[str]:
        """What this controller needs and a program of these nodes lacks, one sentence each."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """An LLM program: nodes, a controller, and what counts as done.

    Attributes:
        controller: Which thought to expand next, when to go back, when to stop.
        generators: Nodes that make new states.
        checkers: Nodes that judge states. Rules run first and cost nothing; a thought that a rule
            refuses is never shown to a model.
        start: Makes the first state from the input; the input itself by default.
        goal: Whether a state solves the problem. Without it a search returns its best thought.
        answer: What a solving state is reported as; the state itself by default.
        key: States with equal keys are one thought; states merge by equality by default.
        explain: Called with the first state when no solution was found; a sentence for the user.
        name: For messages and records.
    """

    controller: ControllerSpec
    generators: Sequence[Generator]
    checkers: Sequence[Checker] = ()
    start: Callable[[Any], Any] | None = None
    goal: Callable[[Any], bool] | None = None
    answer: Callable[[Any], Any] | None = None
    key: Callable[[Any], Any] | None = None
    explain: Callable[[Any], str | None] | None = None
    name: str = "program"
    _cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("generators", "checkers"):  # a list changed later would change what has been compiled
            if isinstance(nodes := getattr(self, name), list):
                object.__setattr__(self, name, tuple(nodes))

    def run(self, input: Any, **options: Any) -> Any:  # noqa: A002 - the word users expect
        """Run to the end and return the ``Result``; works inside a running event loop (notebooks) too.

        Args:
            input: What ``start`` takes.
            **options: ``backend``, ``seed``, ``budget``, ``store``, ``progress`` and more: see ``llmprog.arun``.
        """
        # The composition root sits above this module; it is looked up when called so that imports point downward.
        return importlib.import_module("llmprog.runner").run(self, input, **options)

    async def arun(self, input: Any, **options: Any) -> Any:  # noqa: A002 - as in run
        """``run`` for callers that have an event loop of their own."""
        return await importlib.import_module("llmprog.runner").arun(self, input, **options)

    def _repr_html_(self) -> str:
        """What notebooks show: the program graph, or what is wrong with the declaration."""
        try:
            return str(importlib.import_module("llmprog.compile").compile_program(self)._repr_html_())
        except CompileError as error:
            from llmprog.pictures.fragments import card, heading, listed

            return card(heading(f"{error.program} does not compile"), listed(error.faults))
