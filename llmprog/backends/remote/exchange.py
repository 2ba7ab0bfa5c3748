"""One HTTP exchange under way: how long it may take, how far it has come, and why it was stopped."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, fields
from typing import Literal, Protocol

from llmprog.errors import BackendError, ConnectionFailedError, OptionError

Layer = Literal["queue", "connect", "first byte", "idle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long each part of an exchange may take, in seconds.

    Attributes:
        connect_s: Name look-up, connection and TLS handshake together.
        first_byte_s: From then until the head of the answer.
        idle_s: From then between two events, or two pieces of a body; comments, pings and blank lines do not count.
        total_s: The whole exchange, waiting for a free connection included.
    """

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    idle_s: float = 120.0
    total_s: float = 600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
                raise OptionError(f"Timeouts({field.name}={value!r}): allowed is a finite number of seconds > 0")


class Connected(Protocol):
    """What an exchange knows of its connection."""

    def exception(self) -> BaseException | None:
        """How it broke; ``None`` where it is open, or ended in order."""
        ...


class Exchange:
    """One exchange under way: who called, its timer, and how far it has come.

    Attributes:
        layer: The part that is under way, one after the other.
        protocol: The connection; ``None`` as long as the request cannot have left.
        reader_error: What the reader of an event stream raised.
        was_reset: Whether the connection broke within the answer, instead of ending in order.
        stopped_by: Why the caller was cancelled, where a timeout or the end of the backend did it.
    """

    __slots__ = (
        "backend",
        "caller",
        "deadline",
        "ends_at",
        "layer",
        "loop",
        "origin",
        "protocol",
        "reader_error",
        "stopped_by",
        "timeouts",
        "timer",
        "was_reset",
    )

    def __init__(
        self,
        backend: str,
        origin: str,
        timeouts: Timeouts,
        loop: asyncio.AbstractEventLoop,
        caller: asyncio.Task[object],
    ) -> None:
        self.backend = backend
        self.origin = origin
        self.timeouts = timeouts
        self.loop = loop
        self.caller = caller
        self.layer: Layer = "queue"
        self.protocol: Connected | None = None
        self.reader_error: Exception | None = None
        self.stopped_by: BackendError | None = None
        self.was_reset = False
        self.ends_at = self.deadline = loop.time() + timeouts.total_s
        self.timer: asyncio.TimerHandle | None = None

    def enter(self, layer: Layer, seconds: float) -> None:
        """The next part begins, or goes on, and may take ``seconds``, as far as the total allows.

        The timer is moved to an earlier time only: a later deadline is looked at when it fires, so that most exchanges
        cost one timer, and the events of a stream none.
        """
        self.layer = layer
        self.deadline = min(self.loop.time() + seconds, self.ends_at)
        if self.timer is None or self.deadline < self.timer.when():
            self.disarm()
            self.timer = self.loop.call_at(self.deadline, self._on_time)

    def disarm(self) -> None:
        """Stop the clock."""
        if self.timer is not None:
            self.timer.cancel()

    def connected(self, protocol: Connected) -> None:
        """There is a connection, and the request goes out on it."""
        self.protocol = protocol
        self.enter("first byte", self.timeouts.first_byte_s)

    def stop(self, message: str, *, retryable: bool = True) -> None:
        """End the exchange with an error; the first reason counts."""
        if self.stopped_by is None:
            self.stopped_by = ConnectionFailedError(
                message, backend=self.backend, retryable=retryable, possibly_billed=self.protocol is not None
            )
            self.caller.cancel()

    @property
    def reset(self) -> OSError | None:
        """How the connection broke, if it did not end in order."""
        error = None if self.protocol is None else self.protocol.exception()
        return error if isinstance(error, OSError) else None

    def refuse_reset(self) -> None:
        """Return where the body ended in order: one that only the end of its connection ends may not end by a reset.

        Raises:
            OSError: It did.
        """
        if (error := self.reset) is not None:
            raise error

    def _on_time(self) -> None:
        if self.loop.time() < self.deadline:
            self.timer = self.loop.call_at(self.deadline, self._on_time)
            return
        origin, limits = self.origin, self.timeouts
        if self.deadline >= self.ends_at:
            where = (
                "it waited for a free connection" if self.layer == "queue" else f"the {self.layer} layer was under way"
            )
            self.stop(f"{origin}: not finished within {limits.total_s:g} s (total timeout, total_s); {where}")
        elif self.layer == "connect":
            self.stop(
                f"{origin}: no connection within {limits.connect_s:g} s (connect timeout, connect_s); "
                "check that the server runs and can be reached"
            )
        elif self.layer == "first byte":
            self.stop(
                f"{origin}: no answer within {limits.first_byte_s:g} s of sending (first byte timeout, first_byte_s); "
                "models that reason before they answer need minutes"
            )
        else:
            self.stop(f"{origin}: nothing new for {limits.idle_s:g} s within the answer (idle timeout, idle_s)")
