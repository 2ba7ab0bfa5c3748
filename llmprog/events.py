"""What a search emits while it runs.

Controllers are told the first three in a deterministic order; observers (progress displays, journals)
receive all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from llmprog.types import Completion, Delta, Request, Usage


@dataclass(slots=True)
class ThoughtExpanded:
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
    """

    parents: tuple[int, ...]
    children: tuple[int, ...]
    is_new: tuple[bool, ...]
    samples: tuple[int, ...]
    completions: tuple[Completion | None, ...]
    tag: int
    requests: tuple[Request | None, ...] = ()


@dataclass(slots=True)
class ThoughtChecked:
    """This thought has been judged; it is told once for every new thought, refused ones included."""

    thought: int


@dataclass(slots=True)
class ThoughtsCompared:
    """Checkers that look across states have judged these; their scores include the outcome."""

    thoughts: tuple[int, ...]


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
class RunFinished:
    """The search ended; ``stopped`` says why."""

    stopped: str
    thought: int | None


ControllerEvent: TypeAlias = ThoughtExpanded | ThoughtChecked | ThoughtsCompared
Event: TypeAlias = ControllerEvent | CallSettled | CompletionDelta | RunFinished
