"""The backends that a program is run on, as its user chose them: one for all nodes, or some for particular nodes."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping

from llmprog.backends.accounts import Accounts
from llmprog.backends.base import Backend
from llmprog.backends.bounds import refuse_unpriced
from llmprog.backends.recording import Recorder, RecordingBackend
from llmprog.backends.registry import open_backend
from llmprog.backends.scheduler import Scheduler
from llmprog.backends.shares import AccountShare, SharingBackend
from llmprog.background_loop import run_sync
from llmprog.compile import CompiledProgram
from llmprog.errors import OptionError
from llmprog.events import Event

BackendChoice = str | Backend | Mapping[str, "str | Backend"]

_opened: dict[tuple[int, str], Backend] = {}  # by process as well: a forked one has its parent's without their threads


def shared_backend(backend_id: str) -> Backend:
    """The backend with this id, opened once per process and closed at its end."""
    key = os.getpid(), backend_id
    if key not in _opened:
        if not _opened:
            atexit.register(_close_all)
        _opened[key] = open_backend(backend_id)
    return _opened[key]


def _close_all() -> None:
    for (process, _), backend in _opened.items():
        if process == os.getpid():
            run_sync(backend.aclose())
    _opened.clear()


class ChosenBackends:
    """The backends of one program, opened; any number of runs may share them.

    Args:
        compiled: The program.
        choice: An id, a ``Backend``, or either by node name with ``default`` for the rest; ``None`` where no node
            calls a model. In a joined program, a name is that of a part (``write``), whose nodes all have the backend,
            or of a node or part within it (``write.draft``), which goes before it.
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
        self._parts: dict[str, ChosenBackends] = {}
        if isinstance(choice, Mapping):
            self._open_by_node(compiled, choice)
            self.label = self._labelled()
            return
        if choice is None and compiled.prompted_nodes:
            raise OptionError(
                f"program {compiled.name!r} calls a model in {', '.join(compiled.prompted_nodes)}, "
                "but no backend was given; pass backend='local:puzzles', for one"
            )
        # A program of plain Python runs without loading a model.
        if choice is not None and compiled.model_nodes:
            self._default = self._open(choice)
        self.label = self._labelled()

    def refuse_unpriced(self) -> None:
        """Refuse a budget in dollars if the price of one of them is unknown.

        Raises:
            OptionError: It is.
        """
        for backend in (self._default, *self._by_node.values()):
            if backend is not None:
                refuse_unpriced(backend)

    @property
    def max_concurrency(self) -> int | None:
        """Most calls in flight that each of their accounts gets; ``None`` where none is limited."""
        limits = [backend.max_concurrency for backend in self._sharing()]
        return min(limits) if limits else None

    def share_accounts(self, share: AccountShare) -> None:
        """Have them keep to a process's share of their accounts; said before the first call."""
        for backend in self._sharing():
            backend.share_account(share)

    def _sharing(self) -> list[SharingBackend]:
        opened = (self._default, *self._by_node.values())
        return [backend for backend in opened if backend is not None and isinstance(backend, SharingBackend)]

    def of_part(self, part: str) -> ChosenBackends:
        """The backends of a part of a joined program."""
        found = self._parts.get(part)
        if found is None:
            found = self._parts[part] = object.__new__(ChosenBackends)
            prefix = f"{part}."
            found._recorder = self._recorder
            found._parts = {}
            found._default = self._by_node.get(part, self._default)
            found._by_node = {
                name.removeprefix(prefix): backend for name, backend in self._by_node.items() if name.startswith(prefix)
            }
            found.label = found._labelled()
        return found

    def of_node(self, node: str, nested: CompiledProgram) -> ChosenBackends:
        """The backends of a program that ``node`` runs: the node's own is that of all its nodes.

        Raises:
            OptionError: The node has none, and the program needs one.
        """
        return ChosenBackends(nested, self._by_node.get(node, self._default))

    def scheduler(self, accounts: Accounts | None, on_event: Callable[[Event], None] | None, stream: bool) -> Scheduler:
        """Sends the calls of one run to them."""
        on_delta = on_event if stream else None
        return Scheduler(self._default, self._by_node, accounts=accounts, on_settled=on_event, on_delta=on_delta)

    def _open_by_node(self, compiled: CompiledProgram, choice: Mapping[str, str | Backend]) -> None:
        nodes = compiled.model_nodes
        parts = dict.fromkeys(part for node in nodes for part in _parts_around(node))
        known = (*parts, *nodes, "default")
        for name in choice:
            if name not in known:
                kind = "part or node" if compiled.parts else "node"
                raise OptionError.unknown(f"{kind} in backend= for program {compiled.name!r}:", name, known)
        missing = [
            node
            for node in compiled.prompted_nodes
            if not any(name in choice for name in (node, *_parts_around(node), "default"))
        ]
        if missing:  # said before anything is paid for
            raise OptionError(
                f"backend= for program {compiled.name!r} has none for {', '.join(missing)}; add 'default'"
            )
        self._by_node = {name: self._open(item) for name, item in choice.items()}
        self._default = self._by_node.pop("default", None)

    def _labelled(self) -> str:
        if not self._by_node:
            return "none" if self._default is None else self._default.id
        named = self._by_node if self._default is None else self._by_node | {"default": self._default}
        return ", ".join(f"{name}={backend.id}" for name, backend in named.items())

    def _open(self, item: str | Backend) -> Backend:
        if isinstance(item, str):
            item = shared_backend(item)
        elif not isinstance(item, Backend):
            raise OptionError(
                f"backend={item!r}; allowed is an id such as 'local:puzzles', a Backend, or these by node"
            )
        return item if self._recorder is None else RecordingBackend(item, self._recorder)


def _parts_around(node: str) -> list[str]:
    """The parts that a node of a joined program lies in, from the outermost: of ``a.b.node``, ``a`` and ``a.b``."""
    names = node.split(".")
    return [".".join(names[:i]) for i in range(1, len(names))]
