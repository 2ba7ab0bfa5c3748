"""One event loop in a background thread, for callers without one and for those inside one (notebooks)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from llmprog.errors import LLMProgError

T = TypeVar("T")

_LOOK_UP_S = 0.5

_lock = threading.Lock()

# By process: a forked one has its parent's loop without the thread that runs it. It keeps that loop all the same, since
# to close it would take from the parent what both share.
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def _background_loop() -> asyncio.AbstractEventLoop:
    loop = _loops.get(os.getpid())
    if loop is None:
        loop = _loops[os.getpid()] = asyncio.new_event_loop()
        threading.Thread(target=_keep_running, args=(loop,), name="llmprog-loop", daemon=True).start()
    return loop


def _keep_running(loop: asyncio.AbstractEventLoop) -> None:
    """Run ``loop`` for good.

    A task that ends with ``SystemExit`` (a node calls ``sys.exit``) or ``KeyboardInterrupt`` ends the loop as well. Who
    waits for the task is given that exception; but somebody has to be there to hand it over, and for all other tasks.
    """
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            continue


def start(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Have the background loop begin with ``work``; its result is in the future."""
    with _lock:
        loop = _background_loop()
    return asyncio.run_coroutine_threadsafe(work, loop)


def run_sync(work: Coroutine[Any, Any, T], on_interrupt: Callable[[], None] | None = None) -> T:
    """Run ``work`` on the background loop and wait; Ctrl-C cancels it and waits for it to clean up.

    Args:
        work: What to run.
        on_interrupt: Called at the first Ctrl-C instead, to ask the work to come to an end; the second cancels it.

    Raises:
        LLMProgError: It was called from code that the background loop itself is running.
    """
    with _lock:
        loop = _background_loop()
    if _running_loop() is loop:
        work.close()
        raise LLMProgError(
            "a program was run from inside a running search, which would wait for itself for ever; "
            "call it from an async node: await program.arun(...)"
        )
    future: Future[T] | None = None
    try:  # the loop may be at work, and Ctrl-C arrive, before the next line has returned
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return _result(future)
        except KeyboardInterrupt:
            if on_interrupt is None or future.done():
                raise
            on_interrupt()
            return _result(future)
    except KeyboardInterrupt:
        if future is not None:
            future.cancel()
        with suppress(TimeoutError):  # a node that does not let go must not hide the interrupt
            asyncio.run_coroutine_threadsafe(_drain(), loop).result(timeout=5)
        raise


def _result(future: Future[T]) -> T:
    """The result of ``future``, with a look up now and then.

    A signal that comes in the instant before a thread goes to sleep does not wake it: Ctrl-C would be lost.
    """
    while True:
        try:
            return future.result(timeout=_LOOK_UP_S)
        except TimeoutError:
            if future.done():
                return future.result()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _drain() -> None:
    """Let cancelled tasks run their clean-up."""
    current = asyncio.current_task()
    for _ in range(100):
        if not any(task is not current and task.cancelling() for task in asyncio.all_tasks()):
            return
        await asyncio.sleep(0.01)
