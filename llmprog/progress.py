"""How far a run has come, kept up to date by its events: counts, the frontier, the best so far, the vote, the text."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from llmprog.events import (
    CallSettled,
    CompletionDelta,
    Event,
    RunFinished,
    SearchEvent,
    ThoughtChecked,
    ThoughtExpanded,
    ThoughtsCompared,
    VotesChanged,
)
from llmprog.redaction import redact
from llmprog.search.controller import VoteResult
from llmprog.search.thought_graph import ThoughtGraph, describe_state, format_state
from llmprog.types import Request

_MAX_OPEN = 4096  # open thoughts remembered of one search
_KEPT_OPEN = 1024  # the best of them, when there are more
_MAX_WRITTEN = 20_000  # characters of a text that is being written
_MAX_STEPS = 12  # of a path

SECONDS_BETWEEN_LINES = 10.0
"""How often a line says how far something is, where lines cannot be redrawn."""


@dataclass(frozen=True, slots=True)
class SeenThought:
    """A thought as it is shown while a run goes on.

    Attributes:
        state: Its state in short, as a model or a user wrote it: control characters are escaped, secrets blacked out,
            markup is as it was; an ellipsis where it has no text.
        score: Its score.
        depth: Its steps from the first thought.
    """

    state: str
    score: float
    depth: int


def safe_text(describe: Callable[[Any], str], value: Any) -> str:
    """What ``describe`` says of ``value``, secrets blacked out; an ellipsis where that raises."""
    with suppress(Exception):  # whatever a user's class raises: what shows a run must not end it
        return redact(describe(value))
    return "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """How a run stands at one moment.

    Attributes:
        line: The counts, in words.
        path: The last steps of the way to the best thought so far, that one last; empty as long as there is none.
        frontier: The best open thoughts, best first.
        votes: The vote; ``None`` where there is none.
        written: The end of the text that is being written, secrets blacked out.
        stopped: Why the search shown has ended; ``None`` while it goes on.
    """

    line: str
    path: tuple[SeenThought, ...] = ()
    frontier: tuple[SeenThought, ...] = ()
    votes: VoteResult | None = None
    written: str = ""
    stopped: str | None = None


@dataclass(slots=True)
class WrittenText:
    """The completion that is being written just now: of several at once, the one that began first.

    Attributes:
        text: The end of what it has written so far, reasoning and reply apart by a blank line.
    """

    text: str = ""
    _of: tuple[str, Request, int] | None = None
    _in_reasoning: bool = False

    def add(self, event: CompletionDelta) -> str | None:
        """Take in a piece. Returns what to append to the text shown so far, or ``None`` where that does not do."""
        source = (event.node, event.request, event.delta.sample)
        if self._of is None:
            self.text, self._of, self._in_reasoning = "", source, False
        if source != self._of:
            return ""
        piece = event.delta.text
        if event.delta.replaces:
            self.text = piece[-_MAX_WRITTEN:]
            return None
        if self._in_reasoning and not event.delta.is_reasoning:
            piece = "\n\n" + piece
        self._in_reasoning = event.delta.is_reasoning
        self.text = (self.text + piece)[-_MAX_WRITTEN:]
        return piece

    def settle(self, event: CallSettled) -> bool:
        """Let another completion be shown if the call of this one has settled; returns whether it has."""
        if self._of is None or (event.node, event.request) != self._of[:2]:
            return False
        self._of = None
        return True


class SearchProgress:
    """One search under way: what may still be expanded, the best so far, the vote.

    Attributes:
        graph: Its thoughts.
        votes: The vote as it stands; ``None`` where there is none. Under way, its samples are those it has heard.
        stopped: Why it ended; ``None`` while it goes on.
    """

    def __init__(self, graph: ThoughtGraph) -> None:
        self.graph = graph
        self.votes: VoteResult | None = None
        self.stopped: str | None = None
        self._told: VoteResult | None = None
        self._best: int | None = None
        self._open: dict[int, None] = {0: None}

    def take(self, event: SearchEvent) -> None:
        """Take note of an event of this search."""
        if isinstance(event, ThoughtExpanded):
            for parent in event.parents:
                self._open.pop(parent, None)
        elif isinstance(event, ThoughtChecked):
            self._consider(event.thought)
            self._open[event.thought] = None
            if len(self._open) > _MAX_OPEN:
                self._open = dict.fromkeys(self.frontier(_KEPT_OPEN))
        elif isinstance(event, ThoughtsCompared):
            for thought in event.thoughts:
                self._consider(thought)
        elif isinstance(event, VotesChanged):
            # A sample that has been asked for and not come back is not one without a valid answer.
            self._told, self.votes = event.votes, replace(event.votes, num_samples=event.num_heard)
        elif isinstance(event, RunFinished):
            self.stopped, self.votes = event.stopped, self._told
            self._best = event.thought

    def frontier(self, limit: int) -> list[int]:
        """The open thoughts that have not been expanded, best score first; of thousands, the best are known only."""
        scores = self.graph.scores
        usable = (thought for thought in self._open if self.graph.is_open(thought))
        return heapq.nsmallest(limit, usable, key=lambda thought: (-scores[thought], thought))

    def path(self, limit: int) -> list[int]:
        """The last steps of the way to the best thought."""
        steps = [] if self.best is None else [self.best]
        while steps and len(steps) < limit and (parents := self.graph.parents_of(steps[-1])):
            steps.append(parents[0])
        return steps[::-1]

    @property
    def best(self) -> int | None:
        """The best thought so far, or the one that was answered with; ``None`` if there is none but the first."""
        if self._best is not None and self.stopped is None and not self.graph.is_usable(self._best):
            self._best = next(iter(self.frontier(1)), None)
        return self._best

    def _consider(self, thought: int) -> None:
        if self.graph.is_usable(thought) and (self.best is None or self._rank(thought) > self._rank(self.best)):
            self._best = thought

    def _rank(self, thought: int | None) -> tuple[bool, float, int]:
        if thought is None:
            return (False, float("-inf"), -1)
        return (self.graph.is_goal(thought), self.graph.scores[thought], self.graph.depths[thought])


@dataclass
class RunProgress:
    """Counts of a run, and its searches; an observer for ``on_event``, which another thread may look at.

    Attributes:
        num_thoughts: Thoughts so far, the first of each search included.
        num_checked: Those that have been judged.
        num_calls: Samples that were drawn.
        num_tokens: Tokens that were written.
        num_finished: Searches that have ended; a joined program has several.
        written: The text that is being written.
    """

    num_thoughts: int = 1
    num_checked: int = 0
    num_calls: int = 0
    num_tokens: int = 0
    num_finished: int = 0
    written: WrittenText = field(default_factory=WrittenText)
    clock: Callable[[], float] = time.monotonic
    _under_way: dict[int, SearchProgress] = field(default_factory=dict)
    _last: SearchProgress | None = None
    _begun: float = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self._begun = self.clock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, CallSettled):
                self.num_calls += event.usage.calls
                self.num_tokens += event.usage.completion_tokens
                self.written.settle(event)
            elif isinstance(event, CompletionDelta):
                self.written.add(event)
            else:
                self._take(event)

    def _take(self, event: SearchEvent) -> None:
        key = id(event.graph)
        search = self._under_way.get(key)
        if search is None:
            if self._under_way or self._last is not None:
                self.num_thoughts += 1  # the first thought of another search
            search = self._under_way[key] = SearchProgress(event.graph)
        search.take(event)
        if isinstance(event, ThoughtExpanded):
            self.num_thoughts += sum(event.is_new)
        elif isinstance(event, ThoughtChecked):
            self.num_checked += 1
        elif isinstance(event, RunFinished):
            self.num_finished += 1
            self._last = self._under_way.pop(key)

    @property
    def is_over(self) -> bool:
        """Whether every search that has begun has ended; of a joined program, another may still begin."""
        return self._last is not None and not self._under_way

    def glance(self, *, max_frontier: int) -> Glance:
        """How the run stands: of the searches under way the one that began first, else the last that ended.

        Args:
            max_frontier: Open thoughts at most.
        """
        with self._lock:
            search = next(iter(self._under_way.values()), self._last)
            if search is None:
                return Glance(line=self.line(), written=redact(self.written.text))
            frontier = [] if search.stopped else search.frontier(max_frontier)
            path, votes, written = search.path(_MAX_STEPS), search.votes, redact(self.written.text)
            line = self.line()

        def seen(thought: int) -> SeenThought:
            graph = search.graph
            return SeenThought(
                safe_text(_in_short, graph.states[thought]), graph.scores[thought], graph.depths[thought]
            )

        return Glance(
            line=line,
            path=tuple(map(seen, path)),
            frontier=tuple(map(seen, frontier)),
            votes=votes,
            written=written,
            stopped=search.stopped,
        )

    @property
    def has_begun(self) -> bool:
        """Whether a search has its first thought."""
        return self._last is not None or bool(self._under_way)

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was made."""
        return self.clock() - self._begun

    def line(self) -> str:
        """What has happened so far."""
        parts = [
            f"{self.num_thoughts} thoughts, {self.num_checked} checked",
            f"{self.num_calls} calls, {self.num_tokens} tokens generated",
        ]
        if self.num_finished + len(self._under_way) > 1:
            parts.append(f"{self.num_finished + len(self._under_way)} searches, {len(self._under_way)} under way")
        return ", ".join([*parts, f"{self.elapsed_s:.0f} s"])


def _in_short(state: Any) -> str:
    """A state in short; a secret is not cut, which would leave its beginning."""
    short, whole = describe_state(state)
    if whole is None or redact(whole) == whole:
        return short
    return format_state(redact(whole))


@contextmanager
def repeated(show: Callable[[], None], interval_s: float | None = None) -> Iterator[None]:
    """Has ``show`` called now and then, in a thread of its own, while the block runs; what it raises ends nothing.

    Args:
        show: What is called.
        interval_s: Seconds between two calls; ``SECONDS_BETWEEN_LINES`` by default.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES if interval_s is None else interval_s):
            with suppress(Exception):  # what shows a run must neither end it nor be silent from then on
                show()

    thread = threading.Thread(target=run, name="llmprog-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
