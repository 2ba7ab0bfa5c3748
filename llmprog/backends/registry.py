"""Backends by id: ``local:puzzles?decoder=hybrid``.

An id is ``scheme:name?option=value&…``. Schemes are registered through the entry-point group
``llmprog.backends``; each entry point is a module (or object) with the functions of ``BackendModule``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Protocol, cast
from urllib.parse import parse_qsl, urlencode

from llmprog.backends.base import Backend
from llmprog.errors import OptionError, meant

GROUP = "llmprog.backends"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendInfo:
    """A line of ``llmprog list``.

    Attributes:
        id: A backend id; words in capitals, such as MODEL, stand for what the user fills in.
        summary: What it is.
        missing: What is missing to use it; empty if nothing.
        probe: A short prompt it can answer, to try it with.
    """

    id: str
    summary: str
    missing: str = ""
    probe: str = "Reply with the word ready."


class BackendModule(Protocol):
    """What an entry point of the group ``llmprog.backends`` provides."""

    def open_backend(self, name: str, options: Mapping[str, str]) -> Backend:
        """Open the backend called ``name``; unknown or bad options are an ``OptionError``."""
        ...

    def describe_options(self) -> Mapping[str, str]:
        """Option names with one line of help each."""
        ...

    def list_backends(self) -> Sequence[BackendInfo]:
        """What can be opened, and what is missing."""
        ...


def schemes() -> dict[str, metadata.EntryPoint]:
    """The registered schemes."""
    return {entry.name: entry for entry in metadata.entry_points(group=GROUP)}


def module_of(scheme: str) -> BackendModule:
    """The module that serves a scheme.

    Raises:
        OptionError: No such scheme is registered.
    """
    known = schemes()
    if scheme not in known:
        raise _unknown(scheme)
    return cast("BackendModule", known[scheme].load())


def parse_id(backend_id: str) -> tuple[str, str, dict[str, str]]:
    """Scheme, name and options of an id."""
    scheme, colon, rest = backend_id.partition(":")
    if not scheme or not colon or not rest:
        raise _unknown(backend_id)
    name, _, query = rest.partition("?")
    return scheme, name, dict(parse_qsl(query, keep_blank_values=True))


def with_options(backend_id: str, options: Mapping[str, str]) -> str:
    """The id with ``options`` added; they win over those already in it."""
    _, _, in_id = parse_id(backend_id)
    query = urlencode({**in_id, **options})
    return backend_id.partition("?")[0] + (f"?{query}" if query else "")


def describe_options(backend_id: str) -> Mapping[str, str]:
    """The options that the scheme of this id understands."""
    return module_of(parse_id(backend_id)[0]).describe_options()


def open_backend(backend_id: str) -> Backend:
    """Open a backend by id.

    Raises:
        OptionError: The scheme, the name or an option is unknown.
        MissingExtraError: A package is missing.
        ModelFileError: Its files are malformed.
    """
    scheme, name, options = parse_id(backend_id)
    return module_of(scheme).open_backend(name, options)


def _unknown(what: str) -> OptionError:
    names = ", ".join(f"{name}:…" for name in sorted(schemes())) or "none"
    return OptionError(f"unknown backend {what!r}{meant(what, schemes())}; known: {names}; see `llmprog list`")
