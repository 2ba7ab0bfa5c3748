"""Runs on a PostgreSQL server, where several machines are to see the same ones."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llmprog.errors import MissingExtraError, StoreError
from llmprog.redaction import redact, register_secret
from llmprog.runs import sessions
from llmprog.runs.database import BUSY_TIMEOUT_S, Database, Lent, transaction
from llmprog.runs.info import RunInfo, new_run_id
from llmprog.runs.owner import OwnerLock
from llmprog.runs.schema import (
    APPLICATION_ID,
    MIGRATIONS,
    POSTGRESQL,
    TABLES,
    VERSION,
    Connection,
    Insert,
    Migration,
    create_statements,
)
from llmprog.runs.store import RunStore

_SCHEMA = "llmprog"


class PostgresStore(RunStore):
    """Runs in the schema ``llmprog`` of a PostgreSQL database.

    A run's owner holds an advisory lock of its session with the server: when the session ends, so does the lock. A
    connection pooler between them must keep sessions (PgBouncer: ``pool_mode=session``).

    Args:
        url: ``postgresql://user@host/database``; a password is better kept in ``PGPASSWORD`` or ``~/.pgpass``.
        busy_timeout_s: How long to wait for a lock that another program holds.
        clock: Tells the time of day, for show only.
        migrations: How to bring tables of each older version to the next one.
        version: The version that this program reads and writes.

    Raises:
        MissingExtraError: psycopg is not installed.
        StoreError: The URL cannot be understood.
    """

    def __init__(
        self,
        url: str,
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        clock: Callable[[], float] = time.time,
        migrations: Mapping[int, Migration] = MIGRATIONS,
        version: int = VERSION,
    ) -> None:
        super().__init__(clock)
        self._server = _Server(url, busy_timeout_s, migrations, version)

    def __str__(self) -> str:
        return self._server.name

    def delete(self, run_id: str) -> None:
        run_id, database, lock = self._taken(run_id)
        with self._given_up(database, lock) as connection:
            number = sessions.number_of(connection, run_id)
            with transaction(database, connection):
                for table in TABLES:
                    connection.execute(f"DELETE FROM {table} WHERE run = ?", (number,))  # noqa: S608 - constants only
                connection.execute("DELETE FROM run WHERE number = ?", (number,))
        lock.release()

    def close(self) -> None:
        self._server.close()

    def stamps(self) -> Mapping[str, Any]:
        with self._server.reported():
            rows = self._server.shared().execute("SELECT id, sessions, status, updated_at FROM run").fetchall()
        return {row[0]: tuple(row[1:]) for row in rows}

    def _ids(self) -> Sequence[str]:
        with self._server.reported():
            rows = self._server.shared().execute("SELECT id FROM run ORDER BY id DESC").fetchall()
        return [row[0] for row in rows]

    def _new(self, info: RunInfo, forked_from: str | None = None) -> tuple[str, Database, OwnerLock]:
        while True:
            run_id = new_run_id(self._clock())
            taken = self._take(run_id)
            if taken is None:
                continue
            database, lock = taken
            if run_id not in self._ids():
                with self._given_up(database, lock) as connection:
                    sessions.insert_run(connection, run_id, info, self._clock(), forked_from)
                return run_id, database, lock
            lock.release()

    def _existing(self, run_id: str) -> Database:
        return PostgresDatabase(self._server)

    def _take(self, run_id: str) -> tuple[Database, OwnerLock] | None:
        with self._server.reported():
            self._server.shared()  # sees to the tables
            connection = self._server.connect()
            if connection.execute("SELECT pg_try_advisory_lock(?)", (_lock_key(run_id),)).fetchone()[0]:
                return PostgresDatabase(self._server, connection), _SessionLock(connection, self._server.errors)
            connection.close()
            return None

    def _is_owned(self, run_id: str, connection: Connection, number: int) -> bool:
        key = _lock_key(run_id)
        found = connection.execute(
            "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
            "WHERE locktype = 'advisory' AND datname = current_database() AND granted AND objsubid = 1 "
            "AND classid::bigint = ? AND objid::bigint = ?",
            ((key >> 32) & 0xFFFFFFFF, key & 0xFFFFFFFF),
        )
        return found.fetchone() is not None


class PostgresDatabase:
    """A run among those of a server.

    Args:
        server: The server.
        owner: The session that holds the run's lock, for its owner: what it writes cannot outlive the lock.
    """

    begin = "BEGIN"

    def __init__(self, server: _Server, owner: Connection | None = None) -> None:
        self._server = server
        self._owner = owner
        self.errors = server.errors

    def writer(self) -> Connection:
        if self._owner is None:
            raise StoreError(f"{self._server.name}: only the owner of a run can write to it")
        return self._owner

    def reader(self) -> Connection:
        with self._server.reported():
            return Lent(self._server.shared())

    def insert(self, connection: Connection, insert: Insert, rows: Sequence[Sequence[Any]]) -> None:
        if not isinstance(connection, _Session):
            raise StoreError(f"{self._server.name}: rows are written by the session of a run's owner")
        connection.copy(insert, rows)

    def closing(self, connection: Connection) -> None:
        if connection is self._owner:
            _unlock(connection, self.errors)
        with contextlib.suppress(*self.errors):
            connection.close()

    def check(self) -> None:
        """The server vouches for what it has."""

    def failure(self, error: Exception) -> StoreError:
        return self._server.failure(error)


class _Server:
    """Connections to a server, one of them shared by all who read."""

    def __init__(self, url: str, busy_timeout_s: float, migrations: Mapping[int, Migration], version: int) -> None:
        try:
            import psycopg
            import psycopg.conninfo
        except ImportError as error:
            raise MissingExtraError("a run store on PostgreSQL", "psycopg", "postgres") from error
        self._psycopg = psycopg
        self.errors: tuple[type[Exception], ...] = (psycopg.Error, OSError, StoreError)
        try:
            parts = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.Error as error:
            raise StoreError(
                f"store 'postgresql://…': it is not as PostgreSQL writes it ({type(error).__name__}); allowed is "
                "postgresql://user@host:port/database"
            ) from None
        register_secret(str(parts.get("password") or ""))
        self._url = url
        self._options = (
            f"{parts.get('options') or ''} -c search_path={_SCHEMA} -c synchronous_commit=on "
            f"-c lock_timeout={int(busy_timeout_s * 1000)}"
        )
        self.name = f"postgresql://{parts.get('host') or 'localhost'}/{parts.get('dbname') or ''}"
        self._migrations = migrations
        self._version = version
        self._shared: _Session | None = None
        self._is_ready = False
        self._lock = threading.Lock()

    def connect(self) -> _Session:
        """A session of its own."""
        timeout = 30
        return _Session(
            self._psycopg.connect(self._url, autocommit=True, options=self._options, connect_timeout=timeout)
        )

    def shared(self) -> _Session:
        """The session of all who read, in whichever thread; it cannot write, and the tables are there."""
        with self._lock:
            if self._shared is None or self._shared.is_closed:
                session = self.connect()
                try:
                    if not self._is_ready:
                        self._prepare(session)
                    session.execute("SET default_transaction_read_only = on")
                except BaseException:
                    session.close()
                    raise
                self._shared, self._is_ready = session, True
            return self._shared

    def close(self) -> None:
        """End the shared session."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Errors of the server become those of a store."""
        try:
            yield
        except self.errors as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> StoreError:
        """What to tell the user about an error of the server."""
        if isinstance(error, StoreError):
            return error
        said = redact(" ".join(str(error).split()))[:300]
        return StoreError(
            f"store {self.name}: {said or type(error).__name__}; see whether the server is up, then resume"
        )

    def _prepare(self, connection: Connection) -> None:
        """Make the tables, or bring them up to date; two programs that do so at once do it once."""
        known = connection.execute("SELECT to_regclass(?)", (f"{_SCHEMA}.version",)).fetchone()[0]
        if known is not None and self._version_of(connection) == self._version:
            return
        connection.execute("BEGIN")
        try:
            connection.execute("SELECT pg_advisory_xact_lock(?)", (APPLICATION_ID,))
            if connection.execute("SELECT to_regclass(?)", (f"{_SCHEMA}.version",)).fetchone()[0] is None:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
                for statement in create_statements(POSTGRESQL):
                    connection.execute(statement)
                connection.execute("CREATE TABLE version (number INTEGER NOT NULL)")
                connection.execute("INSERT INTO version VALUES (?)", (self._version,))
            self._migrate(connection)
        except BaseException:
            with contextlib.suppress(*self.errors):
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _version_of(self, connection: Connection) -> int:
        return int(connection.execute("SELECT number FROM version").fetchone()[0])

    def _migrate(self, connection: Connection) -> None:
        version = self._version_of(connection)
        if version > self._version:
            raise StoreError(
                f"store {self.name}: it is of version {version}, written by a newer llmprog; this one reads up to "
                f"version {self._version}: run pip install --upgrade llmprog (nothing was changed)"
            )
        for number in range(version, self._version):
            if number not in self._migrations:
                raise StoreError(f"store {self.name}: nothing brings version {number} to version {number + 1}")
            self._migrations[number](connection)
        connection.execute("UPDATE version SET number = ?", (self._version,))


class _Session:
    """A connection of psycopg that takes the placeholders of SQLite."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def is_closed(self) -> bool:
        return bool(self._connection.closed)

    def execute(self, sql: str, parameters: Any = None, /) -> Any:
        return self._connection.execute(_placeholders(sql), parameters)

    def copy(self, insert: Insert, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows by COPY: one message to the server instead of one value at a time."""
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {insert.table} ({', '.join(insert.columns)}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(row)

    def close(self) -> None:
        self._connection.close()


class _SessionLock:
    """An advisory lock: it ends with the session, if not before."""

    def __init__(self, session: _Session, errors: tuple[type[Exception], ...]) -> None:
        self._session = session
        self._errors = errors

    def release(self) -> None:
        if not self._session.is_closed:
            _unlock(self._session, self._errors)
        self._session.close()


def _unlock(session: Connection, errors: tuple[type[Exception], ...]) -> None:
    """Let go of a session's locks by now: a server ends a session that was closed a moment later."""
    with contextlib.suppress(*errors):
        session.execute("SELECT pg_advisory_unlock_all()")


@functools.lru_cache(maxsize=512)
def _placeholders(sql: str) -> str:
    return sql.replace("?", "%s")


def _lock_key(run_id: str) -> int:
    digest = hashlib.sha256(f"llmprog run {run_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
