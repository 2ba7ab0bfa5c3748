"""uvicorn, with an end that lets what is under way come to its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class OrderlyServer(uvicorn.Server):
    """uvicorn, which tells the app to end before it would cut it off, and ends quietly at a signal.

    Args:
        app: What is served.
        end: Called ``grace_s`` seconds after the server is to stop, and at once when it is told a second time: tells
            the app to end what it is at.
        grace_s: How long requests have to end by themselves.
        backstop_s: How long they have after ``end``, before they are cut off.
    """

    def __init__(self, app: ASGIApp, end: Callable[[], None], *, grace_s: float, backstop_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,
                timeout_graceful_shutdown=int(grace_s + backstop_s),
            )
        )
        self._end = end
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        end = asyncio.get_running_loop().call_later(self._grace_s, self._end)
        try:
            await super().shutdown(sockets)
        finally:
            end.cancel()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.should_exit:  # asked a second time: at once
            self._end()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals to end for a request to; uvicorn's own sends them to the process once more afterwards."""
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: whoever began it ends it with should_exit
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
