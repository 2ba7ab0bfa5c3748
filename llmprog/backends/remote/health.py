"""When an endpoint is better left alone, and when trying a call again is no use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime

from llmprog.errors import EndpointDownError, QuotaError

_WINDOW = 20  # calls the circuit breaker looks back on
_FAILED_SHARE = 0.5
_OPEN_S = 15.0
_PROBE_NAP_S = 0.5  # how often those who wait for the probe's outcome look
_RETRY_SHARE = 0.1
_IDENTICAL_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Passage:
    """Leave to make one call; hand it back with the call's outcome."""

    period: int
    is_probe: bool


class CircuitBreaker:
    """Keeps calls from an endpoint of whose last 20 calls at least half failed.

    It then is open for 15 seconds, lets one call through as a probe, and closes if that succeeds or opens again if it
    does not. Outcomes of calls begun before it last opened or closed are not counted.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: deque[bool] = deque(maxlen=_WINDOW)
        self._period = 0  # changes when it opens or closes
        self._opened_at: float | None = None
        self._probing = False
        self._passage = Passage(0, is_probe=False)  # every call's while it is closed
        self.num_openings = 0

    @property
    def is_closed(self) -> bool:
        """Whether calls go through."""
        return self._opened_at is None

    @property
    def blocked_for_s(self) -> float:
        """Seconds after which a call may go through, or may look again; 0 where it may now."""
        if self._opened_at is None:
            return 0.0
        if self._probing:
            return _PROBE_NAP_S
        return max(0.0, self._opened_at + _OPEN_S - self._clock())

    @property
    def num_failed(self) -> int:
        """How many of the last 20 calls failed."""
        return sum(self._failed)

    def enter(self) -> Passage:
        """Leave to make one call; call it only where ``blocked_for_s`` is 0."""
        if self._opened_at is None:
            return self._passage
        self._probing = True
        return Passage(self._period, is_probe=True)

    def leave(self, passage: Passage, failed: bool | None) -> bool:
        """Count the outcome of a call; returns whether the breaker opened or closed for it.

        Args:
            passage: What ``enter`` gave for this call.
            failed: Whether the endpoint failed; ``None`` where the call says nothing about it (cancelled, say).
        """
        if passage.period != self._period:
            return False
        if passage.is_probe:
            self._probing = False
            if failed is None:
                return False
            if failed:
                self._open()
            else:
                self._close()
            return True
        if failed is None:
            return False
        self._failed.append(failed)
        if len(self._failed) < _WINDOW or self.num_failed < _FAILED_SHARE * _WINDOW:
            return False
        self._open()
        return True

    def _open(self) -> None:
        self._opened_at = self._clock()
        self._period += 1
        self.num_openings += 1

    def _close(self) -> None:
        self._opened_at = None
        self._period += 1
        self._passage = Passage(self._period, is_probe=False)
        self._failed.clear()


class EndpointHealth:
    """Whether an endpoint may be called now: for all calls at once, whichever of them found out.

    It is *paused* where it asked for a short wait, *blocked* where the circuit breaker is open, *parked* where calls
    had better fail than wait, and *stopped* for the rest of the process where the account's quota is spent.

    Args:
        backend: Id of the backend, for messages.
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch, for messages.
    """

    def __init__(
        self,
        backend: str,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.breaker = CircuitBreaker(clock)
        self._backend = backend
        self._clock = clock
        self._wall_clock = wall_clock
        self._paused_until: float | None = None
        self._parked_until = -float("inf")
        self._parked_why = ""
        self._stopped: tuple[str, int | str | None] | None = None  # no error: it would keep its frames alive

    @property
    def stopped(self) -> str | None:
        """Why the endpoint is not called again; ``None`` where it may be."""
        return None if self._stopped is None else self._stopped[0]

    @property
    def blocked_for_s(self) -> float:
        """Seconds after which a call may go through, or may look again; 0 where it may now."""
        paused_s = 0.0
        if self._paused_until is not None:  # the usual case costs no look at the clock
            paused_s = self._paused_until - self._clock()
            if paused_s <= 0:
                self._paused_until, paused_s = None, 0.0
        return max(self.breaker.blocked_for_s, paused_s)

    @property
    def parked_for_s(self) -> float:
        """Seconds for which calls are refused; 0 where they are not."""
        return max(0.0, self._parked_until - self._clock())

    def may_send(self) -> bool:
        """Whether a call may be sent right now."""
        is_parked = bool(self._parked_why) and self.parked_for_s > 0
        return self._stopped is None and not is_parked and self.blocked_for_s <= 0

    def pause(self, seconds: float) -> None:
        """Have all calls wait for ``seconds``."""
        until = self._clock() + seconds
        self._paused_until = until if self._paused_until is None else max(self._paused_until, until)

    def park(self, seconds: float, why: str) -> EndpointDownError:
        """Refuse all calls for ``seconds``; returns the error to refuse this one with."""
        self._parked_until = max(self._parked_until, self._clock() + seconds)
        self._parked_why = why
        return self.down_error(why, self.parked_for_s)

    def stop(self, error: QuotaError) -> None:
        """Refuse all further calls for the same reason."""
        self._stopped = str(error), error.status

    def refuse_if_down(self) -> None:
        """Return where the endpoint may be called, now or after a wait.

        Raises:
            QuotaError: It is stopped.
            EndpointDownError: It is parked.
        """
        if self._stopped is not None:
            why, status = self._stopped
            error = QuotaError("", backend=self._backend, status=status)
            error.args = (f"{why} (not called again in this process)",)
            raise error
        if self._parked_why and self.parked_for_s > 0:
            raise self.down_error(self._parked_why, self.parked_for_s)

    def down_error(self, why: str, seconds: float) -> EndpointDownError:
        """The error of a call that does not wait ``seconds`` for the endpoint, and why."""
        until = datetime.fromtimestamp(self._wall_clock() + seconds, UTC)
        return EndpointDownError(
            f"{why}; it is left alone until {until:%Y-%m-%d %H:%M:%S} UTC",
            backend=self._backend,
            retryable=True,
            retry_after_s=seconds,
        )


class RetryBudget:
    """Keeps retries at or below 10 % of the calls, apart from a floor for short runs.

    Retries help against faults that are rare; when most calls fail, they multiply the load that makes them fail.

    Args:
        floor: Retries that may be made before any share is looked at, >= 0. What a long run without retries saves up is
            bounded too: by ten times the floor.
    """

    def __init__(self, floor: int = 10) -> None:
        self._floor = floor
        self._left = float(floor)

    @property
    def left(self) -> int:
        """Retries that may be made now."""
        return int(self._left + 1e-9)

    def call(self) -> None:
        """Count a call's first attempt."""
        self._left = min(self._left + _RETRY_SHARE, 10.0 * self._floor)

    def take(self) -> bool:
        """Count a retry, if one may be made; returns whether it may."""
        if self.left < 1:
            return False
        self._left -= 1
        return True


class PoisonTest:
    """Tells a request that always fails from an endpoint that does.

    It is one after three identical failures in a row, if other calls succeeded meanwhile.
    """

    __slots__ = ("_count", "_signature", "_successes")

    def __init__(self) -> None:
        self._signature: Hashable = None
        self._count = 0
        self._successes = 0

    def is_poison(self, signature: Hashable, num_successes: int) -> bool:
        """Whether the request is poison, now that it has failed once more.

        Args:
            signature: What makes two failures identical, such as status and body.
            num_successes: Calls that the endpoint has answered so far.
        """
        if signature != self._signature or self._count == 0:
            self._signature, self._count, self._successes = signature, 0, num_successes
        self._count += 1
        return self._count >= _IDENTICAL_FAILURES and num_successes > self._successes
