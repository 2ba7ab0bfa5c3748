"""The calls in flight: how many there may be, and how they end when the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from llmprog.serving.faults import RequestError, shutting_down

T = TypeVar("T")


class Calls:
    """Counts calls and refuses those beyond a limit.

    Args:
        max_concurrency: Most calls in flight, at least 1.

    Attributes:
        num_answered: Calls that were answered since the start, with a reply or an error.
        num_gone: Calls whose clients went away before they had their answer.
    """

    def __init__(self, max_concurrency: int) -> None:
        self._max = max_concurrency
        self._in_flight = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_closing = False
        self.num_answered = 0
        self.num_gone = 0

    @property
    def in_flight(self) -> int:
        """Calls that have begun and not ended."""
        return self._in_flight

    @property
    def is_closing(self) -> bool:
        """Whether the server ends: calls under way were cancelled, new ones are refused."""
        return self._is_closing

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Count one call while the block runs.

        Raises:
            RequestError: There are as many as there may be, or the server is shutting down.
        """
        if self._is_closing:
            raise shutting_down()
        if self._in_flight >= self._max:
            raise RequestError(
                f"{self._in_flight} calls are in flight, as many as there may be (--max-concurrency); try again",
                status=429,
                code="too_many_calls",
                retry_after_s=1.0,
            )
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin ``work`` as a task that the server's end cancels."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_closing:
            task.cancel()
        return task

    def close(self) -> None:
        """Cancel what is under way, and refuse what comes."""
        self._is_closing = True
        for task in list(self._tasks):
            task.cancel()
