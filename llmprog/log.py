"""Log lines of the library: structlog's where the program has configured it, else the standard library's.

Unconfigured, structlog prints every line to stdout, which belongs to the program. So until the program calls
``structlog.configure`` (the command line does), lines go to ``logging`` under the same name, as ``event key=value …``.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog

from llmprog.redaction import redact


class Log:
    """Writes events with their details; secrets are blacked out."""

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **details: Any) -> None:
        """For who looks for a fault."""
        self._write(logging.DEBUG, event, details)

    def info(self, event: str, **details: Any) -> None:
        """For who follows a run."""
        self._write(logging.INFO, event, details)

    def warning(self, event: str, **details: Any) -> None:
        """For what somebody should look at."""
        self._write(logging.WARNING, event, details)

    def _write(self, level: int, event: str, details: dict[str, Any]) -> None:
        clean = {key: redact(value) if isinstance(value, str) else value for key, value in details.items()}
        if structlog.is_configured():
            structlog.get_logger(self._name).log(level, redact(event), **clean)
            return
        logger = logging.getLogger(self._name)
        if logger.isEnabledFor(level):
            logger.log(level, "%s", " ".join([redact(event), *(f"{key}={value!r}" for key, value in clean.items())]))
