"""Who is at work on a run: one process at a time, which a lock of the operating system vouches for."""

from __future__ import annotations

import datetime
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from llmprog.errors import RunLockedError

_PATIENCE_S = 0.5  # whoever looks whether a run has an owner holds the lock for an instant


class OwnerLock(Protocol):
    """The right to write to a run; it ends with the process at the latest."""

    def release(self) -> None:
        """Give it up."""
        ...


class LockFile:
    """Locks a file that is there for nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path, thread_local=False)

    def acquire(self, *, patience_s: float = _PATIENCE_S) -> bool:
        """Whether the lock could be taken."""
        try:
            self._lock.acquire(timeout=patience_s, poll_interval=0.02)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        self._lock.release()


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock of this file; it may be one that this process can only read."""
    if not path.exists():
        return False
    if sys.platform == "win32":
        lock = LockFile(path)
        if lock.acquire(patience_s=0):
            lock.release()
            return False
        return True
    import fcntl

    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def this_process() -> dict[str, Any]:
    """Who the owner is, in JSON values."""
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"pid": os.getpid(), "host": platform.node(), "since": time.time(), "command": command[:500]}


def locked_error(run_id: str, owner: Mapping[str, Any]) -> RunLockedError:
    """The error that names the owner of a run."""
    if not owner:
        return RunLockedError(f"run {run_id}: another process has just taken it; try again")
    since = datetime.datetime.fromtimestamp(owner.get("since", 0.0)).astimezone().isoformat(" ", "seconds")
    return RunLockedError(
        f"run {run_id}: process {owner.get('pid')} on {owner.get('host')} has been at work on it since {since} "
        f"({owner.get('command')}); wait for it, or stop it"
    )
