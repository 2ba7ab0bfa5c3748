"""Where a job's rows are worked on, if not in this process."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from llmprog.errors import MissingExtraError, OptionError
from llmprog.search.controller import is_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class RayOptions:
    """Which Ray cluster works on a job's rows, and how many of its processes.

    Attributes:
        address: Of a cluster that runs: ``auto`` for the one of this machine, ``HOST:PORT``, or ``ray://HOST:PORT``
            from outside. ``None`` starts Ray on this machine for this job, unless the program has begun it already.
        num_workers: Processes, >= 1. By default one for each CPU of the cluster; for a local model on a cluster with
            GPUs one for each GPU.

    Raises:
        OptionError: A value is not allowed.
    """

    address: str | None = None
    num_workers: int | None = None

    def __post_init__(self) -> None:
        if self.address is not None and not (isinstance(self.address, str) and self.address.strip()):
            raise OptionError(f"ray address={self.address!r}; allowed are 'auto', 'HOST:PORT' and 'ray://HOST:PORT'")
        if self.num_workers is not None and not is_whole(self.num_workers, 1):
            raise OptionError(f"num_workers={self.num_workers!r}; allowed is a whole number >= 1")


def refuse_without_ray() -> None:
    """Say that Ray is missing before anything is begun.

    Raises:
        MissingExtraError: It is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("--executor ray", "ray", "ray")
