"""The command line, ``llmprog``: one module per group of commands, each of which registers them when imported."""

from __future__ import annotations

import sys

from llmprog.cli import bench as bench
from llmprog.cli import export as export
from llmprog.cli import jobs as jobs
from llmprog.cli import listing as listing
from llmprog.cli import new as new
from llmprog.cli import resume as resume
from llmprog.cli import run as run
from llmprog.cli import runs as runs
from llmprog.cli import serve as serve
from llmprog.cli import train_policy as train_policy
from llmprog.cli import view as view
from llmprog.cli.app import EXIT_BACKEND as EXIT_BACKEND
from llmprog.cli.app import EXIT_BUDGET as EXIT_BUDGET
from llmprog.cli.app import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from llmprog.cli.app import EXIT_SOLVED as EXIT_SOLVED
from llmprog.cli.app import EXIT_UNSOLVED as EXIT_UNSOLVED
from llmprog.cli.app import EXIT_USAGE as EXIT_USAGE
from llmprog.cli.app import app as app


def main() -> None:
    """Entry point of the ``llmprog`` command: every error of ours is one line on stderr and an exit code."""
    from llmprog.errors import (
        BackendError,
        BudgetExceededError,
        LLMProgError,
        MissingExtraError,
        ProgramChangedError,
        RunLockedError,
        StoreError,
        UnknownRunError,
    )

    try:
        app(standalone_mode=True)
    except (UnknownRunError, RunLockedError, ProgramChangedError) as error:
        _fail(error, EXIT_USAGE)  # what was asked for cannot be; nothing is broken
    except (BackendError, MissingExtraError, StoreError) as error:
        _fail(error, EXIT_BACKEND)
    except BudgetExceededError as error:
        _fail(error, EXIT_BUDGET)
    except LLMProgError as error:
        _fail(error, EXIT_USAGE)
    except KeyboardInterrupt:
        sys.stderr.write("llmprog: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)


def _fail(error: Exception, code: int) -> None:
    from llmprog.errors import DeclarationError
    from llmprog.terminal import plain, plain_lines

    said = str(error)
    shown = plain_lines(said) if isinstance(error, DeclarationError) else plain(said)  # each of its faults has a line
    sys.stderr.write(f"llmprog: error: {shown}\n")
    sys.exit(code)
