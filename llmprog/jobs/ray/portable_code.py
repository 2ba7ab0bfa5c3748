"""A program, its backends and its inputs as bytes, of which another process makes them again."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from llmprog.errors import InputError, OptionError
from llmprog.jobs.ray.messages import Setup
from llmprog.jobs.result import RowTask


class PortableCode:
    """Pickles by value what is the user's own code, so that workers need only what is installed; ``close`` ends that.

    Args:
        cloudpickle: Ray's own.
    """

    def __init__(self, cloudpickle: Any) -> None:
        self._cloudpickle = cloudpickle
        known = cloudpickle.list_registry_pickle_by_value()
        self._modules = [m for m in list(sys.modules.values()) if _is_own(m) and m.__name__ not in known]
        for module in self._modules:
            cloudpickle.register_pickle_by_value(module)

    def setup(self, setup: Setup) -> bytes:
        """What a worker needs to know, as bytes.

        Raises:
            OptionError: Something in it cannot be sent.
        """
        try:
            data: bytes = self._cloudpickle.dumps(setup)
        except Exception as error:  # what a user's objects raise when they are pickled
            raise OptionError(
                f"program {setup.compiled.name!r} or its backend cannot be sent to other processes: "
                f"{type(error).__name__}: {str(error)[:300]}; functions and values can be, open files, locks and "
                "connections cannot: make them inside the functions, and name backends by their ids"
            ) from error
        return data

    def task(self, task: RowTask) -> bytes:
        """A row's task as bytes, without its columns: a worker needs the input only.

        Raises:
            InputError: The input cannot be sent.
        """
        try:
            data: bytes = self._cloudpickle.dumps(RowTask(task.index, {}, task.input, task.gold, task.seed))
        except Exception as error:  # what a user's objects raise when they are pickled
            raise InputError(
                f"row {task.index}: its input cannot be sent to other processes: {type(error).__name__}: "
                f"{str(error)[:300]}"
            ) from error
        return data

    def close(self) -> None:
        """Leave pickling as it was."""
        for module in self._modules:
            self._cloudpickle.unregister_pickle_by_value(module)
        self._modules = []


def _is_own(module: ModuleType) -> bool:
    """Whether a module is neither of an installed package, nor of Python, nor of llmprog."""
    file = getattr(module, "__file__", None)
    if not file or module.__name__.partition(".")[0] in ("__main__", "llmprog", "ray"):
        return False
    path = Path(file)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib"))
