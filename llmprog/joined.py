"""What a joined program is: programs as parts of a dataflow, and how they are asked for one after or beside the other.

A combinator is a ``Joined``: it names its parts, says what feeds what, and decides in ``run_parts`` which of them is
run on what. It runs nothing itself: ``PartRuns`` does, so that parts have the run's journal, budget and seeds whatever
joins them.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from llmprog.errors import InputError, LLMProgError, NodeError
from llmprog.nodes import Checker, Generator
from llmprog.program import ControllerSpec, Program
from llmprog.signatures import Signature
from llmprog.tasks import gather_or_cancel

INPUT, ANSWER = "input", "answer"
CUT_SHORT = ("budget", "interrupted")
"""Why a run ended that might have gone on: it has what it had come to until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCall:
    """A part that is to be run.

    Attributes:
        part: Which one.
        given: What it is run on.
        label: What this running of it is called, unlike any other of the same joined program: a segment of its path.
        after: Labels of the runs that ``given`` comes from; ``input`` is the joined program's own input.
        draw: Runs of one part on what may be the same input have different numbers: what a cache knows of one of them
            does not answer another.
    """

    part: str
    given: Any
    label: str
    after: tuple[str, ...] = (INPUT,)
    draw: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartOutcome:
    """What a part came to; the attributes are those of its ``Result``, and whether it was begun at all."""

    label: str
    answer: Any = None
    solved: bool = False
    stopped: str
    explanation: str | None = None
    was_begun: bool = True

    @property
    def is_cut(self) -> bool:
        """Whether the budget ended, or somebody stopped the run, before the part was through."""
        return self.stopped in CUT_SHORT

    @property
    def is_done(self) -> bool:
        """Whether its answer may be handed on."""
        return self.solved and not self.is_cut

    @property
    def failing(self) -> str:
        """Why it is not done, in a sentence."""
        how = "cut short" if self.is_cut else "no solution, stopped"
        return f"{self.label}: {self.explanation or f'{how}: {self.stopped}'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JointOutcome:
    """What a joined program came to.

    Attributes:
        answer: The answer, or what there is of it.
        solved: Whether it is an answer.
        stopped: ``finished``, ``unsolved``, ``budget``, ``interrupted``, or the combinator's own reason.
        explanation: Why there is no solution.
        votes: The ``VoteResult``, where there was a vote.
        source: The run that gave the answer; ``None`` where the combinator made it.
        made_from: The runs that the combinator made it from.
        last: Runs that were begun after this one do not count; all do by default.
    """

    answer: Any
    solved: bool
    stopped: str
    explanation: str | None = None
    votes: Any = None
    source: str | None = None
    made_from: tuple[str, ...] = (INPUT,)
    last: str | None = None

    @classmethod
    def of(cls, part: PartOutcome) -> JointOutcome:
        """That of a program whose answer is the part's."""
        return cls(
            answer=part.answer,
            solved=part.solved,
            stopped=_why(part),
            explanation=None if part.is_done else part.failing,
            source=part.label,
        )

    @classmethod
    def ended_by(
        cls, part: PartOutcome, answer: Any = None, *, made_from: tuple[str, ...] = (INPUT,), last: str | None = None
    ) -> JointOutcome:
        """That of a program which cannot go on, since ``part`` is not done; ``answer`` is what there is so far."""
        return cls(
            answer=answer,
            solved=False,
            stopped=_why(part),
            explanation=part.failing,
            made_from=made_from,
            last=last,
        )


def _why(part: PartOutcome) -> str:
    if part.is_cut:
        return part.stopped
    return "finished" if part.solved else "unsolved"


class PartRuns(Protocol):
    """Runs the parts of a joined program; the runner supplies it."""

    @property
    def max_in_flight(self) -> int:
        """Runs that may be under way at once where the combinator sets no limit."""
        ...

    async def run(self, call: PartCall) -> PartOutcome:
        """What the part comes to. One that the budget or a stop keeps from beginning is cut short without an answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataflow:
    """The combinator of a joined program, in the place that a search's controller has: it decides what is run next."""

    compares: ClassVar[bool] = False
    aggregates: ClassVar[bool] = False

    name: str
    settings: Mapping[str, Any]

    def parameters(self) -> Mapping[str, Any]:
        """The combinator's parameters and their values."""
        return self.settings

    def faults(self) -> list[str]:
        """None: a joined program's faults are found where it is compiled."""
        return []

    def program_faults(self, generators: Sequence[Generator], checkers: Sequence[Checker]) -> list[str]:
        """None: it has no nodes of its own."""
        return []


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined(Program, ABC):
    """A program that consists of programs. It runs, compiles and nests like any other.

    What it takes and gives is what its combinator says; ``start``, ``goal`` and the like belong to its parts.
    """

    generators: Sequence[Generator] = field(default=(), init=False, repr=False)
    checkers: Sequence[Checker] = field(default=(), init=False, repr=False)
    controller: ControllerSpec = field(init=False, repr=False)
    start: Callable[[Any], Any] | None = field(default=None, init=False, repr=False)
    goal: Callable[[Any], bool] | None = field(default=None, init=False, repr=False)
    answer: Callable[[Any], Any] | None = field(default=None, init=False, repr=False)
    key: Callable[[Any], Any] | None = field(default=None, init=False, repr=False)
    explain: Callable[[Any], str | None] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "controller", self.dataflow())

    def dataflow(self) -> ControllerSpec:
        """What stands for the combinator where a search has its controller."""
        return Dataflow(name=type(self).__name__, settings=self.parameters())

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, Program]:
        """The parts by name."""

    def parameters(self) -> Mapping[str, Any]:
        """The combinator's parameters and their values."""
        return {}

    def faults(self) -> Iterator[str]:
        """What is wrong with the parameters, one sentence each."""
        return iter(())

    @abstractmethod
    def flow(self) -> Iterable[tuple[str, str]]:
        """What feeds what: names of parts, ``input``, ``answer``, and the combinator's own for itself."""

    @abstractmethod
    def signature(self, parts: Mapping[str, Signature]) -> Signature:
        """What the whole takes and gives, where its parts do what ``parts`` says."""

    def mismatches(self, parts: Mapping[str, Signature]) -> Iterator[str]:
        """Where what a part gives does not fit what it is handed to, one sentence each."""
        return iter(())

    @abstractmethod
    async def run_parts(self, given: Any, runs: PartRuns) -> JointOutcome:
        """Run the parts on what comes of ``given``."""


def part_names(programs: Iterable[Any], combinator: str) -> dict[str, Any]:
    """Programs by their own names, the second of a name with ``-2`` appended; what is no program by its place."""
    named: dict[str, Any] = {}
    for number, program in enumerate(programs, 1):
        base = program.name if isinstance(program, Program) else f"{combinator}-{number}"
        name, count = base, 1
        while name in named:
            count += 1
            name = f"{base}-{count}"
        named[name] = program
    return named


async def side_by_side(
    runs: PartRuns, calls: Iterable[PartCall], limit: int | None, *, ends: Callable[[PartOutcome], bool]
) -> list[PartOutcome]:
    """What the parts come to, in the order given.

    They are begun in order, ``limit`` of them at once. After one of which ``ends`` is true none is begun, and those
    under way are waited for: what comes back belongs to the first of ``calls``, as many as were begun.
    """
    every = list(calls)
    waiting, outcomes = iter(every), list[PartOutcome | None]()
    is_over = False

    async def work() -> None:
        nonlocal is_over
        while not is_over and (call := next(waiting, None)) is not None:
            place = len(outcomes)
            outcomes.append(None)
            outcome = outcomes[place] = await runs.run(call)
            is_over = is_over or ends(outcome)

    await gather_or_cancel(work() for _ in range(min(limit or runs.max_in_flight, len(every))))
    return [outcome for outcome in outcomes if outcome is not None]


def items_of(program: Program, given: Any) -> list[Any]:
    """The items of a collection.

    Raises:
        InputError: ``given`` is none, or is a text.
    """
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InputError(f"program {program.name!r} takes a list of inputs, not {given!r:.200}")
    return list(given)


def is_mapping(value: object) -> bool:
    """Whether it is a mapping, whatever its annotation promises."""
    return isinstance(value, Mapping)


def called(part: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What a function of the user's returns; what it raises comes out as a ``NodeError`` that names ``part``."""
    try:
        return function(*given, **named)
    except LLMProgError:
        raise
    except Exception as error:  # any error of a user's function: named and raised again
        raise function_error(part, error) from error


def function_error(part: str, error: Exception) -> NodeError:
    """The error of a function of the user's that raised ``error``."""
    return NodeError(part, f"its function raised {type(error).__name__}: {str(error)[:500]}")


def not_callable_with(what: str, function: Any, *example: Any, **named: Any) -> str | None:
    """What is wrong with a function that is to be called with such arguments."""
    if not callable(function):
        return f"{what}={function!r} is not a function"
    try:
        inspect.signature(function).bind(*example, **named)
    except TypeError as error:
        wanted = ", ".join(named) if named else "one argument"
        return f"{what}: the function cannot be called with {wanted} ({error})"
    except ValueError:
        return None  # a builtin without a signature
    return None
