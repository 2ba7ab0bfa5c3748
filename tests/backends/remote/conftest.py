"""A raw HTTP/1.1 server on loopback: tests write the exact bytes that go over the wire."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # of exchanging.py, which pytest's importlib mode does not put there


@dataclass
class Received:
    """One request as it arrived; header names are lower-case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class RawServer:
    """Calls ``handler(request, writer)`` for every request; a handler that returns keeps the connection alive
    unless it has closed the writer."""

    handler: object
    requests: list[Received] = field(default_factory=list)
    num_open: int = 0
    num_connections: int = 0
    url: str = ""

    async def start(self):
        self._tasks = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**24)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self.num_open += 1
        self.num_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")[:-2]
                method, path, _ = first.split(" ")
                headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
                if headers.get("transfer-encoding") == "chunked":
                    body = b""
                    while size := int(await reader.readline(), 16):
                        body += (await reader.readexactly(size + 2))[:-2]
                    await reader.readline()
                else:
                    body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Received(method, path, headers, body)
                self.requests.append(request)
                await self.handler(request, writer)
                if writer.is_closing():
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return
        finally:
            self.num_open -= 1
            self._tasks.discard(asyncio.current_task())
            writer.close()

    async def stop(self):
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def http(status, body=b"", content_type="application/json", **headers):
    """The bytes of an HTTP/1.1 answer with a content length."""
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"HTTP/1.1 {status} Status", f"content-type: {content_type}", f"content-length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data):
    """One chunk of a chunked body; an empty one ends it."""
    data = data if isinstance(data, bytes) else data.encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture
async def serve():
    """``await serve(handler)`` starts a server; an answer given as bytes is sent to every request."""
    servers = []

    async def start(handler):
        if isinstance(handler, bytes):
            answer = handler

            async def handler(request, writer):
                writer.write(answer)

        servers.append(await RawServer(handler).start())
        return servers[-1]

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
def wire():
    """The functions that make the bytes of answers: ``wire.http``, ``wire.chunk``, ``wire.STREAM_HEAD``."""

    class Wire:
        pass

    Wire.http, Wire.chunk, Wire.STREAM_HEAD = staticmethod(http), staticmethod(chunk), STREAM_HEAD
    return Wire
