"""``llmprog run``: one program on one input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmprog.cli.app import DEFAULT_BACKEND, EXIT_BUDGET, EXIT_SOLVED, EXIT_UNSOLVED, JsonFlag, app
from llmprog.cli.settings import assign

if TYPE_CHECKING:
    from llmprog.result import Result


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
    as_json: JsonFlag = False,
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
    from llmprog.result import Result
    from llmprog.runner import run as run_program

    entry = find(program)
    for_program, for_backend = assign(entry, settings or [], backend, describe_options(backend))
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


def _short(result: Result) -> str:
    from llmprog.templates import format_value
    from llmprog.terminal import answer_line

    return format_value(result.answer) if result.solved else answer_line(result)


def _exit_code(result: Result) -> int:
    if result.solved:
        return EXIT_SOLVED
    return EXIT_BUDGET if result.stopped in ("budget", "max_thoughts") else EXIT_UNSOLVED
