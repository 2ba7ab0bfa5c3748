"""The network group of the fault catalogue, against loopback servers that send the exact bytes."""

import asyncio
import contextlib
import gzip
import socket
import threading
import zlib

import pytest
from exchanging import EVENT_HEAD, HEADERS, KEY, Reader, hold_open, post, reset, transport, until

from llmprog.backends.remote.content_encoding import ContentDecoder
from llmprog.errors import BadResponseError, ConnectionFailedError, TruncatedStreamError


@pytest.mark.fault("network", "refused connection", "ConnectionFailedError, retryable, not billed")
async def test_refused_connection():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can listen there
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        async with transport() as opened:
            with pytest.raises(ConnectionFailedError, match="cannot connect") as caught:
                await opened.exchange("POST", url, HEADERS, b"{}")
    assert caught.value.retryable
    assert not caught.value.possibly_billed
    assert KEY not in repr(caught.value.__dict__) + str(caught.value)


@pytest.mark.fault("network", "unknown host", "ConnectionFailedError, retryable")
async def test_unknown_host():
    async with transport() as opened:
        with pytest.raises(ConnectionFailedError, match="no such host") as caught:
            await opened.exchange("POST", "http://host.invalid/v1", HEADERS, b"{}")
    assert not caught.value.possibly_billed


@pytest.mark.fault("network", "never accepts", "ConnectionFailedError after connect_s")
async def test_connect_timeout_when_the_server_accepts_nothing_more():
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(8):  # fill the backlog
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(address)
        async with transport(connect_s=0.2) as opened:
            with pytest.raises(ConnectionFailedError, match=r"within 0\.2 s \(connect timeout") as caught:
                await opened.exchange("POST", f"http://127.0.0.1:{address[1]}/", HEADERS, b"{}")
    assert caught.value.retryable
    assert not caught.value.possibly_billed


@pytest.mark.fault("network", "TLS to a server without it", "ConnectionFailedError")
async def test_tls_to_a_server_without_it():
    def speak(reader, writer):
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, transport() as opened:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionFailedError, match="the TLS handshake failed") as caught:
            await opened.exchange("POST", f"https://127.0.0.1:{port}/v1", HEADERS, b"{}")
    assert not caught.value.possibly_billed


@pytest.mark.fault("network", "connects and never answers", "ConnectionFailedError after first_byte_s, possibly billed")
async def test_connects_and_never_answers(serve):
    async def handler(request, writer):
        await asyncio.sleep(60)

    server = await serve(handler)
    async with transport(first_byte_s=0.1) as opened:
        with pytest.raises(ConnectionFailedError, match=r"no answer within 0\.1 s .*first byte") as caught:
            await post(opened, server)
        assert opened.num_open == 0
        assert caught.value.retryable
        assert caught.value.possibly_billed


@pytest.mark.fault("network", "reset before the answer", "ConnectionFailedError, possibly billed")
async def test_reset_before_the_answer(serve):
    async def handler(request, writer):
        reset(writer)

    server = await serve(handler)
    async with transport() as opened:
        with pytest.raises(ConnectionFailedError, match="before an answer") as caught:
            await post(opened, server)
    assert caught.value.retryable
    assert caught.value.possibly_billed


@pytest.mark.fault("network", "reset in mid-body", "an error, possibly billed; never half a body")
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n",
        EVENT_HEAD + b"connection: close\r\n\r\n",
        EVENT_HEAD + b"transfer-encoding: chunked\r\n\r\n",
    ],
)
async def test_reset_in_mid_body(serve, wire, head):
    async def handler(request, writer):
        writer.write(head + (wire.chunk("data: a\n\n") if b"chunked" in head else b"data: a\n\n"))
        await writer.drain()
        await asyncio.sleep(0.05)
        reset(writer)

    server = await serve(handler)
    async with transport() as opened:
        with pytest.raises(ConnectionFailedError, match="within the answer") as caught:
            await post(opened, server, Reader())
    assert caught.value.retryable
    assert caught.value.possibly_billed


@pytest.mark.fault("network", "clean end without terminator", "TruncatedStreamError")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n[1, 2",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n4\r\n[1, \r\n",
        EVENT_HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n",
        EVENT_HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\ndata: ",
    ],
)
async def test_clean_end_without_a_terminator(serve, answer):
    async def handler(request, writer):
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await serve(handler)
    async with transport() as opened:
        with pytest.raises(TruncatedStreamError) as caught:
            await post(opened, server, Reader())
    assert caught.value.retryable
    assert caught.value.possibly_billed


async def test_an_answer_that_the_end_of_its_connection_ends(serve):
    async def handler(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[1]")
        writer.close()

    server = await serve(handler)
    async with transport() as opened:
        assert (await post(opened, server)).body == b"[1]"


@pytest.mark.fault("network", "keep-alive drip", "ConnectionFailedError after idle_s")
async def test_keep_alive_drip_in_a_stream_times_out(serve, wire):
    async def handler(request, writer):
        writer.write(wire.STREAM_HEAD + wire.chunk("data: a\n\n"))
        await hold_open(writer, wire.chunk(": keep-alive\n\n"))

    server = await serve(handler)
    async with transport(idle_s=0.2) as opened:
        with pytest.raises(ConnectionFailedError, match=r"nothing new for 0\.2 s.*idle") as caught:
            await post(opened, server, Reader())
        await until(lambda: server.num_open == 0)
    assert caught.value.possibly_billed


@pytest.mark.fault("network", "blank lines instead of a body", "ConnectionFailedError after idle_s")
async def test_blank_lines_before_a_plain_body_time_out(serve):
    async def handler(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
        await hold_open(writer, b"\n")

    server = await serve(handler)
    async with transport(idle_s=0.2) as opened:
        with pytest.raises(ConnectionFailedError, match="idle timeout"):
            await post(opened, server)


async def test_events_keep_a_stream_alive_until_the_total_timeout(serve, wire):
    async def handler(request, writer):
        writer.write(wire.STREAM_HEAD)
        await hold_open(writer, wire.chunk("data: a\n\n"))

    server = await serve(handler)
    reader = Reader()
    async with transport(idle_s=4, total_s=5) as opened:
        with pytest.raises(ConnectionFailedError, match=r"not finished within 5 s .*total"):
            await post(opened, server, reader)
    assert len(reader.data) > 2


async def test_waiting_for_a_free_connection_counts_towards_the_total(serve):
    async def handler(request, writer):
        await asyncio.sleep(60)

    server = await serve(handler)
    async with transport(max_connections=1, total_s=0.2) as opened:
        outcomes = await asyncio.gather(*[post(opened, server) for _ in range(2)], return_exceptions=True)
    # On a busy machine the second may yet begin to connect, in the moment in which the first has given up.
    assert "connect" in str(outcomes[1])
    assert [outcome.possibly_billed for outcome in outcomes] == [True, False]
    assert len(server.requests) == 1


@pytest.mark.fault("sse", "[DONE] with the socket left open", "the reply, at once")
async def test_done_with_the_socket_left_open(serve, wire):
    async def handler(request, writer):
        writer.write(wire.STREAM_HEAD + wire.chunk("data: a\n\ndata: [DONE]\n\n"))
        await hold_open(writer, wire.chunk(": open\n\n"))

    server = await serve(handler)
    async with transport() as opened:
        started = asyncio.get_running_loop().time()
        assert (await post(opened, server, Reader())).status == 200
        assert asyncio.get_running_loop().time() - started < 50  # the server never ends it
        assert opened.num_open == 0
        await until(lambda: server.num_open == 0)  # closed, not left behind


@pytest.mark.fault("sse", "an event split at every byte", "the same events")
async def test_an_event_split_at_every_byte(serve, wire):
    stream = "data: é\u2028\n\nevent: x\r\ndata: b\r\n\r\ndata: [DONE]\n\n".encode()

    async def handler(request, writer):
        writer.write(wire.STREAM_HEAD)
        for i in range(len(stream)):
            writer.write(wire.chunk(stream[i : i + 1]))
            await writer.drain()
            await asyncio.sleep(0)

    server = await serve(handler)
    async with transport() as opened:
        reader = Reader()
        await post(opened, server, reader)
    assert reader.data == ["é\u2028", "b", "[DONE]"]


async def test_what_the_reader_raises_comes_through_and_the_connection_is_closed(serve, wire):
    async def handler(request, writer):
        writer.write(wire.STREAM_HEAD + wire.chunk('data: {"error": "overloaded"}\n\n'))
        await hold_open(writer, wire.chunk(": open\n\n"))

    server = await serve(handler)
    async with transport() as opened:
        for error in (ConnectionResetError("the reader's own"), BadResponseError("an error object", backend="x")):

            def on_chunk(chunk, error=error):
                raise error

            with pytest.raises(type(error)) as caught:
                await post(opened, server, on_chunk)
            assert caught.value is error
            assert opened.num_open == 0
        await until(lambda: server.num_open == 0)


async def test_html_with_status_200_is_returned_as_it_is(serve, wire):
    server = await serve(wire.http(200, "<html>sign in</html>", content_type="text/html"))
    async with transport() as opened:
        answer = await post(opened, server, Reader())
    assert (answer.headers["content-type"], answer.body) == ("text/html", b"<html>sign in</html>")


@pytest.mark.fault("network", "an answer that is no HTTP", "an error")
async def test_what_is_no_http(serve):
    server = await serve(b"220 smtp.example ESMTP\r\n\r\n")
    async with transport() as opened:
        with pytest.raises(BadResponseError, match="not HTTP"):
            await post(opened, server)


@pytest.mark.fault("network", "infinite body", "BadResponseError at max_body_bytes")
@pytest.mark.parametrize("kind", [b"application/json", b"text/event-stream"])
async def test_an_infinite_body(serve, wire, kind):
    async def handler(request, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(wire.chunk(b"data: x\n\n" * 1000))
            await writer.drain()

    server = await serve(handler)
    async with transport(max_body_bytes=100_000) as opened:
        with pytest.raises(BadResponseError, match="100000 bytes") as caught:
            await post(opened, server, Reader())
        await until(lambda: server.num_open == 0)
    assert not caught.value.retryable
    assert caught.value.possibly_billed


async def test_a_body_announced_too_long_is_not_read(serve):
    server = await serve(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n")
    async with transport() as opened:
        with pytest.raises(BadResponseError, match="99999999999 bytes"):
            await post(opened, server)


@pytest.mark.fault("network", "gzip bomb", "BadResponseError at max_body_bytes")
async def test_a_gzip_bomb(serve, wire):
    bomb = gzip.compress(bytes(20_000_000))
    server = await serve(wire.http(200, bomb, content_encoding="gzip"))
    async with transport(max_body_bytes=100_000) as opened:
        with pytest.raises(BadResponseError, match="more than 100000 bytes"):
            await post(opened, server)


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b"[1]"), zlib.compress(b"[1]"), gzip.compress(b"[") + gzip.compress(b"1]")],
    ids=["gzip", "zlib", "two members"],
)
async def test_compressed_bodies(serve, wire, body):
    server = await serve(wire.http(200, body, content_encoding="gzip"))
    async with transport() as opened:
        assert (await post(opened, server)).body == b"[1]"


@pytest.mark.parametrize(
    ("body", "encoding", "error", "words"),
    [
        (gzip.compress(b"[1]", mtime=0)[:-9], "gzip", TruncatedStreamError, "lacks its end"),
        (b"no gzip", "gzip", BadResponseError, "cannot be decompressed"),
        (b"x", "br", BadResponseError, "encoding 'br'"),
        (b"x", "gzip, gzip", BadResponseError, "asked for was gzip"),
    ],
)
async def test_broken_encodings(serve, wire, body, encoding, error, words):
    server = await serve(wire.http(200, body, content_encoding=encoding))
    async with transport() as opened:
        with pytest.raises(error, match=words):
            await post(opened, server)


def test_a_decoder_gives_the_same_for_any_pieces():
    text = bytes(range(256)) * 500
    packed = gzip.compress(text[:5000]) + gzip.compress(text[5000:]) + b"\0\0"
    for size in (1, 7, 1000, len(packed)):
        decoder = ContentDecoder("gzip", len(text))
        assert b"".join(decoder.decode(packed[i : i + size]) for i in range(0, len(packed), size)) == text
        assert not decoder.is_cut


@pytest.mark.fault("network", "redirect", "BadResponseError; the key goes nowhere")
@pytest.mark.parametrize(
    "location", ["https://user:pw@evil.example/v1?key=1", "/elsewhere", "//evil.example:99/x", "", "http://[::1"]
)
@pytest.mark.parametrize("status", [301, 307])
async def test_a_redirect_is_refused(serve, wire, status, location):
    server = await serve(wire.http(status, b"", location=location))
    async with transport() as opened:
        with pytest.raises(BadResponseError, match=r"not followed|no place to go") as caught:
            await post(opened, server)
    text = str(caught.value)
    assert len(server.requests) == 1
    assert caught.value.status == status
    assert not caught.value.retryable
    assert ("evil.example" in text) == ("evil" in location)
    assert not any(secret in text for secret in ("pw", "key=1", KEY))


@pytest.mark.fault("network", "stale keep-alive connection", "another is used")
async def test_a_connection_closed_while_idle_is_not_used(wire):
    """The server closes after its answer without saying so; the next request must not be lost with it."""
    asked, closed = threading.Event(), threading.Event()

    def answer_twice():  # in a thread, so that it closes while this loop stands still and cannot notice
        for _ in range(2):
            connection, _ = listening.accept()
            with connection:
                data = b""
                while not data.endswith(b'{"a": 1}'):
                    data += connection.recv(65536)
                connection.sendall(wire.http(200, {}))
                asked.wait(10)
            closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer_twice, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        async with transport() as opened:
            assert (await opened.exchange("POST", url, HEADERS, b'{"a": 1}')).status == 200
            asked.set()
            assert closed.wait(10)
            assert (await opened.exchange("POST", url, HEADERS, b'{"a": 1}')).status == 200
        thread.join(10)


@pytest.mark.fault("network", "a request lost with its connection", "ConnectionFailedError, retryable")
async def test_a_request_lost_with_its_connection_is_an_ordinary_failure(serve, wire):
    async def handler(request, writer):
        if len(server.requests) % 2:
            writer.write(wire.http(200, {}))
        else:
            writer.close()

    server = await serve(handler)
    async with transport() as opened:
        assert (await post(opened, server)).status == 200
        with pytest.raises(ConnectionFailedError) as caught:
            await post(opened, server)
        assert caught.value.retryable
        assert caught.value.possibly_billed
        assert (await post(opened, server)).status == 200
    assert len(server.requests) == 3  # nothing was sent twice
