"""Runs in notebooks: ``LiveView`` follows one while it goes on.

Programs, results, thought graphs and votes show themselves where they are a cell's last value; nothing of that is here.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from llmprog.errors import LLMProgError, OptionError
from llmprog.events import Event, RunFinished, SearchEvent
from llmprog.pictures.fragments import card, facts, heading, preformatted, table
from llmprog.pictures.svg import GREEN
from llmprog.progress import Glance, RunProgress, SeenThought

_MAX_FRONTIER = 6
_MAX_LINES = 10  # of a text that is being written
_BURST = 20  # draws beyond the rate


class LiveView:
    """A place below a cell that shows how a run stands, for ``on_event``; make one for each run, in the run's cell.

    It shows counts, the way to the best thought, the best open thoughts or the vote, and the text that is being
    written; at the end the way to the answer stays. Both ``run`` and ``await arun`` bring it up to date.

    Args:
        interval_s: Seconds between two drawings, above 0; a search's end is drawn at once.

    Raises:
        LLMProgError: There is no notebook around it.
    """

    def __init__(self, *, interval_s: float = 0.25) -> None:
        if not isinstance(interval_s, int | float) or not interval_s > 0:
            raise OptionError(f"interval_s={interval_s!r}; allowed is a number of seconds above 0, such as 0.25")
        self._show = cell_output()
        self._interval_s = interval_s
        self._progress = RunProgress()
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._spare = float(_BURST)
        self._drawn_at = -float("inf")
        self._heading = "searching"
        self._drawing = threading.Lock()  # ``end`` may be called by another thread than that of the run

    def __call__(self, event: Event) -> None:
        if self._task is None and isinstance(event, SearchEvent):  # which comes from the task that searches
            self._task = asyncio.current_task()
            if self._task is not None:
                self._task.add_done_callback(self._task_done)
        self.take(event)

    def take(self, event: Event) -> None:
        """Take note of an event, for callers that say themselves, with ``end``, that the run was cut short."""
        self._progress(event)
        wait_s = self._drawn_at + self._interval_s - time.monotonic()
        if wait_s <= 0 or (isinstance(event, RunFinished) and self._progress.is_over and self._spare >= 1):
            self._draw()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._draw)

    def end(self) -> None:
        """Say that an error, or an interrupt, ended the run: no event does. Without an event before, show nothing."""
        self._heading = "ended early"
        if self._progress.has_begun:
            self._show_now()

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or task.exception() is not None:
            self.end()

    def _draw(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._show_now()

    def _show_now(self) -> None:
        with self._drawing:
            now = time.monotonic()
            self._spare = min(_BURST, self._spare + (now - self._drawn_at) / self._interval_s) - 1
            self._drawn_at = now
            seen = self._progress.glance(max_frontier=_MAX_FRONTIER)
            self._show(view_html(seen, self._heading), seen.line)


def in_notebook() -> bool:
    """Whether this process runs the cells of a notebook."""
    ipython = sys.modules.get("IPython")  # in a notebook it has been imported
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def cell_output() -> Callable[[str, str], None]:
    """What shows HTML, or else a text, below the cell that is being executed, in place of what it showed before.

    Raises:
        LLMProgError: There is no notebook around it.
    """
    if not in_notebook():
        raise LLMProgError(
            "LiveView draws in a notebook, and here is none; leave it out, or run with progress=True, which draws in a "
            "terminal as well"
        )
    handle = importlib.import_module("IPython.display").DisplayHandle(uuid4().hex)
    # A kernel knows by the context which cell an output belongs to; what is shown comes from another thread or task.
    context = contextvars.copy_context()
    is_shown = False

    def show(html: str, text: str) -> None:
        nonlocal is_shown
        draw: Callable[..., Any] = handle.update if is_shown else handle.display
        is_shown = True
        context.run(draw, {"text/html": html, "text/plain": text}, raw=True)

    return show


def view_html(seen: Glance, under_way: str = "searching") -> str:
    """How a run stands, a piece of HTML; once its search has ended only the outcome is left.

    Args:
        seen: The run.
        under_way: What it says of a search that has not come to its end.
    """
    path = [thought.state for thought in seen.path if thought.depth]
    way = " → ".join(path)
    votes = "" if seen.votes is None else seen.votes._repr_html_()
    if seen.stopped is not None:
        outcome = f"ended: {seen.stopped}; {seen.line}"
        return card(heading(way or "no thought to answer with", outcome, colour=GREEN if way else None), votes)
    return card(
        heading(under_way, seen.line),
        facts([("best so far", f"{way}  ({seen.path[-1].score:.4g})")]) if way else "",
        votes or _frontier(seen.frontier),
        preformatted(_tail(seen.written)) if seen.written.strip() else "",
    )


def _frontier(thoughts: tuple[SeenThought, ...]) -> str:
    rows = [(f"{thought.score:.4g}", str(thought.depth), thought.state) for thought in thoughts]
    return table(("score", "step", "open thought"), rows) if rows else ""


def _tail(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-_MAX_LINES:])
