"""One HTTP exchange: bytes out, bytes in, bounded in time and size.

The only importer of HTTP libraries. Connections, TLS, proxies and the parser of answers are aiohttp's: its pool does
not slow down with what is in flight. Its session is left out, since of what that adds, redirects, cookies and retries
are unwanted here, and it takes longer than all the rest. A request is written in one piece, before its caller first
waits. Addresses and certificate authorities are read as httpx reads them.

An exchange runs in its caller's task; a timeout cancels that task and takes the cancellation back, as
``asyncio.timeout`` does, so that it is told from a cancelled caller, however they coincide. Proxies are taken from the
environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``), never for this machine's own addresses;
``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name further certificate authorities.
"""

from __future__ import annotations

import asyncio
import base64
import select
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast
from weakref import WeakSet

import aiohttp
import httpx
from aiohttp.http import HttpProcessingError
from yarl import URL

from llmprog.backends.remote.answers import (
    bad_answer,
    decoder_for,
    is_event_stream,
    read_body,
    read_events,
    redirect,
    shown,
    truncated,
)
from llmprog.backends.remote.content_encoding import ACCEPTED_ENCODINGS
from llmprog.backends.remote.exchange import Exchange, Timeouts
from llmprog.backends.remote.proxies import proxy_url
from llmprog.backends.remote.wire import HttpResponse, OnChunk
from llmprog.errors import BackendError, ConnectionFailedError, OptionError
from llmprog.redaction import redact

if TYPE_CHECKING:
    import ssl

    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

__all__ = ["Timeouts", "Transport"]

_KEEPALIVE_S = 4.0  # less than the 5 s after which uvicorn (vLLM, SGLang) and Node close an idle connection
_SETTLE_S = 5.0  # longest that closing waits for what is under way
_LINGER_S = 0.25  # how long a finished stream may take to end, so that its connection can be used again
_MAX_TARGETS = 1_000
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # the exchange's own timer sees to them all


class Transport:
    """Sends requests of one backend and brings back the answers.

    It belongs to the event loop of its first exchange.

    Args:
        backend: Id of the backend, for errors.
        max_connections: Most exchanges at once; further ones wait their turn.
        timeouts: How long each part of an exchange may take.
        max_body_bytes: Longest answer, after decompression.

    Raises:
        OptionError: ``max_connections`` or ``max_body_bytes`` is less than 1.
    """

    def __init__(
        self,
        *,
        backend: str,
        max_connections: int,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
        max_body_bytes: int = 64 * 2**20,
    ) -> None:
        for name, value in (("max_connections", max_connections), ("max_body_bytes", max_body_bytes)):
            if value < 1:
                raise OptionError(f"Transport({name}={value!r}): allowed is a whole number >= 1")
        self._backend = backend
        self._timeouts = timeouts
        self._max_body_bytes = max_body_bytes
        self._slots = asyncio.Semaphore(max_connections)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connector: _Connector | None = None
        self._targets: dict[str, _Target] = {}
        self._exchanges: set[Exchange] = set()
        self._lingering: set[asyncio.Task[None]] = set()
        self._closed = False
        self._ended = asyncio.Event()  # set when the last exchange ends after closing has begun

    @property
    def num_open(self) -> int:
        """Exchanges under way, those included that wait for a free connection or close one."""
        return len(self._exchanges)

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, on_chunk: OnChunk | None = None
    ) -> HttpResponse:
        """The answer to one request, whatever its status.

        Args:
            method: ``GET`` or ``POST``.
            url: Absolute.
            headers: Sent as they are, next to the host and the length of the body.
            body: ``None`` sends none.
            on_chunk: Is handed the decoded pieces of a successful event stream, and says what they brought; what it
                raises is raised here. Other answers do not go through it.

        Raises:
            ConnectionFailedError: No connection, a broken one, or a timeout; ``possibly_billed`` unless the request
                cannot have reached the server.
            TruncatedStreamError: The answer ended before its own end.
            BadResponseError: The answer is too long, a redirect, or not HTTP.
            BackendError: The transport is closed, or is used from a second event loop.
            OptionError: The URL or a header cannot be sent.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._closed:
            self._enter(loop)
        target = self._targets.get(url) or self._target(url)
        _check_headers(headers)
        caller = cast("asyncio.Task[object]", asyncio.current_task(loop))
        exchange = Exchange(self._backend, target.origin, self._timeouts, loop, caller)
        num_cancels = caller.cancelling()
        self._exchanges.add(exchange)
        try:
            return await self._run(exchange, target, target.head(method, headers, body), on_chunk)
        except (Exception, asyncio.CancelledError) as error:
            own = exchange.stopped_by
            if caller.cancelling() > num_cancels + (own is not None):  # the caller was cancelled, whatever else was
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise asyncio.CancelledError from None
            if own is not None:
                raise own from None
            raise
        finally:
            exchange.disarm()
            if exchange.stopped_by is not None:
                caller.uncancel()
            self._exchanges.discard(exchange)
            if self._closed and not self._exchanges:
                self._ended.set()

    async def aclose(self) -> None:
        """Close every connection; exchanges under way fail. Calling it twice is harmless."""
        if self._closed:
            return
        self._closed = True
        if self._loop is None or self._loop is asyncio.get_running_loop():
            await self._close()
        elif self._loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._close(), self._loop))

    async def _close(self) -> None:
        await asyncio.sleep(0)  # a task that has not begun could not release what it is to release
        for exchange in tuple(self._exchanges):
            exchange.stop("the backend was closed while the call was under way", retryable=False)
        for lingering in self._lingering:
            lingering.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                if self._exchanges:
                    await self._ended.wait()
                await asyncio.gather(*self._lingering, return_exceptions=True)
        if self._connector is not None:
            await self._connector.close()

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Bind to the loop of the first exchange; refuse any other."""
        if self._closed:
            raise BackendError("it is closed; open it again to make calls", backend=self._backend)
        if self._loop is not None:
            raise BackendError(
                "it belongs to another event loop, the one of its first call; open one for each loop",
                backend=self._backend,
            )
        self._loop = loop
        self._connector = _Connector(limit=0, keepalive_timeout=_KEEPALIVE_S, ssl=_ssl_context())

    def _target(self, url: str) -> _Target:
        """Where ``url`` leads to, remembered."""
        if len(self._targets) >= _MAX_TARGETS:
            self._targets.clear()
        target = self._targets[url] = _Target.of(url)
        return target

    async def _run(self, exchange: Exchange, target: _Target, request: bytes, on_chunk: OnChunk | None) -> HttpResponse:
        """The answer; whatever goes wrong becomes one of our errors."""
        try:
            if self._slots.locked():
                exchange.enter("queue", self._timeouts.total_s)
            async with self._slots:
                exchange.enter("connect", self._timeouts.connect_s)
                connection = await cast("_Connector", self._connector).open(target.route)
                return await self._converse(exchange, target, connection, request, on_chunk)
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            if error is exchange.reader_error:
                raise
            failure = _failure(exchange, error)
        # Raised out here so that the library's error, which may show the request's headers, is not chained to it.
        raise failure

    async def _converse(
        self, exchange: Exchange, target: _Target, connection: Connection, request: bytes, on_chunk: OnChunk | None
    ) -> HttpResponse:
        """One request and its answer; the connection is released, or closed where the answer is not read up."""
        protocol, transport = cast("ResponseHandler", connection.protocol), connection.transport
        has_head = False
        unfinished: aiohttp.StreamReader | None = None
        try:
            if transport is None:
                raise aiohttp.ServerDisconnectedError
            protocol.set_response_params(read_until_eof=True, auto_decompress=False)
            exchange.connected(protocol)
            transport.write(request)
            message, payload = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:  # interim answers
                message, payload = await protocol.read()
            has_head = not transport.get_write_buffer_size()  # an answer to half a request leaves the rest in the way
            exchange.enter("idle", self._timeouts.idle_s)
            status, headers = message.code, _headers(message.raw_headers)
            if 300 <= status < 400:
                raise redirect(exchange, target.url, status, headers.get("location", ""))
            decoder = decoder_for(exchange, headers, self._max_body_bytes)
            if on_chunk is not None and 200 <= status < 300 and is_event_stream(headers):
                if await read_events(exchange, payload.readany, decoder, on_chunk):
                    unfinished = payload
                return HttpResponse(status=status, headers=headers, body=b"")
            body = await read_body(exchange, payload.readany, decoder)
            return HttpResponse(status=status, headers=headers, body=body)
        except (aiohttp.ClientError, HttpProcessingError):
            exchange.was_reset = exchange.reset is not None  # known until the connection is released
            raise
        finally:
            if unfinished is not None:
                task = asyncio.get_running_loop().create_task(_linger(connection, unfinished))
                self._lingering.add(task)
                task.add_done_callback(self._lingering.discard)
            elif has_head:
                connection.release()  # which closes it, if the answer was not read up
            else:
                connection.close()


class _Connector(aiohttp.TCPConnector):
    """A pool that hands out no connection that the server has closed."""

    def __init__(self, *, limit: int, keepalive_timeout: float, ssl: ssl.SSLContext) -> None:
        super().__init__(limit=limit, keepalive_timeout=keepalive_timeout, ssl=ssl)
        self._used_before: WeakSet[asyncio.BaseProtocol] = WeakSet()

    async def open(self, route: aiohttp.ClientRequest) -> Connection:
        """A connection to where ``route`` leads, new or used before; the caller releases or closes it."""
        while True:
            connection = await self.connect(route, [], _NO_TIMEOUT)
            protocol = cast("asyncio.BaseProtocol", connection.protocol)
            if protocol not in self._used_before:
                self._used_before.add(protocol)
                return connection
            # Whatever has come on an idle connection ends it: most often the server's own end, not yet noticed.
            if connection.transport is None or not _has_input(connection.transport):
                return connection
            connection.close()


def _has_input(transport: asyncio.Transport) -> bool:
    """Whether something can be read from the socket right now, an end of file included."""
    if sys.platform == "win32":  # no poll there; a stale connection shows as an ordinary retryable error
        return False
    poller = select.poll()
    poller.register(transport.get_extra_info("socket"), select.POLLIN)
    return bool(poller.poll(0))


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a URL leads to.

    Attributes:
        origin: Scheme, host and port, for messages.
        address: What a request line asks for.
        lines: Header lines that every request has.
        route: What the pool needs to know of a request; all requests to this target share it.
    """

    url: str
    origin: str
    address: str
    lines: str
    route: aiohttp.ClientRequest

    @classmethod
    def of(cls, url: str) -> _Target:
        """The target of ``url``, for the running loop.

        Raises:
            OptionError: It is no absolute http or https URL, it holds a user name or password, or its proxy cannot
                be used.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise OptionError(f"URL {shown(url)}: {error}; expected is http://HOST/… or https://HOST/…") from None
        if parsed.userinfo:
            raise OptionError(f"URL on host {parsed.host!r} holds a user name or password; keys are sent as headers")
        if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65_535:
            raise OptionError(f"URL {shown(url)}: expected is http://HOST/… or https://HOST/…")
        origin = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
        address = URL(str(parsed))
        host = address.host_port_subcomponent or ""
        proxy, authorization = _proxy(parsed)
        lines = f"Host: {host}\r\nUser-Agent: llmprog\r\nAccept-Encoding: {ACCEPTED_ENCODINGS}\r\n"
        is_forwarded = proxy is not None and parsed.scheme == "http"
        if is_forwarded and authorization is not None:
            lines += f"Proxy-Authorization: {authorization}\r\n"
        # aiohttp writes the host into these headers when it connects, and tells connections apart by them.
        tunnel = None if authorization is None else {"Authorization": authorization, "Host": host}
        route = aiohttp.ClientRequest(
            "GET", address, loop=asyncio.get_running_loop(), proxy=proxy, proxy_headers=tunnel
        )
        return cls(url, origin, str(address) if is_forwarded else address.raw_path_qs, lines, route)

    def head(self, method: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """A whole request, body included."""
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {self.address} HTTP/1.1\r\n{self.lines}{own}{length}\r\n".encode("ascii")
        return head + body if body else head


def _proxy(url: httpx.URL) -> tuple[URL | None, str | None]:
    """The proxy for ``url`` and the authorization it wants."""
    found = proxy_url(url.scheme, url.host, url.port)
    if found is None:
        return None, None
    proxy = httpx.Proxy(found)
    user = None if proxy.auth is None else b":".join(proxy.raw_auth or ())
    return URL(str(proxy.url)), None if user is None else "Basic " + base64.b64encode(user).decode("ascii")


@cache
def _ssl_context() -> ssl.SSLContext:
    """httpx's own choice of certificate authorities; made once, since reading them takes long."""
    return httpx.create_ssl_context()


async def _linger(connection: Connection, payload: aiohttp.StreamReader) -> None:
    """Read a finished reply to its end, if that is near, so that its connection can be used again; else close it."""
    try:
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_LINGER_S):
                while await payload.readany():
                    pass
    finally:
        connection.release()  # which closes it, if the end did not come


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and name.isascii() and name.isprintable() and name):
            raise OptionError(
                f"header {name!r}: its value has characters that HTTP does not allow (line ends, controls, or not "
                "ASCII); look for a stray line end or quotation mark in a key"
            )


def _headers(raw: tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _failure(exchange: Exchange, error: Exception) -> BackendError:
    """Our error for one of the libraries'."""
    origin, sent = exchange.origin, exchange.protocol is not None
    said = redact(" ".join(str(error).split()))[:200]
    if isinstance(error, aiohttp.ClientPayloadError) and not exchange.was_reset:
        return truncated(exchange, "the connection ended before the answer did")
    if isinstance(error, HttpProcessingError):
        return bad_answer(exchange, f"not HTTP, or HTTP beyond its limits ({said!r})", retryable=True)
    retryable = True
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        retryable = False
        message = f"{origin}: its certificate is not trusted ({said}); SSL_CERT_FILE can name further authorities"
    elif isinstance(error, aiohttp.ClientConnectorDNSError):
        message = f"{origin}: no such host ({said}); check the base URL and the network"
    elif isinstance(error, aiohttp.ClientConnectorSSLError):
        message = f"{origin}: the TLS handshake failed ({said}); check that the server speaks https"
    elif isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        message = f"{origin}: its proxy failed ({said}); check HTTPS_PROXY and HTTP_PROXY, or set NO_PROXY"
    elif not sent:
        message = f"{origin}: cannot connect ({said}); check that the server runs and the base URL is right"
    elif exchange.layer == "first byte":
        message = f"{origin}: the connection broke before an answer came ({said})"
    else:
        message = f"{origin}: the connection broke within the answer ({said})"
    return ConnectionFailedError(message, backend=exchange.backend, retryable=retryable, possibly_billed=sent)
