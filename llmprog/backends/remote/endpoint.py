"""One account at one base URL: every call to it goes through here, and so do all limits and retries.

::

    slot (adaptive concurrency) -> requests, tokens per minute -> exchange -> what the answer means -> retry or result

A call that waits, for its next attempt or for the endpoint to recover, holds no slot.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Protocol, TypeVar

from llmprog.backends.remote.failures import clean, decode_json, failure, is_error_object
from llmprog.backends.remote.health import EndpointHealth, RetryBudget
from llmprog.backends.remote.limits import AdaptiveConcurrency, CallRate, Slot
from llmprog.backends.remote.retries import Retries, Tries, may_retry
from llmprog.backends.remote.wire import HttpRequest, HttpResponse, OnChunk
from llmprog.backends.shares import Allowance, Rate
from llmprog.errors import (
    AuthenticationError,
    BackendError,
    BadResponseError,
    CapabilityError,
    ConnectionFailedError,
    EndpointDownError,
    OptionError,
    QuotaError,
    RateLimitError,
    RequestRefusedError,
)
from llmprog.log import Log

T = TypeVar("T")

_LONGEST_RETRY_AFTER_S = 120.0  # a longer wait is not sat out: the endpoint is parked
_OPENINGS_TO_GIVE_UP = 2  # times the circuit breaker opens while a call waits for the endpoint

_WELL = (AuthenticationError, RequestRefusedError, CapabilityError, QuotaError)  # errors of an endpoint that is up

_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode

_log = Log("llmprog.remote")


class HttpExchange(Protocol):
    """What sends a request and reads its answer; ``Transport`` does."""

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        on_chunk: OnChunk | None = None,
    ) -> HttpResponse:
        """The answer, whatever its status; a successful event stream goes to ``on_chunk`` instead of its body."""
        ...

    async def aclose(self) -> None:
        """Close all connections; calling it twice is harmless."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointOptions:
    """How much an endpoint is asked, and how long it is tried.

    Attributes:
        max_concurrency: Most calls in flight, >= 1.
        start_concurrency: Calls in flight before the endpoint is known, in [1, ``max_concurrency``].
        requests_per_minute: Limit on requests, attempts included, > 0; ``None`` is no limit.
        tokens_per_minute: Limit on tokens, > 0; ``None`` is no limit.
        max_attempts: Attempts of one call, >= 1.
        deadline_s: Seconds from the beginning of a call's first attempt to the end of its last, > 0.
        total_s: Seconds after which the transport ends an attempt by itself, > 0: attempts that have more time than
            this need no timer of their own.
    """

    max_concurrency: int = 100
    start_concurrency: int = 10
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_attempts: int = 6
    deadline_s: float = 900.0
    total_s: float = 600.0

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is None and option.name.endswith("_per_minute"):
                continue
            low = 1 if isinstance(option.default, int) else 0
            if not isinstance(value, int | float) or not (value >= 1 if low else value > 0):
                allowed = "a number >= 1" if low else "a number > 0"
                raise OptionError(f"EndpointOptions({option.name}={value!r}): allowed is {allowed}")
        if self.start_concurrency > self.max_concurrency:
            raise OptionError(
                f"EndpointOptions(start_concurrency={self.start_concurrency!r}): "
                f"allowed is at most max_concurrency, {self.max_concurrency}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStats:
    """What an endpoint has been asked so far, and how it is.

    Attributes:
        calls: Calls made, whatever became of them.
        attempts: Requests sent.
        retries: Those of them that were not a call's first.
        successes: Calls that were answered.
        rate_limits: Attempts answered with a rate limit.
        failures: Attempts that failed for the endpoint's or the network's fault.
        possibly_billed: Attempts without a result that the provider may charge for.
        concurrency: Calls that may be in flight now.
        in_flight: Calls in flight.
        waiting: Calls that wait for a slot.
        blocked_s: Seconds for which nothing is sent, by the endpoint's wish or because it fails; 0 where it is well.
        stopped: Why the endpoint is not called again in this process; ``None`` where it may be.
    """

    calls: int
    attempts: int
    retries: int
    successes: int
    rate_limits: int
    failures: int
    possibly_billed: int
    concurrency: int
    in_flight: int
    waiting: int
    blocked_s: float
    stopped: str | None


@dataclass(slots=True)
class _Call(Generic[T]):
    """One call with all its attempts."""

    request: HttpRequest
    url: str
    headers: dict[str, str]
    body: bytes | None
    group: Hashable
    estimated_tokens: int
    check: Callable[[Any], T]
    on_chunk_factory: Callable[[], OnChunk] | None
    count_tokens: Callable[[T], int | None] | None
    openings: int  # of the circuit breaker, when the call began
    tries: Tries = field(default_factory=Tries)


class Endpoint:
    """One account at one base URL, safe to call from thousands of tasks of one event loop.

    Args:
        backend: Id of the backend, for messages.
        base_url: Requests' paths are appended to it.
        auth: Headers that carry the key, or a function that reads them, called for every attempt.
        transport: Sends requests; closed with the endpoint.
        options: Limits.
        rate: Limits per minute that other processes keep to as well; by default those of ``options``, kept here.
        key_hint: What to set to give a key, such as the name of an environment variable; for messages.
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch.
        sleep: Sleeps that many seconds.
        rng: Draws the jitter of backoffs.
    """

    def __init__(
        self,
        *,
        backend: str,
        base_url: str,
        auth: Mapping[str, str] | Callable[[], Mapping[str, str]],
        transport: HttpExchange,
        options: EndpointOptions = EndpointOptions(),
        rate: Rate | None = None,
        key_hint: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._backend = backend
        self._base_url = base_url.rstrip("/")
        self._auth = auth
        self._transport = transport
        self._options = options
        self._key_hint = key_hint
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._concurrency = AdaptiveConcurrency(options.start_concurrency, options.max_concurrency, clock)
        if rate is None:
            rate = CallRate(options.requests_per_minute, options.tokens_per_minute, clock, sleep)
        self._rate: Rate = rate
        self._health = EndpointHealth(backend, clock, wall_clock)
        self._retries = Retries(
            backend,
            max_attempts=options.max_attempts,
            deadline_s=options.deadline_s,
            # One restart of a server cuts every call in flight: all of them may try again.
            budget=RetryBudget(max(10, options.max_concurrency)),
            num_successes=lambda: self._successes,
            clock=clock,
            sleep=sleep,
            rng=rng if rng is not None else random.Random(),
        )
        self._only_rate_limits_since: float | None = None
        self._calls = self._attempts = self._successes = 0
        self._rate_limits = self._failures = self._possibly_billed = 0

    async def send(
        self,
        request: HttpRequest,
        *,
        group: Hashable,
        estimated_tokens: int,
        check: Callable[[Any], T],
        on_chunk_factory: Callable[[], OnChunk] | None = None,
        count_tokens: Callable[[T], int | None] | None = None,
    ) -> T:
        """What ``check`` makes of the answer to ``request``, after as many attempts as are allowed.

        Args:
            request: What is sent.
            group: Calls that share the start of a prompt have equal groups, and are sent together.
            estimated_tokens: Most tokens the call takes, prompt and completion, for the limit on tokens.
            check: Given the decoded JSON of a successful answer, or ``None`` where an event stream went to the reader
                of chunks. It may raise a ``BackendError``, which is retried if it says so.
            on_chunk_factory: Makes a reader of chunks for each attempt: a stream that is tried again starts anew.
            count_tokens: Tokens that the call really took; ``None``, or a count of ``None``, keeps the estimate.

        Raises:
            BackendError: As the tree in ``llmprog.errors`` says; ``possibly_billed`` covers all attempts of the call.
            OptionError: The request's body is not JSON.
        """
        headers = {"accept": "text/event-stream" if request.stream else "application/json"}
        body = None
        if request.body is not None:
            body = _encode(request.body)
            headers["content-type"] = "application/json"
        headers.update(request.headers)
        call = _Call(
            request, self._base_url + request.path, headers, body, group, estimated_tokens,
            check, on_chunk_factory, count_tokens, self._health.breaker.num_openings,
        )  # fmt: skip
        self._calls += 1
        self._retries.budget.call()
        try:
            return await self._attempt(call)
        except BackendError as error:
            if not may_retry(error):
                raise
            first = error
        # The retry loop costs more than the rest of the bookkeeping together, so only calls that need it enter it.
        return await self._retries.after(first, call.tries, lambda: self._attempt(call))

    def stats(self) -> EndpointStats:
        """What it has been asked so far, and how it is."""
        return EndpointStats(
            calls=self._calls,
            attempts=self._attempts,
            retries=self._retries.num_retries,
            successes=self._successes,
            rate_limits=self._rate_limits,
            failures=self._failures,
            possibly_billed=self._possibly_billed,
            concurrency=self._concurrency.limit,
            in_flight=self._concurrency.in_use,
            waiting=self._concurrency.num_waiting,
            blocked_s=max(self._health.blocked_for_s, self._health.parked_for_s),
            stopped=self._health.stopped,
        )

    async def aclose(self) -> None:
        """Close its connections; calling it twice is harmless."""
        await self._transport.aclose()

    async def _attempt(self, call: _Call[T]) -> T:
        health = self._health
        while True:
            health.refuse_if_down()
            if (blocked_s := health.blocked_for_s) > 0:
                self._give_up_if_hopeless(call, blocked_s)
                await self._sleep(blocked_s)
                continue
            async with self._concurrency.slot(call.group) as slot:
                if health.may_send():  # it may no longer, after a wait for the slot; the next round says why
                    allotment = await self._rate.reserve(call.estimated_tokens)
                    if health.may_send():
                        return await self._exchange(call, slot, allotment)
                    allotment.release()

    async def _exchange(self, call: _Call[T], slot: Slot, allotment: Allowance) -> T:
        headers = self._headers(call, allotment)
        passage = self._health.breaker.enter()
        failed: bool | None = None
        num_tokens: int | None = None  # what the call took; None keeps the estimate
        try:
            on_chunk = None if call.on_chunk_factory is None else call.on_chunk_factory()
            call.tries.count += 1
            self._attempts += 1
            response = await self._bounded(call, headers, on_chunk)
            result = call.check(self._decoded(response, was_streamed=on_chunk is not None))
        except BackendError as error:
            failed = self._weigh(error, call, slot, is_probe=passage.is_probe)
            num_tokens = None if error.possibly_billed else 0
            if (down := self._heed(error)) is not None:
                raise down from error
            raise
        except asyncio.CancelledError:
            self._possibly_billed += 1
            raise
        else:
            failed = False
            slot.succeeded()
            self._successes += 1
            self._only_rate_limits_since = None
            num_tokens = None if call.count_tokens is None else call.count_tokens(result)
            return result
        finally:
            if self._health.breaker.leave(passage, failed):
                is_closed = self._health.breaker.is_closed
                _log.warning("endpoint is well again" if is_closed else "endpoint keeps failing", backend=self._backend)
            if num_tokens is not None:
                allotment.settle(num_tokens)

    def _headers(self, call: _Call[Any], allotment: Allowance) -> dict[str, str]:
        try:
            key = self._auth() if callable(self._auth) else self._auth
        except BackendError:
            allotment.release()
            raise
        return {**call.headers, **key}

    async def _bounded(self, call: _Call[Any], headers: Mapping[str, str], on_chunk: OnChunk | None) -> HttpResponse:
        exchange, method = self._transport.exchange, call.request.method
        left_s = self._retries.left_s(call.tries)
        if left_s > self._options.total_s:
            return await exchange(method, call.url, headers, call.body, on_chunk)
        deadline = asyncio.timeout(left_s)
        try:
            if left_s > 0:
                async with deadline:
                    return await exchange(method, call.url, headers, call.body, on_chunk)
        except TimeoutError:
            if not deadline.expired():
                raise
        raise ConnectionFailedError(
            f"no answer within deadline_s={self._options.deadline_s:g}",
            backend=self._backend,
            retryable=True,
            possibly_billed=left_s > 0,
        )

    def _decoded(self, response: HttpResponse, *, was_streamed: bool) -> Any:
        """The JSON of a successful answer; ``None`` where it went to the reader of chunks."""
        if not 200 <= response.status < 300:
            raise self._failure(response)
        if was_streamed and _media_type(response) == "text/event-stream":
            return None
        try:
            value = decode_json(response.body)
        except ValueError as error:
            what = (
                f"{error}: {clean(response.body[:2000].decode('utf-8', 'replace'))!r}" if response.body else "nothing"
            )
            raise self._bad_response(f"{what} ({_media_type(response) or 'no content type'})") from None
        if value is None:
            raise self._bad_response("null")
        if is_error_object(value):
            raise self._failure(response)
        return value

    def _failure(self, response: HttpResponse) -> BackendError:
        return failure(response, backend=self._backend, key_hint=self._key_hint, now=self._wall_clock())

    def _bad_response(self, what: str) -> BadResponseError:
        return BadResponseError(
            f"a success with {what}; expected is a JSON document; check the base URL",
            backend=self._backend,
            status=200,
            retryable=True,
            possibly_billed=True,
        )

    def _weigh(self, error: BackendError, call: _Call[Any], slot: Slot, *, is_probe: bool) -> bool | None:
        """Learn from a failed attempt; returns whether the endpoint is to blame, or ``None`` if that is not known."""
        if error.possibly_billed:
            self._possibly_billed += 1
            call.tries.possibly_billed = True
        if isinstance(error, RateLimitError):
            self._rate_limits += 1
            if slot.rate_limited():
                _log.debug("rate limit", backend=self._backend, concurrency=self._concurrency.limit)
            if self._only_rate_limits_since is None:
                self._only_rate_limits_since = self._clock()
            return False if is_probe else None  # an endpoint that says so is up, though not well
        self._only_rate_limits_since = None
        if isinstance(error, _WELL):
            slot.succeeded()
            return False
        self._failures += 1
        return True

    def _heed(self, error: BackendError) -> EndpointDownError | None:
        """Do for all calls what the answer to one asks for; returns the error to raise if that is not to be called."""
        health, why, wait_s = self._health, "", error.retry_after_s
        since = self._only_rate_limits_since
        if isinstance(error, QuotaError):
            health.stop(error)
            _log.warning("quota is spent: endpoint is not called again", backend=self._backend, status=error.status)
        elif wait_s is not None and wait_s > _LONGEST_RETRY_AFTER_S:
            why = f"it asked to be left alone for {wait_s:.0f} s (status {error.status})"
        elif since is not None and self._clock() - since > self._options.deadline_s:
            why = f"it has answered with nothing but rate limits for {self._options.deadline_s:g} s"
            wait_s = _LONGEST_RETRY_AFTER_S
        elif wait_s is not None:
            health.pause(wait_s)
        if not why or wait_s is None:
            return None
        _log.warning("endpoint is parked", backend=self._backend, wait_s=wait_s, status=error.status)
        return health.park(wait_s, why)

    def _give_up_if_hopeless(self, call: _Call[Any], blocked_s: float) -> None:
        breaker = self._health.breaker
        if not breaker.is_closed and breaker.num_openings - call.openings >= _OPENINGS_TO_GIVE_UP:
            why = "it keeps failing, again after a pause; check the server, or the provider's status page"
            raise self._health.down_error(why, breaker.blocked_for_s)
        if blocked_s >= self._retries.left_s(call.tries):
            why = f"it may not be called within deadline_s={self._options.deadline_s:g}"
            raise self._health.down_error(why, blocked_s)


def _media_type(response: HttpResponse) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return _to_json(body).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(
            f"the request's body cannot be sent as JSON: {error}; check the options of the model"
        ) from error
