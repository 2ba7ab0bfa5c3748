"""Log lines of the library: structlog's where the program has configured it, else the standard library's.

Unconfigured, structlog prints every line to stdout, which belongs to the program. So until the program calls
``structlog.configure`` (the command line does), lines go to ``logging`` under the same name, as ``event key=value …``.
Lines that are written while a run or a call goes on carry its id.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog

from llmprog.redaction import redact

_ids: ContextVar[Mapping[str, Any]] = ContextVar("llmprog_log_ids", default={})  # noqa: B039 - replaced, not changed


@contextmanager
def bound(**ids: Any) -> Iterator[None]:
    """Have every line that is written inside carry these details, in the tasks begun inside, too."""
    token = _ids.set({**_ids.get(), **ids})
    try:
        yield
    finally:
        _ids.reset(token)


class Log:
    """Writes events with their details; secrets are blacked out."""

    def __init__(self, name: str) -> None:
        self._name = name

    def is_enabled(self, level: int) -> bool:
        """Whether lines of this level are written; a logger that cannot say so is taken to write them."""
        if not structlog.is_configured():
            return logging.getLogger(self._name).isEnabledFor(level)
        logger = structlog.get_logger(self._name).bind()
        kind = type(logger)  # a logger may hand on whatever it is asked for to the one that it wraps
        ask = getattr(kind, "is_enabled_for", None) or getattr(kind, "isEnabledFor", None)
        return ask is None or bool(ask(logger, level))

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
        details = {**_ids.get(), **details}
        clean = {key: redact(value) if isinstance(value, str) else value for key, value in details.items()}
        if structlog.is_configured():
            structlog.get_logger(self._name).log(level, redact(event), **clean)
            return
        logger = logging.getLogger(self._name)
        if logger.isEnabledFor(level):
            logger.log(level, "%s", " ".join([redact(event), *(f"{key}={value!r}" for key, value in clean.items())]))
