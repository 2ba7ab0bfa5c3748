"""How many workers a job gets, and what each of them needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmprog.backends.registry import parse_id
from llmprog.errors import OptionError
from llmprog.jobs.ray.cluster import Cluster
from llmprog.jobs.ray.options import RayOptions
from llmprog.running.chosen_backends import BackendChoice, ChosenBackends


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Workers, and the CPUs and GPUs of each."""

    num_workers: int
    num_gpus: int
    num_cpus: int = 1

    @property
    def each(self) -> str:
        """What a worker needs, in words."""
        return f"{self.num_cpus} CPU" + (f", {self.num_gpus} GPU" if self.num_gpus else "")


def place(choice: BackendChoice | None, options: RayOptions, cluster: Cluster, backends: ChosenBackends) -> Placement:
    """Where rows are worked on: a local model has a GPU of its own where there are any, all else a CPU.

    Args:
        choice: What the program runs on.
        options: The number of workers that was asked for.
        cluster: What there is.
        backends: The same as ``choice``, opened.

    Raises:
        OptionError: There are not as many GPUs or CPUs, or calls for each worker to make one.
    """
    num_gpus = int(cluster.total("GPU") > 0 and _wants_gpu(choice))
    resource = "GPU" if num_gpus else "CPU"
    available = cluster.total(resource)
    most_in_flight = backends.max_concurrency
    wanted = options.num_workers
    if wanted is None:
        wanted = max(1, available if most_in_flight is None else min(available, most_in_flight))
    if wanted > available:
        raise OptionError(f"num_workers={wanted}: the cluster has {available} {resource}s, and each worker needs one")
    if most_in_flight is not None and wanted > most_in_flight:
        raise OptionError(
            f"num_workers={wanted}: the endpoint gets at most {most_in_flight} calls at once (max_concurrency), which "
            "are too few for each worker to make one"
        )
    return Placement(num_workers=wanted, num_gpus=num_gpus)


def _wants_gpu(choice: BackendChoice | None) -> bool:
    """Whether a model runs in the workers themselves, and not on their CPUs on purpose."""
    named = choice.values() if isinstance(choice, Mapping) else (choice,)
    for item in named:
        if isinstance(item, str):
            scheme, _, options = parse_id(item)
            if scheme == "local" and options.get("device", "auto") != "cpu":
                return True
    return False
