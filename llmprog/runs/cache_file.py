"""The file of the cache: what several processes read and write, and what is dropped when it grows too large."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from llmprog.errors import StoreError
from llmprog.runs.shared_file import SharedFile, transaction

Row: TypeAlias = tuple[bytes, int, bytes, bytes]
"""Key, sample index, mark of the run, completion."""

Write: TypeAlias = Callable[[Sequence[Row], Sequence[tuple[bytes, int]]], None]
"""Keeps rows, and notes of others (key, sample index) that they were used."""

_READ_TIMEOUT_S = 1.0  # the event loop waits meanwhile
_WRITE_TIMEOUT_S = 30.0
_STALE_S = 3600  # use is noted again after this time, not at every hit
_ROW_BYTES = 120  # what a row takes beside its completion
_EVICT_AT_ONCE = 256
_LEAVE = 0.9  # of max_bytes, so that not every write evicts

_FILE = SharedFile(
    what="cache",
    application_id=0x6C6C6D63,  # "llmc"
    version=1,
    tables=(
        (
            "CREATE TABLE answer (key BLOB NOT NULL, sample INTEGER NOT NULL, run BLOB NOT NULL, "
            "used_at INTEGER NOT NULL, size INTEGER NOT NULL, completion BLOB NOT NULL, PRIMARY KEY (key, sample)) "
            "WITHOUT ROWID"
        ),
        "CREATE INDEX answer_used ON answer (used_at)",
        "CREATE TABLE total (size INTEGER NOT NULL)",
        "INSERT INTO total VALUES (0)",
    ),
    synchronous="NORMAL",
)


class CacheFile:
    """The file as it is read and written.

    Args:
        path: The file.
        max_bytes: Size of what is kept.
        clock: Seconds by which it is judged what was not used for longest.
    """

    def __init__(self, path: Path, max_bytes: int, clock: Callable[[], float]) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._reader: sqlite3.Connection | None = None

    def find(self, key: bytes, first: int, end: int, run: bytes) -> list[tuple[int, bytes, bool]]:
        """Samples ``first`` to ``end`` that other runs than ``run`` put there, and whether to note their use again."""
        if self._reader is None:
            self._reader = _FILE.open(self.path, create=True, timeout_s=_READ_TIMEOUT_S)
        rows = self._reader.execute(
            "SELECT sample, CAST(completion AS BLOB), used_at FROM answer "
            "WHERE key = ? AND sample >= ? AND sample < ? AND run <> ?",
            (key, first, end, run),
        ).fetchall()
        stale = self._clock() - _STALE_S
        return [(sample, completion, used_at <= stale) for sample, completion, used_at in rows]

    def close_reader(self) -> None:
        """Let go of the connection that ``find`` uses."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    @contextlib.contextmanager
    def writer(self) -> Iterator[Write]:
        """A function that writes, for one thread."""
        connection = _FILE.open(self.path, create=True, timeout_s=_WRITE_TIMEOUT_S)

        def write(rows: Sequence[Row], used: Sequence[tuple[bytes, int]]) -> None:
            with transaction(connection):
                self._keep(connection, rows)
                now = int(self._clock())
                connection.executemany("UPDATE answer SET used_at = ? WHERE key = ? AND sample = ?", _with(now, used))
                self._evict(connection)

        with contextlib.closing(connection):
            yield write

    def _keep(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        now, added = int(self._clock()), 0
        for key, sample, run, completion in rows:
            size = len(completion) + _ROW_BYTES
            if size > self._max_bytes:
                continue
            # The first to come stays: whoever saw it may see it again.
            done = connection.execute(
                "INSERT INTO answer VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (key, sample, run, now, size, completion),
            )
            added += size * done.rowcount
        if added:
            connection.execute("UPDATE total SET size = size + ?", (added,))

    def _evict(self, connection: sqlite3.Connection) -> None:
        (size,) = connection.execute("SELECT size FROM total").fetchone()
        if size <= self._max_bytes:
            return
        while size > self._max_bytes * _LEAVE:
            oldest = connection.execute(
                "SELECT key, sample, size FROM answer ORDER BY used_at LIMIT ?", (_EVICT_AT_ONCE,)
            ).fetchall()
            if not oldest:
                break
            for key, sample, freed in oldest:
                if size <= self._max_bytes * _LEAVE:
                    break
                connection.execute("DELETE FROM answer WHERE key = ? AND sample = ?", (key, sample))
                size -= freed
        connection.execute("UPDATE total SET size = ?", (size,))


def _with(now: int, used: Sequence[tuple[bytes, int]]) -> Iterator[tuple[int, bytes, int]]:
    for key, sample in used:
        yield now, key, sample


def cache_size_bytes(path: Path) -> int:
    """What the cache takes on disk; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def empty_cache(path: Path) -> None:
    """Forget all completions of a cache, which other processes may be using.

    Raises:
        StoreError: It is no cache, or it cannot be written.
    """
    try:
        with contextlib.closing(_FILE.open(path, create=True, timeout_s=_WRITE_TIMEOUT_S)) as connection:
            with transaction(connection):
                connection.execute("DELETE FROM answer")
                connection.execute("UPDATE total SET size = 0")
            connection.execute("VACUUM")
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"the cache {path} cannot be emptied: {error}; if it is damaged, delete the file") from error
