"""What a search algorithm is: an object that is asked what to do next and told what happened.

A controller does no I/O and knows no clock: its decisions depend only on its parameters, its seeded
generator of random numbers and on what it was told, in which order. So a search can be tested without a
model and repeated exactly, and the runtime alone owns concurrency.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from llmprog.errors import OptionError
from llmprog.events import ControllerEvent
from llmprog.nodes import Checker, Generator
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.templates import NO_HINT, Hint, shown_value

if TYPE_CHECKING:
    from llmprog.pictures import Picture


@dataclass(frozen=True, slots=True)
class Expand:
    """Generate children of ``thought``.

    Attributes:
        num_samples: Samples per generator; each generator's own ``n`` by default.
        tag: Comes back in ``ThoughtExpanded``.
        generator: Name of the one generator to use; all that do not aggregate by default.
        hint: What prompts may use beside the state, as ``{hint}`` and ``{dialogue}``; empty by default.
    """

    thought: int
    num_samples: int | None = None
    tag: int = 0
    generator: str | None = None
    hint: Hint = NO_HINT


@dataclass(frozen=True, slots=True)
class Merge:
    """Aggregate ``thoughts`` into new ones with the generators that aggregate.

    Attributes:
        tag: Comes back in ``ThoughtExpanded``.
        num_samples: As for ``Expand``.
        generator: Name of the one generator to use; all that aggregate by default.
    """

    thoughts: tuple[int, ...]
    tag: int = 0
    num_samples: int | None = None
    generator: str | None = None


@dataclass(frozen=True, slots=True)
class Compare:
    """Judge ``thoughts`` against each other with the vote and pairwise checkers; one may be shown more than once."""

    thoughts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prune:
    """Give ``thought`` up, for ``reason``."""

    thought: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the search, for ``reason``."""

    reason: str


Action: TypeAlias = Expand | Merge | Compare | Prune | Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchContext:
    """What a controller may know of the program it controls.

    Attributes:
        rng: Its only source of randomness.
        answer: The program's answer for a state.
        has_comparers: Whether the program has vote or pairwise checkers.
    """

    rng: random.Random
    answer: Callable[[Any], Any]
    has_comparers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteResult:
    """The outcome of a vote.

    Attributes:
        histogram: Answers (as first seen) with their votes, most votes first; votes may be weights.
        confidence: Probability that the leader is the true mode, from the Beta posterior of the leader's
            votes against the runner-up's; ``None`` without votes, and where votes are weights.
        num_samples: Samples drawn, those without a valid answer included.
        num_valid: Samples that voted.
        num_allowed: Samples the vote might have drawn.
    """

    histogram: tuple[tuple[Any, float], ...]
    confidence: float | None
    num_samples: int
    num_valid: int
    num_allowed: int

    def to_json(self, *, max_answers: int | None = None) -> dict[str, Any]:
        """It as JSON values.

        Args:
            max_answers: Answers in the histogram at most, those with the most votes; all by default.
        """
        return {
            "histogram": [{"answer": shown_value(a), "votes": n} for a, n in self.histogram[:max_answers]],
            "confidence": self.confidence,
            "num_samples": self.num_samples,
            "num_valid": self.num_valid,
            "num_allowed": self.num_allowed,
        }

    def in_words(self) -> str:
        """How many samples it heard of how many it might have drawn, and how sure its leader is."""
        parts = [f"{self.num_samples} of {self.num_allowed} samples drawn"]
        if self.num_samples > self.num_valid:
            parts.append(f"{self.num_samples - self.num_valid} without a valid answer")
        if self.confidence is not None:
            parts.append(f"{self.confidence:.1%} sure that the first is the model's most frequent answer")
        return ", ".join(parts)

    def to_svg(self) -> str:
        """The votes as bars, a file of its own."""
        return self._picture().document()

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def _repr_html_(self) -> str:
        from llmprog.pictures.fragments import card, drawn

        return card(drawn(self._picture()))

    def _picture(self) -> Picture:
        from llmprog.pictures.votes import draw_votes

        return draw_votes([(shown_value(answer), count) for answer, count in self.histogram], self.in_words())


@dataclass(kw_only=True)
class Controller:
    """Base of all controllers: a dataclass of parameters, and run state in its fields that ``init`` leaves out.

    Run state consists of numbers, texts, lists, tuples, sets and dicts, so that ``state_dict`` can serialise it.
    A declared controller is never run itself; ``fresh`` makes the copy that is.

    Attributes:
        stop_on_goal: End at the first thought that reaches the goal, cancelling what is still in flight.
    """

    compares: ClassVar[bool] = False
    aggregates: ClassVar[bool] = False

    stop_on_goal: bool = True
    context: SearchContext | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if faults := self.faults():
            raise OptionError(f"{self.name}: " + "; ".join(faults))

    @property
    def name(self) -> str:
        """The algorithm's name."""
        return type(self).__name__

    def parameters(self) -> Mapping[str, Any]:
        """The declared parameters and their values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    def faults(self) -> list[str]:
        """What is wrong with the parameters, one sentence each."""
        return []

    def program_faults(self, generators: Sequence[Generator], checkers: Sequence[Checker]) -> list[str]:
        """What this controller needs and a program of these nodes lacks, one sentence each."""
        return []

    @property
    def step_cost(self) -> Callable[[Any, Any], float] | None:
        """What a step from one state to another costs: of two paths to a thought the graph follows the cheaper.

        ``None``, the default, counts steps.
        """
        return None

    def fresh(self, context: SearchContext) -> Self:
        """A copy with the same parameters, at the beginning of a run."""
        new = dataclasses.replace(self)
        new.context = context
        return new

    @property
    def _context(self) -> SearchContext:
        if self.context is None:
            raise RuntimeError(f"{self.name} was asked before fresh() gave it a context")
        return self.context

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        """What to do next: at most ``capacity`` actions that take time (Expand, Merge, Compare).

        Nothing while nothing is in flight ends the search as exhausted.
        """
        raise NotImplementedError

    def tell(self, event: ControllerEvent) -> None:
        """Take note of what happened."""
        raise NotImplementedError

    def best(self, graph: ThoughtGraph) -> int | None:
        """The best thought so far when no goal ended the search: see ``best_thought``."""
        return best_thought(graph, range(1, len(graph)))

    def votes(self, graph: ThoughtGraph) -> VoteResult | None:
        """The vote this search held, for those that vote."""
        return None

    @property
    def num_ballots(self) -> int:
        """Samples that a vote has heard so far, valid or not; 0 where the vote comes about at the end only."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """The run state as JSON values, the random generator's state included."""
        state = {f.name: _encode(getattr(self, f.name)) for f in self._run_fields()}
        return state | {"rng": _encode(self._context.rng.getstate())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        self._context.rng.setstate(_decode(state["rng"]))
        for f in self._run_fields():
            setattr(self, f.name, _decode(state[f.name]))

    def _run_fields(self) -> list[dataclasses.Field[Any]]:
        return [f for f in dataclasses.fields(self) if not f.init and f.name != "context"]


def best_thought(graph: ThoughtGraph, thoughts: Sequence[int]) -> int | None:
    """The usable thought that reaches the goal, else has the highest score; ties go to the deepest, then the first."""
    best: int | None = None
    best_rank = (False, -math.inf, -1)
    for thought in thoughts:
        rank = (graph.is_goal(thought), graph.scores[thought], graph.depths[thought])
        if rank > best_rank and graph.is_usable(thought):
            best, best_rank = thought, rank
    return best


def require(faults: list[str], name: str, value: object, allowed: str, ok: bool) -> None:
    """Append a fault in the house wording unless ``ok``."""
    if not ok:
        faults.append(f"{name}={value!r}; allowed is {allowed}")


def is_number(value: object) -> bool:
    """Whether ``value`` is a number (and no bool, nor NaN)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def is_whole(value: object, minimum: int) -> bool:
    """Whether ``value`` is an ``int`` (and no bool) of at least ``minimum``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {"dict": [[_encode(k), _encode(v)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v) for v in value]}
    if isinstance(value, set):
        return {"set": [_encode(v) for v in sorted(value)]}
    if isinstance(value, list):
        return [_encode(v) for v in value]
    return copy.copy(value)


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(v) for v in value]
    if isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind == "dict":
            return {_decode(k): _decode(v) for k, v in content}
        return (tuple if kind == "tuple" else set)(_decode(v) for v in content)
    return value
