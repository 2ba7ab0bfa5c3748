"""The transport in ordinary use, and used wrongly."""

import asyncio
import socket
import threading
import zlib

import pytest
from exchanging import EVENT_HEAD, HEADERS, KEY, Reader, post, transport, until

from llmprog.backends.remote.transport import Timeouts, Transport
from llmprog.errors import BackendError, ConnectionFailedError, OptionError


async def test_a_plain_exchange(serve, wire):
    server = await serve(wire.http(200, {"ok": True}, x_request_id="r1"))
    async with transport() as opened:
        answers = [await post(opened, server, path="/v1/models/a:b?alt=sse") for _ in range(3)]
    assert {(a.status, a.body, a.headers["x-request-id"]) for a in answers} == {(200, b'{"ok": true}', "r1")}
    request = server.requests[0]
    assert (request.method, request.path, request.json) == ("POST", "/v1/models/a:b?alt=sse", {"a": 1})
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept-encoding"] == "gzip, deflate"
    assert "cookie" not in request.headers
    assert server.num_connections == 1  # kept alive


async def test_a_get_has_no_body(serve, wire):
    server = await serve(wire.http(200, []))
    async with transport() as opened:
        assert (await opened.exchange("GET", server.url, {}, None)).body == b"[]"
    assert server.requests[0].body == b""
    assert "content-length" not in server.requests[0].headers


@pytest.mark.parametrize("status", [201, 400, 401, 404, 429, 500, 529])
async def test_a_status_is_returned_with_its_body(serve, wire, status):
    server = await serve(wire.http(status, {"error": "x"}, retry_after="7"))
    async with transport() as opened:
        answer = await post(opened, server, Reader())
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (status, b'{"error": "x"}', "7")


async def test_cookies_are_not_kept(serve, wire):
    server = await serve(wire.http(200, {}, set_cookie="session=1; Path=/"))
    async with transport() as opened:
        await post(opened, server)
        await post(opened, server)
    assert "cookie" not in server.requests[1].headers


async def test_an_event_stream_goes_to_its_reader(serve, wire, monkeypatch):
    monkeypatch.setattr("llmprog.backends.remote.transport._LINGER_S", 20.0)  # a loaded machine may be slow to read on

    async def handler(request, writer):
        writer.write(wire.STREAM_HEAD)
        for piece in ("data: a\n", "\ndata: ", "b\n\n", "data: [DONE]\n\n"):
            writer.write(wire.chunk(piece))
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write(wire.chunk(""))

    server = await serve(handler)
    async with transport() as opened:
        for _ in range(3):
            reader = Reader()
            answer = await post(opened, server, reader)
            assert (answer.status, answer.body, reader.data) == (200, b"", ["a", "b", "[DONE]"])
            await until(lambda: not opened._lingering)
    assert server.num_connections == 1  # the terminator after [DONE] was read, and the connection used again


async def test_a_plain_answer_does_not_go_to_the_reader_of_events(serve, wire):
    server = await serve(wire.http(200, {"ok": 1}))
    async with transport() as opened:
        reader = Reader()
        assert (await post(opened, server, reader)).body == b'{"ok": 1}'
    assert reader.num_chunks == 0


async def test_a_compressed_event_stream(serve, wire):
    packer = zlib.compressobj(wbits=31)

    async def handler(request, writer):
        writer.write(EVENT_HEAD + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n")
        for text in (b"data: a\n\n", b"data: b\n\n"):
            writer.write(wire.chunk(packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)))
        writer.write(wire.chunk(packer.flush()) + wire.chunk(b""))

    server = await serve(handler)
    async with transport() as opened:
        reader = Reader()
        await post(opened, server, reader)
    assert reader.data == ["a", "b"]


async def test_exchanges_beyond_the_limit_wait_for_a_connection(serve, wire):
    async def handler(request, writer):
        await asyncio.sleep(0.01)
        writer.write(wire.http(200, {}))

    server = await serve(handler)
    async with transport(max_connections=3) as opened:
        await asyncio.gather(*[post(opened, server) for _ in range(30)])
    assert server.num_connections == 3


async def test_a_request_is_on_its_way_before_its_caller_first_waits(wire):
    """Of many calls made in one moment, the first does not wait until the last has been prepared."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        async with transport() as opened:
            first = asyncio.create_task(opened.exchange("POST", url, HEADERS, b'{"a": 1}'))
            connection, _ = await asyncio.to_thread(listening.accept)
            with connection:
                assert (await asyncio.to_thread(connection.recv, 65536)).endswith(b'{"a": 1}')
                connection.sendall(wire.http(200, {}))
                await first
                second = asyncio.create_task(opened.exchange("POST", url, HEADERS, b'{"a": 2}'))
                await asyncio.sleep(0)
                connection.settimeout(60)  # this loop stands still meanwhile, so what has not been sent never comes
                assert connection.recv(65536).endswith(b'{"a": 2}')
                connection.sendall(wire.http(200, {}))
                assert (await second).status == 200


async def test_closing_fails_what_is_under_way(serve):
    async def handler(request, writer):
        await asyncio.sleep(60)

    server = await serve(handler)
    opened = Transport(backend="test:model", max_connections=2)
    tasks = [asyncio.create_task(post(opened, server)) for _ in range(3)]
    await until(lambda: len(server.requests) == 2)
    await opened.aclose()
    await opened.aclose()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, ConnectionFailedError)
        assert "closed" in str(outcome)
        assert not outcome.retryable
    with pytest.raises(BackendError, match="closed; open it again"):
        await post(opened, server)


async def test_closing_what_was_never_used():
    await Transport(backend="test:model", max_connections=1).aclose()


@pytest.mark.fault("concurrency", "a second event loop", "refused; each loop has its own connections")
async def test_a_second_event_loop_is_refused_and_may_close(serve, wire):
    server = await serve(wire.http(200, {}))
    errors = []
    opened = Transport(backend="test:model", max_connections=1)
    await post(opened, server)

    async def elsewhere():
        try:
            await post(opened, server)
        except BackendError as error:
            errors.append(error)
        await opened.aclose()

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert "another event loop" in str(errors[0])
    await until(lambda: server.num_open == 0)


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "no url", "http://", "http://h:99999999/", "https://user:pw@h/x", "http://[::1/"]
)
async def test_addresses_that_cannot_be_used(url):
    async with transport() as opened:
        with pytest.raises(OptionError) as caught:
            await opened.exchange("GET", url, {}, None)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("value", [f"{KEY}\r\nx: y", f"{KEY}\n", f"“{KEY}”", f"{KEY}\0"])
async def test_a_header_that_cannot_be_sent_is_named_without_its_value(serve, wire, value):
    server = await serve(wire.http(200, {}))
    async with transport() as opened:
        with pytest.raises(OptionError, match="'authorization'") as caught:
            await opened.exchange("GET", server.url, {"authorization": value}, None)
    assert KEY not in str(caught.value)
    assert not server.requests


@pytest.mark.parametrize(
    "options", [{"connect_s": 0}, {"idle_s": float("nan")}, {"total_s": float("inf")}, {"first_byte_s": True}]
)
def test_timeouts_are_finite_seconds(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        Timeouts(**options)


@pytest.mark.parametrize("options", [{"max_connections": 0}, {"max_connections": 1, "max_body_bytes": 0}])
def test_limits_are_positive(options):
    with pytest.raises(OptionError, match="allowed is a whole number"):
        Transport(backend="test:model", **options)


async def test_a_proxy_from_the_environment(serve, wire, monkeypatch):
    proxy = await serve(wire.http(200, {"via": "proxy"}))
    direct = await serve(wire.http(200, {"via": "none"}))
    monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://me:secret@"))
    monkeypatch.setenv("no_proxy", "other.example")
    async with transport() as opened:
        answer = await opened.exchange("POST", "http://models.example/v1", HEADERS, b"{}")
        assert answer.body == b'{"via": "proxy"}'
        await opened.exchange("POST", "http://models.example/v1", HEADERS, b"{}")
        assert proxy.num_connections == 1  # kept alive, as without a proxy
        assert (await post(opened, direct)).body == b'{"via": "none"}'  # never for this machine
    assert proxy.requests[0].path == "http://models.example/v1"
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")


async def test_a_proxy_that_cannot_be_used(monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://me:secret@127.0.0.1:1080")
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with transport() as opened:
        with pytest.raises(OptionError, match="socks5") as caught:
            await opened.exchange("GET", "https://models.example/", {}, None)
    assert "secret" not in str(caught.value)
