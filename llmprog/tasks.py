"""Waiting for several coroutines of which none outlives the others' failure."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from llmprog.errors import BudgetExceededError

T = TypeVar("T")


async def gather_or_cancel(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in the order given; the first failure cancels the rest and is raised once they have ended.

    Where the budget ends, the rest are not cancelled, since they are paid for, only waited for.
    ``asyncio.gather`` would leave the others running, ``asyncio.TaskGroup`` would wrap the error in a group.
    """
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException as error:
        if not isinstance(error, BudgetExceededError):
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
