"""Reading an answer piece by piece, and what is wrong with one that cannot be used; no HTTP library is needed here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urljoin, urlsplit

from llmprog.backends.remote.content_encoding import ContentDecoder
from llmprog.backends.remote.exchange import Exchange
from llmprog.backends.remote.wire import OnChunk, Progress
from llmprog.errors import BadResponseError, TruncatedStreamError
from llmprog.redaction import redact

ReadPiece = Callable[[], Awaitable[bytes]]
"""Gives the next piece of a body; an empty one at its end."""


async def read_body(exchange: Exchange, read: ReadPiece, decoder: ContentDecoder) -> bytes:
    """The whole decoded body.

    Raises:
        BadResponseError: It is too long, or not in its encoding.
        TruncatedStreamError: It is compressed and lacks its end.
        OSError: Its end was the connection's, by a reset.
    """
    body = []
    while piece := await read():
        data = _decoded(exchange, decoder, piece)
        body.append(data)
        if data and not data.isspace():  # some providers send blank lines while a request waits for its turn
            exchange.enter("idle", exchange.timeouts.idle_s)
    exchange.refuse_reset()
    if decoder.is_cut:
        raise truncated(exchange, "the compressed body lacks its end")
    return body[0] if len(body) == 1 else b"".join(body)


async def read_events(exchange: Exchange, read: ReadPiece, decoder: ContentDecoder, on_chunk: OnChunk) -> bool:
    """Hand an event stream on; ``True`` where its reader has all it needs before the stream ends.

    Raises:
        BadResponseError: It is too long, or not in its encoding.
        OSError: Its end was the connection's, by a reset.
        Exception: Whatever the reader raises; it is in ``exchange.reader_error`` too.
    """
    while piece := await read():
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
    exchange.refuse_reset()
    return False


def decoder_for(exchange: Exchange, headers: Mapping[str, str], max_bytes: int) -> ContentDecoder:
    """For the body of an answer with these headers.

    Raises:
        BadResponseError: The body is known to be too long, or its encoding is none that was asked for.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise bad_answer(exchange, f"an answer of {length[:20]} bytes; allowed are {max_bytes} (max_body_bytes)")
    try:
        return ContentDecoder(headers.get("content-encoding", ""), max_bytes)
    except ValueError as error:
        raise bad_answer(exchange, str(error)) from None


def is_event_stream(headers: Mapping[str, str]) -> bool:
    """Whether an answer's body is server-sent events."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"


def redirect(exchange: Exchange, url: str, status: int, location: str) -> BadResponseError:
    """The refusal of a redirect; of its address only the host is shown."""
    try:
        there = urlsplit(urljoin(url, location))
        host = f"{there.hostname}:{there.port}" if there.port else there.hostname or ""
    except ValueError:
        host = location
    what = f"a redirect (HTTP {status}) to host {shown(host)}" if location else f"HTTP {status} with no place to go"
    advice = "is not followed and no key is sent there; if that is the right address, use it as the base URL"
    return bad_answer(exchange, f"{what}, which {advice}", status=status, billed=False)


def bad_answer(
    exchange: Exchange, what: str, *, retryable: bool = False, status: int | None = None, billed: bool = True
) -> BadResponseError:
    """The error for an answer that is ``what``."""
    return BadResponseError(
        f"{exchange.origin} sent {what}",
        backend=exchange.backend,
        status=status,
        retryable=retryable,
        possibly_billed=billed,
    )


def truncated(exchange: Exchange, why: str) -> TruncatedStreamError:
    """The error for an answer that ended before its own end."""
    message = f"{exchange.origin}: {why}"
    return TruncatedStreamError(message, backend=exchange.backend, retryable=True, possibly_billed=True)


def shown(text: str) -> str:
    """A short, harmless form of a text that came from outside."""
    text = redact(text.partition("?")[0].rpartition("@")[2])
    return repr(text if len(text) <= 100 else f"{text[:100]}…")


def _decoded(exchange: Exchange, decoder: ContentDecoder, piece: bytes) -> bytes:
    try:
        return decoder.decode(piece)
    except OverflowError as error:
        raise bad_answer(exchange, str(error)) from None
    except ValueError as error:
        raise bad_answer(exchange, str(error), retryable=True) from None
