"""The tables of a shared ledger, and what is done to them: the same in SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmprog.runs.amounts import Amount

Caps = tuple[int | None, int | None, int | None]
"""The limits of a ledger: calls, tokens, nano-dollars."""

_KINDS = ("calls", "tokens", "nanousd")


def _columns(*prefixes: str) -> str:
    return ", ".join(f"{prefix}_{kind}" for prefix in prefixes for kind in _KINDS)


# What a call costs beyond what was set aside is kept apart, as overrun: the rest obeys the limit whatever a provider
# charges.
CREATE_TABLES = (
    "CREATE TABLE llmprog_budget (name TEXT PRIMARY KEY, "
    + "".join(
        f"cap_{kind} BIGINT, settled_{kind} BIGINT{' NOT NULL' if kind != 'nanousd' else ''}, "
        f"overrun_{kind} BIGINT NOT NULL, reserved_{kind} BIGINT NOT NULL, "
        for kind in _KINDS
    )
    + ", ".join(
        f"CHECK (settled_{kind} >= 0 AND overrun_{kind} >= 0 AND reserved_{kind} >= 0), "
        f"CHECK (settled_{kind} + reserved_{kind} <= cap_{kind})"
        for kind in _KINDS
    )
    + ")",
    "CREATE TABLE llmprog_budget_holder (name TEXT NOT NULL REFERENCES llmprog_budget, id TEXT NOT NULL, "
    "host TEXT NOT NULL, pid BIGINT NOT NULL, since TEXT NOT NULL, beat BIGINT NOT NULL, "
    + "".join(f"reserved_{kind} BIGINT NOT NULL CHECK (reserved_{kind} >= 0), " for kind in _KINDS)
    + "PRIMARY KEY (name, id))",
)
TABLES = ("llmprog_budget", "llmprog_budget_holder")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has something set aside: one that is at work, or one that ended in the middle of a call.

    Attributes:
        id: Made up by the process when it opened the ledger.
        host: The machine it runs on, by its own name.
        pid: Its number there.
        since: When it opened the ledger, for show.
        beat: Grows as long as the process lives.
        reserved: What it has set aside.
    """

    id: str
    host: str
    pid: int
    since: str
    beat: int
    reserved: Amount


@dataclass(frozen=True, slots=True)
class Totals:
    """Where a ledger stands.

    Attributes:
        caps: Its limits.
        settled: What has been charged within what was set aside; dollars are ``None`` once a cost was unknown.
        overrun: What has been charged beyond.
        reserved: What is set aside.
    """

    caps: Caps
    settled: Amount
    overrun: Amount
    reserved: Amount

    @property
    def spent(self) -> Amount:
        """All that has been charged."""
        return self.settled + self.overrun


class LedgerTables:
    """One ledger in a database; every method is to be called within a transaction.

    Args:
        execute: Runs a statement with ``?`` for its parameters.
        name: Which of the database's ledgers it is.
        lock: What a ``SELECT`` ends with to keep other processes from changing the row.
    """

    def __init__(self, execute: Callable[[str, Sequence[Any]], Any], name: str, lock: str) -> None:
        self._execute = execute
        self._name = name
        self._lock = lock

    def create(self, caps: Caps) -> None:
        """Begin the ledger, unless another process has begun it."""
        zeros = ", ".join("0" for _ in range(9))
        self._execute(
            f"INSERT INTO llmprog_budget (name, {_columns('cap', 'settled', 'overrun', 'reserved')}) "  # noqa: S608 - constants only
            f"VALUES (?, ?, ?, ?, {zeros}) ON CONFLICT DO NOTHING",
            (self._name, *caps),
        )

    def totals(self) -> Totals | None:
        """Where the ledger stands; ``None`` where there is none. Nobody else changes it until the transaction ends."""
        columns = _columns("cap", "settled", "overrun", "reserved")
        found = self._execute(
            f"SELECT {columns} FROM llmprog_budget WHERE name = ?{self._lock}",  # noqa: S608 - constants only
            (self._name,),
        ).fetchone()
        if found is None:
            return None
        return Totals(tuple(found[0:3]), Amount(*found[3:6]), Amount(*found[6:9]), Amount(*found[9:12]))

    def set_caps(self, caps: Caps) -> None:
        """Give the ledger other limits."""
        self._execute(
            "UPDATE llmprog_budget SET cap_calls = ?, cap_tokens = ?, cap_nanousd = ? WHERE name = ?",
            (*caps, self._name),
        )

    def change(self, settled: Amount, overrun: Amount, reserved: Amount) -> None:
        """Add to the totals; the database itself refuses what exceeds a limit."""
        assignments = ", ".join(
            f"{prefix}_{kind} = {prefix}_{kind} + ?" for prefix in ("settled", "overrun", "reserved") for kind in _KINDS
        )
        self._execute(
            f"UPDATE llmprog_budget SET {assignments} WHERE name = ?",  # noqa: S608 - constants only
            (*settled, *overrun, *reserved, self._name),
        )

    def holders(self) -> list[Holder]:
        """Who has something set aside."""
        rows = self._execute(
            f"SELECT id, host, pid, since, beat, {_columns('reserved')} FROM llmprog_budget_holder WHERE name = ? "  # noqa: S608 - constants only
            "ORDER BY since, id",
            (self._name,),
        ).fetchall()
        return [Holder(id, host, pid, since, beat, Amount(*held)) for id, host, pid, since, beat, *held in rows]  # noqa: A001

    def hold(self, holder: Holder) -> None:
        """Write down what ``holder`` has set aside; nothing, and its row goes."""
        if not any(holder.reserved):
            self._execute("DELETE FROM llmprog_budget_holder WHERE name = ? AND id = ?", (self._name, holder.id))
            return
        assignments = ", ".join(f"{name} = excluded.{name}" for name in ("beat", *_columns("reserved").split(", ")))
        self._execute(
            f"INSERT INTO llmprog_budget_holder (name, id, host, pid, since, beat, {_columns('reserved')}) "  # noqa: S608 - constants only
            f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name, id) DO UPDATE SET {assignments}",
            (self._name, holder.id, holder.host, holder.pid, holder.since, holder.beat, *holder.reserved),
        )
