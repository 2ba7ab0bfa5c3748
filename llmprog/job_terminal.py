"""What the command line shows of a job: a bar while it runs, or now and then a line, and a summary at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from llmprog.jobs.progress import JobProgress
from llmprog.terminal import plain
from llmprog.terminal.live import redraws, repeated


@contextmanager
def job_display(progress: JobProgress, *, enabled: bool) -> Iterator[None]:
    """Shows ``progress`` on stderr while the block runs: a bar on a terminal, elsewhere or with ``NO_COLOR`` lines."""
    console = Console(stderr=True)
    if not enabled:
        yield
    elif redraws(console):
        with Live(_Bar(progress), console=console, transient=True, refresh_per_second=4):
            yield
    else:

        def show() -> None:
            if progress.run_id is not None:  # before that it has not begun
                console.print(Text(progress_line(progress)), soft_wrap=True)

        with repeated(show):
            yield


class _Bar:
    def __init__(self, progress: JobProgress) -> None:
        self._progress = progress

    def __rich__(self) -> RenderableType:
        progress = self._progress
        bar = ProgressBar(total=progress.total, completed=progress.num_rows, width=40, pulse=progress.total is None)
        return Group(bar, Text(progress_line(progress)))


def progress_line(progress: JobProgress) -> str:
    """Rows done, rates, what it cost so far, the time that remains, and how many rows failed."""
    total = "" if progress.total is None else f" of {progress.total}"
    calls_per_s = progress.num_calls / max(progress.session_s, 1e-9)
    parts = [f"{progress.num_rows}{total} rows"]
    if progress.num_recalled:
        parts.append(f"{progress.num_recalled} of them earlier")
    parts += [f"{progress.rows_per_s:.3g} rows/s", f"{calls_per_s:.3g} calls/s", spent(progress)]
    if progress.remaining_s is not None:
        parts.append(f"{duration(progress.remaining_s)} left")
    if progress.accuracy is not None:
        parts.append(f"{progress.accuracy[0]:.1%} correct")
    parts.append(f"{progress.num_failed} failed")
    return ", ".join(parts)


def spent(progress: JobProgress) -> str:
    """Calls, tokens and money so far."""
    usage = progress.usage
    money = "unknown cost" if usage.usd is None else f"${usage.usd:.4f}"
    return f"{usage.calls} calls, {usage.prompt_tokens + usage.completion_tokens} tokens, {money}"


def duration(seconds: float) -> str:
    """A time such as ``4 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def print_summary(progress: JobProgress, out: str) -> None:
    """What came of a job: rows, right answers, failures, cost, time, and where everything is."""
    of = "" if progress.total is None or progress.total == progress.num_rows else f" of {progress.total}"
    lines = [f"{progress.num_rows}{of} rows: {progress.num_solved} answered, {progress.num_failed} failed"]
    if progress.accuracy is not None:
        share, low, high = progress.accuracy
        right = f"{progress.num_correct} of {progress.num_judged} correct"
        lines.append(f"{right}: {share:.1%} (95 % interval {low:.1%} to {high:.1%})")
    took = duration(progress.earlier_s + progress.session_s)
    lines += [f"{spent(progress)}, {took}", f"output: {plain(out)}", f"run: {progress.run_id}"]
    console = Console()
    for line in lines:
        console.print(Text(line), soft_wrap=True)
