"""One process's access to a shared ledger: a thread that serves its tasks in order and shows that the process lives."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from llmprog.errors import BudgetExceededError, StoreError
from llmprog.runs.amounts import NOTHING, Amount, most_that_fit
from llmprog.runs.ledger_database import LedgerDatabase
from llmprog.runs.ledger_tables import Holder, LedgerTables, Totals

_FIRST_POLL_S, _LAST_POLL_S = 0.005, 0.25
_BEATS_PER_LEASE = 3

Shortage = Callable[[Totals, Amount, Amount, str], BudgetExceededError]
"""The error for a need that does not fit beside what is spent and what is lost, and to whom."""


@dataclass(eq=False, slots=True)
class Ask:
    """A wish to set aside ``need`` for up to ``count`` completions; the answer is for how many it was."""

    need: Amount
    count: int
    answer: Future[int] = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class Settlement:
    """Something to give back and to charge."""

    given_back: Amount
    charge: Amount
    answer: Future[None] = field(default_factory=Future)


class Desk:
    """Serves the tasks of one process.

    What they ask for at the same time is done in one transaction, and answered when that is committed. Who does not get
    anything yet is tried again as soon as this process gives something back, and now and then, since others do too.

    Args:
        database: Where the ledger is.
        shortage: Makes the error for who can get nothing any more.
        note: Told where the ledger stands, whenever it was looked at.
        lease_s: A process that has not shown for so long that it lives is not waited for.
    """

    def __init__(
        self, database: LedgerDatabase, shortage: Shortage, note: Callable[[Totals], None], *, lease_s: float
    ) -> None:
        self.database = database
        self._shortage = shortage
        self._note = note
        self._lease_s = lease_s
        self._changed = threading.Condition()
        self._new: list[Ask | Settlement] = []
        self._is_woken = self._is_closing = self._is_closed = False
        self._waiting: deque[Ask] = deque()
        self._poll_s = _FIRST_POLL_S
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._me = Holder(uuid.uuid4().hex, socket.gethostname(), os.getpid(), since, 0, NOTHING)
        self._is_sure = True  # of what the ledger says this process has set aside
        self._shown_at = time.monotonic()
        self._beats: dict[str, tuple[int, float]] = {}
        self._thread = threading.Thread(target=self._run, name="llmprog-ledger", daemon=True)
        self._thread.start()

    def submit(self, item: Ask | Settlement) -> None:
        """Have it served; its ``answer`` tells when."""
        with self._changed:
            if not (self._is_closed or (self._is_closing and isinstance(item, Ask))):
                self._new.append(item)
                self._changed.notify()
                return
        _refuse([item], f"ledger {self.database}: it is closed")

    def wake(self) -> None:
        """Have those who wait looked at."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    def close(self) -> None:
        """Settle what was handed in so far, refuse who waits, and end."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed:
            with self._changed:
                if not (self._new or self._is_woken or self._is_closing):
                    self._changed.wait(self._patience_s())
                items, self._new = self._new, []
                self._is_woken = False
                self._is_closed = self._is_closing and not items
                if self._is_closing:
                    _refuse(self._waiting, f"ledger {self.database}: it was closed meanwhile")
                    self._waiting.clear()
            settlements = [item for item in items if isinstance(item, Settlement)]
            self._waiting.extend(item for item in items if isinstance(item, Ask))
            self._serve(settlements)
        self.database.close()

    def _patience_s(self) -> float | None:
        """How long to sleep if nobody asks for anything."""
        beat_s = None
        if any(self._me.reserved):
            beat_s = max(0.0, self._shown_at + self._lease_s / _BEATS_PER_LEASE - time.monotonic())
        if not self._waiting:
            return beat_s
        poll_s = self._poll_s * random.uniform(0.5, 1)
        self._poll_s = min(self._poll_s * 1.5, _LAST_POLL_S)
        return poll_s if beat_s is None else min(poll_s, beat_s)

    def _serve(self, settlements: list[Settlement]) -> None:
        """One transaction; then everybody in it has an answer, or waits for the next."""
        if not (settlements or self._waiting or any(self._me.reserved)):
            return
        waiting = deque(self._waiting)
        try:
            with self.database.transaction() as tables:
                turn = self._turn(tables)
                for settlement in settlements:
                    turn.settle(settlement)
                while waiting and self._is_served(turn, waiting[0]):
                    waiting.popleft()
                is_due = time.monotonic() - self._shown_at >= self._lease_s / _BEATS_PER_LEASE
                is_shown = turn.write(is_due)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for an answer get it
            self._is_sure = False
            for settlement in settlements:  # nobody hands them in again
                self._me = replace(self._me, reserved=_left(self._me.reserved, settlement.given_back))
            self._shown_at = time.monotonic()  # not at once again
            reason = str(error) if isinstance(error, StoreError) else f"ledger {self.database}: {error!r}"
            _refuse([*settlements, *self._waiting], reason, error)
            self._waiting.clear()
            return
        if len(waiting) < len(self._waiting) or settlements:
            self._poll_s = _FIRST_POLL_S
        self._waiting = waiting
        self._me = turn.me
        self._is_sure = True
        if is_shown:
            self._shown_at = time.monotonic()
        self._note(turn.totals)
        turn.tell(settlements)

    def _turn(self, tables: LedgerTables) -> _Turn:
        totals = tables.totals()
        if totals is None:
            raise StoreError(f"ledger {self.database}: it was deleted while it was in use")
        holders = tables.holders() if self._waiting or not self._is_sure else []
        if not self._is_sure:
            self._give_up_lost(tables, holders)
        return _Turn(tables, totals, self._me, self._dead(holders), self._shortage)

    def _give_up_lost(self, tables: LedgerTables, holders: list[Holder]) -> None:
        """After a transaction that failed, or perhaps did not: what nobody will settle stays set aside for good."""
        written = next((holder.reserved for holder in holders if holder.id == self._me.id), NOTHING)
        self._me = replace(self._me, reserved=_smaller(self._me.reserved, written))
        lost = written - self._me.reserved
        if any(lost):  # under a name that shows no sign of life, so that nobody waits for it
            tables.hold(replace(self._me, id=uuid.uuid4().hex, reserved=lost))
        tables.hold(self._me)

    def _dead(self, holders: list[Holder]) -> list[Holder]:
        """Those who have shown no sign of life for the time of a lease, on this process's own clock."""
        now = time.monotonic()
        beats = {}
        for holder in holders:
            beat, at = self._beats.get(holder.id, (None, now))
            beats[holder.id] = (holder.beat, at if beat == holder.beat else now)
        if holders:
            self._beats = beats
        return [h for h in holders if h.id != self._me.id and now - beats[h.id][1] >= self._lease_s]

    def _is_served(self, turn: _Turn, ask: Ask) -> bool:
        if ask.answer.cancelled() or turn.grant(ask):
            return True
        dead = sum((holder.reserved for holder in turn.dead), NOTHING)
        if most_that_fit(turn.totals.caps, turn.totals.spent + dead, ask.need, 1):
            return False  # those who live may yet give back enough
        who = ", ".join(f"{holder.pid} on {holder.host}" for holder in turn.dead)
        turn.refuse(ask, dead, f"processes that ended in the middle of a call ({who})")
        return True


class _Turn:
    """What one transaction does to the ledger; it counts along, and writes once."""

    def __init__(
        self, tables: LedgerTables, totals: Totals, me: Holder, dead: list[Holder], shortage: Shortage
    ) -> None:
        self.totals = totals
        self.me = me
        self.dead = dead
        self._tables = tables
        self._before = totals
        self._shortage = shortage
        self._granted: list[tuple[Ask, int]] = []
        self._refused: list[tuple[Ask, BudgetExceededError]] = []

    def settle(self, settlement: Settlement) -> None:
        held = self.me.reserved
        left = _left(held, settlement.given_back)
        back = held - left
        within = _smaller(settlement.charge, back)
        excess = settlement.charge - within
        self.totals = replace(
            self.totals,
            settled=self.totals.settled + within,
            overrun=self.totals.overrun + excess._replace(nanousd=excess.nanousd or 0),
            reserved=self.totals.reserved - back,
        )
        self.me = replace(self.me, reserved=left)

    def grant(self, ask: Ask) -> bool:
        """Whether it is dealt with, since there is room for it or it was cancelled."""
        held = self.totals.spent + self.totals.reserved
        granted = most_that_fit(self.totals.caps, held, ask.need, ask.count)
        if granted and ask.answer.set_running_or_notify_cancel():
            more = ask.need.times(granted)
            more = more._replace(nanousd=more.nanousd or 0)  # no limit on dollars asks for it where it is unknown
            self.totals = replace(self.totals, reserved=self.totals.reserved + more)
            self.me = replace(self.me, reserved=self.me.reserved + more)
            self._granted.append((ask, granted))
        return granted > 0

    def refuse(self, ask: Ask, lost: Amount, losers: str) -> None:
        if ask.answer.set_running_or_notify_cancel():
            self._refused.append((ask, self._shortage(self.totals, ask.need, lost, losers)))

    def write(self, is_due: bool) -> bool:
        """Write what has changed, or, if that is due, that this process lives; returns whether anything was written."""
        has_changed = self.totals != self._before
        if not has_changed and not (is_due and any(self.me.reserved)):
            return False
        self.me = replace(self.me, beat=self.me.beat + 1)
        if has_changed:
            before, after = self._before, self.totals
            self._tables.change(
                after.settled - before.settled, after.overrun - before.overrun, after.reserved - before.reserved
            )
        self._tables.hold(self.me)
        return True

    def tell(self, settlements: Iterable[Settlement]) -> None:
        """Give everybody their answer."""
        for settlement in settlements:
            settlement.answer.set_result(None)
        for ask, granted in self._granted:
            ask.answer.set_result(granted)
        for ask, error in self._refused:
            ask.answer.set_exception(error)


def _left(held: Amount, given_back: Amount) -> Amount:
    # With the last call everything goes back, so that no rounding stays behind.
    return (
        NOTHING
        if given_back.calls >= held.calls
        else held - _smaller(given_back._replace(nanousd=given_back.nanousd or 0), held)
    )


def _smaller(a: Amount, b: Amount) -> Amount:
    nanousd = None if a.nanousd is None or b.nanousd is None else min(a.nanousd, b.nanousd)
    return Amount(min(a.calls, b.calls), min(a.tokens, b.tokens), nanousd)


def _refuse(items: Iterable[Ask | Settlement], reason: str, cause: Exception | None = None) -> None:
    for item in items:
        if item.answer.running() or item.answer.set_running_or_notify_cancel():
            error = StoreError(reason)  # one for each: a traceback grows where an error is raised
            error.__cause__ = cause
            item.answer.set_exception(error)
