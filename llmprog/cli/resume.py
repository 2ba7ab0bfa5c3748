"""``llmprog runs resume``: a run is gone on with where it was left."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmprog.cli.app import JsonFlag
from llmprog.cli.runs import RunArgument, StoreOption, command_of, find_run, opened, runs_app

if TYPE_CHECKING:
    from llmprog.runs.run import Run


@runs_app.command("resume")
def resume_run(
    run_id: RunArgument,
    store: StoreOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS", help="The most to spend, earlier sessions included (default: as the run was begun)."
        ),
    ] = None,
    fork: Annotated[
        bool, typer.Option("--fork", help="Go on with a program that was edited since, as a new run.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the answer only.")] = False,
) -> None:
    """Go on with a run or a job where it was left. No call that had settled is paid for again."""
    from llmprog.cli.job_command import JobCommand, run_job
    from llmprog.cli.run_command import RunCommand, carry_out
    from llmprog.errors import StoreError

    with closing(opened(store)) as kept, find_run(kept, run_id) as run:
        given = _arguments(run, budget)
        found, is_job, program_input = run.id, run.info.kind == "map", run.info.input
    try:
        command = JobCommand(**given, store=store) if is_job else RunCommand(**given)
    except TypeError as error:
        raise StoreError(f"run {found}: the command that began it cannot be read: {error}") from error
    if isinstance(command, JobCommand):
        code = run_job(command, run_id=found, fork=fork, as_json=as_json, quiet=quiet)
    else:
        code = carry_out(command, program_input, store=store, resume=found, fork=fork, as_json=as_json, quiet=quiet)
    raise typer.Exit(code)


def _arguments(run: Run, budget: str | None) -> dict[str, Any]:
    """What the command that began a run was given, with another budget if there is one.

    Raises:
        OptionError: No command began it, or its budget is not known.
    """
    from llmprog.errors import OptionError

    command = command_of(run)
    if command is None:
        raise OptionError(
            f"run {run.id} was begun by a Python program, which alone knows its parts; resume it there with "
            f"store=… and resume={run.id!r}"
        )
    given = dict(command)
    if budget is not None:
        given["budget"] = budget
    elif str(given.get("budget") or "").endswith("file="):
        raise OptionError(
            f"run {run.id} was begun with a budget that is kept at a URL, and the URL is not kept; give --budget again"
        )
    return given | {name: tuple(given.get(name) or ()) for name in ("settings", "trust")}
