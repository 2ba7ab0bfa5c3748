"""A job as the command line knows it: from a data file to an output file, found again when it is asked for again."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import threading
import zlib
from contextlib import aclosing, closing, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from llmprog.cli.app import EXIT_BUDGET, EXIT_INTERRUPTED, EXIT_SOLVED, EXIT_UNSOLVED
from llmprog.cli.interrupts import draining
from llmprog.cli.run_command import kept_budget
from llmprog.cli.settings import assign

if TYPE_CHECKING:
    from llmprog.errors import LLMProgError
    from llmprog.jobs.job import ExecutorChoice, Job
    from llmprog.jobs.output import Output
    from llmprog.jobs.progress import JobProgress
    from llmprog.runs.store import RunStore

_IDENTITY = ("program", "data", "out", "input", "gold", "settings", "backend", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCommand:
    """What ``llmprog map`` was asked to do; kept with the run, so that the job can be gone on with by its id.

    Two commands are the same job where program, files, input, right answers, settings, backend and seed are the same;
    how it is carried out may differ.
    """

    program: str
    data: str
    out: str
    input: str | None = None
    gold: str | None = None
    settings: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    backend: str
    seed: int | None = None
    concurrency: int | None = None
    budget: str | None = None
    store: str | None = None
    executor: str = "local"
    ray_address: str | None = None
    num_workers: int | None = None
    in_order: bool = False
    cache: bool = False

    def to_json(self) -> dict[str, Any]:
        """It as JSON values, without the store, whose URL may hold a password."""
        kept = {name: value for name, value in asdict(self).items() if name != "store"}
        return kept | {"budget": kept_budget(self.budget)}

    def key(self) -> str:
        """The same for two commands that are the same job."""
        same = {name: value for name, value in asdict(self).items() if name in _IDENTITY}
        same["settings"] = sorted(self.settings)
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def run_job(
    command: JobCommand,
    *,
    run_id: str | None = None,
    fresh: bool = False,
    fork: bool = False,
    overwrite: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Do what ``command`` says, or go on with it where it was left; returns the exit code.

    Args:
        command: What to do.
        run_id: The run to go on with; without it, the newest run of the same job.
        fresh: Begin anew, whatever there is.
        fork: Go on although the program was edited since, as a new run.
        overwrite: Replace an output file that holds something else.
        as_json: Print one JSON object.
        quiet: Print nothing but errors.
    """
    from llmprog.background_loop import run_sync
    from llmprog.errors import LLMProgError
    from llmprog.jobs.output import Output, refuse_data, refuse_used
    from llmprog.jobs.terminal import live_job
    from llmprog.runs.store import default_store, open_store

    refuse_data(command.out, command.data)
    with closing(open_store(command.store or default_store())) as store:
        newest = run_id or store.find(command.key())
        if newest is None and not overwrite:
            refuse_used(command.out)
        job = _job_of(command, store, resume=None if fresh else newest, fork=fork)
        output = Output(command.out, in_order=command.in_order)
        job.on_begin = functools.partial(_begin, command, store, output, overwrite=overwrite, quiet=quiet)
        failure = None
        try:
            with draining(job.stop), live_job(job.progress, enabled=not quiet):
                run_sync(_write_all(job, output))
        except KeyboardInterrupt:
            job.stopped = "interrupted"
            _say(_how_to_go_on(job))
            raise
        except LLMProgError as error:
            failure = error
    _report(command, job, failure, as_json=as_json, quiet=quiet)
    if failure is not None:
        raise failure
    return _exit_code(job)


def _job_of(command: JobCommand, store: RunStore, *, resume: str | None, fork: bool) -> Job:
    from llmprog.backends.registry import describe_options, with_options
    from llmprog.jobs.job import Job
    from llmprog.jobs.rows import read_rows
    from llmprog.programs.catalog import find

    entry = find(command.program, trust=command.trust)
    for_program, for_backend = assign(entry, command.settings, command.backend, describe_options(command.backend))
    job = Job(
        entry.build(**for_program),
        read_rows(command.data),
        backend=with_options(command.backend, for_backend),
        input=command.input,
        gold=command.gold,
        seed=command.seed,
        concurrency=command.concurrency,
        budget=command.budget,
        store=store,
        resume=resume,
        fork=fork and resume is not None,
        cache=command.cache,
        in_order=command.in_order,
        executor=_executor_of(command),
        key=command.key(),
        labels={"command": command.to_json()},
    )
    threading.Thread(target=_count, args=(job, command.data), daemon=True).start()
    return job


def _executor_of(command: JobCommand) -> ExecutorChoice:
    from llmprog.errors import OptionError
    from llmprog.jobs.ray.options import RayOptions

    if command.executor == "ray":
        return RayOptions(address=command.ray_address, num_workers=command.num_workers)
    if command.ray_address is not None or command.num_workers is not None:
        raise OptionError(f"--ray-address and --num-workers have no effect with --executor {command.executor}")
    return command.executor


def _count(job: Job, data: str) -> None:
    """Tell how many rows there are; that they cannot be counted is said by whoever reads them."""
    from llmprog.errors import InputError
    from llmprog.jobs.rows import count_rows

    with suppress(InputError, OSError, EOFError, zlib.error):
        job.progress.total = count_rows(data)


def _begin(
    command: JobCommand, store: RunStore, output: Output, progress: JobProgress, *, overwrite: bool, quiet: bool
) -> None:
    """Take up the output file, now that no other process can be at work on the job."""
    from llmprog.errors import StoreError

    @functools.cache
    def is_of_this_job(run_id: str) -> bool:
        with suppress(StoreError), store.open(run_id) as run:
            return run.info.key == command.key()
        return False

    output.open(progress.run_id or "", is_replaced=is_of_this_job, overwrite=overwrite)
    if progress.is_resumed and not quiet:
        _say(f"going on with run {progress.run_id}; --fresh would begin anew")


async def _write_all(job: Job, output: Output) -> None:
    try:
        async with aclosing(job.results()) as results:
            async for result in results:
                output.write(result)
    finally:
        output.close(job.num_rows if job.stopped == "finished" else None)


def _report(command: JobCommand, job: Job, failure: LLMProgError | None, *, as_json: bool, quiet: bool) -> None:
    from llmprog.jobs.terminal import print_summary

    if as_json:
        report = job.progress.to_json() | {
            "out": command.out,
            "stopped": job.stopped,
            "shortfall": job.shortfall,
            "error": None if failure is None else str(failure),
        }
        typer.echo(json.dumps(report))
    elif not quiet and job.stopped is not None:
        print_summary(job.progress, command.out)
    if job.stopped is not None and job.stopped != "finished":
        _say(_how_to_go_on(job))
    elif job.unasked:
        _say(
            f"{job.unasked} calls of earlier sessions were not asked for again; if neither data nor settings of the "
            "endpoint changed, the program does not do the same with the same seed"
        )


def _how_to_go_on(job: Job) -> str:
    same = f"the same command goes on with run {job.progress.run_id}"
    if job.stopped == "budget":
        return f"the budget is spent ({job.shortfall}); with a larger --budget {same}"
    what = "interrupted" if job.stopped == "interrupted" else "ended early"
    return f"{what}; what is done is kept: {same}"


def _say(text: str) -> None:
    from llmprog.terminal import plain

    sys.stderr.write(f"llmprog: {plain(text)}\n")


def _exit_code(job: Job) -> int:
    if job.stopped == "interrupted":
        return EXIT_INTERRUPTED
    if job.stopped == "budget":
        return EXIT_BUDGET
    return EXIT_UNSOLVED if job.progress.num_failed else EXIT_SOLVED
