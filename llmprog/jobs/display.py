"""How far a job is, in words and for notebooks, and where it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llmprog.jobs.progress import JobProgress
from llmprog.notebook import cell_output, in_notebook
from llmprog.pictures.fragments import bar, card, facts, heading, table
from llmprog.progress import repeated

MAX_IN_HAND = 6  # votes of rows in hand that are shown
_SECONDS_BETWEEN_DRAWINGS = 0.25  # in a notebook


@contextmanager
def job_display(progress: JobProgress, *, name: str) -> Iterator[None]:
    """Shows ``progress`` while the block runs: below a notebook's cell, else on stderr, and at the end how it stands.

    Args:
        progress: The job's.
        name: The program's.
    """
    if not in_notebook():
        from llmprog.jobs.terminal import live_job

        with live_job(progress, name=name):
            yield
        return
    show = cell_output()

    def draw(is_under_way: bool = True) -> None:
        show(job_html(progress, name, is_under_way=is_under_way), f"{name}: {progress_line(progress)}")

    draw()
    try:
        with repeated(draw, _SECONDS_BETWEEN_DRAWINGS):
            yield
    finally:
        draw(is_under_way=False)


def job_html(progress: JobProgress, name: str, *, is_under_way: bool) -> str:
    """How a job stands, a piece of HTML; once it is over without the votes of single rows.

    Args:
        progress: The job's.
        name: The program's.
        is_under_way: Whether it goes on.
    """
    votes, words = progress.votes, progress.votes.in_words()
    standing = votes.in_hand(MAX_IN_HAND) if is_under_way else []
    rows = [(str(vote.row), vote.leader, f"{vote.share:.0%}", vote.words) for vote in standing]
    return card(
        heading(name, counts(progress)),
        bar(progress.num_rows / progress.total) if progress.total else "",
        facts([("votes", words)] if words else []),
        table(("row in hand", "leading answer", "share", "vote"), rows) if rows else "",
    )


def progress_line(progress: JobProgress) -> str:
    """The counts and how votes ended, on one line."""
    return "; ".join(filter(None, (counts(progress), progress.votes.in_words())))


def counts(progress: JobProgress) -> str:
    """Rows done, rates, what it cost so far, the time that remains, and how many rows failed."""
    total = "" if progress.total is None else f" of {progress.total}"
    calls_per_s = progress.num_calls / max(progress.session_s, 1e-9)
    parts = [f"{progress.num_rows}{total} rows"]
    if progress.num_recalled:
        parts.append(f"{progress.num_recalled} of them earlier")
    parts += [f"{progress.rows_per_s:.3g} rows/s", f"{calls_per_s:.3g} calls/s", spent(progress)]
    if progress.remaining_s:
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
