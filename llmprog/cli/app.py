"""The command line's app: what every command shares.

Results go to stdout, logs and progress to stderr. Exit codes: 0 solved or answered, 2 usage error, 3 finished
without a solution, 4 backend failure, 5 budget exhausted, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

EXIT_SOLVED, EXIT_USAGE, EXIT_UNSOLVED, EXIT_BACKEND, EXIT_BUDGET, EXIT_INTERRUPTED = 0, 2, 3, 4, 5, 130

COMMANDS = (  # those of `llmprog` and those of `llmprog runs`
    "run", "list", "ls", "show", "new", "doctor", "runs", "resume", "export", "gc", "view", "map", "vote", "bench",
    "serve", "train-policy",
)  # fmt: skip

DEFAULT_BACKEND = "local:puzzles"

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

PROGRAM_HELP = "A name from `llmprog list`, path/to/file.yaml, or path/to/file.py:name."

ProgramArgument = Annotated[str, typer.Argument(metavar="PROGRAM", help=PROGRAM_HELP)]

TrustOption = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="MODULE", help="Let a program file name functions of this module; repeatable."),
]


class InOrder(TyperGroup):
    """The commands in the order in which one meets them, instead of that in which modules are imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=COMMANDS.index)


app = typer.Typer(
    name="llmprog",
    cls=InOrder,
    help="Run LLM programs: generators and checkers, searched over a graph of thoughts.",
    epilog="To begin with: llmprog run game24 4 9 10 13, and then llmprog view. Each command has its own --help.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _say_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"llmprog {version('llmprog')}")
        raise typer.Exit


@app.callback()
def _configure(
    log_level: Annotated[
        str, typer.Option(metavar="LEVEL", help="Lowest level of log lines on stderr: debug, info, warning or error.")
    ] = "warning",
    version: Annotated[  # noqa: ARG001 - it ends the command before this function is called
        bool, typer.Option("--version", help="Show the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
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
