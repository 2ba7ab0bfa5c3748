"""What tests of the transport share: an opened one, a request, a reader of events, ways for a server to misbehave."""

import asyncio
import contextlib
import socket
import struct

from llmprog.backends.remote.sse import SSEParser
from llmprog.backends.remote.transport import Timeouts, Transport
from llmprog.backends.remote.wire import Progress

KEY = "sk-canary-0123456789"
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
EVENT_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@contextlib.asynccontextmanager
async def transport(max_connections=10, max_body_bytes=2**20, **timeouts):
    opened = Transport(
        backend="test:model",
        max_connections=max_connections,
        timeouts=Timeouts(**timeouts),
        max_body_bytes=max_body_bytes,
    )
    try:
        yield opened
    finally:
        await opened.aclose()
        assert opened.num_open == 0


async def post(opened, server, on_chunk=None, path="/v1/chat"):
    return await opened.exchange("POST", f"{server.url}{path}", HEADERS, b'{"a": 1}', on_chunk)


class Reader:
    """Collects the data of events; done at ``[DONE]``."""

    def __init__(self):
        self.parser, self.data, self.num_chunks = SSEParser(), [], 0

    def __call__(self, chunk):
        self.num_chunks += 1
        events = self.parser.feed(chunk)
        self.data += [event.data for event in events]
        if "[DONE]" in self.data:
            return Progress.DONE
        return Progress.EVENT if events else Progress.NOTHING


def reset(writer):
    """End the connection with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def hold_open(writer, drip):
    """Keep the connection open until the client closes it, which only writing shows."""
    while True:
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(drip)


async def until(condition, seconds=60.0):
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")
