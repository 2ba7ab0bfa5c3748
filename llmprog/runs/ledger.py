"""Ledgers: they set aside the most a call may cost, if the budget allows it, then settle what it did cost."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmprog.errors import BudgetExceededError, OptionError
from llmprog.runs.amounts import NANO, NOTHING, Amount, caps_of, charged_amount, most_that_fit, reserved_amount
from llmprog.runs.budget import Budget
from llmprog.types import Usage


class Ledger(ABC):
    """What every ledger does alike: the limits that are one process's own, and the words for what ran out.

    Args:
        budget: The limits.
        elapsed_s: Seconds that earlier sessions of the run took.
        num_thoughts: Thoughts that count as made already.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        elapsed_s: float = 0.0,
        num_thoughts: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = budget
        self.num_thoughts = num_thoughts
        self._clock = clock
        self._begun = clock() - elapsed_s
        self._exhausted: str | None = None

    @abstractmethod
    async def reserve(self, each: Usage, count: int) -> int:
        """Set aside ``each`` for up to ``count`` completions; returns for how many, at least 1.

        Where calls under way may yet cost less than was set aside for them, it waits, first come, first served. Whoever
        asks must hold nothing meanwhile: those who hold something and wait for each other would wait for ever.

        Raises:
            BudgetExceededError: Not one more completion can be paid for, or the time is up.
            OptionError: There is a limit in dollars, and what the call may cost is unknown.
        """

    @abstractmethod
    async def settle(self, reserved: Usage, actual: Usage) -> None:
        """Give back what was ``reserved`` (``each``, times completions) and charge ``actual``.

        It is charged also where it is more than was set aside. A cost that is unknown is charged as set aside.
        """

    @property
    @abstractmethod
    def settled(self) -> Amount:
        """What has been charged so far."""

    @property
    @abstractmethod
    def reserved(self) -> Amount:
        """What is set aside for calls under way."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of files and connections; what is charged or set aside stays so."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began, earlier sessions included."""
        return self._clock() - self._begun

    @property
    def deadline(self) -> float | None:
        """When the time is up, on the ledger's clock."""
        return None if self.budget.seconds is None else self._begun + self.budget.seconds

    def out_of_time(self) -> bool:
        """Whether the time is up; if so, ``exhausted`` says it."""
        deadline = self.deadline
        if deadline is None or self._clock() < deadline:
            return False
        self._note(f"seconds: {self.elapsed_s:.1f} of {self.budget.seconds:.15g} over")
        return True

    def take_thoughts(self, count: int) -> int:
        """How many of ``count`` new thoughts the budget allows; they count as made."""
        cap = self.budget.thoughts
        granted = count if cap is None else max(0, min(count, cap - self.num_thoughts))
        self.num_thoughts += granted
        if granted < count:
            self._note(f"thoughts: {self.num_thoughts} of {cap} made")
        return granted

    @property
    def exhausted(self) -> str | None:
        """Which limit first stopped something, and how much of it was spent; ``None`` where none did."""
        return self._exhausted

    @property
    def remaining(self) -> dict[str, float | None]:
        """What is left under each limit, what is set aside taken off; ``None`` where there is no limit."""
        held = self.settled + self.reserved
        left: dict[str, float | None] = {
            name: None if cap is None or spent is None else max(0, cap - spent)
            for name, cap, spent in zip(("calls", "tokens", "usd"), caps_of(self.budget), held, strict=True)
        }
        if left["usd"] is not None:
            left["usd"] /= NANO
        seconds, thoughts = self.budget.seconds, self.budget.thoughts
        left["seconds"] = None if seconds is None else max(0.0, seconds - self.elapsed_s)
        left["thoughts"] = None if thoughts is None else max(0, thoughts - self.num_thoughts)
        return left

    def report(self) -> dict[str, Any]:
        """The limits, what is spent, set aside and left, and what ran out, as JSON values."""
        return {
            "limits": self.budget.to_json(),
            "settled": self.settled.to_json(),
            "reserved": self.reserved.to_json(),
            "elapsed_s": self.elapsed_s,
            "thoughts": self.num_thoughts,
            "remaining": self.remaining,
            "exhausted": self._exhausted,
        }

    def _note(self, sentence: str) -> None:
        self._exhausted = self._exhausted or sentence

    def _need(self, each: Usage, count: int) -> Amount:
        """What one completion may cost, if that can be held against the limits."""
        if count < 1 or each.calls < 1:
            raise OptionError(f"reserve({each!r}, {count!r}): allowed is at least 1 completion, which counts as a call")
        if self.budget.usd is not None and (each.usd is None or not math.isfinite(each.usd)):
            raise OptionError(
                f"the budget has a limit in dollars (usd={self.budget.usd:.15g}), but what a call may cost is unknown; "
                "give the model's prices to the backend, or limit calls or tokens instead"
            )
        return reserved_amount(each)

    def _time_is_up(self) -> BudgetExceededError | None:
        if not self.out_of_time():
            return None
        return BudgetExceededError(f"the budget is spent: {self._exhausted}; raise seconds to go on")

    def _shortage(self, settled: Amount, need: Amount, lost: Amount = NOTHING, losers: str = "") -> BudgetExceededError:
        """The error for what does not fit beside what is ``settled``, and what ``losers`` set aside for good."""
        limits = zip(("calls", "tokens", "usd"), caps_of(self.budget), settled, lost, need, strict=True)
        name, cap, spent, aside, more = next(
            (name, cap, spent, aside or 0, more)
            for name, cap, spent, aside, more in limits
            if cap is not None and spent is not None and more is not None and spent + (aside or 0) + more > cap
        )
        unit = NANO if name == "usd" else 1
        also = f", {aside / unit:.10g} set aside by {losers}" if aside else ""
        self._note(
            f"{name}: {spent / unit:.10g} of {cap / unit:.10g} spent{also}, "
            f"and the next call may cost up to {more / unit:.10g}"
        )
        smaller = "" if name == "calls" else ", or lower max_tokens"
        return BudgetExceededError(f"the budget is spent: {self._exhausted}; raise {name}{smaller} to go on")


@dataclass(eq=False, slots=True)
class _Waiter:
    need: Amount
    count: int
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Future[None]
    outcome: int | BudgetExceededError | None = None

    def wake(self) -> None:
        """Have it look at its outcome, in its own loop."""
        self.loop.call_soon_threadsafe(lambda: None if self.woken.done() else self.woken.set_result(None))


class BudgetLedger(Ledger):
    """A budget shared by the tasks of one process: any number of tasks, in any number of event loops and threads.

    Args:
        budget: The limits.
        spent: What earlier sessions of the run are charged.
        elapsed_s: Seconds that they took.
        num_thoughts: Thoughts that count as made already.
        clock: Seconds on a clock that never goes back.
    """

    def __init__(
        self,
        budget: Budget,
        spent: Usage = Usage(),
        elapsed_s: float = 0.0,
        num_thoughts: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(budget, elapsed_s=elapsed_s, num_thoughts=num_thoughts, clock=clock)
        if budget.file is not None:
            raise OptionError(f"{budget.file!r} is a ledger that processes share; open it with open_ledger")
        self._caps = caps_of(budget)
        self._settled = charged_amount(spent)
        if budget.usd is not None and self._settled.nanousd is None:
            raise OptionError(
                "the budget has a limit in dollars, but what the run has cost so far is unknown; "
                "limit calls or tokens instead"
            )
        self._reserved = NOTHING
        self._waiting: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    async def aclose(self) -> None:
        """Nothing is open; it is here for who closes any ledger."""

    @property
    def settled(self) -> Amount:
        return self._settled

    @property
    def reserved(self) -> Amount:
        return self._reserved

    async def reserve(self, each: Usage, count: int) -> int:
        need = self._need(each, count)
        late = self._time_is_up()
        if late is not None:
            raise late
        with self._lock:
            if not self._waiting:
                granted = self._take(need, count)
                if granted:
                    return granted
                if self._is_hopeless(need):
                    raise self._shortage(self._settled, need)
            loop = asyncio.get_running_loop()
            waiter = _Waiter(need, count, loop, loop.create_future())
            self._waiting.append(waiter)
        return await self._wait(waiter)

    async def settle(self, reserved: Usage, actual: Usage) -> None:
        given_back, charge = reserved_amount(reserved), charged_amount(actual)
        if charge.nanousd is None:
            charge = charge._replace(nanousd=given_back.nanousd)
        with self._lock:
            if given_back.calls > self._reserved.calls:
                raise OptionError(
                    f"settle({reserved!r}): only {self._reserved.calls} calls are set aside; "
                    "settle what was reserved, and settle it once"
                )
            self._settled += charge
            self._give_back(given_back)
            self._serve()

    async def _wait(self, waiter: _Waiter) -> int:
        try:
            while waiter.outcome is None:
                deadline = self.deadline
                left_s = None if deadline is None else max(0.001, deadline - self._clock())
                await asyncio.wait((waiter.woken,), timeout=left_s)
                late = self._time_is_up() if waiter.outcome is None else None
                if late is not None:
                    self._withdraw(waiter)
                    raise late
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise
        if isinstance(waiter.outcome, BudgetExceededError):
            raise waiter.outcome
        return waiter.outcome

    def _withdraw(self, waiter: _Waiter) -> None:
        """Take it out of the queue, and back what it was granted while it was being cancelled."""
        with self._lock:
            if isinstance(waiter.outcome, int):
                self._give_back(waiter.need.times(waiter.outcome))
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            self._serve()

    def _take(self, need: Amount, count: int) -> int:
        granted = most_that_fit(self._caps, self._settled + self._reserved, need, count)
        if granted:
            self._reserved += need.times(granted)
        return granted

    def _give_back(self, amount: Amount) -> None:
        left = self._reserved - amount
        if left.calls == 0:
            left = NOTHING  # a price unknown for a while, or a rounding, leaves nothing behind
        elif left.nanousd is not None and left.nanousd < 0:
            left = left._replace(nanousd=0)
        self._reserved = left

    def _is_hopeless(self, need: Amount) -> bool:
        """Whether it would not fit even if all calls under way turned out to cost nothing."""
        return most_that_fit(self._caps, self._settled, need, 1) == 0

    def _serve(self) -> None:
        """Answer those who wait, in their order, as far as it goes; the lock is held."""
        while self._waiting:
            waiter = self._waiting[0]
            if not waiter.loop.is_closed():  # nobody waits in a closed loop
                granted = self._take(waiter.need, waiter.count)
                if granted:
                    waiter.outcome = granted
                elif self._is_hopeless(waiter.need):
                    waiter.outcome = self._shortage(self._settled, waiter.need)
                else:
                    return
                waiter.wake()
            self._waiting.popleft()
