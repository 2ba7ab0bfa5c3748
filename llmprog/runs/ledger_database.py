"""Where a shared ledger is kept: an SQLite file with a rollback journal, or a PostgreSQL server."""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmprog.errors import LLMProgError, MissingExtraError, StoreError
from llmprog.redaction import redact, register_secret
from llmprog.runs.ledger_tables import CREATE_TABLES, TABLES, LedgerTables
from llmprog.runs.shared_file import SharedFile

_BUSY_TIMEOUT_S = 60.0
_POSTGRES = ("postgresql://", "postgres://")
_LOCK = 0x6C6C6D62  # "llmb": which advisory lock of a server it is
_DURABLE = SharedFile(what="ledger", application_id=_LOCK, version=1, tables=CREATE_TABLES, synchronous="FULL")


class LedgerDatabase(ABC):
    """A connection to the database of a ledger, used by one thread at a time; it is made when it is first needed."""

    def __init__(self) -> None:
        self._connection: Any = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[LedgerTables]:
        """The ledger's tables, which no other process changes meanwhile.

        Raises:
            StoreError: The database cannot be read or written; what was done inside is undone.
        """
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._begin(self._connection)
            try:
                yield self._tables(self._connection)
            except BaseException:
                with contextlib.suppress(*self.errors):  # the connection itself may be what failed
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except LLMProgError:
            raise
        except self.errors as error:
            self.close()  # the next transaction begins with a connection that is whole
            raise self._failure(error) from error

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            with contextlib.suppress(*self.errors):
                self._connection.close()
            self._connection = None

    errors: tuple[type[Exception], ...]

    @abstractmethod
    def __str__(self) -> str:
        """Where it is, without a password."""

    @abstractmethod
    def _connect(self) -> Any: ...

    @abstractmethod
    def _begin(self, connection: Any) -> None: ...

    @abstractmethod
    def _tables(self, connection: Any) -> LedgerTables: ...

    @abstractmethod
    def _failure(self, error: Exception) -> StoreError: ...


class SqliteLedger(LedgerDatabase):
    """A ledger in an SQLite file.

    Args:
        path: The file.
        create: Whether it is made where there is none.
        durable: Whether each change is on the disk before it counts. Without it the ledger outlives killed processes,
            but may be damaged when the machine loses power.
    """

    errors = (sqlite3.Error, OSError)

    def __init__(self, path: Path, *, create: bool, durable: bool) -> None:
        super().__init__()
        self._path = path
        self._create = create
        self._kind = _DURABLE if durable else replace(_DURABLE, synchronous="OFF")
        self._identity: tuple[int, int] | None = None

    def __str__(self) -> str:
        return str(self._path)

    def _connect(self) -> sqlite3.Connection:
        connection = self._kind.open(self._path, create=self._create, timeout_s=_BUSY_TIMEOUT_S)
        self._identity = self._identity or self._on_disk()
        return connection

    def _on_disk(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _begin(self, connection: Any) -> None:
        if self._on_disk() != self._identity:
            raise StoreError(
                f"ledger {self._path}: it was deleted or replaced while it was in use, so what is spent is not known "
                "any more; end all processes that use it, and begin a new one"
            )
        connection.execute("BEGIN IMMEDIATE")

    def _tables(self, connection: Any) -> LedgerTables:
        return LedgerTables(connection.execute, "budget", "")

    def _failure(self, error: Exception) -> StoreError:
        code = str(getattr(error, "sqlite_errorname", ""))
        text = f"ledger {self._path}: {error}"
        if code.startswith("SQLITE_BUSY"):
            return StoreError(f"{text} for {_BUSY_TIMEOUT_S:g} s by another program; close that program")
        if code.startswith("SQLITE_FULL"):
            return StoreError(f"{text}; make room on the disk, and go on")
        if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")) or isinstance(error, OSError):
            return StoreError(f"{text}; the file and its directory must be writable: name another place")
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return StoreError(f"{text}; it is damaged or no ledger: name another file")
        return StoreError(text)


class PostgresLedger(LedgerDatabase):
    """A ledger on a PostgreSQL server.

    Args:
        url: ``postgresql://…``; what follows ``#`` names one of several ledgers in the same database.

    Raises:
        MissingExtraError: psycopg is not installed.
        StoreError: The URL cannot be understood.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        try:
            import psycopg
            import psycopg.conninfo
        except ImportError as error:
            raise MissingExtraError("a ledger on PostgreSQL", "psycopg", "postgres") from error
        self._psycopg = psycopg
        self.errors = (psycopg.Error, OSError)
        self._url, _, name = url.partition("#")
        self._name = name or "budget"
        try:
            parts = psycopg.conninfo.conninfo_to_dict(self._url)
        except psycopg.Error as error:
            raise StoreError(
                f"ledger {url.rpartition('@')[2]!r}: it is no URL of PostgreSQL: {redact(str(error))}"
            ) from None
        register_secret(str(parts.get("password") or ""))
        self._place = f"postgresql://{parts.get('host', 'localhost')}/{parts.get('dbname', '')}#{self._name}"

    def __str__(self) -> str:
        return self._place

    def _connect(self) -> Any:
        connection = self._psycopg.connect(self._url, autocommit=True, connect_timeout=30)
        try:
            connection.execute(f"SET lock_timeout = '{_BUSY_TIMEOUT_S:g}s'")
            connection.execute("BEGIN")
            # Two processes that begin at once must not both make the tables.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            if not connection.execute("SELECT 1 FROM pg_class WHERE oid = to_regclass(%s)", (TABLES[0],)).fetchone():
                for statement in CREATE_TABLES:
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin(self, connection: Any) -> None:
        connection.execute("BEGIN")

    def _tables(self, connection: Any) -> LedgerTables:
        def execute(sql: str, parameters: Sequence[Any]) -> Any:
            return connection.execute(sql.replace("?", "%s"), parameters)

        return LedgerTables(execute, self._name, " FOR UPDATE")

    def _failure(self, error: Exception) -> StoreError:
        return StoreError(
            f"ledger {self._place}: {redact(str(error))[:500]}; see whether the server is in order, and go on"
        )


def ledger_database(where: str | Path, *, create: bool, durable: bool = True) -> LedgerDatabase:
    """The database of the ledger at a path or a ``postgresql://`` URL.

    Args:
        where: The place.
        create: Whether a file is made where there is none.
        durable: Whether each change of a file is on the disk before it counts.
    """
    if isinstance(where, str) and where.startswith(_POSTGRES):
        return PostgresLedger(where)
    return SqliteLedger(Path(where), create=create, durable=durable)
