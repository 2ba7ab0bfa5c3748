"""What a search emits while it runs.

Controllers are told of thoughts expanded, checked and compared, in a deterministic order; observers (progress
displays, journals) receive all events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from llmprog.types import Completion, Delta, Request, Scoring, Usage

if TYPE_CHECKING:
    from llmprog.search.controller import VoteResult
    from llmprog.search.thought_graph import ThoughtGraph

Questions: TypeAlias = tuple[Request | Scoring, ...]


@dataclass(slots=True, kw_only=True)
class SearchEvent:
    """Something that happened in a search.

    Attributes:
        graph: The thoughts of that search, as they are now. Searches that run side by side have a graph each.
    """

    graph: ThoughtGraph = field(repr=False, compare=False)


@dataclass(slots=True)
class SearchStarted(SearchEvent):
    """The search has its first thought."""


@dataclass(slots=True)
class ThoughtExpanded(SearchEvent):
    """An expansion is done: ``children[i]`` came from sample ``samples[i]``.

    Attributes:
        parents: The thoughts expanded (several when states were aggregated).
        children: Thought ids in the order generated; a state that was already known appears
            again under its existing id.
        is_new: Whether ``children[i]`` entered the graph by this expansion.
        samples: Index of the completion that produced ``children[i]``.
        completions: ``completions[i]`` is what ``children[i]`` was parsed from, ``None`` for a plain Python move; empty
            where no model was called.
        requests: ``requests[i]`` is what ``completions[i]`` is a sample of.
        tag: The tag of the ``Expand`` or ``Merge`` action that asked for it.
        nodes: ``nodes[i]`` is the generator that made ``children[i]``.
        is_better: Whether ``children[i]`` was known, and its own path leads this way from now on.
        asked: ``asked[i]`` is what a node that calls its model itself had asked when it gave ``children[i]``; empty
            where no node does.
    """

    parents: tuple[int, ...]
    children: tuple[int, ...]
    is_new: tuple[bool, ...]
    samples: tuple[int, ...]
    completions: tuple[Completion | None, ...]
    tag: int
    requests: tuple[Request | None, ...] = ()
    nodes: tuple[str, ...] = ()
    is_better: tuple[bool, ...] = ()
    asked: tuple[Questions, ...] = ()


@dataclass(slots=True)
class ThoughtChecked(SearchEvent):
    """This thought has been judged; it is told once for every new thought, refused ones included.

    Attributes:
        thought: The thought.
        asked: What each checker that calls a model asked for it, by the checker's name.
    """

    thought: int
    asked: tuple[tuple[str, Questions], ...] = ()


@dataclass(slots=True)
class ThoughtsCompared(SearchEvent):
    """Checkers that look across states have judged these; their scores include the outcome.

    Attributes:
        thoughts: The thoughts, each once.
        asked: As for ``ThoughtChecked``.
    """

    thoughts: tuple[int, ...]
    asked: tuple[tuple[str, Questions], ...] = ()


@dataclass(slots=True)
class ThoughtsPruned(SearchEvent):
    """The controller has given these thoughts up, each for a reason."""

    thoughts: tuple[tuple[int, str], ...]


@dataclass(slots=True)
class VotesChanged(SearchEvent):
    """The vote has heard more samples; it is told after each of the first, later less often, and at the end.

    Attributes:
        votes: The vote as it stands.
        num_heard: Samples that it has heard, valid or not; ``votes.num_samples`` counts those that are drawn.
    """

    votes: VoteResult
    num_heard: int


@dataclass(slots=True)
class CallSettled:
    """A model call came back.

    Attributes:
        node: The node that asked.
        request: What it asked.
        usage: What the call cost.
        duration_s: Seconds from sending to settling.
        is_recalled: Whether it was not sent now: its answer came from the run's journal or from the cache.
    """

    node: str
    request: Request | None
    usage: Usage
    duration_s: float
    is_recalled: bool = False


@dataclass(slots=True)
class CompletionDelta:
    """A piece of a completion has come, of a run that streams.

    Attributes:
        node: The node that asked.
        request: What it asked.
        delta: The piece; ``request.first_sample + delta.sample`` is the sample it belongs to.
    """

    node: str
    request: Request
    delta: Delta


@dataclass(slots=True)
class RunFinished(SearchEvent):
    """The search ended; ``stopped`` says why."""

    stopped: str
    thought: int | None


ControllerEvent: TypeAlias = ThoughtExpanded | ThoughtChecked | ThoughtsCompared
Event: TypeAlias = (
    SearchStarted | ControllerEvent | ThoughtsPruned | VotesChanged | CallSettled | CompletionDelta | RunFinished
)
