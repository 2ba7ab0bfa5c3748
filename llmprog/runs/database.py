"""Where one run is kept: an SQLite file, or memory.

A file has one writer, its owner; whoever else looks at it reads. Two writers would not only have to wait for each
other: SQLite up to 3.51.2 can lose a write when two reset its write-ahead log at once.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmprog.errors import StoreError
from llmprog.runs.schema import (
    APPLICATION_ID,
    MIGRATIONS,
    SQLITE,
    VERSION,
    Connection,
    Insert,
    Migration,
    create_statements,
    insert_sql,
)

_MAX_ROWS = 128
BUSY_TIMEOUT_S = 120.0  # how long another program may hold a lock on a run's file


class Database(Protocol):
    """Where one run is kept, as the journal sees it."""

    begin: str
    errors: tuple[type[Exception], ...]

    def writer(self) -> Connection:
        """The connection of the run's owner; an older file is brought up to date."""
        ...

    def reader(self) -> Connection:
        """A connection that only reads."""
        ...

    def insert(self, connection: Connection, insert: Insert, rows: Sequence[Sequence[Any]]) -> None:
        """Insert ``rows``, all of them in few statements."""
        ...

    def closing(self, connection: Connection) -> None:
        """Close the writer's connection."""
        ...

    def check(self) -> None:
        """Make sure that what was written is still where it can be found.

        Raises:
            StoreError: The file is gone.
        """
        ...

    def failure(self, error: Exception) -> StoreError:
        """What to tell the user about an error of the database."""
        ...


@contextlib.contextmanager
def transaction(database: Database, connection: Connection) -> Iterator[None]:
    """All statements inside take effect together, or none does."""
    connection.execute(database.begin)
    try:
        yield
    except BaseException:
        with contextlib.suppress(*database.errors):  # the connection itself may be what failed
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _insert_in_few_statements(connection: Connection, insert: Insert, rows: Sequence[Sequence[Any]]) -> None:
    """Insert ``rows`` by statements of many rows each.

    Whenever a thread executes a statement it lets the others run; row by row, one that writes would wait its turn
    against a busy event loop once for every row. Sizes are powers of two: so there are few statements to prepare.
    """
    size, done = _MAX_ROWS, 0
    while done < len(rows):
        while size > len(rows) - done:
            size //= 2
        connection.execute(insert_sql(insert, size), [value for row in rows[done : done + size] for value in row])
        done += size


class _DamagedError(sqlite3.DatabaseError):
    """What SQLite's own check of a file has found."""


class SqliteFile:
    """A run in a file of its own.

    Args:
        path: The file.
        busy_timeout_s: How long to wait for a lock that another program holds.
        migrations: How to bring a file of each older version to the next one.
        version: The version that this program reads and writes.
    """

    begin = "BEGIN IMMEDIATE"
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError, StoreError)

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        migrations: Mapping[int, Migration] = MIGRATIONS,
        version: int = VERSION,
    ) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._migrations = migrations
        self._version = version
        self._wal = Path(f"{path}-wal")
        self._identity: tuple[int, int] | None = None
        self._wal_seen: tuple[int, int] | None = None
        self._wal_size = 0

    def create(self, enter: Callable[[Connection], None]) -> None:
        """Make the file, its tables, and the run in them: all of it or, where that fails, nothing that can be read.

        Args:
            enter: Enters the run. It is in the file itself then, which is there even if a write-ahead log is lost.

        Raises:
            StoreError: It could not be written.
        """
        with self._reported(), contextlib.closing(self._connect("rwc")) as connection:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            with transaction(self, connection):
                for statement in create_statements(SQLITE):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {self._version}")
                enter(connection)

    def writer(self) -> Connection:
        self._must_exist()
        with self._reported():
            connection = self._connect("rw")
            try:
                self._refuse_foreign(connection)
                self._refuse_damaged(connection)
                self._migrate(connection)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
            except BaseException:
                connection.close()
                raise
        status = self.path.stat()
        self._identity = (status.st_dev, status.st_ino)
        self._wal_seen = None
        self._wal_size = 0
        return connection

    def reader(self) -> Connection:
        self._must_exist()
        with self._reported():
            connection = self._connect("ro")
            try:
                try:
                    self._refuse_foreign(connection)
                except sqlite3.OperationalError:
                    if self._wal.exists() and self._wal.stat().st_size:
                        raise
                    # A read-only directory has no room for the index of a write-ahead log, and this file needs none.
                    connection.close()
                    connection = self._connect("ro&immutable=1")
                    self._refuse_foreign(connection)
                version = self._version_of(connection)
                if version < self._version:
                    raise StoreError(
                        f"run file {self.path}: it is of version {version}, this llmprog reads version "
                        f"{self._version}; resume the run once, which brings it up to date"
                    )
            except BaseException:
                connection.close()
                raise
        return connection

    def insert(self, connection: Connection, insert: Insert, rows: Sequence[Sequence[Any]]) -> None:
        _insert_in_few_statements(connection, insert, rows)

    def closing(self, connection: Connection) -> None:
        """Close the writer's connection and leave one file, without its write-ahead log where nobody reads it."""
        with contextlib.suppress(*self.errors):
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("PRAGMA journal_mode = DELETE")
        with contextlib.suppress(*self.errors):
            connection.close()

    def check(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            raise StoreError(
                f"run file {self.path}: it was deleted or replaced while the run was under way, so nothing more can be "
                "kept; begin the run anew"
            )
        try:
            log = self._wal.stat()
        except FileNotFoundError:
            if self._wal_seen is None:
                return
            log = None
        if (
            log is None
            or (self._wal_seen and (log.st_dev, log.st_ino) != self._wal_seen)
            or log.st_size < self._wal_size
        ):
            raise StoreError(
                f"run file {self.path}: its write-ahead log {self._wal.name} was deleted or cut off by another program "
                "while the run was under way; resume the run: what is lost of it is asked again"
            )
        self._wal_seen = (log.st_dev, log.st_ino)
        self._wal_size = log.st_size

    def failure(self, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return error
        code = getattr(error, "sqlite_errorname", "") or ""
        text = f"run file {self.path}: {str(error)[:300]}"
        if code.startswith("SQLITE_FULL") or getattr(error, "errno", None) == errno.ENOSPC:
            text += "; the disk is full: make room and resume the run"
        elif code.startswith("SQLITE_BUSY"):
            text += f" for {self._busy_timeout_s:g} s by another program; close that program and resume the run"
        elif code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")) or isinstance(error, PermissionError):
            text += (
                f"; the directory must be writable: choose another with store= or --store, or change {self.path.parent}"
            )
        elif code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or isinstance(error, _DamagedError):
            text += "; the file is damaged: restore it from a copy, or delete it and begin the run anew"
        else:
            text += "; see whether the disk is in order, then resume the run"
        return StoreError(text)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except self.errors as error:
            raise self.failure(error) from error

    def _must_exist(self) -> None:
        if not self.path.is_file():
            raise StoreError(f"run file {self.path}: there is no such file")
        if self.path.stat().st_size == 0:
            raise StoreError(f"run file {self.path}: it is empty, its creation was interrupted; delete it")

    def _connect(self, mode: str) -> sqlite3.Connection:
        # as_uri() quotes what would end the path: "?", "#", "%".
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            factory=_ClosedWhenGone,
        )
        connection.execute("PRAGMA trusted_schema = OFF")
        if mode.startswith("ro"):
            connection.execute("PRAGMA query_only = ON")  # besides: what it attaches would not be read only by itself
        return connection

    def _version_of(self, connection: Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    def _refuse_foreign(self, connection: Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        if application != APPLICATION_ID:
            raise StoreError(f"run file {self.path}: it is an SQLite file of another application, not a run of llmprog")
        version = self._version_of(connection)
        if version > self._version:
            raise StoreError(
                f"run file {self.path}: it is of version {version}, written by a newer llmprog; this one reads up to "
                f"version {self._version}: run pip install --upgrade llmprog (the file was not changed)"
            )
        if version < 1:
            raise StoreError(f"run file {self.path}: it has no version, its creation was interrupted; delete it")
        foreign = connection.execute(
            "SELECT type, name FROM sqlite_master WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%'"
        ).fetchall()
        if foreign:
            raise StoreError(
                f"run file {self.path}: it has a {foreign[0][0]} named {foreign[0][1]!r}, which llmprog never makes "
                "and which could run statements of its own; take it for hostile and delete it"
            )

    def _refuse_damaged(self, connection: Connection) -> None:
        """A damaged page is found now, not by the call that needs it."""
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _DamagedError(found)

    def _migrate(self, connection: Connection) -> None:
        while (version := self._version_of(connection)) < self._version:
            migration = self._migrations.get(version)
            if migration is None:
                raise StoreError(
                    f"run file {self.path}: nothing brings version {version} to version {self._version}; use the "
                    "llmprog that wrote it"
                )
            with transaction(self, connection):
                migration(connection)
                connection.execute(f"PRAGMA user_version = {version + 1}")


class _ClosedWhenGone(sqlite3.Connection):
    """A connection that closes when nobody has it any more, as files do; Python 3.13 warns of others."""

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.ProgrammingError):  # it was never opened
            self.close()


class MemoryDatabase:
    """A run that is kept as long as its store is open: one connection, which reads and writes."""

    begin = SqliteFile.begin
    errors = SqliteFile.errors

    def __init__(self) -> None:
        # Several threads use it. From the cache two of them would be given one statement: from Python 3.12 on it is
        # taken for free as soon as SQLite has come to its end, before who executed it knows.
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, cached_statements=0, factory=_ClosedWhenGone
        )
        for statement in create_statements(SQLITE):
            self._connection.execute(statement)

    def writer(self) -> Connection:
        return self._connection

    def reader(self) -> Connection:
        return Lent(self._connection)

    def insert(self, connection: Connection, insert: Insert, rows: Sequence[Sequence[Any]]) -> None:
        _insert_in_few_statements(connection, insert, rows)

    def closing(self, connection: Connection) -> None:
        """The connection is the run: it stays."""

    def check(self) -> None:
        """Memory is not deleted by others."""

    def failure(self, error: Exception) -> StoreError:
        return error if isinstance(error, StoreError) else StoreError(f"a run in memory: {error}")


class Lent:
    """A connection that whoever has it must not close."""

    def __init__(self, connection: Connection) -> None:
        self.execute = connection.execute

    def close(self) -> None:
        """Leave it open."""
