"""A run as the command line knows it: begun with a command, gone on with by its id."""

from __future__ import annotations

import json
import shlex
import sys
import threading
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llmprog.cli.app import EXIT_BUDGET, EXIT_INTERRUPTED, EXIT_SOLVED, EXIT_UNSOLVED
from llmprog.cli.interrupts import draining
from llmprog.cli.settings import assign

if TYPE_CHECKING:
    from llmprog.running.result import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """What ``llmprog run`` was asked to do; kept with the run, so that it can be gone on with by its id."""

    program: str
    settings: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    backend: str
    budget: str | None = None
    cache: bool = False

    def to_json(self) -> dict[str, Any]:
        """It as JSON values."""
        absolute = {"program": absolute_program(self.program), "trust": [*map(absolute_place, self.trust)]}
        return asdict(self) | absolute | {"budget": kept_budget(self.budget)}


def absolute_program(program: str) -> str:
    """A program's name with the path of its file, if it has one, made absolute."""
    from llmprog.programs.catalog import FILE_SUFFIXES, names

    if program.endswith(FILE_SUFFIXES) and program not in names():
        return str(Path(program).resolve())
    path, colon, name = program.rpartition(":")
    return f"{absolute_place(path)}:{name}" if colon else program


def absolute_place(place: str) -> str:
    """A module's name, or the path of a Python file made absolute."""
    return str(Path(place).resolve()) if place.endswith(".py") else place


def kept_budget(text: str | None) -> str | None:
    """A budget as it is kept with a run: a ledger's URL, which may hold a password, is left out after ``file=``."""
    from llmprog.runs.budget import Budget

    if text is None:
        return None
    budget = Budget.parse(text)
    if budget.file is None:
        return text
    place = "" if "://" in budget.file else str(Path(budget.file).resolve())
    return ",".join(filter(None, (str(budget), f"file={place}")))


def carry_out(
    command: RunCommand,
    given: Any,
    *,
    store: str | None,
    seed: int | None = None,
    resume: str | None = None,
    fork: bool = False,
    record: Path | None = None,
    stream: bool | None = None,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Do what ``command`` says, or go on with a run where it was left, and show it; returns the exit code.

    Args:
        command: What to do.
        given: The program's input.
        store: Where runs are kept; the user's own place by default.
        seed: Repeats a run.
        resume: Id of the run to go on with.
        fork: Go on although the program was edited since, as a new run.
        record: A file that all calls are appended to.
        stream: Show text while it is written; ``None`` does where stderr is a terminal.
        as_json: Print one JSON object.
        quiet: Print the answer only.
    """
    from rich.console import Console

    from llmprog import terminal
    from llmprog.backends.registry import describe_options, with_options
    from llmprog.errors import LLMProgError
    from llmprog.programs.catalog import find
    from llmprog.runner import run as run_program
    from llmprog.running.result import Result
    from llmprog.runs.store import default_store, open_store

    entry = find(command.program, trust=command.trust)
    settings = list(command.settings)
    for_program, for_backend = assign(entry, settings, command.backend, describe_options(command.backend))
    built = entry.build(**for_program)
    errors = Console(stderr=True)
    visible = not (as_json or quiet)
    stop = threading.Event()
    with closing(open_store(store or default_store())) as kept:
        try:
            with draining(stop.set), terminal.live_progress(errors, enabled=visible) as progress:
                result = run_program(
                    built,
                    given,
                    backend=with_options(command.backend, for_backend),
                    seed=seed,
                    on_event=progress,
                    stream=visible and (errors.is_terminal if stream is None else stream),
                    record=record,
                    budget=command.budget,
                    store=kept,
                    resume=resume,
                    fork=fork,
                    cache=command.cache,
                    stop=stop,
                    labels={"command": command.to_json()},
                )
        except LLMProgError as error:
            if isinstance(error.partial, Result):  # what was paid for is not lost with the error
                if as_json:
                    typer.echo(json.dumps(error.partial.to_json()))
                _say_how_to_go_on("ended early", error.partial, store)
            raise
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    elif quiet:
        typer.echo(terminal.plain(_short(result)))
    else:
        terminal.print_result(terminal.output_console(), result)
    if result.stopped == "interrupted":
        _say_how_to_go_on("interrupted", result, store)
    elif result.stopped == "budget":
        _say_how_to_go_on(f"the budget is spent ({result.shortfall})", result, store, " --budget …")
    return _exit_code(result)


def _say_how_to_go_on(what: str, result: Result, store: str | None, options: str = "") -> None:
    if result.run_id is None or not result.usage.calls or store == "memory":
        return
    if store is not None:
        options += f" --store {'…' if '://' in store else shlex.quote(store)}"  # a URL may hold a password
    sys.stderr.write(
        f"llmprog: {what}; what was paid for is kept; to go on: llmprog runs resume {result.run_id}{options}\n"
    )


def _short(result: Result) -> str:
    from llmprog.templates import format_value
    from llmprog.terminal import answer_line

    return format_value(result.answer) if result.solved else answer_line(result)


def _exit_code(result: Result) -> int:
    if result.stopped == "interrupted":
        return EXIT_INTERRUPTED
    if result.stopped == "budget":
        return EXIT_BUDGET
    if result.solved:
        return EXIT_SOLVED
    return EXIT_BUDGET if result.stopped == "max_thoughts" else EXIT_UNSOLVED
