"""One event loop in a background thread, for callers without one and for those inside one (notebooks)."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()


@functools.cache
def _background_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="llmprog-loop", daemon=True).start()
    return loop


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on the background loop and wait; Ctrl-C cancels it and waits for it to clean up."""
    with _lock:
        loop = _background_loop()
    future: Future[T] = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        asyncio.run_coroutine_threadsafe(_drain(), loop).result(timeout=5)
        raise
    except CancelledError:
        raise KeyboardInterrupt from None


async def _drain() -> None:
    """Let cancelled tasks run their clean-up."""
    current = asyncio.current_task()
    for _ in range(100):
        if not any(task is not current and task.cancelling() for task in asyncio.all_tasks()):
            return
        await asyncio.sleep(0.01)
