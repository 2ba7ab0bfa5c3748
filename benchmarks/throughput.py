"""Chat calls over loopback: calls per second and client CPU per call, beside other clients in the same run.

    python benchmarks/throughput.py                          # 20,000 calls at 50, 500 and 1,000 in flight
    python benchmarks/throughput.py --calls 2000 --only llmprog,aiohttp
    python benchmarks/throughput.py --cancel 10000           # streams cancelled at random points instead

The endpoint is a process of its own with a fixed latency. ``llmprog`` is a backend opened by id behind a scheduler,
with all that a run has: limits, breaker, retries, parsing, usage and prices; ``transport`` is its HTTP layer alone;
``aiohttp`` is the limit: the connections below it and no more. The ``openai`` client is measured if it is installed, on
``--openai-calls`` calls, as 20,000 of them take minutes. CPU is user and system time of this process, so it does not
count the server; on a machine with other work to do, all columns grow alike.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from loopback import Server, start_server

PROMPT = "Use the numbers 4, 9, 10 and 13, each once, to reach 24. Propose the next steps. " * 3
BODY = {"model": "bench", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0.7, "max_tokens": 100}
Call = Callable[[], Awaitable[object]]


def num_descriptors() -> int:
    """Open descriptors of this process."""
    return len(list(Path("/dev/fd").iterdir()))


def peak_mb() -> float:
    """Most resident memory so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


@asynccontextmanager
async def llmprog_client(server: Server, in_flight: int):
    from llmprog.backends.registry import open_backend
    from llmprog.backends.scheduler import Scheduler
    from llmprog.types import Prompt, Request, SamplingParams

    backend = open_backend(f"{server.url}#bench?max_concurrency={in_flight}&start_concurrency={in_flight}")
    scheduler = Scheduler(backend, max_concurrency=in_flight)
    request = Request(prompt=Prompt.from_text(PROMPT), params=SamplingParams(max_tokens=100))
    try:
        yield lambda: scheduler.generate("bench", request)
    finally:
        await backend.aclose()


@asynccontextmanager
async def transport_client(server: Server, in_flight: int):
    from llmprog.backends.remote.transport import Transport

    transport = Transport(backend="bench", max_connections=in_flight)
    url, headers, body = (
        f"{server.url}/chat/completions",
        {"content-type": "application/json"},
        json.dumps(BODY).encode(),
    )

    async def call() -> object:
        return json.loads((await transport.exchange("POST", url, headers, body)).body)

    try:
        yield call
    finally:
        await transport.aclose()


@asynccontextmanager
async def aiohttp_client(server: Server, in_flight: int):
    import aiohttp

    url, headers, body = (
        f"{server.url}/chat/completions",
        {"content-type": "application/json"},
        json.dumps(BODY).encode(),
    )
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=in_flight), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:

        async def call() -> object:
            async with session.post(url, data=body, headers=headers) as response:
                return json.loads(await response.read())

        yield call


@asynccontextmanager
async def openai_client(server: Server, in_flight: int):
    import httpx
    import openai

    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    http = httpx.AsyncClient(limits=limits, timeout=600)
    async with openai.AsyncOpenAI(base_url=server.url, api_key="none", http_client=http, max_retries=0) as client:
        yield lambda: client.chat.completions.create(**BODY)


CLIENTS = {"llmprog": llmprog_client, "transport": transport_client, "aiohttp": aiohttp_client, "openai": openai_client}


async def run(call: Call, num_calls: int, in_flight: int) -> None:
    """``num_calls`` calls, ``in_flight`` of them at any time."""
    left = iter(range(num_calls))

    async def caller() -> None:
        for _ in left:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(caller())


async def measure(client: str, server: Server, num_calls: int, in_flight: int) -> None:
    """Print one row of the table."""
    baseline = num_descriptors()
    async with AsyncExitStack() as stack:
        try:
            call = await stack.enter_async_context(CLIENTS[client](server, in_flight))
        except ModuleNotFoundError as error:
            print(f"{client:<10} {in_flight:>9,}   not installed ({error.name})")
            return
        await run(call, in_flight, in_flight)  # every connection is open before the clock starts
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        await run(call, num_calls, in_flight)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        opened = num_descriptors() - baseline
    await asyncio.sleep(0.1)
    print(
        f"{client:<10} {in_flight:>9,} {num_calls:>8,} {num_calls / wall:>9,.0f} {cpu / num_calls * 1e6:>12,.0f}"
        f" {peak_mb():>8,.0f} {opened:>6,} -> {num_descriptors() - baseline}",
        flush=True,
    )


async def throughput(arguments: argparse.Namespace) -> None:
    print("client     in flight    calls   calls/s  CPU us/call  peak MB  descriptors opened -> left")
    with start_server(latency_ms=arguments.latency_ms) as server:
        for in_flight in arguments.in_flight:
            for client in arguments.only:
                num_calls = min(arguments.openai_calls, arguments.calls) if client == "openai" else arguments.calls
                await measure(client, server, num_calls, in_flight)


async def cancellation(num_streams: int, in_flight: int, seed: int) -> None:
    """Cancel streams at random points, some of them twice; print what is left open."""
    from llmprog.backends.remote.sse import SSEParser
    from llmprog.backends.remote.transport import Transport
    from llmprog.backends.remote.wire import Progress

    rng = random.Random(seed)
    body = json.dumps(BODY | {"stream": True}).encode()
    baseline = num_descriptors()
    cancelled = finished = 0
    with start_server(latency_ms=5, stream_ms=40, pieces=8) as server:
        transport = Transport(backend="bench", max_connections=in_flight)

        def reader() -> Callable[[bytes], Progress]:
            parser = SSEParser()

            def on_chunk(chunk: bytes) -> Progress:
                events = parser.feed(chunk)
                if any(event.data == "[DONE]" for event in events):
                    return Progress.DONE
                return Progress.EVENT if events else Progress.NOTHING

            return on_chunk

        async def stream() -> object:
            return await transport.exchange("POST", f"{server.url}/chat/completions", {}, body, reader())

        async def start_and_cancel() -> None:
            nonlocal cancelled, finished
            task = asyncio.create_task(stream())
            await asyncio.sleep(rng.random() * 0.12)
            for _ in range(rng.choice((1, 1, 2))):
                task.cancel()
                await asyncio.sleep(0)
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(outcome, asyncio.CancelledError):
                cancelled += 1
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                finished += 1

        start = time.perf_counter()
        await run(start_and_cancel, num_streams, in_flight)
        wall = time.perf_counter() - start
        open_after = transport.num_open
        await run(stream, in_flight, in_flight)  # every slot is free, or this would not end
        await transport.aclose()
        await asyncio.sleep(0.1)
        stats = await asyncio.to_thread(server.stats)
    print(f"{num_streams:,} streams in {wall:.1f} s, seed {seed}: {cancelled:,} cancelled, {finished:,} finished first")
    print(f"exchanges left open: {open_after}; all {in_flight} slots served a further stream")
    kept = stats["connections"] - 1  # less the one that asked
    print(f"descriptors left open: {num_descriptors() - baseline}; connections the server still has: {kept}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--openai-calls", type=int, default=2_000, help="calls of the openai client (default 2,000)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[50, 500, 1_000])
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(CLIENTS), metavar="CLIENT,…")
    parser.add_argument("--cancel", type=int, metavar="STREAMS", help="cancel so many streams instead")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8_192)), hard))
    if arguments.cancel:
        asyncio.run(cancellation(arguments.cancel, min(arguments.in_flight[0], arguments.cancel), arguments.seed))
    else:
        asyncio.run(throughput(arguments))


if __name__ == "__main__":
    main()
