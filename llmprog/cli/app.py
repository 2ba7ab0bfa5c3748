"""The command line's app: what every command shares.

Results go to stdout, logs and progress to stderr. Exit codes: 0 solved or answered, 2 usage error, 3 finished
without a solution, 4 backend failure, 5 budget exhausted, 130 interrupted.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer

EXIT_SOLVED, EXIT_USAGE, EXIT_UNSOLVED, EXIT_BACKEND, EXIT_BUDGET, EXIT_INTERRUPTED = 0, 2, 3, 4, 5, 130

DEFAULT_BACKEND = "local:puzzles"

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

PROGRAM_HELP = "A name from `llmprog list`, path/to/file.yaml, or path/to/file.py:name."

TrustOption = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="MODULE", help="Let a program file name functions of this module; repeatable."),
]

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
