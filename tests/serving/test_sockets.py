"""Clients that go away, and servers that end: nothing is left in flight, nothing is cut off that could have ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from llmprog.backends import ScriptedBackend, open_backend
from llmprog.serving.background import serving
from llmprog.serving.server import ServerOptions

PROPOSE = "Input: 4 9 10 13\nPossible next steps:"
EVALUATE = "Evaluate whether these numbers can reach 24.\n4 6 7 9 11"
PUZZLES = "m=local:puzzles?threads=1"
LLMPROG = Path(sys.executable).with_name("llmprog")


def chat(model, content, **options):
    return {"model": model, "messages": [{"role": "user", "content": content}], **options}


def long_run(**options):
    """A request that takes many seconds."""
    return chat("program:game24", "3 3 8 8", n=48, **options)


@contextlib.asynccontextmanager
async def posted(url, body):
    """The reader of a connection on which ``body`` has been posted; it is closed at the end."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        data = json.dumps(body).encode()
        head = f"POST {parts.path}/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json"
        writer.write(f"{head}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def health(url):
    async with httpx.AsyncClient(timeout=30) as client:
        return (await client.get(url.removesuffix("/v1") + "/health")).json()


async def in_flight_becomes(url, count, seconds=60.0):
    for _ in range(int(seconds / 0.05)):
        if (await health(url))["in_flight"] == count:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{await health(url)}, not {count} in flight")


async def is_refused(url, seconds=60.0):
    """Until the server takes no more connections."""
    for _ in range(int(seconds / 0.05)):
        try:
            await health(url)
        except httpx.TransportError:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it still answers")


def test_clients_that_go_away_free_their_slots_and_their_rows():
    backend = open_backend("local:puzzles?threads=1&max_batch_rows=32")
    rng = random.Random(5)

    async def leave(url, number):
        async with posted(url, chat("m", EVALUATE, n=4, stream=number % 4 == 0)):
            await asyncio.sleep(rng.random() * 0.3)

    async def main(url):
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=100) as client:

            async def stay(number):
                reply = await client.chat.completions.create(**chat("m", PROPOSE, seed=number))
                return reply.choices[0].message.content

            done = await asyncio.gather(*(stay(i) if i % 2 else leave(url, i) for i in range(64)))
            assert all(done[1::2])
            found = {}
            while found.get("answered", 0) + found.get("gone", 0) < 64:  # the last that left may not have been read yet
                await in_flight_becomes(url, 0)
                found = await health(url)
            assert found["answered"] >= 32
            assert found["answered"] + found["gone"] == 64
            assert await stay(1) == done[1]

    with serving({"m": backend}, {}) as url:
        asyncio.run(main(url))
        assert not backend._engine._unfinished


def test_a_program_whose_client_goes_away_is_cancelled(url):
    async def main():
        before = await health(url)
        async with posted(url, long_run()):
            await in_flight_becomes(url, 1)
        await in_flight_becomes(url, 0)
        assert (await health(url))["gone"] == before["gone"] + 1

    asyncio.run(main())


def test_a_stream_whose_client_goes_away_is_cancelled(url):
    async def main():
        async with posted(url, long_run(stream=True)) as reader:
            assert b"200 OK" in await reader.readline()  # the first comment is sent while the searches go on
        await in_flight_becomes(url, 0)

    asyncio.run(main())


@contextlib.contextmanager
def command(*options, **environment):
    """The process of ``llmprog serve`` and its URL, once it listens."""
    process = subprocess.Popen(
        [str(LLMPROG), "--log-level", "info", "serve", "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    try:
        said = process.stderr.readline()
        found = re.search(r"http://\S+/v1", said)
        assert found, said + process.stderr.read()
        yield process, found[0]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_at_its_end_a_server_lets_calls_end_and_cancels_those_that_do_not():
    backends = {
        name: ScriptedBackend(lambda *_, name=name: name, latency_s=s) for name, s in (("slow", 600.0), ("quick", 3.0))
    }
    has_begun = threading.Event()

    def ask(url, body):
        with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=240) as answer:
            if "stream" in body:
                has_begun.set()
            answer.read()
        return answer

    with ThreadPoolExecutor(3) as threads:
        with serving(backends, {}, options=ServerOptions(port=0, grace_s=8)) as url:
            bodies = (chat("slow", "?", stream=True), chat("slow", "?"), chat("quick", "?"))
            asked = [threads.submit(ask, url, body) for body in bodies]
            asyncio.run(in_flight_becomes(url, 3))
            assert has_begun.wait(60)
            begun = time.monotonic()
        assert time.monotonic() - begun < 120
        streamed, whole, quick = (future.result() for future in asked)
    assert streamed.status_code == 200
    assert "shutting_down" in streamed.text
    assert "[DONE]" not in streamed.text
    assert (whole.status_code, whole.json()["error"]["code"]) == (503, "shutting_down")
    assert quick.json()["choices"][0]["message"]["content"] == "quick"


def test_the_command_ends_quietly_at_a_signal_and_no_prompt_or_token_reaches_its_log():
    token = "the-token-of-this-test"
    served = ("--backend", PUZZLES, "--program", "sums=arithmetic?num_samples=2")
    with command(*served, LLMPROG_SERVE_TOKEN=token) as (process, url):
        headers = {"authorization": f"Bearer {token}"}
        ids = [model["id"] for model in httpx.get(f"{url}/models", headers=headers, timeout=60).json()["data"]]
        assert ids == ["m", "program:sums"]
        asked = chat("m", f"Hush.\n{PROPOSE}", max_tokens=4)
        assert httpx.post(f"{url}/chat/completions", json=asked, headers=headers, timeout=60).status_code == 200
        assert httpx.post(f"{url}/chat/completions", json=asked, timeout=60).status_code == 401
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0
        said = said.splitlines()
        assert len(said) == 2
        assert all("[info" in line and "/v1/chat/completions" in line for line in said)


def test_a_second_signal_does_not_wait():
    async def interrupt(process, url):
        async with posted(url, long_run(stream=True)) as reader:
            assert b"200 OK" in await reader.readline()
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            await is_refused(url)  # the first one has come: two that come at once would be one
            process.send_signal(signal.SIGINT)
            await asyncio.to_thread(process.wait, 200)
            return time.monotonic() - begun

    with command("--backend", PUZZLES, "--grace", "600") as (process, url):
        assert asyncio.run(interrupt(process, url)) < 250
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "takes a token"),  # noqa: S104 - it is refused
        (["--backend", "local:nothing"], "unknown local model"),
        (["--program", "nothing"], "unknown program"),
        (["--trust", "nothing"], "no effect without --program"),
        (["--max-concurrency", "0"], "max_concurrency=0"),
    ],
)
def test_what_cannot_be_served_is_one_line(options, says):
    done = subprocess.run([str(LLMPROG), "serve", "--port", "0", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
