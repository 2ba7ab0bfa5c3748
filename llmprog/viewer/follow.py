"""A run as server-sent events: all of it, then what happens, until it is over or nobody looks any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from llmprog.errors import StoreError
from llmprog.log import Log
from llmprog.runs.run import Run
from llmprog.viewer.encoding import encode
from llmprog.viewer.feed import RunFeed

MOST_FOLLOWERS = 32

_POLL_S = 0.25
_AT_ONCE = 4  # batches taken together: the first ones are sent, and drawn, while the others are read
_HEARTBEAT_S = 15.0

_log = Log("llmprog.viewer")


class Followers:
    """Those who follow a run just now.

    Args:
        most: More of them are refused.
        heartbeat_s: Silence after which a comment is sent: so it is noticed that a client is gone.
    """

    def __init__(self, most: int = MOST_FOLLOWERS, heartbeat_s: float = _HEARTBEAT_S) -> None:
        self.heartbeat_s = heartbeat_s
        self._most = most
        self._closing = asyncio.Event()
        self.count = 0

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Whether there is room for one more, which is taken while the block runs."""
        if self.count >= self._most or self._closing.is_set():
            yield False
            return
        self.count += 1
        try:
            yield True
        finally:
            self.count -= 1

    def close(self) -> None:
        """End what is being followed: the server is to stop."""
        self._closing.set()

    async def pause(self, gone: asyncio.Future[None], seconds: float) -> bool:
        """Wait for something new, unless it is over before; returns whether to go on."""
        closing: asyncio.Future[Any] = asyncio.ensure_future(self._closing.wait())
        waited_for: set[asyncio.Future[Any]] = {closing, gone}
        try:
            await asyncio.wait(waited_for, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
        return not (gone.done() or self._closing.is_set())


class FollowedRun:
    """An ASGI response: a run from its beginning, and on, as events that each hold a batch.

    Args:
        run: The run, which is closed at the end.
        followers: Among whom there is a place for this one already.
    """

    def __init__(self, run: Run, followers: Followers) -> None:
        self._run = run
        self._followers = followers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the run is over, the client is gone or the server stops."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        gone: asyncio.Future[None] = asyncio.ensure_future(_disconnected(receive))
        try:
            await self._follow(gone, send)
            if not gone.done():
                await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            await run_in_threadpool(self._run.close)

    async def _follow(self, gone: asyncio.Future[None], send: Send) -> None:
        feed = RunFeed(self._run)
        now = asyncio.get_running_loop().time
        said_at = now()
        while True:
            try:
                batches = await run_in_threadpool(self._read, feed)
            except StoreError as error:
                await _send_batch(send, {"problem": str(error)})
                return
            for batch in batches:
                if gone.done():
                    return
                await _send_batch(send, batch)
                said_at = now()
            if batches and batches[-1].get("end"):
                return
            if now() - said_at >= self._followers.heartbeat_s:
                await send({"type": "http.response.body", "body": b": nothing new\n\n", "more_body": True})
                said_at = now()
            if not await self._followers.pause(gone, 0 if len(batches) >= _AT_ONCE else _POLL_S):
                return

    def _read(self, feed: RunFeed) -> list[dict[str, Any]]:
        """What is new; in a thread, since a database makes one wait."""
        try:
            with self._run.reporting():
                return feed.read(_AT_ONCE)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # a file may hold anything
            _log.warning("a run cannot be shown", run=self._run.id, error=type(error).__name__)
            raise StoreError(f"run {self._run.id}: it cannot be shown: {type(error).__name__}: {error}") from error


async def _send_batch(send: Send, batch: dict[str, Any]) -> None:
    data = await run_in_threadpool(encode, batch)
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode("ascii"), "more_body": True})


async def _disconnected(receive: Receive) -> None:
    """Wait until the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
