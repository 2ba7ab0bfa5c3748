"""What a run that streams leaves of canvases in its store: how each was written, step by step.

For every completion that was written on a canvas there is one event ``canvas``, once its call has settled:
``{"call", "sample", "steps"}``. ``call`` is the digest of the request, ``sample`` the number among all of its samples.
A step is ``{"at", "changes", "length"}``: seconds since the first step; ``[place, text, probability]`` of what is not
as in the step before, where a text of ``None`` is a mask; the length of the canvas, which is cut off behind it, and
begins as masks. Where a backend tells of no tokens (diffusion at an endpoint), a step is ``{"at", "text"}``.
Completions whose pieces follow each other leave nothing.

Memory is bounded: of a long course every second step is dropped, and again, so that those kept are evenly apart; the
first and the last are always kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmprog.accounting import Journal
from llmprog.events import CallSettled, CompletionDelta, Event
from llmprog.redaction import redact
from llmprog.types import CanvasToken, Delta, Request

MOST_STEPS = 512
"""Steps that are kept of one completion."""
MOST_SIZE = 1 << 17
"""Changed tokens, or characters, that are kept of one completion."""
MOST_CALLS = 4096
"""Calls under way whose canvases are kept; of more, and of calls that were cancelled, those begun first are dropped."""

_MASK = CanvasToken(None)


@dataclass(slots=True)
class _Step:
    """What a canvas read at one time: what has changed, or the whole text."""

    number: int
    at: float
    changes: dict[int, CanvasToken] = field(default_factory=dict)
    length: int = 0
    text: str | None = None

    @property
    def size(self) -> int:
        return len(self.changes) if self.text is None else len(self.text)

    def after(self, dropped: _Step) -> _Step:
        """This step where the one before it, ``dropped``, is left out."""
        changes = {place: token for place, token in dropped.changes.items() if place < self.length}
        # Where the canvas was cut off in between, it has begun anew.
        changes |= dict.fromkeys(range(dropped.length, self.length), _MASK) | self.changes
        return _Step(self.number, self.at, changes, self.length, self.text)

    def to_json(self) -> dict[str, Any]:
        at = round(self.at, 4)
        if self.text is not None:
            return {"at": at, "text": self.text}
        changes = [[place, token.text, token.probability] for place, token in sorted(self.changes.items())]
        return {"at": at, "changes": changes, "length": self.length}


class CanvasCourse:
    """How one completion was written."""

    def __init__(self) -> None:
        """A course without steps."""
        self._begun_at = 0.0
        self._begin()

    def _begin(self) -> None:
        self._steps: list[_Step] = []
        self._stride = 1  # all steps kept but the last are a multiple of it
        self._count = 0
        self._size = 0
        self._canvas: tuple[CanvasToken, ...] = ()
        self._is_appended = False

    def add(self, delta: Delta, at: float) -> None:
        """Take in a piece that came at ``at``, seconds of any clock."""
        if delta.is_reasoning:
            return
        if not delta.replaces:
            if not self._is_appended:
                self._begin()  # it is no canvas after all
            self._is_appended = True
        elif delta.canvas is None and not delta.text:
            self._begin()  # the call is made again from its beginning
        elif not self._is_appended:
            self._add_step(delta, at)

    def _add_step(self, delta: Delta, at: float) -> None:
        if not self._count:
            self._begun_at = at
        step = _Step(self._count, at - self._begun_at)
        if delta.canvas is None:
            step.text = delta.text
        else:
            step.length = len(delta.canvas)
            step.changes = self._changes(delta.canvas)
            if self._steps and not step.changes and step.length == self._steps[-1].length:
                return
            self._canvas = delta.canvas
        self._keep(step)

    def _changes(self, canvas: tuple[CanvasToken, ...]) -> dict[int, CanvasToken]:
        before = self._canvas
        pairs = enumerate(zip(before, canvas, strict=False))
        # Most are the very same: comparing those by value would take most of the time.
        changes = {i: new for i, (old, new) in pairs if old is not new and old != new}
        return changes | {i: canvas[i] for i in range(len(before), len(canvas)) if canvas[i].text is not None}

    def _keep(self, step: _Step) -> None:
        self._count += 1
        if self._steps and self._steps[-1].number % self._stride:
            dropped = self._steps.pop()
            self._size -= dropped.size
            step = step.after(dropped)
        self._steps.append(step)
        self._size += step.size
        if len(self._steps) > MOST_STEPS or (self._size > MOST_SIZE and len(self._steps) > 2):
            self._thin()

    def _thin(self) -> None:
        self._stride *= 2
        kept: list[_Step] = []
        for step in self._steps:
            if kept and kept[-1].number % self._stride:
                kept.append(step.after(kept.pop()))
            else:
                kept.append(step)
        self._steps = kept
        self._size = sum(step.size for step in kept)

    def to_json(self) -> list[dict[str, Any]]:
        """The steps; none where there is nothing to see, or a secret in pieces, which nobody would black out."""
        if len(self._steps) < 2 or self._holds_secret():
            return []
        return [step.to_json() for step in self._steps]

    def _holds_secret(self) -> bool:
        texts: list[str] = []
        for step in self._steps:
            texts = [*texts[: step.length], *[""] * (step.length - len(texts))]
            for place, token in step.changes.items():
                texts[place] = token.text or ""
            text = "".join(texts)
            if redact(text) != text:
                return True
        return False


class CanvasRecords:
    """Writes canvases to a journal: to be told of the pieces of completions, and of calls as they settle.

    Args:
        journal: Where to.
        path: The run's path in it.
        clock: Seconds since any time.
    """

    def __init__(self, journal: Journal, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._path = path
        self._clock = clock
        # Requests are known by identity: pieces are many, and a request may be long. It is kept as long as its number.
        self._open: dict[int, tuple[Request, dict[int, CanvasCourse]]] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, CompletionDelta):
            self._take(event.request, event.delta)
        elif isinstance(event, CallSettled) and event.request is not None and not event.is_recalled:
            self._write(event.request)

    def _take(self, request: Request, delta: Delta) -> None:
        known = self._open.get(id(request))
        if known is None:
            known = self._open[id(request)] = request, {}
            if len(self._open) > MOST_CALLS:
                del self._open[next(iter(self._open))]
        course = known[1].get(delta.sample)
        if course is None:
            course = known[1][delta.sample] = CanvasCourse()
        course.add(delta, self._clock())

    def _write(self, request: Request) -> None:
        _, courses = self._open.pop(id(request), (request, {}))
        for sample, course in sorted(courses.items()):
            steps = course.to_json()
            if steps:
                event = {"call": request.digest(), "sample": request.first_sample + sample, "steps": steps}
                self._journal.event(self._path, "canvas", event)
