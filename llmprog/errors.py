"""Every error llmprog raises on purpose, in one tree.

::

    LLMProgError
    ├── DeclarationError      a node, controller or program is declared wrongly
    │   ├── CompileError      all faults of one program, reported together (``.faults``)
    │   └── SpecError         all faults of a program file, with their lines and columns (``.faults``)
    ├── InputError            what the user handed to a program cannot be used
    ├── OptionError           an option or parameter has an unknown name or a bad value
    ├── MissingExtraError     a feature needs a package that is not installed
    ├── NodeError             a node's own function raised (``.node``; the cause is chained)
    ├── BudgetExceededError   the budget does not allow the next call
    ├── StoreError            a run store cannot be read or written
    │   ├── UnknownRunError       there is no run with this id
    │   ├── RunLockedError        another process is at work on the run
    │   └── ProgramChangedError   a run cannot be resumed, since its program is another now
    └── BackendError              a model call failed (``.backend``, ``.status``, ``.retryable``, ``.retry_after_s``)
        ├── CapabilityError       the backend cannot do what was asked
        ├── ModelFileError        weights or tokenizer files are missing or malformed
        ├── ReplayMissError       a recording does not hold the request
        ├── ConnectionFailedError no connection, a broken one, or a timeout (``.possibly_billed``)
        ├── TruncatedStreamError  a reply ended before it was complete
        ├── BadResponseError      an answer that is no reply: HTML, an empty body, too large, a redirect
        ├── RequestRefusedError   the endpoint will not serve this request (400, 404, 413, 422 …)
        ├── AuthenticationError   no key, or one that is not accepted
        ├── RateLimitError        too many requests; the same call may succeed later
        ├── QuotaError            the account's credit or quota is spent
        └── EndpointDownError     the endpoint fails so often that it is left alone for a while

Messages say what failed, the offending value, what is allowed and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class LLMProgError(Exception):
    """The root of every error that llmprog raises on purpose.

    Attributes:
        partial: The ``Result`` so far, where a run was under way; nothing already paid for is lost.
    """

    partial: object | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """How it is sent to another process: without ``partial``, which may hold anything."""
        details = {name: value for name, value in self.__dict__.items() if name != "partial"}
        return restored, (type(self), self.args), details


def restored(kind: type[LLMProgError], args: tuple[Any, ...]) -> LLMProgError:
    """The error that another process has sent, without its details."""
    error = kind.__new__(kind)
    error.args = args
    return error


class DeclarationError(LLMProgError):
    """A node, controller or program is declared wrongly."""


class CompileError(DeclarationError):
    """A program has faults; ``faults`` holds all of them, not only the first."""

    def __init__(self, program: str, faults: Sequence[str]) -> None:
        self.program = program
        self.faults = tuple(faults)
        lines = "\n".join(f"  {i}. {fault}" for i, fault in enumerate(self.faults, 1))
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__(f"program {program!r} does not compile: {count}\n{lines}")


class SpecError(DeclarationError):
    """A program's YAML or JSON form has faults, or a program has no such form; ``faults`` holds all of them."""

    def __init__(self, place: str, faults: Sequence[str]) -> None:
        self.place = place
        self.faults = tuple(faults)
        if len(self.faults) == 1:
            super().__init__(self.faults[0])
        else:
            super().__init__(
                "\n".join([f"{place}: {len(self.faults)} faults", *(f"  {fault}" for fault in self.faults)])
            )


class InputError(LLMProgError):
    """What the user handed to a program cannot be used."""


class OptionError(LLMProgError):
    """An option or parameter has an unknown name or a value that is not allowed."""

    @classmethod
    def unknown(cls, what: str, name: str, known: Iterable[str]) -> OptionError:
        """An error that names the unknown option and lists the known ones."""
        names = sorted(known)
        return cls(f"unknown {what} {name!r}{meant(name, names)}; known: {', '.join(names) or 'none'}")


def meant(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where one of ``known`` is close to ``name``, but is not ``name``; else nothing."""
    import difflib  # only for an error

    close = difflib.get_close_matches(name, [other for other in known if other != name], 1, cutoff=0.7)
    return f" (did you mean {close[0]!r}?)" if close else ""


class MissingExtraError(LLMProgError):
    """A feature needs a package that is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        self.feature = feature
        self.package = package
        self.extra = extra
        super().__init__(
            f'{feature} needs the package {package!r}, which is not installed; run: pip install "llmprog[{extra}]"'
        )


class NodeError(LLMProgError):
    """A node's own function raised; the original exception is chained as the cause."""

    def __init__(self, node: str, message: str) -> None:
        self.node = node
        super().__init__(f"node {node!r}: {message}")


class BudgetExceededError(LLMProgError):
    """The budget does not allow the next call; the message says which limit and how much of it is spent.

    Attributes:
        completions: Those of the call's completions that it did allow, from the first on.
    """

    completions: tuple[Any, ...] = ()


class StoreError(LLMProgError):
    """A run store cannot be read or written: a full disk, a missing file, a file of a newer version, for some."""


class UnknownRunError(StoreError):
    """There is no run with this id, or several begin so; the message names those that are near."""


class RunLockedError(StoreError):
    """Another process is at work on the run; the message names it."""


class ProgramChangedError(StoreError):
    """The program, or how it is run, is not what the run was begun with; the message shows the difference."""


class BackendError(LLMProgError):
    """A model call failed.

    Attributes:
        backend: Id of the backend that failed.
        status: HTTP status or the provider's own code, where there is one.
        retryable: Whether the same call may succeed later.
        retry_after_s: Seconds the backend asked callers to wait, where it did.
        possibly_billed: Whether the provider may have begun to answer, and so may charge for it.
    """

    def __init__(
        self,
        message: str,
        *,
        backend: str,
        status: int | str | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        possibly_billed: bool = False,
    ) -> None:
        self.backend = backend
        self.possibly_billed = possibly_billed
        self.status = status
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        super().__init__(f"backend {backend!r}: {message}")


class CapabilityError(BackendError):
    """The backend cannot do what was asked; the message names what can."""


class ModelFileError(BackendError):
    """Weights or tokenizer files are missing or malformed; nothing was allocated."""


class ReplayMissError(BackendError):
    """A recording does not hold the request; the message shows the nearest one it holds."""


class ConnectionFailedError(BackendError):
    """No connection, a connection that broke, or a timeout."""


class TruncatedStreamError(BackendError):
    """A reply ended before it was complete; what came of it is no completion."""


class BadResponseError(BackendError):
    """The endpoint answered with something that is no reply: HTML, an empty body, too large a body, a redirect."""


class RequestRefusedError(BackendError):
    """The endpoint will not serve this request, now or later."""


class AuthenticationError(BackendError):
    """No key was found, or the endpoint does not accept it."""


class RateLimitError(BackendError):
    """The endpoint asks for fewer requests; the same call may succeed later."""


class QuotaError(BackendError):
    """The account's credit or quota is spent; the endpoint is not called again in this process."""


class EndpointDownError(BackendError):
    """The endpoint failed so often of late that it is left alone for a while."""
