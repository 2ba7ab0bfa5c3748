"""Where the rows of a job are worked on: in this process, or wherever another executor takes them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from llmprog.accounting import Journal
from llmprog.compile import CompiledProgram
from llmprog.errors import (
    AuthenticationError,
    BackendError,
    BudgetExceededError,
    CapabilityError,
    DeclarationError,
    EndpointDownError,
    LLMProgError,
    MissingExtraError,
    ModelFileError,
    NodeError,
    OptionError,
    QuotaError,
    StoreError,
)
from llmprog.events import Event
from llmprog.jobs.result import RowResult, RowTask, result_of_error, result_of_run
from llmprog.running.chosen_backends import ChosenBackends
from llmprog.running.execution import RunContext, execute
from llmprog.search.voting import canonical_answer

# What is wrong for one row is wrong for all: the job ends, instead of failing row by row at the user's expense.
_FATAL = (
    AuthenticationError,
    CapabilityError,
    DeclarationError,
    EndpointDownError,
    MissingExtraError,
    ModelFileError,
    OptionError,
    QuotaError,
    StoreError,
)


_MOST_FAILURES = 10  # rows in a row that the endpoint fails, each after all its attempts

UNFINISHED = ("budget", "interrupted")
"""Why a row's search ended that is not finished: it is gone on with when the job is resumed."""


class Executor(Protocol):
    """Works on the rows of a job; many at once, as many as it is called for."""

    async def run(self, task: RowTask) -> RowResult:
        """What a row comes to; an error that concerns this row alone is part of the result.

        A row whose search was cut short has a ``stopped`` that is among ``UNFINISHED``.

        Raises:
            LLMProgError: No row can be worked on: the job ends.
        """
        ...


class LocalExecutor:
    """Works on rows in this process, each a search of its own, all in one event loop.

    Ten rows in a row that fail by the endpoint's fault, and not by their own, are the job's failure.

    Args:
        compiled: The program.
        backends: Its backends.
        context: The job's journal, budget and cache.
        max_in_flight: Actions that the search of one row may have under way at once.
        on_event: Called with a row's place and each of its events; it must not block.
    """

    def __init__(
        self,
        compiled: CompiledProgram,
        backends: ChosenBackends,
        context: RunContext[Journal],
        *,
        max_in_flight: int,
        on_event: Callable[[int, Event], None],
    ) -> None:
        self._compiled = compiled
        self._backends = backends
        self._context = context
        self._max_in_flight = max_in_flight
        self._on_event = on_event
        self._canonical = canonical_form(compiled)
        self._num_failures = 0

    async def run(self, task: RowTask) -> RowResult:
        try:
            result = await execute(
                self._compiled,
                task.input,
                backends=self._backends,
                seed=task.seed,
                context=self._context,
                path=str(task.index),
                on_event=functools.partial(self._on_event, task.index),
                max_in_flight=self._max_in_flight,
            )
        except BudgetExceededError:
            return RowResult(index=task.index, row=task.row, stopped="budget", seed=task.seed)
        except LLMProgError as error:
            if isinstance(error, BackendError) and error.retryable:
                self._num_failures += 1
            if is_fatal(error) or self._num_failures >= _MOST_FAILURES:
                raise
            return result_of_error(task, error)
        self._num_failures = 0
        try:
            return result_of_run(task, result, self._canonical)
        except NodeError as error:
            error.partial = result
            return result_of_error(task, error)


def canonical_form(compiled: CompiledProgram) -> Callable[[Any], str | None]:
    """The form in which a program compares answers: its vote's own, where it has one."""
    found: Callable[[Any], str | None] = getattr(compiled.controller, "canonical", canonical_answer)
    return found


def is_fatal(error: LLMProgError) -> bool:
    """Whether an error of one row means that no row can be worked on."""
    no_such_model = isinstance(error, BackendError) and error.status in (404, "404")
    return isinstance(error, _FATAL) or no_such_model
