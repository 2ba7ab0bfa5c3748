"""A cancelled exchange leaves nothing behind: no slot, no connection, no descriptor.

``LLMPROG_CANCELS=10000 pytest --timeout=0 tests/backends/remote/test_cancellation.py`` cancels as many streams.
"""

import asyncio
import contextlib
import os
import random
import socket
from pathlib import Path

import pytest
from exchanging import until

from llmprog.backends.remote.transport import Timeouts, Transport
from llmprog.backends.remote.wire import Progress
from llmprog.errors import ConnectionFailedError

NUM_CANCELS = int(os.environ.get("LLMPROG_CANCELS", "400"))


def num_descriptors():
    return len(list(Path("/dev/fd").iterdir()))


@contextlib.asynccontextmanager
async def transport(max_connections=1, **timeouts):
    """A transport that has given everything back at the end, its one slot included."""
    opened = Transport(backend="test:model", max_connections=max_connections, timeouts=Timeouts(**timeouts))
    try:
        yield opened
        assert opened.num_open == 0
    finally:
        await opened.aclose()


def read(chunk):
    return Progress.DONE if b"[DONE]" in chunk else Progress.EVENT


async def post(opened, url, on_chunk=read):
    return await opened.exchange("POST", f"{url}/v1/chat", {"authorization": "Bearer x"}, b"{}", on_chunk)


async def descriptors_are_back(baseline):
    for _ in range(2000):
        if num_descriptors() <= baseline:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{num_descriptors()} descriptors are open, {baseline} were")


async def requests_arrive(endpoint, count):
    """Until the server has read so many, from the first on."""
    await until(lambda: len(endpoint.requests) >= count)


@pytest.fixture
async def endpoint(serve, wire):
    """Answers at once on /ok, and otherwise stops at the stage that the path names, for good."""

    async def handler(request, writer):
        stage = request.path.strip("/").split("/")[0]
        if stage == "head":
            await asyncio.sleep(60)
        elif stage == "body":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n[1,")
            await asyncio.sleep(60)
        elif stage == "stream":
            writer.write(wire.STREAM_HEAD + wire.chunk("data: a\n\n"))
            await asyncio.sleep(60)
        elif stage == "slow":
            writer.write(wire.STREAM_HEAD)
            for _ in range(5):
                writer.write(wire.chunk("data: a\n\n"))
                await writer.drain()
                await asyncio.sleep(0.001)
            writer.write(wire.chunk("data: [DONE]\n\n") + wire.chunk(""))
        else:
            writer.write(wire.http(200, {}))

    return await serve(handler)


async def cancel(task, times):
    """Cancel again and again, in the same moment and in the next ones."""
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("stage", ["head", "body", "stream"])
async def test_cancelled_while_it_waits(endpoint, stage, times):
    async with transport() as opened:
        await post(opened, f"{endpoint.url}/ok")
        for _ in range(3):
            task = asyncio.create_task(post(opened, f"{endpoint.url}/{stage}"))
            await requests_arrive(endpoint, len(endpoint.requests) + 1)
            await asyncio.sleep(0.02)  # what it answers at this stage arrives, too
            assert opened.num_open == 1
            await cancel(task, times)
            assert opened.num_open == 0
            assert (await post(opened, f"{endpoint.url}/ok")).status == 200  # the one slot is free


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_connects(times):
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(8):  # fill the backlog, so that the next connection is not taken
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listening.getsockname())
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with transport() as opened:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(post(opened, url), 0.05)
            baseline = num_descriptors()
            for _ in range(5):
                task = asyncio.create_task(post(opened, url))
                await asyncio.sleep(0.02)
                await cancel(task, times)
            await descriptors_are_back(baseline)


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_it_waits_for_a_slot(endpoint, times):
    async with transport() as opened:
        first = asyncio.create_task(post(opened, f"{endpoint.url}/head"))
        waiting = [asyncio.create_task(post(opened, f"{endpoint.url}/ok")) for _ in range(5)]
        await requests_arrive(endpoint, 1)
        for task in waiting[:4]:
            await cancel(task, times)
        assert opened.num_open == 2
        await cancel(first, times)
        assert (await waiting[4]).status == 200
    assert [request.path for request in endpoint.requests] == ["/head/v1/chat", "/ok/v1/chat"]


@pytest.mark.fault("concurrency", "cancelled at each await, up to three times", "no slot, no connection left")
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_cancelled_at_each_await(endpoint, times):
    """After any number of turns of the loop, from before the task has begun until it is over."""
    async with transport() as opened:
        await post(opened, f"{endpoint.url}/ok")
        await asyncio.sleep(0.3)
        baseline = num_descriptors()
        outcomes = set()
        for turns in range(60):
            task = asyncio.create_task(post(opened, f"{endpoint.url}/slow"))
            for _ in range(turns):
                await asyncio.sleep(0)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            outcomes.add(type((await asyncio.gather(task, return_exceptions=True))[0]).__name__)
            assert opened.num_open == 0
        assert outcomes <= {"CancelledError", "HttpResponse"}
        assert (await post(opened, f"{endpoint.url}/ok")).status == 200
        await descriptors_are_back(baseline + 2)  # one connection may be kept alive: its two ends


async def test_cancelling_wins_over_a_timeout_of_the_same_moment(endpoint):
    async with transport(first_byte_s=0.05) as opened:
        for delay in (0.045, 0.0495, 0.05, 0.0501, 0.0505):
            task = asyncio.create_task(post(opened, f"{endpoint.url}/head"))
            await asyncio.sleep(delay)
            delivered = task.cancel()
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            assert isinstance(outcome, asyncio.CancelledError if delivered else ConnectionFailedError)


async def test_closing_wins_before_the_task_has_begun(endpoint):
    async with transport() as opened:
        task = asyncio.create_task(post(opened, f"{endpoint.url}/head"))
        await asyncio.sleep(0)  # the call has begun, its own task has not
        await opened.aclose()
        with pytest.raises(ConnectionFailedError, match="closed"):
            await task


async def test_an_enclosing_timeout_is_a_timeout(endpoint):
    async with transport() as opened:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await post(opened, f"{endpoint.url}/stream")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(post(opened, f"{endpoint.url}/head"), 0.05)
        assert (await post(opened, f"{endpoint.url}/ok")).status == 200


@pytest.mark.fault("concurrency", "one of many branches raises", "the others leave nothing open")
async def test_a_task_group_that_fails_leaves_nothing_open(endpoint):
    async with transport(max_connections=20) as opened:
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - a group is a block
            async with asyncio.TaskGroup() as group:
                for stage in ("head", "body", "stream", "slow") * 5:
                    group.create_task(post(opened, f"{endpoint.url}/{stage}"))
                await requests_arrive(endpoint, 20)
                raise ValueError("one of many branches")
        assert [type(error) for error in caught.value.exceptions] == [ValueError]
        assert opened.num_open == 0


@pytest.mark.fault("concurrency", "streams cancelled at random points", "no slot, no connection left")
async def test_streams_cancelled_at_random_points(endpoint):
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    async with transport(max_connections=50) as opened:
        await post(opened, f"{endpoint.url}/ok")
        await asyncio.sleep(0.3)
        baseline = num_descriptors()
        left = iter(range(NUM_CANCELS))
        num_cancelled = 0

        async def caller():
            nonlocal num_cancelled
            for _ in left:
                task = asyncio.create_task(post(opened, f"{endpoint.url}/slow"))
                await asyncio.sleep(rng.random() * 0.015)
                for _ in range(rng.choice((1, 1, 2, 3))):
                    task.cancel()
                    await asyncio.sleep(rng.choice((0, 0, 0.001)))
                outcome = (await asyncio.gather(task, return_exceptions=True))[0]
                num_cancelled += isinstance(outcome, asyncio.CancelledError)

        await asyncio.gather(*[caller() for _ in range(60)])
        assert num_cancelled > NUM_CANCELS / 4, seed
        assert opened.num_open == 0, seed
        answers = await asyncio.gather(*[post(opened, f"{endpoint.url}/ok") for _ in range(50)])  # every slot works
        assert {answer.status for answer in answers} == {200}
    await asyncio.sleep(0)
    await descriptors_are_back(baseline - 2)  # the connection that was open then is closed as well, at both ends
