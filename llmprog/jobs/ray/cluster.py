"""Ray itself: begun on this machine for one job, or joined where it runs."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmprog.errors import LLMProgError, OptionError
from llmprog.jobs.ray.options import RayOptions

_OBJECT_STORE_BYTES = 256 * 1024 * 1024  # batches pass through it where they are large; 30 % of memory by default

# Read by Ray when it is imported; what the user has set stays.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what Ray would print to stdout, which is for results, matches this
}
# A Ray of one job listens to this machine only: who can reach its ports can run code in it. The name of the variable
# comes from the systems on which that is the default.
_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


_MOST_REMOVALS = 20
_BETWEEN_REMOVALS_S = 0.1

_one_at_a_time = threading.Lock()  # a process has one connection to Ray: the next is made when the last has ended


@contextmanager
def _own_termination() -> Iterator[None]:
    """Have a request to terminate handled as before: Ray's handler shows a stack and aborts the process 3 s later.

    Python lets the main thread alone set handlers, by ``signal.signal``; what is below that works in any.
    """
    api = ctypes.pythonapi
    api.PyOS_getsig.restype, api.PyOS_setsig.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    before = api.PyOS_getsig(signal.SIGTERM)
    try:
        yield
    finally:
        api.PyOS_setsig(signal.SIGTERM, before)


@dataclass(slots=True)
class Cluster:
    """A connection to Ray; ``close`` ends it, and Ray where it was begun for this.

    Attributes:
        ray: The package.
        directory: Where a Ray that was begun for this keeps its files; ``None`` for another's.
    """

    ray: Any
    directory: str | None
    is_ours: bool

    @classmethod
    def open(cls, options: RayOptions) -> Cluster:
        """Begin Ray on this machine, or join the one at ``options.address``; takes seconds.

        Raises:
            OptionError: There is none at that address.
            LLMProgError: It could not be begun.
        """
        with _one_at_a_time, _own_termination():
            return cls._open(options)

    @classmethod
    def _open(cls, options: RayOptions) -> Cluster:
        for name, value in (_QUIET if options.address is not None else _QUIET | _ON_LOOPBACK).items():
            os.environ.setdefault(name, value)
        ray = importlib.import_module("ray")
        if ray.is_initialized():
            return cls(ray, None, is_ours=False)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        logging.getLogger("ray").setLevel(logging.ERROR)
        if options.address is not None:
            try:
                ray.init(options.address, **quiet)
            except ImportError as error:  # ray:// needs more than Ray's core
                raise OptionError(
                    f"ray address {options.address!r}: {error}; run: pip install 'ray[client]'"
                ) from error
            except Exception as error:  # Ray raises errors of many kinds
                raise OptionError(
                    f"ray address {options.address!r}: {type(error).__name__}: {str(error)[:300]}; is Ray running "
                    "there (ray start --head), in the same version?"
                ) from error
            return cls(ray, None, is_ours=True)
        directory = tempfile.mkdtemp(prefix="llmprog-ray-")
        try:
            ray.init(
                "local",
                num_cpus=max(options.num_workers or 1, os.cpu_count() or 1),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=directory,
                _system_config={"worker_niceness": 0},  # by default workers yield to all else on the machine
                **quiet,
            )
        except Exception as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise LLMProgError(
                f"Ray cannot be begun on this machine: {type(error).__name__}: {str(error)[:500]}; use "
                "--executor local, or join a cluster by its address"
            ) from error
        return cls(ray, directory, is_ours=True)

    def total(self, resource: str) -> int:
        """How many CPUs or GPUs the cluster has."""
        return int(self.ray.cluster_resources().get(resource, 0))

    def close(self) -> None:
        """End the connection, and Ray where it was begun for this; takes a second or two."""
        with _one_at_a_time:
            if self.is_ours:
                self.ray.shutdown()
            for _ in range(_MOST_REMOVALS):
                if self.directory is not None and Path(self.directory).exists():
                    shutil.rmtree(self.directory, ignore_errors=True)
                    time.sleep(_BETWEEN_REMOVALS_S)  # its last processes may still write
