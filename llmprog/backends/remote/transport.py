"""One HTTP exchange: bytes out, bytes in, bounded in time and size.

The only importer of httpx. Requests and responses are httpx's; the connections are aiohttp's (through httpx-aiohttp),
because httpx's own pool looks at every connection for every request. ``httpx.AsyncClient`` is left out: of what it
adds, redirects and cookies are unwanted here, and the timeouts are kept by one timer per exchange.

Every exchange runs in a task of its own, so that a timeout is told from a cancelled caller, however they coincide.
Proxies are taken from the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``), never for this
machine's own addresses; ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name further certificate authorities.
"""

from __future__ import annotations

import asyncio
import base64
import select
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast
from urllib.parse import urljoin, urlsplit
from weakref import WeakSet

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from llmprog.backends.remote.content_encoding import ACCEPTED_ENCODINGS, ContentDecoder
from llmprog.backends.remote.exchange import Exchange, Timeouts
from llmprog.backends.remote.proxies import proxy_url
from llmprog.backends.remote.wire import HttpResponse, OnChunk, Progress
from llmprog.errors import BackendError, BadResponseError, ConnectionFailedError, OptionError, TruncatedStreamError
from llmprog.redaction import redact

if TYPE_CHECKING:
    import ssl

__all__ = ["Timeouts", "Transport"]

_KEEPALIVE_S = 4.0  # less than the 5 s after which uvicorn (vLLM, SGLang) and Node close an idle connection
_SETTLE_S = 5.0  # longest that closing waits for what is under way
_LINGER_S = 0.25  # how long a finished stream may take to end, so that its connection can be used again
_MAX_TARGETS = 1_000


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
        self._session: aiohttp.ClientSession | None = None
        self._targets: dict[str, _Target] = {}
        self._exchanges: set[Exchange] = set()
        self._lingering: set[asyncio.Task[None]] = set()
        self._closed = False

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
        exchange = Exchange(self._backend, target.origin, self._timeouts, loop)
        request = _Request(method, target.url, headers, body)
        caller = cast("asyncio.Task[object]", asyncio.current_task(loop))
        num_cancels = caller.cancelling()
        exchange.task = loop.create_task(self._run(exchange, target.sender, request, on_chunk))
        self._exchanges.add(exchange)
        try:
            # A cancelled caller cancels the task and waits for its end. That is soon, and cancelling it again does no
            # harm, since a connection is closed without waiting for anything.
            return await exchange.task
        except asyncio.CancelledError:
            if exchange.stopped_by is None or caller.cancelling() > num_cancels:
                raise
            raise exchange.stopped_by from None
        except Exception:
            if caller.cancelling() > num_cancels:  # it failed in the very moment it was cancelled
                raise asyncio.CancelledError from None
            raise
        finally:
            self._exchanges.discard(exchange)

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
        tasks: list[asyncio.Task[HttpResponse] | asyncio.Task[None]] = [*self._lingering]
        for exchange in tuple(self._exchanges):
            exchange.stop("the backend was closed while the call was under way", retryable=False)
            tasks.append(exchange.task)
        for lingering in self._lingering:
            lingering.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_SETTLE_S)
        if self._session is not None:
            await self._session.close()

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
        connector = _Connector(limit=0, keepalive_timeout=_KEEPALIVE_S, ssl=_ssl_context())
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "llmprog", "Accept-Encoding": ACCEPTED_ENCODINGS},
        )

    def _target(self, url: str) -> _Target:
        """Where ``url`` leads to, remembered."""
        if len(self._targets) >= _MAX_TARGETS:
            self._targets.clear()
        target = self._targets[url] = _Target.of(url, cast("aiohttp.ClientSession", self._session))
        return target

    async def _run(
        self, exchange: Exchange, sender: AiohttpTransport, request: httpx.Request, on_chunk: OnChunk | None
    ) -> HttpResponse:
        """The body of an exchange's task: whatever goes wrong becomes one of our errors."""
        try:
            if self._slots.locked():
                exchange.enter("queue", self._timeouts.total_s)
            async with self._slots:
                exchange.enter("connect", self._timeouts.connect_s)
                _current.set(exchange)
                response = await sender.handle_async_request(request)
                exchange.enter("idle", self._timeouts.idle_s)
                return await self._read(exchange, response, on_chunk)
        except (httpx.HTTPError, aiohttp.ClientError, OSError) as error:
            if error is exchange.reader_error:
                raise
            failure = _failure(exchange, error)
        finally:
            exchange.disarm()
        # Raised out here so that the library's error, whose repr shows the request's headers, is not chained to it.
        raise failure

    async def _read(self, exchange: Exchange, response: httpx.Response, on_chunk: OnChunk | None) -> HttpResponse:
        """The answer whose head has come; its connection is released, or closed where the answer is not read up."""
        stream = cast("httpx.AsyncByteStream", response.stream)
        pieces = cast("AsyncGenerator[bytes, None]", stream.__aiter__())
        lingers = False
        try:
            status, headers = response.status_code, _headers(response)
            if 300 <= status < 400:
                raise _redirect(exchange, str(response.request.url), status, headers.get("location", ""))
            decoder = self._decoder(exchange, headers)
            if on_chunk is not None and 200 <= status < 300 and _is_event_stream(headers):
                lingers = await _read_events(exchange, pieces, decoder, on_chunk)
                return HttpResponse(status=status, headers=headers, body=b"")
            return HttpResponse(status=status, headers=headers, body=await _read_body(exchange, pieces, decoder))
        except (httpx.HTTPError, aiohttp.ClientError):
            exchange.was_reset = _reset(exchange) is not None  # known until the connection is released
            raise
        finally:
            if lingers:
                task = asyncio.get_running_loop().create_task(_linger(pieces, stream))
                self._lingering.add(task)
                task.add_done_callback(self._lingering.discard)
            else:
                await pieces.aclose()
                await stream.aclose()

    def _decoder(self, exchange: Exchange, headers: Mapping[str, str]) -> ContentDecoder:
        """For the answer's body, unless that is known to be too long."""
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_body_bytes:
            raise _bad(
                exchange, f"an answer of {length[:20]} bytes; allowed are {self._max_body_bytes} (max_body_bytes)"
            )
        try:
            return ContentDecoder(headers.get("content-encoding", ""), self._max_body_bytes)
        except ValueError as error:
            raise _bad(exchange, str(error)) from None


class _Request(httpx.Request):
    """A request that is made without copying its headers into ``httpx.Headers`` and out again.

    That copying takes as long as everything else that httpx does for an exchange; the transport below reads nothing
    but these attributes.
    """

    def __init__(self, method: str, url: httpx.URL, headers: Mapping[str, str], body: bytes | None) -> None:
        self.method = method
        self.url = url
        self.headers = cast("httpx.Headers", headers)
        self.extensions = {}
        self._body = body or b""

    @property
    def content(self) -> bytes:
        return self._body


_current: ContextVar[Exchange] = ContextVar("llmprog_exchange")


class _Connector(aiohttp.TCPConnector):
    """A pool that tells an exchange when it has its connection, and hands out none that the server has closed."""

    def __init__(self, *, limit: int, keepalive_timeout: float, ssl: ssl.SSLContext) -> None:
        super().__init__(limit=limit, keepalive_timeout=keepalive_timeout, ssl=ssl)
        self._used_before: WeakSet[asyncio.BaseProtocol] = WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> aiohttp.connector.Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = cast("asyncio.BaseProtocol", connection.protocol)
            if protocol not in self._used_before:
                self._used_before.add(protocol)
                break
            # Whatever has come on an idle connection ends it: most often the server's own end, not yet noticed.
            if connection.transport is None or not _has_input(connection.transport):
                break
            connection.close()
        _current.get().connected(protocol)
        return connection


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
        sender: Direct, or through a proxy.
    """

    url: httpx.URL
    origin: str
    sender: AiohttpTransport

    @classmethod
    def of(cls, url: str, session: aiohttp.ClientSession) -> _Target:
        """The target of ``url``.

        Raises:
            OptionError: It is no absolute http or https URL, it holds a user name or password, or its proxy cannot
                be used.
        """
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise OptionError(f"URL {_shown(url)}: {error}; expected is http://HOST/… or https://HOST/…") from None
        if parsed.userinfo:
            raise OptionError(f"URL on host {parsed.host!r} holds a user name or password; keys are sent as headers")
        if parsed.scheme not in ("http", "https") or not parsed.host or (parsed.port or 0) > 65_535:
            raise OptionError(f"URL {_shown(url)}: expected is http://HOST/… or https://HOST/…")
        origin = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
        sender = AiohttpTransport(verify=_ssl_context(), client=session, proxy=_proxy(parsed))
        return cls(parsed, origin, sender)


def _proxy(url: httpx.URL) -> httpx.Proxy | None:
    found = proxy_url(url.scheme, url.host, url.port)
    if found is None:
        return None
    proxy = httpx.Proxy(found)
    if proxy.auth is not None:  # as a header, since aiohttp deprecates the class that httpx-aiohttp would make of it
        proxy.headers["Authorization"] = "Basic " + base64.b64encode(b":".join(proxy.raw_auth or ())).decode("ascii")
        proxy.auth = None
    return proxy


@cache
def _ssl_context() -> ssl.SSLContext:
    """httpx's own choice of certificate authorities; made once, since reading them takes long."""
    return httpx.create_ssl_context()


def _decoded(exchange: Exchange, decoder: ContentDecoder, piece: bytes) -> bytes:
    try:
        return decoder.decode(piece)
    except OverflowError as error:
        raise _bad(exchange, str(error)) from None
    except ValueError as error:
        raise _bad(exchange, str(error), retryable=True) from None


async def _read_body(exchange: Exchange, pieces: AsyncGenerator[bytes, None], decoder: ContentDecoder) -> bytes:
    """The whole decoded body."""
    body = []
    async for piece in pieces:
        data = _decoded(exchange, decoder, piece)
        body.append(data)
        if data and not data.isspace():  # some providers send blank lines while a request waits for its turn
            exchange.enter("idle", exchange.timeouts.idle_s)
    _check_end(exchange)
    if decoder.is_cut:
        raise _truncated(exchange, "the compressed body lacks its end")
    return body[0] if len(body) == 1 else b"".join(body)


async def _read_events(
    exchange: Exchange, pieces: AsyncGenerator[bytes, None], decoder: ContentDecoder, on_chunk: OnChunk
) -> bool:
    """Hand an event stream on; ``True`` where its reader has all it needs before the stream ends."""
    async for piece in pieces:
        data = _decoded(exchange, decoder, piece)
        if not data:
            continue
        try:
            progress = on_chunk(data)
        except Exception as error:
            exchange.reader_error = error
            raise
        if progress is Progress.DONE:
            return True
        if progress is Progress.EVENT:
            exchange.enter("idle", exchange.timeouts.idle_s)
    _check_end(exchange)
    return False


async def _linger(pieces: AsyncGenerator[bytes, None], stream: httpx.AsyncByteStream) -> None:
    """Read a finished reply to its end, if that is near, so that its connection can be used again; else close it."""
    try:
        with suppress(TimeoutError, httpx.HTTPError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_LINGER_S):
                async for _ in pieces:
                    pass
    finally:
        await pieces.aclose()
        await stream.aclose()


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and name.isascii() and name.isprintable() and name):
            raise OptionError(
                f"header {name!r}: its value has characters that HTTP does not allow (line ends, controls, or not "
                "ASCII); look for a stray line end or quotation mark in a key"
            )


def _headers(response: httpx.Response) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers.raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _is_event_stream(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"


def _check_end(exchange: Exchange) -> None:
    """A body that only the end of its connection ends must not have ended by a reset."""
    if (error := _reset(exchange)) is not None:
        raise error


def _reset(exchange: Exchange) -> OSError | None:
    """How the connection broke, if it did not end in order; aiohttp keeps that in its protocol."""
    error = cast("aiohttp.client_proto.ResponseHandler", exchange.protocol).exception()
    return error if isinstance(error, OSError) else None


def _failure(exchange: Exchange, error: Exception) -> BackendError:
    """Our error for one of the libraries'."""
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ is not None else error
    origin, sent = exchange.origin, exchange.protocol is not None
    said = redact(" ".join(str(cause).split()))[:200]
    if isinstance(cause, aiohttp.ClientPayloadError) and not exchange.was_reset:
        return _truncated(exchange, "the connection ended before the answer did")
    if isinstance(cause, aiohttp.ClientResponseError) and not isinstance(cause, aiohttp.ClientHttpProxyError):
        return _bad(exchange, f"not HTTP, or HTTP beyond its limits ({said!r})", retryable=True)
    retryable = True
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        retryable = False
        message = f"{origin}: its certificate is not trusted ({said}); SSL_CERT_FILE can name further authorities"
    elif isinstance(cause, aiohttp.ClientConnectorDNSError):
        message = f"{origin}: no such host ({said}); check the base URL and the network"
    elif isinstance(cause, aiohttp.ClientConnectorSSLError):
        message = f"{origin}: the TLS handshake failed ({said}); check that the server speaks https"
    elif isinstance(cause, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        message = f"{origin}: its proxy failed ({said}); check HTTPS_PROXY and HTTP_PROXY, or set NO_PROXY"
    elif not sent:
        message = f"{origin}: cannot connect ({said}); check that the server runs and the base URL is right"
    elif exchange.layer == "first byte":
        message = f"{origin}: the connection broke before an answer came ({said})"
    else:
        message = f"{origin}: the connection broke within the answer ({said})"
    return ConnectionFailedError(message, backend=exchange.backend, retryable=retryable, possibly_billed=sent)


def _redirect(exchange: Exchange, url: str, status: int, location: str) -> BadResponseError:
    """The refusal of a redirect; of its address only the host is shown."""
    try:
        there = urlsplit(urljoin(url, location))
        host = f"{there.hostname}:{there.port}" if there.port else there.hostname or ""
    except ValueError:
        host = location
    what = f"a redirect (HTTP {status}) to host {_shown(host)}" if location else f"HTTP {status} with no place to go"
    advice = "is not followed and no key is sent there; if that is the right address, use it as the base URL"
    return _bad(exchange, f"{what}, which {advice}", status=status, billed=False)


def _bad(
    exchange: Exchange, what: str, *, retryable: bool = False, status: int | None = None, billed: bool = True
) -> BadResponseError:
    return BadResponseError(
        f"{exchange.origin} sent {what}",
        backend=exchange.backend,
        status=status,
        retryable=retryable,
        possibly_billed=billed,
    )


def _truncated(exchange: Exchange, why: str) -> TruncatedStreamError:
    message = f"{exchange.origin}: {why}"
    return TruncatedStreamError(message, backend=exchange.backend, retryable=True, possibly_billed=True)


def _shown(text: str) -> str:
    """A short, harmless form of a text that came from outside."""
    text = redact(text.partition("?")[0].rpartition("@")[2])
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
