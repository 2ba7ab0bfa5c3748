"""Streams cancelled at random points, and proof that nothing of them is left: ``throughput.py --cancel 10000``."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from loopback import start_server

PHASES = {"connect": "connecting", "first byte": "waiting for the first byte", "idle": "in mid-stream"}
WAITING = "waiting for a slot"
Call = Callable[[], Awaitable[object]]


def num_descriptors() -> int:
    """Open descriptors of this process."""
    return len(list(Path("/dev/fd").iterdir()))


async def run(call: Call, num_calls: int, in_flight: int) -> None:
    """``num_calls`` calls, ``in_flight`` of them at any time."""
    left = iter(range(num_calls))

    async def caller() -> None:
        for _ in left:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(caller())


class Streams:
    """Streams of one endpoint, some of them cancelled.

    Args:
        url: Base URL of the server.
        in_flight: Slots of the endpoint.
        rng: Draws when a stream is cancelled.
    """

    def __init__(self, url: str, in_flight: int, rng: random.Random) -> None:
        from llmprog.backends.remote.endpoint import Endpoint, EndpointOptions
        from llmprog.backends.remote.transport import Transport
        from llmprog.backends.remote.wire import HttpRequest

        self.transport = Transport(backend="bench", max_connections=in_flight)
        options = EndpointOptions(max_concurrency=in_flight, start_concurrency=in_flight)
        self.endpoint = Endpoint(backend="bench", base_url=url, auth={}, transport=self.transport, options=options)
        messages = [{"role": "user", "content": "Count to ten."}]
        body = {"model": "bench", "messages": messages, "stream": True}
        self.request = HttpRequest(path="/chat/completions", body=body, stream=True)
        self.rng = rng
        self.phases: Counter[str] = Counter()
        self.num_twice = self.num_finished = 0

    async def stream(self) -> object:
        """One whole stream."""
        return await self.endpoint.send(
            self.request, group="bench", estimated_tokens=0, check=lambda value: value, on_chunk_factory=reader
        )

    async def start_and_cancel(self) -> None:
        """One stream that is cancelled if it has not finished before."""
        task = asyncio.create_task(self.stream())
        if self.rng.random() < 1 / 3:  # in the first turns of the loop, where it connects
            for _ in range(self.rng.randint(1, 6)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.rng.random() * 0.08)
        # Only the transport knows how far an exchange has come; a stream that it does not know waits for its slot.
        layer = next((e.layer for e in self.transport._exchanges if e.caller is task), "slot")
        times = self.rng.choice((1, 1, 2))
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, asyncio.CancelledError):
            self.phases[PHASES.get(layer, WAITING)] += 1
            self.num_twice += times - 1
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            self.num_finished += 1

    async def cancel(self, num_streams: int, num_callers: int) -> None:
        """Start and cancel streams until so many were under way when they were cancelled."""

        async def caller() -> None:
            while self.phases.total() < num_streams:
                await self.start_and_cancel()

        async with asyncio.TaskGroup() as group:
            for _ in range(num_callers):
                group.create_task(caller())


def reader() -> Callable[[bytes], object]:
    """Reads the events of one stream up to its end."""
    from llmprog.backends.remote.sse import SSEParser
    from llmprog.backends.remote.wire import Progress

    parser = SSEParser()

    def on_chunk(chunk: bytes) -> Progress:
        events = parser.feed(chunk)
        if any(event.data == "[DONE]" for event in events):
            return Progress.DONE
        return Progress.EVENT if events else Progress.NOTHING

    return on_chunk


async def cancel_streams(num_streams: int, in_flight: int, seed: int) -> None:
    """Cancel so many streams under way, every third of them twice; print in which phase, and what is left of them.

    There are half as many callers again as slots, so that some are cancelled while they wait for one.
    """
    baseline, tasks_before = num_descriptors(), len(asyncio.all_tasks())
    with start_server(latency_ms=5, stream_ms=60, pieces=8) as server:
        streams = Streams(server.url, in_flight, random.Random(seed))
        begun = time.perf_counter()
        await streams.cancel(num_streams, in_flight * 3 // 2)
        wall = time.perf_counter() - begun
        after, open_after = streams.endpoint.stats(), streams.transport.num_open
        await asyncio.sleep(0.5)  # longer than a finished stream may take to give its connection back
        tasks_after = len(asyncio.all_tasks())
        await run(streams.stream, in_flight, in_flight)  # every slot is free, or this would not end
        await streams.endpoint.aclose()
        await asyncio.sleep(0.1)
        stats = await asyncio.to_thread(server.stats)
    print(f"{streams.phases.total():,} streams cancelled in {wall:.1f} s (seed {seed}), {streams.num_twice:,} twice:")
    for phase in (WAITING, *PHASES.values()):
        print(f"  {streams.phases[phase]:>6,} {phase}")
    print(f"  {streams.num_finished:>6,} others had finished first, and are not counted")
    print(f"slots held: {after.in_flight} of {after.concurrency}; waiting for one: {after.waiting}")
    print(f"exchanges left open: {open_after}; tasks left: {tasks_after - tasks_before}")
    print(f"further streams: {in_flight} at once, all finished")
    kept = stats["connections"] - 1  # less the one that asked
    print(f"descriptors left open: {num_descriptors() - baseline}; connections the server still has: {kept:.0f}")
