"""Progress on a terminal while a run goes on: a few lines that are redrawn; elsewhere lines that follow one another."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from llmprog.events import CallSettled, CompletionDelta, Event
from llmprog.progress import Glance, RunProgress, SeenThought
from llmprog.search.controller import VoteResult
from llmprog.templates import format_value
from llmprog.terminal.text import fit, most_columns, plain, plain_lines, wrapped

_SECONDS_BETWEEN_LINES = 10.0
_MAX_LINES = 24
_MAX_FRONTIER, _MAX_VOTES, _MAX_WRITTEN = 6, 6, 12  # lines of each
_BAR = 16


@contextmanager
def live_progress(console: Console, *, enabled: bool) -> Iterator[Callable[[Event], None]]:
    """An observer whose run is shown on ``console`` while the block runs.

    On a terminal a few lines are redrawn, and gone at the end. Elsewhere, and with ``NO_COLOR`` or a terminal that can
    not go back in its text, streamed text is printed as it comes; without any, a line says every ten seconds how far
    the run is. Nothing is shown unless ``enabled``.
    """
    progress = RunProgress()
    if not enabled:
        yield progress
    elif redraws(console):
        with Live(LiveLines(progress), console=console, transient=True, refresh_per_second=10):
            yield progress
    else:
        printed = PrintedText(console, progress)
        with repeated(printed.print_line):
            yield printed


def redraws(console: Console) -> bool:
    """Whether lines on ``console`` can, and may, be redrawn."""
    return console.is_terminal and not console.is_dumb_terminal and not os.environ.get("NO_COLOR")


@contextmanager
def repeated(show: Callable[[], None], interval_s: float = _SECONDS_BETWEEN_LINES) -> Iterator[None]:
    """Has ``show`` called now and then, in a thread of its own, while the block runs."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(interval_s):
            show()

    thread = threading.Thread(target=run, name="llmprog-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass
class PrintedText:
    """Prints the pieces of the text that is being written one after the other, for what cannot be redrawn."""

    console: Console
    progress: RunProgress
    _has_text: bool = False

    def __call__(self, event: Event) -> None:
        written = self.progress.written
        if isinstance(event, CompletionDelta):
            self._print(written.add(event))
        elif isinstance(event, CallSettled) and written.settle(event):
            self.console.print()
            self.progress(event)
        else:
            self.progress(event)

    def _print(self, piece: str | None) -> None:
        self._has_text = True
        if piece is None:  # a terminal redraws; a file gets the text anew
            self.console.print()
            piece = self.progress.written.text
        self.console.print(Text(plain_lines(piece)), end="", soft_wrap=True)

    def print_line(self) -> None:
        """Say how far the run is, unless that is nowhere yet, or would be in the midst of a text."""
        if not self._has_text and (self.progress.num_calls or self.progress.num_thoughts > 1):
            self.console.print(Text(self.progress.line()), soft_wrap=True)


@dataclass
class LiveLines:
    """A run as lines that fit the terminal: counts, the way to the best thought, the vote or the frontier, the text.

    What is above is drawn first where there is little room; no line is wider than the terminal.
    """

    progress: RunProgress
    spinner: Spinner = field(default_factory=lambda: Spinner("dots"))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width - 1  # some terminals go on to the next line once the last column is full
        room = max(1, min(_MAX_LINES, console.size.height - 1))
        seen = self.progress.glance(max_frontier=_MAX_FRONTIER)
        lines = [Text.assemble(self._turning(console), " ", seen.line), *_search_lines(seen, width)]
        if left := max(0, min(_MAX_WRITTEN, room - len(lines))):
            written = plain_lines(seen.written[-left * options.max_width :]).strip()
            lines += [Text(line, style="dim") for line in list(wrapped(written, width))[-left:] if line]
        for line in lines[:room]:
            line.no_wrap = True
            yield fit(line, width)

    def _turning(self, console: Console) -> str:
        frame = self.spinner.render(console.get_time())
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
        yield Text(f"{count:>10.4g}  ", style="cyan").append(f"{bar:<{_BAR}}  {plain(format_value(answer))}", "default")
    rest = f"{len(votes.histogram) - len(shown)} more answers; " if len(votes.histogram) > len(shown) else ""
    yield Text(" " * 12 + rest + votes.in_words(), style="dim")
