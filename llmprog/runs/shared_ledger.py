"""A budget that several processes share, on one machine or many: the ledger is kept in a file or on a server."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmprog.errors import BudgetExceededError, OptionError, StoreError
from llmprog.runs.amounts import NANO, NOTHING, Amount, caps_of, charged_amount, reserved_amount
from llmprog.runs.budget import Budget
from llmprog.runs.ledger import Ledger
from llmprog.runs.ledger_database import LedgerDatabase, ledger_database
from llmprog.runs.ledger_desk import Ask, Desk, Settlement
from llmprog.runs.ledger_tables import Caps, Holder, Totals
from llmprog.types import Usage

LEASE_S = 15.0
_HIGHEST = 2**61  # a database's whole numbers end at 2**63


class SharedLedger(Ledger):
    """A budget shared by processes; made by ``open_ledger``.

    Calls, tokens and dollars are counted over all of them, seconds and thoughts by each for itself. Any number of
    tasks, in any number of event loops and threads, may use it.

    What a process has set aside stays set aside when it is killed, since its calls may be billed.
    """

    def __init__(
        self,
        database: LedgerDatabase,
        budget: Budget,
        totals: Totals,
        *,
        elapsed_s: float,
        num_thoughts: int,
        clock: Callable[[], float],
        lease_s: float,
    ) -> None:
        super().__init__(budget, elapsed_s=elapsed_s, num_thoughts=num_thoughts, clock=clock)
        self._totals = totals
        self._num_held = 0
        self._charged = NOTHING
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._desk = Desk(database, self._shortage_in, self._look, lease_s=lease_s)

    @property
    def settled(self) -> Amount:
        """What all processes have been charged, as of this one's last look at the ledger."""
        return self._totals.spent

    @property
    def reserved(self) -> Amount:
        """What all processes have set aside, as of this one's last look at the ledger."""
        return self._totals.reserved

    @property
    def charged(self) -> Amount:
        """What this process has been charged."""
        return self._charged

    def report(self) -> dict[str, Any]:
        return super().report() | {"ledger": str(self._desk.database), "charged": self._charged.to_json()}

    async def reserve(self, each: Usage, count: int) -> int:
        need = self._need(each, count)
        self._refuse_in_fork()
        late = self._time_is_up()
        if late is not None:
            raise late
        ask = Ask(need, count)
        self._desk.submit(ask)
        answer = asyncio.wrap_future(ask.answer)
        try:
            while not answer.done():
                deadline = self.deadline
                left_s = None if deadline is None else max(0.001, deadline - self._clock())
                await asyncio.wait((answer,), timeout=left_s)
                late = None if answer.done() else self._time_is_up()
                if late is not None:
                    self._abandon(ask, answer)
                    raise late
        except asyncio.CancelledError:
            self._abandon(ask, answer)
            raise
        granted = answer.result()
        with self._lock:
            self._num_held += granted * need.calls
        return granted

    async def settle(self, reserved: Usage, actual: Usage) -> None:
        given_back, charge = reserved_amount(reserved), charged_amount(actual)
        if charge.nanousd is None and self.budget.usd is not None:
            charge = charge._replace(nanousd=given_back.nanousd)
        self._refuse_in_fork()
        with self._lock:
            if given_back.calls > self._num_held:
                raise OptionError(
                    f"settle({reserved!r}): only {self._num_held} calls are set aside by this process; "
                    "settle what was reserved, and settle it once"
                )
            self._num_held -= given_back.calls
            self._charged += charge
        settlement = Settlement(given_back, charge)
        self._desk.submit(settlement)
        # It is done whatever becomes of the task that waits for it.
        await asyncio.shield(asyncio.wrap_future(settlement.answer))

    async def aclose(self) -> None:
        """Write what was settled, and let go of the ledger; what is still set aside stays so."""
        if self._pid == os.getpid():
            await asyncio.to_thread(self._desk.close)

    def _abandon(self, ask: Ask, answer: asyncio.Future[int]) -> None:
        """Take back what was asked for, or give back what was granted meanwhile."""

        def give_back(answer: Future[int]) -> None:
            if not answer.cancelled() and answer.exception() is None:
                self._desk.submit(Settlement(ask.need.times(answer.result()), NOTHING))

        if answer.done() and not answer.cancelled():
            answer.exception()  # looked at, so that nobody complains that nobody did
        answer.cancel()
        if not ask.answer.cancel():
            ask.answer.add_done_callback(give_back)
        self._desk.wake()  # others may have waited behind it

    def _refuse_in_fork(self) -> None:
        if self._pid != os.getpid():
            raise StoreError(
                f"ledger {self._desk.database}: it was opened by process {self._pid}, of which this is a fork; "
                "open it again in this process"
            )

    def _look(self, totals: Totals) -> None:
        if totals.caps != self._totals.caps:
            self.budget = _with_caps(self.budget, totals.caps)
        self._totals = totals

    def _shortage_in(self, totals: Totals, need: Amount, lost: Amount, losers: str) -> BudgetExceededError:
        self._look(totals)
        return self._shortage(totals.spent, need, lost, losers)


async def open_ledger(
    where: str | Path,
    budget: Budget,
    *,
    elapsed_s: float = 0.0,
    num_thoughts: int = 0,
    clock: Callable[[], float] = time.monotonic,
    lease_s: float = LEASE_S,
    durable: bool = True,
) -> SharedLedger:
    """The ledger at ``where``, begun with the limits of ``budget`` if there is none yet.

    Args:
        where: A file on a disk of this machine, or ``postgresql://…``, where ``#NAME`` at the end names one of several.
        budget: The limits. For a ledger that exists, calls, tokens and dollars are what it was begun with or left out.
        elapsed_s: Seconds that earlier sessions of the run took.
        num_thoughts: Thoughts that count as made already.
        clock: Seconds on a clock that never goes back.
        lease_s: How long a process that shows no sign of life is still waited for.
        durable: Whether each change of a file is on the disk before it counts. Without it the ledger outlives killed
            processes, but may be damaged when the machine loses power.

    Raises:
        OptionError: The limits are not those of the ledger, or there is none yet and no limit is given.
        StoreError: It cannot be read or written.
        MissingExtraError: A server is named, and psycopg is not installed.
    """
    database = ledger_database(where, create=True, durable=durable)
    totals = await asyncio.to_thread(_join, database, budget)
    return SharedLedger(
        database,
        _with_caps(budget, totals.caps),
        totals,
        elapsed_s=elapsed_s,
        num_thoughts=num_thoughts,
        clock=clock,
        lease_s=lease_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerState:
    """What a shared ledger says.

    Attributes:
        caps: Its limits; ``nanousd`` counts billionths of a dollar.
        settled: What has been charged.
        overrun: What of it is beyond what had been set aside for the calls.
        reserved: What is set aside.
        holders: The processes that have set it aside, those that ended in the middle of a call among them.
    """

    caps: Caps
    settled: Amount
    overrun: Amount
    reserved: Amount
    holders: tuple[Holder, ...]


def read_ledger(where: str | Path) -> LedgerState:
    """What the ledger at ``where`` says now.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    database = ledger_database(where, create=False)
    try:
        with database.transaction() as tables:
            totals, holders = tables.totals(), tables.holders()
        if totals is None:
            raise StoreError(f"ledger {database}: it is empty")
    finally:
        database.close()
    return LedgerState(
        caps=totals.caps,
        settled=totals.spent,
        overrun=totals.overrun,
        reserved=totals.reserved,
        holders=tuple(holders),
    )


def raise_limits(where: str | Path, budget: Budget) -> None:
    """Raise those limits of the ledger at ``where`` that ``budget`` names; processes at work see it at their next call.

    Raises:
        OptionError: A limit would be lowered, or the ledger has no such limit.
        StoreError: There is no such ledger, or it cannot be written.
    """
    database = ledger_database(where, create=False)
    try:
        with database.transaction() as tables:
            totals = tables.totals()
            if totals is None:
                raise StoreError(f"ledger {database}: it is empty")
            wanted = _caps(budget)
            for name, new, old in zip(("calls", "tokens", "usd"), wanted, totals.caps, strict=True):
                if new is not None and (old is None or new < old):
                    has = "no limit" if old is None else f"the limit {old / _unit(name):.10g}"
                    raise OptionError(
                        f"ledger {database}: {name}={new / _unit(name):.10g}; it has {has}, which can only be raised"
                    )
            calls, tokens, nanousd = (old if new is None else new for new, old in zip(wanted, totals.caps, strict=True))
            tables.set_caps((calls, tokens, nanousd))
    finally:
        database.close()


def _join(database: LedgerDatabase, budget: Budget) -> Totals:
    wanted = _caps(budget)
    try:
        with database.transaction() as tables:
            totals = tables.totals()
            if totals is None:
                if wanted == (None, None, None):
                    raise OptionError(
                        f"ledger {database}: there is none yet; name a limit on calls, tokens or usd to begin it"
                    )
                tables.create(wanted)
                totals = tables.totals()
        if totals is None:
            raise StoreError(f"ledger {database}: it could not be begun")
        for name, new, old in zip(("calls", "tokens", "usd"), wanted, totals.caps, strict=True):
            if new is not None and new != old:
                has = "no such limit" if old is None else f"{name}={old / _unit(name):.10g}"
                advice = f"leave {name} out, or name another place for a ledger of its own"
                if old is not None and new > old:
                    advice = f"leave {name} out, or raise it with llmprog.runs.shared_ledger.raise_limits"
                said = f"{name}={new / _unit(name):.10g}"
                raise OptionError(f"ledger {database}: the budget says {said}, the ledger has {has}; {advice}")
    except BaseException:
        database.close()
        raise
    return totals


def _caps(budget: Budget) -> Caps:
    caps = caps_of(budget)
    for name, cap in zip(("calls", "tokens", "usd"), caps, strict=True):
        if cap is not None and cap > _HIGHEST:
            raise OptionError(
                f"budget: {name}={cap / _unit(name):.10g} is more than a shared ledger can count "
                f"({_HIGHEST // _unit(name)}); leave it out"
            )
    return caps


def _with_caps(budget: Budget, caps: Caps) -> Budget:
    calls, tokens, nanousd = caps
    usd = budget.usd if nanousd == caps_of(budget)[2] else None if nanousd is None else nanousd / NANO
    return replace(budget, calls=calls, tokens=tokens, usd=usd)


def _unit(name: str) -> int:
    return NANO if name == "usd" else 1
