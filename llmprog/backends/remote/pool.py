"""Endpoints in use, one per account and event loop, so that all backends of an account share its limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet


class Closable(Protocol):
    """What a pool holds."""

    async def aclose(self) -> None:
        """Release what it holds."""
        ...


T = TypeVar("T", bound=Closable)


@dataclass
class _Entry(Generic[T]):
    item: T
    users: WeakSet[object] = field(default_factory=WeakSet)


class LoopPool(Generic[T]):
    """Items by key, made when first asked for; each event loop has its own, closed with the loop or its last user."""

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Entry[T]]] = WeakKeyDictionary()
        self._closers: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = WeakKeyDictionary()

    async def get(self, key: Hashable, user: object, make: Callable[[], T]) -> T:
        """The running loop's item for ``key``."""
        loop = asyncio.get_running_loop()
        entries = self._by_loop.get(loop)
        if entries is None:
            entries = self._by_loop[loop] = {}
            # A loop that shuts down closes the async generators it has begun: connections never outlive their loop.
            closer = self._closers[loop] = self._close_with(entries)
            await anext(closer)
        entry = entries.get(key)
        if entry is None:
            entry = entries[key] = _Entry(make())
        entry.users.add(user)
        return entry.item

    async def release(self, user: object) -> None:
        """Close what only ``user`` still uses, in every loop that is running."""
        here = asyncio.get_running_loop()
        for loop, entries in list(self._by_loop.items()):
            for key, entry in list(entries.items()):
                if user not in entry.users:
                    continue
                entry.users.discard(user)
                if entry.users or not loop.is_running():
                    continue  # a loop that pauses closes what it holds when it ends
                del entries[key]
                if loop is here:
                    await entry.item.aclose()
                    continue
                with suppress(TimeoutError):
                    closing = asyncio.run_coroutine_threadsafe(entry.item.aclose(), loop)
                    await asyncio.wait_for(asyncio.wrap_future(closing), timeout=5)

    async def _close_with(self, entries: dict[Hashable, _Entry[T]]) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            for entry in list(entries.values()):
                await entry.item.aclose()
            entries.clear()
