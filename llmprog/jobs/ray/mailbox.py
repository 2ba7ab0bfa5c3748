"""A worker's line to the owner: questions go out in batches, and so do the answers come back."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from llmprog.jobs.ray.messages import Answer, Message, Operation


class _Asked(NamedTuple):
    """A question that waits for its answer; ``if_late`` is given a value that nobody waits for any more."""

    waiter: asyncio.Future[Any] | futures.Future[Any]
    if_late: Callable[[Any], None] | None


class Mailbox:
    """Between the event loop in which rows are worked on and the one in which Ray calls the actor.

    Made in the latter. ``ask``, ``tell`` and ``ask_blocking`` are for the former.
    """

    def __init__(self) -> None:
        self._mail_loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._out: list[Message] = []
        self._asked: dict[int, _Asked] = {}
        self._has_mail = asyncio.Event()

    async def ask(self, operation: Operation, if_late: Callable[[Any], None] | None = None) -> Any:
        """The owner's answer.

        Args:
            operation: What is asked.
            if_late: Called with the answer if whoever asked was cancelled before it came, to give back what it gives.

        Raises:
            LLMProgError: What the owner answered with.
        """
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(operation, _Asked(waiter, if_late))
        return await waiter

    def ask_blocking(self, operation: Operation) -> Any:
        """The owner's answer, for code that cannot await it: the event loop of the rows stands still meanwhile."""
        waiter: futures.Future[Any] = futures.Future()
        self._put(operation, _Asked(waiter, None))
        return waiter.result()

    def tell(self, operation: Operation) -> None:
        """Have the owner know, in the order of all messages."""
        self._post(Message(None, operation))

    async def collect(self) -> bytes:
        """The messages that have gathered, once there are any."""
        await self._has_mail.wait()
        with self._lock:
            out, self._out = self._out, []
            self._has_mail.clear()
        return pickle.dumps(out, protocol=5)

    def deliver(self, answers: Sequence[Answer]) -> None:
        """Hand out the owner's answers, each event loop woken once."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Asked, Answer]]] = {}
        for answer in answers:
            asked = self._asked.pop(answer.number)
            if isinstance(asked.waiter, futures.Future):
                _resolve(asked, answer)
            else:
                by_loop.setdefault(asked.waiter.get_loop(), []).append((asked, answer))
        for loop, found in by_loop.items():
            loop.call_soon_threadsafe(_resolve_all, found)

    def _put(self, operation: Operation, asked: _Asked) -> None:
        number = next(self._numbers)
        self._asked[number] = asked
        self._post(Message(number, operation))

    def _post(self, message: Message) -> None:
        with self._lock:
            self._out.append(message)
            is_first = len(self._out) == 1
        if is_first:
            self._mail_loop.call_soon_threadsafe(self._has_mail.set)


def _resolve_all(found: Sequence[tuple[_Asked, Answer]]) -> None:
    for asked, answer in found:
        _resolve(asked, answer)


def _resolve(asked: _Asked, answer: Answer) -> None:
    if asked.waiter.done():  # whoever asked was cancelled
        if answer.error is None and asked.if_late is not None:
            asked.if_late(answer.value)
    elif answer.error is None:
        asked.waiter.set_result(answer.value)
    else:
        asked.waiter.set_exception(answer.error)
