"""Where runs are kept: a directory with a file for each, memory, or a PostgreSQL server."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from llmprog.errors import OptionError, StoreError, UnknownRunError
from llmprog.runs import sessions
from llmprog.runs.database import BUSY_TIMEOUT_S, Database, MemoryDatabase, SqliteFile
from llmprog.runs.encoding import json_object
from llmprog.runs.info import RunInfo, new_run_id
from llmprog.runs.journal import RunJournal
from llmprog.runs.owner import LockFile, OwnerLock, is_held, locked_error
from llmprog.runs.run import Run
from llmprog.runs.schema import Connection


def default_store() -> str:
    """Where the command line keeps runs: ``LLMPROG_STORE``, else a directory among the user's data."""
    return os.environ.get("LLMPROG_STORE") or str(platformdirs.user_data_path("llmprog") / "runs")


def open_store(where: str | os.PathLike[str] | RunStore) -> RunStore:
    """The store at ``where``: a directory (made when the first run is), ``memory``, or ``postgresql://…``.

    Raises:
        OptionError: It names no place.
        StoreError: It cannot be a store.
        MissingExtraError: It needs psycopg, which is not installed.
    """
    if isinstance(where, RunStore):
        return where
    if not isinstance(where, str | os.PathLike) or not str(where):
        raise OptionError(
            f"store={where!r:.100}; allowed is a directory, 'memory', a postgresql:// URL, or an open store"
        )
    if where == "memory":
        return MemoryStore()
    if isinstance(where, str) and where.startswith(("postgresql://", "postgres://")):
        from llmprog.runs.postgres import PostgresStore

        return PostgresStore(where)
    return DirectoryStore(where)


def newest_first(runs: Iterable[Run]) -> Sequence[Run]:
    """Runs in the order in which they are listed."""
    return sorted(runs, key=lambda run: (run.created_at, run.id), reverse=True)


class RunStore(ABC):
    """Keeps runs. A run has one owner at a time; whoever else opens it reads.

    Args:
        clock: Tells the time of day, for show only.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def create(self, info: RunInfo) -> RunJournal:
        """A new run, of which this process is the owner.

        Raises:
            StoreError: It could not be written.
        """
        run_id, database, lock = self._new(info)
        with self._given_up(database, lock) as connection:
            return sessions.begin(database, connection, lock, run_id, info, self._clock)

    def resume(self, run_id: str) -> RunJournal:
        """The run with this id, of which this process becomes the owner; what had settled need not be asked again.

        Raises:
            RunLockedError: Another process is at work on it.
            StoreError: There is no such run, or it cannot be read or written.
        """
        run_id, database, lock = self._taken(run_id)
        with self._given_up(database, lock) as connection:
            return sessions.resume(database, connection, lock, run_id, self._clock)

    def fork(self, run_id: str, info: RunInfo) -> RunJournal:
        """A new run that begins with the settled calls of the one with this id, which is not changed.

        What was settled there costs the new run nothing.

        Raises:
            StoreError: There is no such run, or it cannot be read or written.
        """
        run_id = self._full_id(run_id)
        with contextlib.closing(self._existing(run_id).reader()) as old:
            old_number = sessions.number_of(old, run_id)
            new_id, database, lock = self._new(info, forked_from=run_id)
            with self._given_up(database, lock) as connection:
                return sessions.fork(database, connection, lock, new_id, info, self._clock, old, old_number)

    def find(self, key: str) -> str | None:
        """The id of the newest run whose ``RunInfo.key`` this is."""
        for run_id in self._ids():
            with contextlib.suppress(StoreError), self._open(run_id) as run:
                if run.info.key == key:
                    return run_id
        return None

    def open(self, run_id: str) -> Run:
        """The run with this id, or with the only id that begins so; read only.

        Raises:
            StoreError: There is no such run, or it cannot be read.
        """
        return self._open(self._full_id(run_id))

    def _open(self, run_id: str) -> Run:
        return Run(run_id, self._existing(run_id), functools.partial(self._is_owned, run_id))

    def list(self) -> Sequence[Run]:
        """All runs, newest first; one that cannot be read says why in ``problem``."""
        return newest_first(map(self.glance, self._ids()))

    def glance(self, run_id: str) -> Run:
        """The run with exactly this id, nothing of it held open; one that cannot be read says why in ``problem``."""
        try:
            run = self._open(run_id)
        except StoreError as error:
            run = Run.unreadable(run_id, str(error))
        run.close()
        return run

    def stamps(self) -> Mapping[str, Any]:
        """The ids of all runs, each with a value that changes when the run is written to.

        That no process is at work any more on a run under way does not change it. It is ``None`` where it cannot be
        told.

        Raises:
            StoreError: The store cannot be read.
        """
        return dict.fromkeys(self._ids())

    @abstractmethod
    def delete(self, run_id: str) -> None:
        """Remove a run.

        Raises:
            RunLockedError: A process is at work on it.
            StoreError: There is no such run, or it cannot be removed.
        """

    def size_bytes(self, run_id: str) -> int | None:
        """What a run takes on disk; ``None`` where that cannot be told."""
        return None

    def close(self) -> None:  # noqa: B027 - most stores hold nothing open
        """Let go of the store."""

    @abstractmethod
    def _ids(self) -> Sequence[str]:
        """The ids of all runs, those that sort last first."""

    @abstractmethod
    def _new(self, info: RunInfo, forked_from: str | None = None) -> tuple[str, Database, OwnerLock]:
        """A new id, where its run has been entered, and its lock, taken."""

    @abstractmethod
    def _existing(self, run_id: str) -> Database:
        """Where a run is kept."""

    @abstractmethod
    def _take(self, run_id: str) -> tuple[Database, OwnerLock] | None:
        """Where a run is kept, and its lock, taken; ``None`` where another process holds that."""

    @abstractmethod
    def _is_owned(self, run_id: str, connection: Connection, number: int) -> bool:
        """Whether a living process is at work on a run."""

    def _taken(self, run_id: str) -> tuple[str, Database, OwnerLock]:
        run_id = self._full_id(run_id)
        taken = self._take(run_id)
        if taken is None:
            owner = {}
            with contextlib.suppress(StoreError), contextlib.closing(self._existing(run_id).reader()) as reader:
                found = reader.execute("SELECT owner FROM run WHERE id = ?", (run_id,)).fetchone()
                owner = json_object(bytes(found[0])) if found and found[0] else {}
            raise locked_error(run_id, owner)
        return run_id, *taken

    @contextlib.contextmanager
    def _given_up(self, database: Database, lock: OwnerLock) -> Iterator[Connection]:
        """The writer's connection; it and the lock are let go of where the journal does not come about."""
        try:
            connection = database.writer()
        except BaseException:
            lock.release()
            raise
        try:
            yield connection
        except BaseException as error:
            database.closing(connection)
            lock.release()
            if isinstance(error, database.errors):
                raise database.failure(error) from error
            raise

    def _full_id(self, run_id: str) -> str:
        ids = self._ids()
        if run_id in ids:
            return run_id
        beginning = [known for known in ids if run_id and known.startswith(run_id)]
        if len(beginning) == 1:
            return beginning[0]
        if beginning:
            raise UnknownRunError(
                f"run {run_id!r}: {len(beginning)} runs begin so: {', '.join(beginning[:5])}; give more of the id"
            )
        near = difflib.get_close_matches(run_id, ids, n=3, cutoff=0.5) or ids[:3]
        known = f"near: {', '.join(near)}" if near else "there are no runs yet"
        raise UnknownRunError(f"run {run_id!r}: there is no such run in {self}; {known}")


class DirectoryStore(RunStore):
    """Runs in a directory: ``<id>.sqlite`` for each, and ``<id>.lock``, which its owner holds.

    The directory is to be on a local disk: locks of network file systems do not always hold.

    Args:
        directory: Made when the first run is, readable by the user alone.
        busy_timeout_s: How long to wait for a lock that another program holds on a run's file.
        clock: Tells the time of day, for show only.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock)
        self.directory = Path(directory).expanduser()
        self._busy_timeout_s = busy_timeout_s
        if self.directory.exists() and not self.directory.is_dir():
            raise StoreError(
                f"store {self.directory}: it is a file; a store is a directory, in which each run has a file of its own"
            )

    def __str__(self) -> str:
        return str(self.directory)

    def delete(self, run_id: str) -> None:
        run_id, _, lock = self._taken(run_id)
        try:
            for path in (*self._files(run_id), self._path(run_id).with_suffix(".lock")):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"run {run_id}: it cannot be deleted: {error}; see to the permissions of {self}"
            ) from error
        finally:
            lock.release()

    def size_bytes(self, run_id: str) -> int | None:
        return sum(path.stat().st_size for path in self._files(run_id) if path.exists())

    def _path(self, run_id: str) -> Path:
        return self.directory / f"{run_id}.sqlite"

    def _files(self, run_id: str) -> list[Path]:
        """The files of a run, the database itself last."""
        return [self._path(run_id).with_name(f"{run_id}.sqlite{end}") for end in ("-wal", "-shm", "-journal", "")]

    def stamps(self) -> Mapping[str, Any]:
        return {run_id: self._stamp(run_id) for run_id in self._ids()}

    def _stamp(self, run_id: str) -> Any:
        path = self._path(run_id)
        return _file_stamp(path), _file_stamp(path.with_name(f"{path.name}-wal"))

    def _ids(self) -> Sequence[str]:
        try:
            with os.scandir(self.directory) as found:
                names = [entry.name for entry in found]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"store {self}: it cannot be read: {error}") from error
        return sorted((name.removesuffix(".sqlite") for name in names if name.endswith(".sqlite")), reverse=True)

    def _new(self, info: RunInfo, forked_from: str | None = None) -> tuple[str, Database, OwnerLock]:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"store {self}: it cannot be made: {error}; choose another directory with store= or --store"
            ) from error
        while True:
            run_id = new_run_id(self._clock())
            lock = self._lock(run_id)
            if lock is not None and not self._path(run_id).exists():
                break
        database = self._existing(run_id)
        try:
            database.create(lambda new: sessions.insert_run(new, run_id, info, self._clock(), forked_from))
        except BaseException:
            lock.release()
            for path in (self._path(run_id), self._path(run_id).with_suffix(".lock")):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        return run_id, database, lock

    def _existing(self, run_id: str) -> SqliteFile:
        return SqliteFile(self._path(run_id), busy_timeout_s=self._busy_timeout_s)

    def _take(self, run_id: str) -> tuple[Database, OwnerLock] | None:
        lock = self._lock(run_id)
        return None if lock is None else (self._existing(run_id), lock)

    def _lock(self, run_id: str) -> OwnerLock | None:
        lock = LockFile(self._path(run_id).with_suffix(".lock"))
        try:
            return lock if lock.acquire() else None
        except OSError as error:
            raise StoreError(
                f"store {self}: it cannot be written to: {error}; choose another directory with store= or --store, or "
                "change its permissions"
            ) from error

    def _is_owned(self, run_id: str, connection: Connection, number: int) -> bool:
        return is_held(self._path(run_id).with_suffix(".lock"))


def _file_stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class MemoryStore(RunStore):
    """Runs in memory, as long as the store is there."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self._databases: dict[str, MemoryDatabase] = {}
        self._owned: set[str] = set()

    def __str__(self) -> str:
        return "memory"

    def delete(self, run_id: str) -> None:
        run_id, _, lock = self._taken(run_id)
        self._databases.pop(run_id).writer().execute("DELETE FROM run")  # whoever has it open learns of it
        lock.release()

    def _ids(self) -> Sequence[str]:
        return sorted(self._databases, reverse=True)

    def _new(self, info: RunInfo, forked_from: str | None = None) -> tuple[str, Database, OwnerLock]:
        while (run_id := new_run_id(self._clock())) in self._databases:
            pass
        database = self._databases[run_id] = MemoryDatabase()
        sessions.insert_run(database.writer(), run_id, info, self._clock(), forked_from)
        self._owned.add(run_id)
        return run_id, database, _MemoryLock(self._owned, run_id)

    def _existing(self, run_id: str) -> Database:
        return self._databases[run_id]

    def _take(self, run_id: str) -> tuple[Database, OwnerLock] | None:
        if run_id in self._owned:
            return None
        self._owned.add(run_id)
        return self._databases[run_id], _MemoryLock(self._owned, run_id)

    def _is_owned(self, run_id: str, connection: Connection, number: int) -> bool:
        return run_id in self._owned


class _MemoryLock:
    def __init__(self, owned: set[str], run_id: str) -> None:
        self._owned = owned
        self._run_id = run_id

    def release(self) -> None:
        self._owned.discard(self._run_id)
