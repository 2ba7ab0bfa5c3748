"""The command line: ``llmprog run | list | show``.

Results go to stdout, logs and progress to stderr. Exit codes: 0 solved or answered, 2 usage error, 3 finished
without a solution, 4 backend failure, 5 budget exhausted, 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmprog.doctor import Diagnosis
    from llmprog.programs.catalog import ProgramEntry
    from llmprog.runner import Result

EXIT_SOLVED, EXIT_USAGE, EXIT_UNSOLVED, EXIT_BACKEND, EXIT_BUDGET, EXIT_INTERRUPTED = 0, 2, 3, 4, 5, 130

DEFAULT_BACKEND = "local:puzzles"

app = typer.Typer(
    name="llmprog",
    help="Run LLM programs: generators and checkers, searched over a graph of thoughts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _configure(
    log_level: Annotated[str, typer.Option(help="Lowest level of log lines on stderr.")] = "warning",
) -> None:
    import structlog

    level = logging.getLevelNamesMapping().get(log_level.upper())
    if level is None:
        raise typer.BadParameter(f"{log_level!r}; allowed are debug, info, warning, error", param_hint="--log-level")
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@app.command(context_settings={"ignore_unknown_options": False})
def run(
    program: Annotated[str, typer.Argument(help="A name from `llmprog list`, or path/to/file.py:name.")],
    words: Annotated[list[str], typer.Argument(metavar="INPUT...", help="The input; several words are joined.")],
    backend: Annotated[str, typer.Option(help="Model to run on, such as local:puzzles.")] = DEFAULT_BACKEND,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter of the program or backend; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Repeat a run; drawn at random and printed if absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the answer only.")] = False,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream", help="Show text while it is written (default: where stderr is a terminal)."
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Append all calls and completions to this file, for --backend replay:FILE.", dir_okay=False),
    ] = None,
) -> None:
    """Run PROGRAM on INPUT, show the thought graph, the answer and what was spent."""
    import structlog
    from rich.console import Console

    from llmprog import terminal
    from llmprog.backends.registry import describe_options, with_options
    from llmprog.errors import LLMProgError
    from llmprog.programs.catalog import find
    from llmprog.runner import Result
    from llmprog.runner import run as run_program

    entry = find(program)
    for_program, for_backend = _assign(entry, settings or [], backend, describe_options(backend))
    built = entry.build(**for_program)
    errors = Console(stderr=True)
    visible = not (as_json or quiet)
    log = structlog.get_logger("llmprog")
    log.info("run started", program=entry.name, backend=backend, settings=settings or [], seed=seed)
    try:
        with terminal.live_progress(errors, enabled=visible) as progress:
            result = run_program(
                built,
                " ".join(words),
                backend=with_options(backend, for_backend),
                seed=seed,
                on_event=progress,
                stream=visible and (errors.is_terminal if stream is None else stream),
                record=record,
            )
    except LLMProgError as error:
        if as_json and isinstance(error.partial, Result):  # what was paid for is not lost with the error
            typer.echo(json.dumps(error.partial.to_json()))
        raise
    log.info("run finished", solved=result.solved, stopped=result.stopped, seed=result.seed, wall_s=result.wall_s)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    elif quiet:
        typer.echo(terminal.plain(_short(result)))
    else:
        terminal.print_result(Console(), result)
    raise typer.Exit(_exit_code(result))


@app.command("list")
def list_all(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List programs and backends: what is installed, what is missing and how to get it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from llmprog.backends.registry import BackendInfo, module_of, schemes
    from llmprog.programs.catalog import find, names

    programs = [find(name) for name in names()]
    backends: list[BackendInfo] = [info for scheme in sorted(schemes()) for info in module_of(scheme).list_backends()]
    if as_json:
        content = {
            "programs": [{"name": p.name, "summary": p.summary, "parameters": list(p.parameters)} for p in programs],
            "backends": [{"id": b.id, "summary": b.summary, "missing": b.missing} for b in backends],
        }
        typer.echo(json.dumps(content))
        return
    console = Console()
    table = Table("program", "what it does", "--set", box=None, pad_edge=False, header_style="bold")
    for entry in programs:
        table.add_row(*map(Text, (entry.name, entry.summary, ", ".join(entry.parameters))))
    console.print(table)
    console.print()
    table = Table("backend", "what it is", "status", box=None, pad_edge=False, header_style="bold")
    for info in backends:
        table.add_row(*map(Text, (info.id, info.summary, "missing" if info.missing else "ready")))
    console.print(table)
    for info in backends:
        if info.missing:
            console.print(Text(f"{info.id}: {info.missing}"), soft_wrap=True)


@app.command()
def doctor(
    backend: Annotated[
        list[str] | None, typer.Option(help="The backend to examine; repeatable. Default: all that are configured.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Call each configured backend once, cheaply; show what it can do, how fast it is, and what to fix."""
    import asyncio
    from dataclasses import asdict

    from rich.console import Console

    from llmprog import terminal
    from llmprog.doctor import configured, examine

    async def examine_all() -> list[Diagnosis]:
        return list(await asyncio.gather(*(examine(backend_id) for backend_id in ids)))

    ids = backend or [info.id for info in configured()]
    diagnoses = asyncio.run(examine_all())
    if as_json:
        typer.echo(json.dumps([asdict(diagnosis) for diagnosis in diagnoses]))
    else:
        terminal.print_diagnoses(Console(), diagnoses)
    raise typer.Exit(EXIT_SOLVED if all(diagnosis.ok for diagnosis in diagnoses) else EXIT_BACKEND)


@app.command()
def show(
    program: Annotated[str, typer.Argument(help="A name from `llmprog list`, or path/to/file.py:name.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter of the program.")
    ] = None,
) -> None:
    """Show PROGRAM's graph: its nodes, prompts, controller and parameters."""
    from rich.console import Console
    from rich.text import Text

    from llmprog import terminal
    from llmprog.compile import compile_program
    from llmprog.programs.catalog import find

    entry = find(program)
    for_program, _ = _assign(entry, settings or [], None, {})
    console = Console()
    console.print(terminal.program_lines(compile_program(entry.build(**for_program))))
    for parameter in entry.parameters.values():
        console.print(Text(f"--set {parameter.name}={parameter.default}", style="bold"), Text(parameter.help))


def _assign(
    entry: ProgramEntry, settings: list[str], backend: str | None, backend_options: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings by whom they are for, the program first; an unknown key lists the known ones."""
    from llmprog.errors import OptionError
    from llmprog.programs.catalog import parse_setting

    for_program: dict[str, Any] = {}
    for_backend: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise OptionError(f"--set {setting!r}: expected KEY=VALUE, such as --set beam_width=3")
        if key in entry.parameters:
            for_program[key] = parse_setting(entry.parameters[key], value)
        elif key in backend_options:
            for_backend[key] = value
        else:
            known = f"{entry.name}: {', '.join(entry.parameters) or 'none'}"
            if backend is not None:
                known += f"; {backend}: {', '.join(backend_options) or 'none'}"
            raise OptionError(f"--set: unknown key {key!r}; known keys of {known}")
    return for_program, for_backend


def _short(result: Result) -> str:
    from llmprog.templates import format_value
    from llmprog.terminal import answer_line

    return format_value(result.answer) if result.solved else answer_line(result)


def _exit_code(result: Result) -> int:
    if result.solved:
        return EXIT_SOLVED
    return EXIT_BUDGET if result.stopped in ("budget", "max_thoughts") else EXIT_UNSOLVED


def main() -> None:
    """Entry point of the ``llmprog`` command: every error of ours is one line on stderr and an exit code."""
    from llmprog.errors import BackendError, LLMProgError, MissingExtraError

    try:
        app(standalone_mode=True)
    except (BackendError, MissingExtraError) as error:
        _fail(error, EXIT_BACKEND)
    except LLMProgError as error:
        _fail(error, EXIT_USAGE)
    except KeyboardInterrupt:
        sys.stderr.write("llmprog: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: Exception, code: int) -> None:
    from llmprog.terminal import plain

    sys.stderr.write(f"llmprog: error: {plain(str(error))}\n")
    sys.exit(code)
