"""What is served: backends and programs, by the names that requests give as ``model``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qsl

from llmprog.backends.base import Backend
from llmprog.backends.bounds import PricedBackend
from llmprog.backends.registry import open_backend
from llmprog.compile import compile_program
from llmprog.errors import OptionError
from llmprog.program import Program
from llmprog.programs.catalog import find, names, parse_setting
from llmprog.redaction import redact
from llmprog.serving.faults import RequestError

PROGRAM_PREFIX = "program:"
_NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedBackend:
    """A backend that is called as it is.

    Attributes:
        name: What requests call it.
        backend: It.
    """

    name: str
    backend: Backend


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedProgram:
    """A program, and the backend that it is run on.

    Attributes:
        name: What requests call it.
        program: It.
        backend: What it runs on.
    """

    name: str
    program: Program
    backend: Backend


class Catalog:
    """Everything that is served.

    ``program:NAME`` runs on the first backend, ``program:NAME@BACKEND`` on the one called ``BACKEND``.

    Args:
        backends: By name, the first being that of programs.
        programs: By name, without ``program:``; ``None`` serves all of ``llmprog list``, each made with its defaults
            when it is first asked for.
    """

    def __init__(self, backends: Mapping[str, Backend], programs: Mapping[str, Program] | None = None) -> None:
        self.backends = backends
        self._made = dict(programs or {})
        self._names = tuple(names() if programs is None else programs)

    def find(self, model: str) -> ServedBackend | ServedProgram:
        """What a request calls ``model``.

        Raises:
            RequestError: Nothing that is served.
            LLMProgError: The program cannot be made.
        """
        if not model.startswith(PROGRAM_PREFIX):
            if model in self.backends:
                return ServedBackend(name=model, backend=self.backends[model])
            raise self._unknown(model)
        name = model.removeprefix(PROGRAM_PREFIX)
        on = next(iter(self.backends))
        if name not in self._names:
            name, _, on = name.partition("@")
        if name not in self._names or on not in self.backends:
            raise self._unknown(model)
        return ServedProgram(name=model, program=self._program(name), backend=self.backends[on])

    def names(self) -> list[str]:
        """The names of all backends, and of all programs on the first of them."""
        return [*self.backends, *(PROGRAM_PREFIX + name for name in self._names)]

    def describe(self, model: str) -> dict[str, Any]:
        """What ``/v1/models`` says of a name beside the name."""
        if model.startswith(PROGRAM_PREFIX):
            return {"kind": "program", "backend": next(iter(self.backends))}
        can = self.backends[model].capabilities
        capabilities = asdict(can) | {"guided": sorted(can.guided)}
        return {"kind": "backend", "backend": redact(self.backends[model].id), "capabilities": capabilities}

    def _program(self, name: str) -> Program:
        if name not in self._made:
            self._made[name] = find(name).build()
        return self._made[name]

    def _unknown(self, model: str) -> RequestError:
        return RequestError(
            f"unknown model {model[:100]!r}; served: {', '.join(self.names())}; a program runs on another backend as "
            "program:NAME@BACKEND",
            status=404,
            code="model_not_found",
            param="model",
        )


def backends_of(ids: Iterable[str]) -> dict[str, Backend]:
    """The backends with these ids, opened, by the names they are served under.

    An id is its own name; ``NAME=ID`` gives it another, for clients that cannot write ``?`` in one.

    Raises:
        OptionError: A name is given twice, or an id or one of its options is unknown.
        BackendError: One cannot be opened.
    """
    found: dict[str, str] = {}
    for text in ids:
        name, backend_id = named(text)
        if name in found:
            raise OptionError(
                f"--backend {text!r}: {name!r} is served already; give it another name: NAME={backend_id}"
            )
        if name.startswith(PROGRAM_PREFIX):
            raise OptionError(f"--backend {text!r}: names that begin with {PROGRAM_PREFIX!r} are programs'")
        found[name] = backend_id
    if not found:
        raise OptionError("no backend is to be served; give one, such as --backend local:puzzles")
    return {name: open_backend(backend_id) for name, backend_id in found.items()}


def programs_of(texts: Sequence[str], trust: Sequence[str] = ()) -> dict[str, Program]:
    """Programs by the names they are served under.

    Args:
        texts: ``PROGRAM``, ``PROGRAM?KEY=VALUE&…`` or ``NAME=PROGRAM?…`` each.
        trust: Modules whose functions program files may name.

    Raises:
        OptionError: A program or one of its parameters is unknown, or a name is given twice.
        DeclarationError: A program has faults.
    """
    programs: dict[str, Program] = {}
    for text in texts:
        name, place = named(text)
        if name in programs:
            raise OptionError(f"--program {text!r}: {name!r} is served already; give it another name: NAME={place}")
        path, _, query = place.partition("?")
        entry = find(path, trust=trust)
        settings: dict[str, Any] = {}
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in entry.parameters:
                raise OptionError.unknown(f"parameter of program {path!r}", key, entry.parameters)
            settings[key] = parse_setting(entry.parameters[key], value)
        programs[name] = entry.build(**settings)
        compile_program(programs[name])  # its faults are the operator's, not a client's
    return programs


def named(text: str) -> tuple[str, str]:
    """Name and place in ``NAME=PLACE``; of a place alone, itself twice."""
    found = _NAMED.fullmatch(text)
    return (text, text) if found is None else (found[1], found[2])


def may_cost(backend: Backend) -> bool:
    """Whether calls of ``backend`` may cost money."""
    return not isinstance(backend, PricedBackend) or backend.most_usd(1_000_000, 1_000_000) != 0
