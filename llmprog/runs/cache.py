"""The cache: completions of earlier runs, by what was asked and which sample it was."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import platformdirs

from llmprog.errors import OptionError, StoreError
from llmprog.log import Log
from llmprog.redaction import redact
from llmprog.runs.cache_file import CacheFile, Row
from llmprog.runs.encoding import completions_from_bytes, completions_to_bytes
from llmprog.types import Completion, Request, Usage

DEFAULT_MAX_BYTES = 1_000_000_000
_MAX_WAITING = (
    20_000  # requests whose completions wait to be written; beyond it the disk is too slow, and they are dropped
)
_LONGEST_FLUSH_S = 5.0
_GATHER_S = 0.2  # between two writes: each shuts other processes out for a moment
_BROKEN = (sqlite3.Error, StoreError, OSError)
_HIT = Usage(cache_hits=1)

_log = Log("llmprog.runs")


def default_cache_path() -> Path:
    """Where the cache lies unless another place is named."""
    return platformdirs.user_cache_path("llmprog") / "calls.sqlite"


class CallCache:
    """Completions of earlier runs, in one file that any number of processes may share.

    A completion is found by backend, prompt, all sampling parameters and its sample index, so the samples of a question
    stay different from each other. The seed counts where the backend honours seeds. Where it does not, a run with
    another seed finds the same completions: nothing but their index tells them apart.

    Only completions that ended by themselves or at ``max_tokens`` are kept, not those that a filter or an error ended,
    nor those that are not what ``guided`` asked for. Beyond ``max_bytes`` those not used for longest go.

    A run is not given what it has put there itself: within a run, equal questions of two nodes or two rows are draws
    of their own. A cache that is locked, damaged or no cache at all never fails a run: it says so once, and is off.

    Args:
        path: The file; it is made where there is none.
        max_bytes: Size of what is kept.
        clock: Seconds by which it is judged what was not used for longest.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes < 1:
            raise OptionError(f"CallCache(max_bytes={max_bytes!r}); allowed is a whole number of bytes >= 1")
        self._shared = _Shared(CacheFile(Path(path) if path is not None else default_cache_path(), max_bytes, clock))
        self._run = _run_mark(uuid.uuid4().hex)
        self._place = path, max_bytes

    def for_run(self, run: str) -> CallCache:
        """The same cache as one run sees it; ``run`` names it also when it is resumed."""
        view = object.__new__(CallCache)
        view._shared = self._shared
        view._run = _run_mark(run)
        view._place = self._place
        return view

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is sent to another process, which opens the file itself; to both the run is the same."""
        return _opened, (*self._place, self._run)

    def get(self, backend_id: str, honours_seed: bool, request: Request) -> dict[int, Completion]:
        """Those completions of ``request`` that earlier runs drew, by sample index (``first_sample`` counted).

        Their usage is zero, and counts one hit each.
        """
        key = _key(backend_id, honours_seed, request)
        first = request.first_sample
        found = self._shared.find(key, first, first + request.num_samples, self._run)
        return {sample: replace(completion, usage=_HIT) for sample, completion in found.items()}

    def put(self, backend_id: str, honours_seed: bool, request: Request, completions: Sequence[Completion]) -> None:
        """Keep ``completions`` of ``request``, the first of which is sample ``first_sample``; it does not wait."""
        kept = {
            request.first_sample + i: completion
            for i, completion in enumerate(completions)
            if completion.finish_reason in ("stop", "length") and completion.violation is None
        }
        if kept:
            self._shared.keep(lambda: _rows(_key(backend_id, honours_seed, request), kept, self._run))

    @property
    def is_on(self) -> bool:
        """Whether it is in use; a cache that failed once is not."""
        return self._shared.is_on

    def flush(self) -> None:
        """Wait until what was put here can be found by other runs; it takes milliseconds."""
        self._shared.flush()

    def close(self) -> None:
        """Write what waits to be written, and let go of the file; nothing is found or kept from then on."""
        self._shared.close()

    def __enter__(self) -> CallCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(path: Path | None, max_bytes: int, run: bytes) -> CallCache:
    cache = CallCache(path, max_bytes=max_bytes)
    cache._run = run
    return cache


class _Shared:
    """What all views of a cache have in common: its file, a lock around reading it, and a thread that writes it."""

    def __init__(self, file: CacheFile) -> None:
        self.is_on = True
        self._file = file
        self._pid = os.getpid()
        self._reading = threading.Lock()
        self._changed = threading.Condition()
        self._waiting: list[Callable[[], list[Row]]] = []
        self._touched: dict[tuple[bytes, int], None] = {}
        self._is_writing = False
        self._is_hurried = False  # somebody waits for what has been kept
        self._writer: threading.Thread | None = None
        self._closing = threading.Event()

    def find(self, key: bytes, first: int, end: int, run: bytes) -> dict[int, Completion]:
        if not self._usable():
            return {}
        try:
            with self._reading:
                rows = self._file.find(key, first, end, run)
            found = {sample: completions_from_bytes(answer)[0] for sample, answer, _ in rows}
        except (*_BROKEN, ValueError, TypeError, LookupError) as error:  # whatever a damaged file makes of an answer
            self._turn_off(error)
            return {}
        stale = [(key, sample) for sample, _, is_stale in rows if is_stale]
        if stale:
            with self._changed:
                self._touched.update(dict.fromkeys(stale))
                self._start()
        return found

    def keep(self, rows: Callable[[], list[Row]]) -> None:
        if not self._usable():
            return
        with self._changed:
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append(rows)
                self._start()

    def flush(self) -> None:
        if self._pid != os.getpid():
            return
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._waiting or self._is_writing) or not self.is_on, _LONGEST_FLUSH_S)
            self._is_hurried = False

    def close(self) -> None:
        self._closing.set()
        with self._changed:
            writer = self._writer
            self._changed.notify()
        if writer is not None and self._pid == os.getpid():
            writer.join()
        self.is_on = False
        with self._reading:
            self._file.close_reader()

    def _usable(self) -> bool:
        # A connection of SQLite must not be used across a fork.
        return self.is_on and not self._closing.is_set() and self._pid == os.getpid()

    def _start(self) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="llmprog-cache", daemon=True)
            self._writer.start()
        self._changed.notify()

    def _write(self) -> None:
        try:
            with self._file.writer() as write:
                while True:
                    with self._changed:
                        while not (self._waiting or self._touched or self._closing.is_set()):
                            self._changed.wait()
                        waiting, self._waiting = self._waiting, []
                        touched, self._touched = self._touched, {}
                        self._is_writing = bool(waiting)
                    if not waiting and not touched:
                        return
                    write([row for rows in waiting for row in rows()], list(touched))
                    with self._changed:
                        self._is_writing = False
                        self._changed.notify_all()
                        self._changed.wait_for(lambda: self._is_hurried or self._closing.is_set(), _GATHER_S)
        except _BROKEN as error:
            self._turn_off(error)

    def _turn_off(self, error: Exception) -> None:
        with self._changed:
            was_on, self.is_on = self.is_on, False
            self._waiting.clear()
            self._touched.clear()
            self._changed.notify_all()
        if was_on:
            _log.warning(
                "the cache is off for the rest of this run, which goes on without it",
                path=str(self._file.path),
                reason=str(error)[:300],
                advice="if it is damaged, delete the file",
            )


def _key(backend_id: str, honours_seed: bool, request: Request) -> bytes:
    if not honours_seed and request.params.seed is not None:
        request = replace(request, params=replace(request.params, seed=None))
    text = f"{redact(backend_id)}\n{request.digest()}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _rows(key: bytes, completions: dict[int, Completion], run: bytes) -> list[Row]:
    nothing = Usage()
    return [(key, i, run, completions_to_bytes([replace(c, usage=nothing)])) for i, c in completions.items()]


def _run_mark(run: str) -> bytes:
    return hashlib.sha256(run.encode("utf-8", "surrogatepass")).digest()[:8]
