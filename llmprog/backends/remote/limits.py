"""How many calls an endpoint account gets: at once, and per minute."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable
from types import TracebackType

from llmprog.errors import OptionError

_SATURATED = 0.8  # share of the limit that must have been in use before it may grow
_GROWTH = 1.05
_CUT = 0.8
_COOLDOWN_S = 15.0  # after a cut, before the limit may grow again
_WINDOW_S = 60.0
_NAP_S = 0.25  # longest sleep on a rate limit: a settlement may make room earlier


class AdaptiveConcurrency:
    """A limit on calls in flight that finds out what the endpoint bears.

    The limit doubles after every clean round until the endpoint first answers with a rate limit, and then grows by 5 %
    per clean round. A round is as many successful calls as the limit, all begun after its last change, without a
    failure in between; it counts only if at least 80 % of the limit was in use. A rate limit cuts it to 80 %, once per
    episode: calls begun before the last cut say nothing new. It does not grow for 15 s after a cut.

    Waiting calls of one group (say, those that share the start of a prompt, which the endpoint caches) are let in
    together: next comes a call of the group last let in, if one waits, else of the group that has waited longest. After
    as many of one group in a row as ``maximum`` another group has its turn.

    Args:
        start: Calls in flight at first, >= 1; at most ``maximum`` count.
        maximum: Calls in flight that are never exceeded, >= 1.
        clock: Monotonic seconds.

    Raises:
        OptionError: ``start`` or ``maximum`` is below 1.
    """

    def __init__(self, start: int = 10, maximum: int = 100, clock: Callable[[], float] = time.monotonic) -> None:
        for name, value in (("start", start), ("maximum", maximum)):
            if value < 1:
                raise OptionError(f"AdaptiveConcurrency({name}={value!r}): allowed is a whole number >= 1")
        self.maximum = maximum
        self._clock = clock
        self._limit = float(min(start, maximum))
        self._in_slow_start = True
        self._no_growth_before = -float("inf")
        self._version = 0  # changes with the limit
        self._num_cuts = 0
        self._clean = 0  # successes of this round
        self._peak = 0  # most calls in flight in this round
        self._in_use = 0
        self._num_waiting = 0
        self._groups: OrderedDict[Hashable, OrderedDict[asyncio.Future[None], None]] = OrderedDict()
        self._last_group: Hashable = None
        self._in_a_row = 0

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return int(self._limit)

    @property
    def in_use(self) -> int:
        """Calls in flight."""
        return self._in_use

    @property
    def num_waiting(self) -> int:
        """Calls that wait for a slot."""
        return self._num_waiting

    def slot(self, group: Hashable) -> Slot:
        """A slot to be held by ``async with`` while one call is in flight; entering it waits until there is room."""
        return Slot(self, group)

    async def _wait(self, group: Hashable) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._groups.setdefault(group, OrderedDict())[waiter] = None
        self._num_waiting += 1
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():  # let in and cancelled at once
                self._leave()
            else:
                self._forget(group, waiter)
            raise

    def _leave(self) -> None:
        self._in_use -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._groups and self._in_use < self.limit:
            group = self._next_group()
            waiter = next(iter(self._groups[group]))
            self._forget(group, waiter)
            if not waiter.done():  # a cancelled waiter leaves by itself
                self._grant(group)
                waiter.set_result(None)

    def _next_group(self) -> Hashable:
        last = self._last_group
        if last in self._groups:
            if self._in_a_row < self.maximum:
                return last
            self._groups.move_to_end(last)
            self._in_a_row = 0
        return next(iter(self._groups))

    def _grant(self, group: Hashable) -> None:
        self._in_a_row = self._in_a_row + 1 if group == self._last_group else 1
        self._last_group = group
        self._in_use += 1
        self._peak = max(self._peak, self._in_use)

    def _forget(self, group: Hashable, waiter: asyncio.Future[None]) -> None:
        waiters = self._groups.get(group)
        if waiters is not None and waiter in waiters:
            del waiters[waiter]
            self._num_waiting -= 1
            if not waiters:
                del self._groups[group]

    def _new_round(self) -> None:
        self._clean, self._peak = 0, self._in_use

    def _change(self, limit: float) -> None:
        self._limit = min(max(limit, 1.0), float(self.maximum))
        self._version += 1
        self._new_round()

    def _succeeded(self, version: int) -> None:
        if version != self._version:
            return
        self._clean += 1
        if self._clean < self.limit:
            return
        saturated = self._peak >= _SATURATED * self.limit
        if saturated and self._limit < self.maximum and self._clock() >= self._no_growth_before:
            self._change(self._limit * (2 if self._in_slow_start else _GROWTH))
            self._let_in()
        else:
            self._new_round()

    def _rate_limited(self, num_cuts: int) -> bool:
        if num_cuts != self._num_cuts:
            return False
        self._num_cuts += 1
        self._in_slow_start = False
        self._no_growth_before = self._clock() + _COOLDOWN_S
        self._change(self._limit * _CUT)
        return True


class Slot:
    """Room for one call.

    Leaving with an error counts as a failure, unless something else was reported; being cancelled says nothing.
    """

    __slots__ = ("_group", "_limit", "_num_cuts", "_reported", "_version")

    def __init__(self, limit: AdaptiveConcurrency, group: Hashable) -> None:
        self._limit = limit
        self._group = group
        self._reported = False
        self._version = self._num_cuts = -1

    async def __aenter__(self) -> Slot:
        limit = self._limit
        if limit._in_use < limit.limit:  # then nobody waits: room is given away the moment it appears
            limit._grant(self._group)
        else:
            await limit._wait(self._group)
        self._version, self._num_cuts = limit._version, limit._num_cuts
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not self._reported:
            self._limit._new_round()
        self._limit._leave()

    def succeeded(self) -> None:
        """The endpoint answered the call."""
        self._reported = True
        self._limit._succeeded(self._version)

    def rate_limited(self) -> bool:
        """The endpoint asked for fewer calls; returns whether the limit was cut for it."""
        self._reported = True
        return self._limit._rate_limited(self._num_cuts)


class RateLimit:
    """At most ``per_minute`` units (requests, tokens) in any 60 seconds.

    After an idle minute all of them may go at once. An amount larger than ``per_minute`` goes alone.

    Args:
        per_minute: Units, > 0.
        clock: Monotonic seconds.

    Raises:
        OptionError: ``per_minute`` is not above 0.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not per_minute > 0:
            raise OptionError(f"RateLimit(per_minute={per_minute!r}): allowed is a number > 0")
        self.per_minute = per_minute
        self._clock = clock
        self._window: deque[Reservation] = deque()  # oldest first
        self._used = 0.0

    @property
    def used(self) -> float:
        """Units of the last 60 seconds."""
        self._drop_old(self._clock())
        return self._used

    def wait_s(self, amount: float) -> float:
        """Seconds until ``amount`` more units fit, unless others are settled below what they reserved; 0 for now."""
        now = self._clock()
        self._drop_old(now)
        room = self.per_minute - self._used - amount
        wait_s = 0.0
        for reservation in self._window:
            if room >= 0:
                break
            room += reservation.amount
            wait_s = reservation.time + _WINDOW_S - now
        return wait_s

    def take(self, amount: float) -> Reservation:
        """A reservation of ``amount`` units, whether they fit or not; settle it if something else was used."""
        reservation = Reservation(self, self._clock(), amount)
        self._window.append(reservation)
        self._used += amount
        return reservation

    def _drop_old(self, now: float) -> None:
        while self._window and self._window[0].time + _WINDOW_S <= now:
            reservation = self._window.popleft()
            reservation.is_past = True
            self._used -= reservation.amount
        if not self._window:
            self._used = 0.0  # no rounding error outlives the minute


class Reservation:
    """Units that one call has of a rate limit."""

    __slots__ = ("_limit", "amount", "is_past", "time")

    def __init__(self, limit: RateLimit, time: float, amount: float) -> None:
        self._limit = limit
        self.time = time
        self.amount = amount
        self.is_past = False

    def settle(self, amount: float) -> None:
        """Replace what was reserved by what was used."""
        if not self.is_past:
            self._limit._used += amount - self.amount
            self.amount = amount


class CallRate:
    """The limits on requests and tokens per minute of one account: a call waits until it fits into both.

    Calls are served in the order in which they came.

    Args:
        requests_per_minute: > 0; ``None`` is no limit.
        tokens_per_minute: > 0; ``None`` is no limit.
        clock: Monotonic seconds.
        sleep: Sleeps that many seconds.

    Raises:
        OptionError: A limit is not above 0.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._requests = None if requests_per_minute is None else RateLimit(requests_per_minute, clock)
        self._tokens = None if tokens_per_minute is None else RateLimit(tokens_per_minute, clock)
        self._sleep = sleep
        self._turn = asyncio.Lock()

    async def reserve(self, num_tokens: int) -> Allotment:
        """Room for one request and its tokens, once there is."""
        requests, tokens = self._requests, self._tokens
        if requests is None and tokens is None:
            return _UNLIMITED
        async with self._turn:
            while True:
                wait_s = max(
                    0.0 if requests is None else requests.wait_s(1),
                    0.0 if tokens is None else tokens.wait_s(num_tokens),
                )
                if wait_s <= 0:
                    break
                await self._sleep(min(wait_s, _NAP_S))
            return Allotment(
                None if requests is None else requests.take(1),
                None if tokens is None else tokens.take(num_tokens),
            )


class Allotment:
    """What one call has of the limits per minute."""

    __slots__ = ("_requests", "_tokens")

    def __init__(self, requests: Reservation | None, tokens: Reservation | None) -> None:
        self._requests = requests
        self._tokens = tokens

    def settle(self, num_tokens: int) -> None:
        """The call took ``num_tokens``."""
        if self._tokens is not None:
            self._tokens.settle(num_tokens)

    def release(self) -> None:
        """Nothing was sent."""
        for reservation in (self._requests, self._tokens):
            if reservation is not None:
                reservation.settle(0)


_UNLIMITED = Allotment(None, None)
