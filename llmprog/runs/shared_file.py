"""SQLite files that several processes write: the cache, and budgets they share.

They have a rollback journal: with it several writers are safe in every version of SQLite. With a write-ahead log they
are not, up to 3.51.2.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmprog.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFile:
    """A kind of file, and how it is opened.

    Attributes:
        what: What it is, for messages.
        application_id: Says of an SQLite file that it is of this kind.
        version: The version that this program reads and writes.
        tables: What makes the tables in an empty file.
        synchronous: How SQLite waits for the disk: ``FULL`` survives a loss of power with every change that was
            committed, ``NORMAL`` as a rule, ``OFF`` only killed processes.
    """

    what: str
    application_id: int
    version: int
    tables: Sequence[str]
    synchronous: Literal["FULL", "NORMAL", "OFF"]

    def open(self, path: Path, *, create: bool, timeout_s: float) -> sqlite3.Connection:
        """A connection, outside any transaction, that waits up to ``timeout_s`` for locks of other processes.

        Raises:
            StoreError: The file is something else, of a newer version, or missing and not to be made.
            sqlite3.Error: It cannot be read or written.
            OSError: Its directory cannot be made.
        """
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise StoreError(f"{self.what} {path}: there is no such file")
        connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute(f"PRAGMA synchronous = {self.synchronous}")
            with transaction(connection, "DEFERRED"):
                is_made = self._is_made(connection, path)
            if not is_made:
                with transaction(connection):
                    if not self._is_made(connection, path):  # another process may have been faster
                        self._make(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _make(self, connection: sqlite3.Connection) -> None:
        for statement in self.tables:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {self.application_id}")
        connection.execute(f"PRAGMA user_version = {self.version}")

    def _is_made(self, connection: sqlite3.Connection, path: Path) -> bool:
        """Whether it is a file of this kind; not yet, if it is empty."""
        schema = connection.execute("SELECT type, name FROM sqlite_schema").fetchall()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        place = f"{self.what} {path}"
        if not application and not version and not schema:
            return False
        if application != self.application_id:
            raise StoreError(f"{place}: it is an SQLite file of another application; name another file")
        if version != self.version:
            raise StoreError(
                f"{place}: it is of version {version}, this llmprog uses version {self.version}; name another file"
            )
        if mode == "wal":
            raise StoreError(
                f"{place}: another program gave it a write-ahead log, with which several writers are not safe; with "
                "all processes stopped, run: PRAGMA journal_mode = DELETE"
            )
        foreign = [f"{kind} {name!r}" for kind, name in schema if kind not in ("table", "index")]
        if foreign:
            raise StoreError(f"{place}: it has a {foreign[0]}, which llmprog never makes; name another file")
        return True


@contextlib.contextmanager
def transaction(
    connection: sqlite3.Connection, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE"
) -> Iterator[sqlite3.Connection]:
    """All statements inside take effect together, or none does."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield connection
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # the connection itself may be what failed
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
