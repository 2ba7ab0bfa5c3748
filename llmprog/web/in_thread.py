"""A server in a thread of this process, while a block runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from llmprog.web.orderly import OrderlyServer


@contextmanager
def in_thread(
    name: str, serve: Callable[[Callable[[OrderlyServer], None]], Coroutine[Any, Any, None]]
) -> Iterator[None]:
    """Have a server run while the block does.

    Args:
        name: Of the thread.
        serve: Serves until the server is told to exit; it hands the server to the function that it is given, before it
            begins. What it raises before that is raised here.
    """
    running: list[OrderlyServer] = []
    begun = threading.Event()
    failures: list[BaseException] = []

    def begin(server: OrderlyServer) -> None:
        running.append(server)
        begun.set()

    def run() -> None:
        try:
            asyncio.run(serve(begin))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that began it
            failures.append(error)
        finally:
            begun.set()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        begun.wait()  # the socket listens already: who connects now is answered once the server is up
        if failures:
            raise failures[0]
        yield
    finally:
        for server in running:
            server.should_exit = True
        thread.join()
