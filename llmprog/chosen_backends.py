"""The backends that a program is run on, as its user chose them: one for all nodes, or some for particular nodes."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping

from llmprog.backends.accounts import Accounts
from llmprog.backends.base import Backend
from llmprog.backends.bounds import refuse_unpriced
from llmprog.backends.recording import Recorder, RecordingBackend
from llmprog.backends.registry import open_backend
from llmprog.backends.scheduler import Scheduler
from llmprog.background_loop import run_sync
from llmprog.compile import CompiledProgram
from llmprog.errors import OptionError
from llmprog.events import Event

BackendChoice = str | Backend | Mapping[str, "str | Backend"]

_opened: dict[str, Backend] = {}


def shared_backend(backend_id: str) -> Backend:
    """The backend with this id, opened once per process and closed at its end."""
    if backend_id not in _opened:
        if not _opened:
            atexit.register(_close_all)
        _opened[backend_id] = open_backend(backend_id)
    return _opened[backend_id]


def _close_all() -> None:
    for backend in _opened.values():
        run_sync(backend.aclose())
    _opened.clear()


class ChosenBackends:
    """The backends of one program, opened; any number of runs may share them.

    Args:
        compiled: The program.
        choice: An id, a ``Backend``, or either by node name with ``default`` for the rest; ``None`` where no node
            calls a model.
        recorder: Where their calls are recorded.

    Raises:
        OptionError: A node that calls a model is left without a backend, or one is named that does not exist.

    Attributes:
        label: The backend's id, or ids by node.
    """

    def __init__(
        self, compiled: CompiledProgram, choice: BackendChoice | None, recorder: Recorder | None = None
    ) -> None:
        self._recorder = recorder
        self._by_node: dict[str, Backend] = {}
        self._default: Backend | None = None
        if isinstance(choice, Mapping):
            self.label = self._open_by_node(compiled, choice)
            return
        if choice is None and compiled.prompted_nodes:
            raise OptionError(
                f"program {compiled.name!r} calls a model in {', '.join(compiled.prompted_nodes)}, "
                "but no backend was given; pass backend='local:puzzles', for one"
            )
        # A program of plain Python runs without loading a model.
        if choice is not None and compiled.model_nodes:
            self._default = self._open(choice)
        self.label = "none" if self._default is None else self._default.id

    def refuse_unpriced(self) -> None:
        """Refuse a budget in dollars if the price of one of them is unknown.

        Raises:
            OptionError: It is.
        """
        for backend in (self._default, *self._by_node.values()):
            if backend is not None:
                refuse_unpriced(backend)

    def scheduler(self, accounts: Accounts | None, on_event: Callable[[Event], None] | None, stream: bool) -> Scheduler:
        """Sends the calls of one run to them."""
        on_delta = on_event if stream else None
        return Scheduler(self._default, self._by_node, accounts=accounts, on_settled=on_event, on_delta=on_delta)

    def _open_by_node(self, compiled: CompiledProgram, choice: Mapping[str, str | Backend]) -> str:
        known = (*compiled.model_nodes, "default")
        for node in choice:
            if node not in known:
                raise OptionError.unknown(f"node in backend= for program {compiled.name!r}:", node, known)
        missing = [] if "default" in choice else [node for node in compiled.prompted_nodes if node not in choice]
        if missing:  # said before anything is paid for
            raise OptionError(
                f"backend= for program {compiled.name!r} has none for {', '.join(missing)}; add 'default'"
            )
        self._by_node = {node: self._open(item) for node, item in choice.items()}
        label = ", ".join(f"{node}={backend.id}" for node, backend in self._by_node.items())
        self._default = self._by_node.pop("default", None)
        return label

    def _open(self, item: str | Backend) -> Backend:
        if isinstance(item, str):
            item = shared_backend(item)
        elif not isinstance(item, Backend):
            raise OptionError(
                f"backend={item!r}; allowed is an id such as 'local:puzzles', a Backend, or these by node"
            )
        return item if self._recorder is None else RecordingBackend(item, self._recorder)
