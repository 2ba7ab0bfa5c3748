"""Chat calls over loopback: calls per second and client CPU per call, beside other clients in the same run.

    python benchmarks/throughput.py                          # 20,000 calls at 50, 500 and 1,000 in flight
    python benchmarks/throughput.py --calls 2000 --only llmprog,aiohttp
    python benchmarks/throughput.py --cancel 10000           # cancel so many streams under way at random points instead

The endpoint is a process of its own with a fixed latency. ``llmprog`` is a backend opened by id behind a scheduler,
with all that a run has: limits, breaker, retries, parsing, usage and prices; ``transport`` is its HTTP layer alone, on
connections of aiohttp; ``aiohttp`` is that library's own client session. The ``openai`` client is measured if it is
installed, on ``--openai-calls`` calls, as 20,000 of them take many minutes; the table says so. CPU is user and system
time of this process, so it does not count the server; on a machine with other work to do, all columns grow alike. No
client can make more than 1,000 calls per second with 50 in flight over 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager

from cancellation import cancel_streams, num_descriptors, run
from loopback import Server, start_server

PROMPT = "Use the numbers 4, 9, 10 and 13, each once, to reach 24. Propose the next steps. " * 3
BODY = {"model": "bench", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0.7, "max_tokens": 100}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--openai-calls", type=int, default=2_000, help="calls of the openai client (default 2,000)")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[50, 500, 1_000])
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(CLIENTS), metavar="CLIENT,…")
    parser.add_argument("--cancel", type=int, metavar="STREAMS", help="cancel so many streams under way instead")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8_192)), hard))
    if arguments.cancel:
        asyncio.run(cancel_streams(arguments.cancel, min(arguments.in_flight[0], arguments.cancel), arguments.seed))
    else:
        asyncio.run(throughput(arguments))


if __name__ == "__main__":
    main()
