"""``llmprog runs ls | show | gc``: what is kept of earlier runs, and how it is thrown away."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmprog.cli.app import EXIT_SOLVED, InOrder, JsonFlag, app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmprog.runs.run import Run
    from llmprog.runs.store import RunStore

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="WHERE",
        help="A directory or a postgresql:// URL (default: LLMPROG_STORE, else the user's own).",
    ),
]
LAST = "last"
RUN_HELP = f"its id, how that begins, or `{LAST}` for the newest"
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help=f"Which run: {RUN_HELP}.")]

_DELETABLE = ("finished", "stopped", "failed", "interrupted")
_UNITS_S: dict[str, float] = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

runs_app = typer.Typer(
    name="runs",
    cls=InOrder,
    help="List, show, resume, export and delete kept runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(runs_app)


def opened(store: str | None) -> RunStore:
    """The store that was named, else the default one."""
    from llmprog.runs.store import default_store, open_store

    return open_store(store or default_store())


def find_run(kept: RunStore, run_id: str) -> Run:
    """The run with an id that is or begins so, or with ``last`` the one that began last.

    Raises:
        UnknownRunError: There is none.
    """
    newest = kept.list()[:1] if run_id == LAST else []
    return kept.open(newest[0].id if newest else run_id)


@runs_app.command("ls")
def list_runs(
    store: StoreOption = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Show at most so many, the newest.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """List runs, newest first. Says what they were, how they ended and what they cost."""
    from llmprog import terminal
    from llmprog.cli import run_views

    with closing(opened(store)) as kept:
        runs = kept.list()
        listed = [run_views.summary(run) for run in runs[:limit]]
        if as_json:
            typer.echo(json.dumps(listed))
            return
        console = terminal.output_console()
        if not runs:
            console.print(
                f"no runs in {kept}; `llmprog run` and `llmprog map` keep theirs, and Python does with store=…",
                markup=False,
                soft_wrap=True,
            )
            return
        run_views.print_list(console, listed)
        if len(runs) > limit:
            console.print(f"… {len(runs) - limit} older; --limit {len(runs)} shows all", style="dim")


@runs_app.command("show")
def show_run(
    run_id: RunArgument,
    store: StoreOption = None,
    calls: Annotated[bool, typer.Option("--calls", help="List the calls.")] = False,
    thoughts: Annotated[bool, typer.Option("--thoughts", help="Draw the thoughts.")] = False,
    row: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Of a job: the row whose calls or thoughts to show.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show one run. Says what it was, how it ended, what it found and cost, and what went wrong."""
    from llmprog import terminal
    from llmprog.cli import run_views
    from llmprog.errors import OptionError

    with closing(opened(store)) as kept, find_run(kept, run_id) as run, run.reporting():
        is_job = run.info.kind == "map"
        if row is not None and not is_job:
            raise OptionError(f"--row {row}: run {run.id} is no job; leave it out")
        if thoughts and is_job and row is None:
            raise OptionError(f"--thoughts: run {run.id} is a job; add --row N, which of its rows")
        path = None if row is None else str(row)
        if as_json:
            typer.echo(json.dumps(run_views.details(run, path=path, calls=calls, thoughts=thoughts)))
            return
        console = terminal.output_console()
        run_views.print_run(console, run)
        if calls:
            run_views.print_calls(console, run, path)
        if thoughts:
            run_views.print_thoughts(console, run, path or "")


@runs_app.command("gc")
def collect_garbage(
    store: StoreOption = None,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Delete runs that began longer ago: 12h, 30d, 8w; 0d is any age.")
    ] = "30d",
    status: Annotated[
        str, typer.Option(metavar="STATUS,…", help=f"Delete runs with these: {', '.join(_DELETABLE)}, unreadable.")
    ] = ",".join(_DELETABLE),
    keep: Annotated[int, typer.Option(metavar="N", min=0, help="Keep the newest so many, whatever their age.")] = 0,
    cache: Annotated[bool, typer.Option("--cache", help="Empty the cache of completions, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete runs that are no longer needed. One that a process is at work on is never deleted."""
    from llmprog import terminal
    from llmprog.cli import run_views
    from llmprog.errors import OptionError, RunLockedError
    from llmprog.runs.cache import default_cache_path
    from llmprog.runs.cache_file import cache_size_bytes, empty_cache

    statuses = _statuses(status)
    oldest = time.time() - _age_s(older_than)
    console = terminal.output_console()
    with closing(opened(store)) as kept:
        doomed = _doomed(kept.list(), statuses, oldest, keep)
        sizes = {run.id: kept.size_bytes(run.id) for run in doomed}
        num_cached = cache_size_bytes(default_cache_path()) if cache else 0
        if not doomed and not num_cached:
            console.print(f"nothing to delete in {kept}", markup=False, soft_wrap=True)
            return
        run_views.print_doomed(console, doomed, sizes, num_cached)
        if dry_run:
            return
        if not yes:
            if not sys.stdin.isatty():
                raise OptionError("nothing was deleted: there is nobody to ask; add --yes, or --dry-run to look only")
            typer.confirm("Delete?", abort=True)
        num_left = 0
        for run in doomed:
            try:
                kept.delete(run.id)
            except RunLockedError:  # taken up since it was listed
                num_left += 1
        if num_cached:
            empty_cache(default_cache_path())
        left = f"; {num_left} are at work again and stay" if num_left else ""
        console.print(f"deleted {len(doomed) - num_left} runs{' and the cache' if num_cached else ''}{left}")
    raise typer.Exit(EXIT_SOLVED)


def _statuses(text: str) -> set[str]:
    from llmprog.errors import OptionError

    statuses = {part.strip() for part in text.split(",") if part.strip()}
    for unknown in sorted(statuses - {*_DELETABLE, "unreadable"}):
        raise OptionError.unknown("--status", unknown, [*_DELETABLE, "unreadable"])
    return statuses


def _age_s(text: str) -> float:
    from llmprog.errors import OptionError

    number, unit = text[:-1], _UNITS_S.get(text[-1:])
    if unit is None or not number.isascii() or not number.isdigit():
        raise OptionError(f"--older-than {text!r}: allowed is a whole number with s, m, h, d or w, such as 30d")
    return float(number) * unit


def _doomed(runs: Sequence[Run], statuses: set[str], oldest: float, keep: int) -> list[Run]:
    return [run for run in runs[keep:] if run.status in statuses and began_at(run) <= oldest]


def began_at(run: Run) -> float:
    """When a run began; of one that cannot be read, as far as its id says."""
    began: float = run.created_at
    if not began:
        try:
            began = datetime.strptime(run.id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC).timestamp()
        except ValueError:
            began = time.time()  # nobody knows: it counts as new, and stays
    return began


def command_of(run: Run) -> dict[str, Any] | None:
    """The command that began a run; ``None`` for one that Python began."""
    labels = run.info.config.get("labels")
    command = labels.get("command") if isinstance(labels, dict) else None
    return command if isinstance(command, dict) else None
