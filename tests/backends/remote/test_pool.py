from __future__ import annotations

import asyncio

from llmprog.backends.remote.pool import LoopPool
from llmprog.background_loop import run_sync


class Item:
    def __init__(self):
        self.closed_in = None

    async def aclose(self):
        self.closed_in = asyncio.get_running_loop()


class User:
    """Who uses an item."""


async def test_equal_keys_share_an_item_until_its_last_user_leaves():
    pool, one, two = LoopPool(), User(), User()
    item = await pool.get("key", one, Item)
    assert await pool.get("key", two, Item) is item
    assert await pool.get("other", one, Item) is not item
    await pool.release(one)
    assert item.closed_in is None
    await pool.release(two)
    assert item.closed_in is asyncio.get_running_loop()
    assert await pool.get("key", one, Item) is not item
    await pool.release(one)


def test_each_loop_has_its_own_and_closes_it_when_it_ends():
    pool, user, items = LoopPool(), User(), []

    async def use():
        items.append(await pool.get("key", user, Item))
        assert await pool.get("key", user, Item) is items[-1]

    asyncio.run(use())
    asyncio.run(use())
    assert items[0] is not items[1]
    assert all(item.closed_in is not None for item in items)


async def test_an_item_of_a_loop_that_runs_elsewhere_is_closed_there():
    pool, user = LoopPool(), User()
    item = await asyncio.to_thread(run_sync, pool.get("key", user, Item))
    await pool.release(user)
    assert item.closed_in not in (None, asyncio.get_running_loop())
