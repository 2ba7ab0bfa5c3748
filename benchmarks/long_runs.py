"""Real runs of many thousand calls, for what has to show them: a vote of samples, and a search with a judge.

Their model answers in an instant but says so later, as one behind an endpoint would: in times that differ from call to
call, and now and then after a rate limit or a broken connection.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmprog import Program, checker, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.backends.accounts import attempts
from llmprog.errors import BackendError
from llmprog.programs import arithmetic
from llmprog.runs.store import RunStore
from llmprog.search import BreadthFirstSearch
from llmprog.types import Completion, Request

STEPS = 4
RATE_LIMITED = 0.01
BROKEN = 0.004


class FarAwayModel(ScriptedBackend):
    """Replies of a script, after as long as an endpoint may take, with failed attempts in between.

    Args:
        script: The replies, as for ``ScriptedBackend``.
        latency_s: The median time of an attempt.
        seed: Of the times and the failures.
    """

    def __init__(self, script: Any, *, latency_s: float, seed: int = 1) -> None:
        super().__init__(script, n=False)
        self._median_s = latency_s
        self._chance = random.Random(seed)

    async def generate(self, request: Request) -> Sequence[Completion]:
        """The scripted replies."""
        for share, status in ((RATE_LIMITED, 429), (BROKEN, None)):
            if self._chance.random() < share:
                await self._fail(status)
        await asyncio.sleep(self._takes_s())
        return await super().generate(request)

    def _takes_s(self) -> float:
        return self._median_s * self._chance.lognormvariate(0, 0.4)

    async def _fail(self, status: int | None) -> None:
        """An attempt that is refused soon, and is made again a while later."""
        waited_s = self._takes_s() / 4
        await asyncio.sleep(waited_s)
        said = "the connection was closed" if status is None else f"HTTP {status}: too many requests"
        error = BackendError(said, backend=self.id, status=status, retryable=True)
        if (call := attempts.get()) is not None:
            await call.again(error, waited_s)
        await asyncio.sleep(self._takes_s())


def sampled_answer(_prompt: str, sample: int) -> str:
    """A chain of thought; most come to the right answer."""
    return f"17 + 25 = 42\nAnswer: {42 if sample % 5 < 3 else 40 + sample % 7}"


def vote(num_calls: int, store: RunStore, *, latency_s: float = 0.15, at_once: int = 256) -> Any:
    """A self-consistency vote of so many samples."""
    backend = FarAwayModel(sampled_answer, latency_s=latency_s)
    program = arithmetic(num_samples=num_calls)
    return run(program, "17 + 25", backend=backend, seed=1, store=store, max_in_flight=at_once)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a walk is."""

    number: int

    def __str__(self) -> str:
        return str(self.number)


@generator(prompt="Place: {number}\nNext places:\n")
def propose(_state: Place, completion: str) -> list[Place]:
    return [Place(int(word)) for word in completion.split()]


@checker(prompt="Points: {number}\nFrom 0 to 9:\n")
def judge(_state: Place, completion: str) -> float:
    return float(completion)


def places(prompt: str, _sample: int) -> str:
    """Four further places, or the points of one."""
    asked, number = prompt.split(maxsplit=1)[0], int(prompt.split()[1])
    if asked == "Points:":
        return str(number * 7919 % 10)
    return " ".join(str(number * STEPS + step + 1) for step in range(STEPS))


def search(num_calls: int, store: RunStore, *, latency_s: float = 0.15, at_once: int = 256) -> Any:
    """A breadth-first search of so many calls or a few more, whose every thought is judged by the model."""
    backend = FarAwayModel(places, latency_s=latency_s)
    num_thoughts = num_calls * STEPS // (STEPS + 1)
    controller = BreadthFirstSearch(max_depth=40, max_thoughts=num_thoughts)
    program = Program(generators=[propose], checkers=[judge], controller=controller)
    return run(program, Place(1), backend=backend, seed=1, store=store, max_in_flight=at_once)
