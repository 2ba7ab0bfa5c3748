"""What a terminal shows of a job: a bar and votes while it runs, or now and then a line, and a summary at its end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.spinner import Spinner
from rich.text import Text

from llmprog.jobs.display import MAX_IN_HAND, counts, duration, progress_line, spent
from llmprog.jobs.progress import JobProgress
from llmprog.jobs.votes import Standing
from llmprog.progress import repeated
from llmprog.terminal import plain
from llmprog.terminal.area import shown_on, stderr_console
from llmprog.terminal.live import redraws, turning
from llmprog.terminal.text import wrapped, write_to

_BAR, _SHARE = 40, 16  # columns


@contextmanager
def live_job(progress: JobProgress, *, enabled: bool = True, name: str | None = None) -> Iterator[None]:
    """Shows ``progress`` on stderr while the block runs: redrawn on a terminal, elsewhere or with ``NO_COLOR`` lines.

    Args:
        progress: The job's.
        enabled: Whether it is shown at all.
        name: Of the program: a line that says how its job stands at the end stays. ``None`` leaves nothing.
    """
    if not enabled:
        yield
        return
    console = stderr_console()

    def print_line() -> None:
        if progress.has_begun:
            write_to(console.file, progress_line(progress) + "\n")

    with shown_on(console, JobLines(progress)) if redraws(console) else repeated(print_line):
        try:
            yield
        finally:
            if name is not None and progress.has_begun:
                write_to(sys.stderr, f"{plain(name)}: {progress_line(progress)}\n")


@dataclass
class JobLines:
    """A job as lines that fit the terminal: a bar, the counts, and how the votes of rows in hand stand."""

    progress: JobProgress
    spinner: Spinner = field(default_factory=lambda: Spinner("dots"))

    def lines(self, console: Console, width: int, room: int) -> list[Text]:
        """The lines, ``room`` at most."""
        progress = self.progress
        first = f"{turning(self.spinner, console)} " if progress.total is None else ""
        said = filter(None, (first + counts(progress), progress.votes.in_words()))
        lines = [Text(line) for text in said for line in wrapped(text, width)]
        if progress.total is not None:
            lines.insert(0, _bar(progress.num_rows, progress.total))
        lines += map(_vote_line, progress.votes.in_hand(MAX_IN_HAND))
        return lines[:room]


def _bar(done: int, total: int) -> Text:
    length = _BAR if done >= total else _BAR * done // total
    return Text("━" * length, style="green").append("─" * (_BAR - length), style="dim not green")


def _vote_line(vote: Standing) -> Text:
    length = max(1, round(_SHARE * vote.share))
    text = Text(f"row {vote.row:<7}", style="cyan").append(f"{'█' * length:<{_SHARE}}  ", style="default")
    return text.append(plain(vote.leader), style="green").append(f"  {vote.words}", style="dim default")


def print_summary(progress: JobProgress, out: str) -> None:
    """What came of a job: rows, right answers, votes, failures, cost, time, and where everything is."""
    of = "" if progress.total is None or progress.total == progress.num_rows else f" of {progress.total}"
    lines = [f"{progress.num_rows}{of} rows: {progress.num_solved} answered, {progress.num_failed} failed"]
    if progress.accuracy is not None:
        share, low, high = progress.accuracy
        right = f"{progress.num_correct} of {progress.num_judged} correct"
        lines.append(f"{right}: {share:.1%} (95 % interval {low:.1%} to {high:.1%})")
    if progress.votes.num_early:
        lines.append(str(progress.votes.in_words()))
    took = duration(progress.earlier_s + progress.session_s)
    lines += [f"{spent(progress)}, {took}", f"output: {plain(out)}", f"run: {progress.run_id}"]
    console = Console()
    for line in lines:
        console.print(Text(line), soft_wrap=True)
