"""An endpoint on loopback that speaks OpenAI's chat completions, as a process of its own, for the other benchmarks.

    python benchmarks/loopback.py --latency-ms 50 --faults 429=2,reset=1     # serves until its standard input ends

    from loopback import start_server
    with start_server(latency_ms=50, answer="latency:answer") as server:
        ...  # server.url is a base URL such as http://127.0.0.1:40321/v1; server.stats() counts what it saw

It is a bare ``asyncio.Protocol``, and makes an answer while its latency runs, so that on a machine of few cores the
client is what is measured: what the server itself costs comes on top of the latency only where it is out of breath.
``answer`` names a function ``(request: dict, sample_index: int) -> str`` as ``module:function``; the module is imported
from the current directory or from beside this file. Faults are drawn per request from a seeded generator, in per cent:
``429`` and any other status, ``reset`` (the connection is aborted before an answer), ``truncate`` (an answer that stops
half-way).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import math
import random
import select
import selectors
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

Answer = Callable[[dict[str, Any], int], str]
CREATED = 1_700_000_000


def count_words(request: dict[str, Any], sample_index: int) -> str:
    """The default answer: short, and different for each sample."""
    last = request["messages"][-1]["content"] if request.get("messages") else ""
    return f"Sample {sample_index}: the question has {len(str(last).split())} words."


@dataclass(kw_only=True)
class Behaviour:
    """What the server does with a request.

    Attributes:
        latency_ms: Time before the answer begins; the median where ``sigma`` is not 0.
        sigma: Standard deviation of the latency's logarithm; 0 makes it constant.
        pieces: Events that a streamed answer comes in; spread over ``stream_ms``.
        faults: Per cent of requests that fail, by kind.
        answer: What is said.
    """

    latency_ms: float = 50.0
    sigma: float = 0.0
    pieces: int = 8
    stream_ms: float = 0.0
    faults: dict[str, float]
    answer: Answer = count_words
    seed: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.connections = 0
        self.requests = 0
        self.failed = 0
        self.most_in_flight = 0
        self.in_flight = 0
        self.unmade: deque[Connection] = deque()

    def make_next(self) -> None:
        """Make one answer that is not due yet; one at a time, so that requests which come meanwhile are seen."""
        if self.unmade:
            self.unmade.popleft().make()
            asyncio.get_running_loop().call_soon(self.make_next)

    def draw_latency_s(self) -> float:
        """Seconds until the next answer."""
        spread = math.exp(self.rng.gauss(0.0, self.sigma)) if self.sigma else 1.0
        return self.latency_ms * spread / 1000

    def draw_fault(self) -> str | None:
        """The kind of the next request's fault, if it has one."""
        at = self.rng.random() * 100 if self.faults else 100.0
        for kind, per_cent in self.faults.items():
            at -= per_cent
            if at < 0:
                return kind
        return None


class PunctualSelector(selectors.DefaultSelector):
    """Wakes up when it is asked to: epoll alone sleeps in whole milliseconds, which would add to the latency."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0 and hasattr(self, "fileno"):
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests on it are answered in turn."""

    def __init__(self, behaviour: Behaviour, loop: asyncio.AbstractEventLoop) -> None:
        self.behaviour, self.loop = behaviour, loop
        self.buffer = b""
        self.pending: asyncio.TimerHandle | None = None
        self.asked = b""
        self.fault: str | None = None
        self.made: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.behaviour.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.behaviour.connections -= 1
        if self.pending is not None:
            self.pending.cancel()
            self.settle()
            if self.made is None and self in self.behaviour.unmade:
                self.behaviour.unmade.remove(self)

    def settle(self) -> None:
        """The request under way is over."""
        self.pending = None
        self.behaviour.in_flight -= 1

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0 or self.pending is not None:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 : head.find(b"\r", at) if head.find(b"\r", at) > 0 else None]) if at >= 0 else 0
        if len(self.buffer) < end + 4 + length:
            return
        body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
        self.answer(head.split(b" ", 2)[1].decode(), body)

    def answer(self, path: str, body: bytes) -> None:
        """Take in one request and plan its answer."""
        b = self.behaviour
        if path.endswith("/stats"):
            stats = {
                "connections": b.connections,
                "in_flight": b.in_flight,
                "most_in_flight": b.most_in_flight,
                "requests": b.requests,
                "failed": b.failed,
                "cpu_s": time.process_time(),
            }
            return self.send(200, json.dumps(stats).encode())
        if path.endswith("/models"):
            return self.send(200, b'{"object":"list","data":[{"id":"bench","object":"model"}]}')
        b.requests += 1
        b.in_flight += 1
        b.most_in_flight = max(b.most_in_flight, b.in_flight)
        self.asked, self.fault, self.made = body, b.draw_fault(), None
        self.pending = self.loop.call_later(b.draw_latency_s(), self.reply)
        b.unmade.append(self)
        if len(b.unmade) == 1:
            self.loop.call_soon(b.make_next)
        return None

    def send(self, status: int, body: bytes, *, cut: int = 0, headers: bytes = b"") -> None:
        """Write a plain answer, without its last ``cut`` bytes."""
        self.transport.write(
            b"HTTP/1.1 %d Answer\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n%s"
            % (status, len(body), headers, body[: len(body) - cut])
        )

    def reply(self) -> None:
        """Answer, now that it is due."""
        if self.made is None:
            self.behaviour.unmade.remove(self)
            self.make()
        if self.fault is not None:
            self.behaviour.failed += 1
        self.made()  # make has set it

    def make(self) -> None:
        """Make the answer to a chat completion, or the fault that is planned instead."""
        fault = self.fault
        if fault == "reset":
            self.made = self.reset
            return
        if fault is not None and fault.isdigit():
            error = {"error": {"message": "a planned fault", "type": "planned", "code": None}}
            self.made = partial(self.finish, int(fault), json.dumps(error).encode(), headers=b"retry-after: 0\r\n")
            return
        request = json.loads(self.asked)
        texts = [self.behaviour.answer(request, index) for index in range(int(request.get("n") or 1))]
        if request.get("stream"):
            self.made = partial(self.stream, request, texts, truncate=fault is not None)
            return
        choices = [
            {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for i, text in enumerate(texts)
        ]
        answer = self.frame(request, "chat.completion", choices) | {"usage": self.usage(request, texts)}
        data = json.dumps(answer).encode()
        self.made = partial(self.finish, 200, data, cut=len(data) // 2 if fault else 0)

    def reset(self) -> None:
        """Abort the connection instead of an answer."""
        self.settle()
        self.transport.abort()

    def finish(self, status: int, body: bytes, *, cut: int = 0, headers: bytes = b"") -> None:
        """Write a plain answer; one that is cut ends with its connection."""
        self.settle()
        self.send(status, body, cut=cut, headers=headers)
        if cut:
            self.transport.close()

    def stream(self, request: dict[str, Any], texts: list[str], *, truncate: bool) -> None:
        """Answer with server-sent events, each in a chunk of its own."""
        events: list[dict[str, Any]] = []
        pieces = self.behaviour.pieces
        for piece in range(pieces):
            for i, text in enumerate(texts):
                part = text[len(text) * piece // pieces : len(text) * (piece + 1) // pieces]
                choice = {"index": i, "delta": {"content": part}, "finish_reason": None}
                events.append(self.frame(request, "chat.completion.chunk", [choice]))
        last = [{"index": i, "delta": {}, "finish_reason": "stop"} for i in range(len(texts))]
        events.append(self.frame(request, "chat.completion.chunk", last))
        if (request.get("stream_options") or {}).get("include_usage"):
            events.append(self.frame(request, "chat.completion.chunk", []) | {"usage": self.usage(request, texts)})
        lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events] + [b"data: [DONE]\n\n"]
        if truncate:
            lines = lines[: len(lines) // 2]
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        self.push(lines, 0, self.behaviour.stream_ms / 1000 / len(lines), truncate)

    def push(self, lines: list[bytes], at: int, pause_s: float, truncate: bool) -> None:
        """Write the next events, all of them where there is no pause between them."""
        until = at + 1 if pause_s else len(lines)
        data = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines[at:until])
        if until < len(lines):
            self.transport.write(data)
            self.pending = self.loop.call_later(pause_s, self.push, lines, until, pause_s, truncate)
            return
        self.settle()
        self.transport.write(data if truncate else data + b"0\r\n\r\n")
        if truncate:
            self.transport.close()

    @staticmethod
    def frame(request: dict[str, Any], kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """What every answer and every event has in common."""
        model = request.get("model", "bench")
        return {"id": "chatcmpl-bench", "object": kind, "created": CREATED, "model": model, "choices": choices}

    @staticmethod
    def usage(request: dict[str, Any], texts: list[str]) -> dict[str, int]:
        """Token counts, of four characters each."""
        prompt = sum(len(str(message.get("content", ""))) for message in request.get("messages", ())) // 4 + 1
        written = sum(len(text) for text in texts) // 4 + 1
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


@dataclass(frozen=True)
class Server:
    """A server that runs: its base URL, and what it has seen."""

    url: str
    pid: int

    def stats(self) -> dict[str, float]:
        """Open connections, requests under way and at most, requests and faults so far, CPU seconds."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=30) as answer:  # noqa: S310 - our own URL
            stats: dict[str, float] = json.loads(answer.read())
            return stats


@contextlib.contextmanager
def start_server(
    *,
    latency_ms: float = 50.0,
    sigma: float = 0.0,
    pieces: int = 8,
    stream_ms: float = 0.0,
    faults: str = "",
    answer: str = "loopback:count_words",
    seed: int = 0,
) -> Iterator[Server]:
    """A server in a process of its own, ended with the block; the arguments are those of ``Behaviour``."""
    options = {"latency-ms": latency_ms, "sigma": sigma, "pieces": pieces, "stream-ms": stream_ms}
    options |= {"faults": faults, "answer": answer, "seed": seed}
    command = [sys.executable, str(Path(__file__).resolve())]
    command += [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        if not (url := process.stdout.readline().strip()):
            raise RuntimeError(f"the loopback server did not start: {' '.join(command)}")
        yield Server(url, process.pid)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def parse_faults(text: str) -> dict[str, float]:
    """``"429=2,reset=1"`` as a mapping."""
    pairs = [item.split("=") for item in text.split(",") if item]
    if any(len(pair) != 2 or not (pair[0].isdigit() or pair[0] in ("reset", "truncate")) for pair in pairs):
        raise SystemExit(f"--faults {text!r}: expected KIND=PERCENT,… with a status, reset or truncate as KIND")
    return {kind: float(per_cent) for kind, per_cent in pairs}


async def serve(behaviour: Behaviour, port: int) -> None:
    """Serve until standard input ends, which it does when the parent process does."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(behaviour, loop), "127.0.0.1", port, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of a log-normal latency (default: constant)")
    parser.add_argument("--pieces", type=int, default=8, help="events a streamed answer comes in")
    parser.add_argument("--stream-ms", type=float, default=0.0, help="time a streamed answer takes once it has begun")
    parser.add_argument("--faults", type=parse_faults, default={}, metavar="KIND=PERCENT,…")
    parser.add_argument("--answer", default="loopback:count_words", metavar="MODULE:FUNCTION")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = vars(parser.parse_args())
    port = options.pop("port")
    module, _, function = options.pop("answer").partition(":")
    sys.path[:0] = [str(Path.cwd()), str(Path(__file__).resolve().parent)]
    behaviour = Behaviour(**options, answer=getattr(importlib.import_module(module), function))
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(PunctualSelector())) as runner:
        runner.run(serve(behaviour, port))


if __name__ == "__main__":
    main()
