"""Progress on a terminal while a run goes on: a few lines that are redrawn; elsewhere lines that follow one another."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.spinner import Spinner
from rich.text import Text

from llmprog.events import CallSettled, CompletionDelta, Event
from llmprog.progress import Glance, RunProgress, SeenThought, repeated, safe_text
from llmprog.redaction import redact
from llmprog.search.controller import VoteResult
from llmprog.templates import format_value
from llmprog.terminal.area import shown_on
from llmprog.terminal.text import most_columns, plain, plain_lines, wrapped, write_to

_MAX_FRONTIER, _MAX_VOTES, _MAX_WRITTEN = 6, 6, 12  # lines of each
_BAR = 16


@contextmanager
def live_progress(console: Console, *, enabled: bool, name: str | None = None) -> Iterator[Callable[[Event], None]]:
    """An observer whose run is shown on ``console`` while the block runs.

    On a terminal a few lines are redrawn, and gone at the end. Elsewhere, and with ``NO_COLOR`` or a terminal that can
    not go back in its text, streamed text is printed as it comes; without any, a line says every ten seconds how far
    the run is.

    Args:
        console: Where it is shown.
        enabled: Whether anything is shown at all.
        name: Of the program: a line that says how its run ended stays on stderr. ``None`` leaves nothing.
    """
    progress = RunProgress()
    if not enabled:
        yield progress
        return
    if redraws(console):
        with shown_on(console, LiveLines(progress)), _outcome_told(progress, name):
            yield progress
    else:
        printed = PrintedText(console, progress)
        with _outcome_told(progress, name), closing(printed), repeated(printed.print_line):
            yield printed


@contextmanager
def _outcome_told(progress: RunProgress, name: str | None) -> Iterator[None]:
    try:
        yield
    finally:
        if name is not None and progress.has_begun:  # what goes wrong before that is told by its error alone
            write_to(sys.stderr, f"{plain(name)}: {plain(outcome(progress))}\n")


def outcome(progress: RunProgress) -> str:
    """How a run ended, in words."""
    seen = progress.glance(max_frontier=0)
    return f"ended early; {seen.line}" if seen.stopped is None else f"ended: {seen.stopped}; {seen.line}"


def redraws(console: Console) -> bool:
    """Whether lines on ``console`` can, and may, be redrawn."""
    can = console.is_terminal and not console.is_dumb_terminal and not console.legacy_windows
    return can and not os.environ.get("NO_COLOR")


@dataclass
class PrintedText:
    """Prints the pieces of the text that is being written one after the other, for what cannot be redrawn."""

    console: Console
    progress: RunProgress
    _has_text: bool = False
    _is_in_line: bool = False

    def __call__(self, event: Event) -> None:
        written = self.progress.written
        if isinstance(event, CompletionDelta):
            self._print(written.add(event))
        elif isinstance(event, CallSettled) and written.settle(event):
            write_to(self.console.file, "\n")
            self._is_in_line = False
            self.progress(event)
        else:
            self.progress(event)

    def _print(self, piece: str | None) -> None:
        self._has_text = self._is_in_line = True
        if piece is None:  # a terminal redraws; a file gets the text anew
            piece = "\n" + self.progress.written.text
        write_to(self.console.file, plain_lines(redact(piece)))

    def print_line(self) -> None:
        """Say how far the run is, unless that is nowhere yet, or would be in the midst of a text."""
        if not self._has_text and (self.progress.num_calls or self.progress.num_thoughts > 1):
            write_to(self.console.file, self.progress.line() + "\n")

    def close(self) -> None:
        """End the line of a text that was cut off, so that what comes next has a line of its own."""
        if self._is_in_line:
            write_to(self.console.file, "\n")


@dataclass
class LiveLines:
    """A run as lines that fit the terminal: counts, the way to the best thought, the vote or the frontier, the text.

    What is above is drawn first where there is little room; no line is wider than the terminal.
    """

    progress: RunProgress
    spinner: Spinner = field(default_factory=lambda: Spinner("dots"))

    def lines(self, console: Console, width: int, room: int) -> list[Text]:
        """The lines, ``room`` at most."""
        seen = self.progress.glance(max_frontier=_MAX_FRONTIER)
        lines = [Text.assemble(turning(self.spinner, console), " ", seen.line), *_search_lines(seen, width)]
        if left := max(0, min(_MAX_WRITTEN, room - len(lines))):
            written = plain_lines(seen.written[-left * (width + 1) :]).strip()
            lines += [Text(line, style="dim") for line in list(wrapped(written, width))[-left:] if line]
        return lines[:room]


def turning(spinner: Spinner, console: Console) -> str:
    """The sign that a spinner shows now."""
    frame = spinner.render(console.get_time())
    return frame.plain if isinstance(frame, Text) else ""


def _search_lines(seen: Glance, width: int) -> Iterator[Text]:
    if seen.path:
        yield _path_line(seen.path, width)
    if seen.votes is not None and seen.votes.histogram:
        yield from _vote_lines(seen.votes)
    else:
        for thought in seen.frontier:
            text = Text(f"{thought.score:>10.4g}", style="cyan")
            text.append(f"  step {thought.depth:<3}", style="dim")
            yield text.append(plain(thought.state), style="not dim default")


def _path_line(path: Sequence[SeenThought], width: int) -> Text:
    """The way to the best thought, its end where it is long."""
    text = Text(f"{path[-1].score:>10.4g}", style="cyan").append("  best    ", style="dim")
    room = width - len(text.plain + "… → ")
    steps = [plain(thought.state) for thought in path]
    shown = steps.pop()
    while steps and sum(map(most_columns, f"{steps[-1]} → {shown}")) <= room:
        shown = f"{steps.pop()} → {shown}"
    return text.append(f"… → {shown}" if steps or path[0].depth else shown, style="green")


def _vote_lines(votes: VoteResult) -> Iterator[Text]:
    most = max(count for _, count in votes.histogram) or 1.0
    shown = votes.histogram[: _MAX_VOTES - 1]
    for answer, count in shown:
        bar = "█" * max(1, round(_BAR * count / most))
        text = plain(safe_text(format_value, answer))
        yield Text(f"{count:>10.4g}  ", style="cyan").append(f"{bar:<{_BAR}}  {text}", "default")
    rest = f"{len(votes.histogram) - len(shown)} more answers; " if len(votes.histogram) > len(shown) else ""
    yield Text(" " * 12 + rest + votes.in_words(), style="dim")
