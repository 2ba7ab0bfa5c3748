"""``llmprog serve`` held to its page: the ``openai`` client against it, 64 clients at once, clients that go away.

    python benchmarks/serve.py                  # local:smollm2 and local:puzzles, some minutes on two cores
    python benchmarks/serve.py --clients 16

The server is a process of its own on a free port. Every line of the table is one thing that a client relies on, with
what was seen; a line that fails makes the exit code 1. Throughput is that of one chat call by each of the clients, and
beside it of the same calls, whose tokens are the same, on the backend in this process: the difference is HTTP and JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import openai

PUZZLES = "local:puzzles"
SMOLLM2 = "local:smollm2"
STEPS = "Input: 4 9 10 13\nPossible next steps:"
BOARD = "1 2 3 4\n3 4 1 2\n2 1 . 3\n4 3 2 .\nSolution:"
PARTS = ["1 2 3 4\n3 4 1 2\n2 1 ", {"blank": 1}, " 3\n4 3 2 ", {"blank": 1}]
FILLED = "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"
SERVED = (SMOLLM2, PUZZLES, "diffusion=local:puzzles?decoder=masked_diffusion")
ROUNDS = 3
HOST_S = 120  # to load the models, on a busy machine


class FailedError(Exception):
    """A line of the table does not hold; its text says what was seen."""


def hold(is_so: bool, seen: object) -> str:
    """``seen`` as text.

    Raises:
        FailedError: It is not so.
    """
    if not is_so:
        raise FailedError(f"{seen}")
    return f"{seen}"


@contextmanager
def server():
    """The base URL of ``llmprog serve``, and the seconds until it answered."""
    command = [str(Path(sys.executable).with_name("llmprog")), "serve", "--port", "0"]
    for backend in SERVED:
        command += ["--backend", backend]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    try:
        said = process.stderr.readline()
        found = re.search(r"http://\S+/v1", said)
        if found is None:
            raise SystemExit(f"the server did not begin: {said}{process.stderr.read()}")
        httpx.get(f"{found[0]}/models", timeout=HOST_S).raise_for_status()
        yield found[0], time.perf_counter() - begun
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def chat(client: openai.OpenAI) -> str:
    reply = client.chat.completions.create(
        model=SMOLLM2, messages=user("What is the capital of France? One short sentence."), temperature=0, max_tokens=16
    )
    return hold("Paris" in reply.choices[0].message.content, repr(reply.choices[0].message.content))


def stream(client: openai.OpenAI) -> str:
    asked = {"model": SMOLLM2, "messages": user("Count from 1 to 10."), "temperature": 0, "max_tokens": 32}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    begun = time.perf_counter()
    first, pieces = None, []
    for chunk in client.chat.completions.create(**asked, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - begun
            pieces.append(chunk.choices[0].delta.content)
    took = time.perf_counter() - begun
    same = "".join(pieces) == whole
    return hold(same and len(pieces) > 4, f"{len(pieces)} pieces, first after {first:.2f} of {took:.2f} s, same text")


def canvas(client: openai.OpenAI) -> str:
    shown = []
    text = ""
    for chunk in client.chat.completions.create(
        model="diffusion",
        messages=user(STEPS),
        seed=1,
        stream=True,
        stream_options={"include_canvas": True},
    ):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if hasattr(choice, "llmprog"):
                shown.append(choice.llmprog["canvas"])
    return hold(len(shown) > 2 and shown[-1] == text, f"{len(shown)} canvases, {shown[0].count('▒')} masks at first")


def samples(client: openai.OpenAI) -> str:
    reply = client.chat.completions.create(model=PUZZLES, messages=user(STEPS), n=4, seed=1)
    again = client.chat.completions.create(model=PUZZLES, messages=user(STEPS), n=4, seed=1)
    texts = [choice.message.content for choice in reply.choices]
    same = texts == [choice.message.content for choice in again.choices]
    return hold(
        len(texts) == 4 and len(set(texts)) > 1 and same, f"{len(set(texts))} different, same again with the seed"
    )


def logprobs(client: openai.OpenAI) -> str:
    reply = client.chat.completions.create(
        model=SMOLLM2, messages=user("Say hello."), temperature=0, max_tokens=8, logprobs=True
    )
    found = reply.choices[0].logprobs.content
    spelt = "".join(item.token for item in found)
    return hold(
        spelt.startswith(reply.choices[0].message.content) and all(item.logprob <= 0 for item in found),
        f"{len(found)} tokens, {sum(item.logprob for item in found):.2f} in all",
    )


def echo(client: openai.OpenAI) -> str:
    def likelihood(text: str) -> float:
        asked = {"model": SMOLLM2, "prompt": text, "echo": True, "logprobs": 1, "max_tokens": 0}
        return sum(client.completions.create(**asked).choices[0].logprobs.token_logprobs[1:])

    paris, rome = (likelihood(f"The capital of France is {city}.") for city in ("Paris", "Rome"))
    return hold(paris > rome, f"Paris {paris:.1f}, Rome {rome:.1f}")


def infill(client: openai.OpenAI) -> str:
    asked = {"model": "diffusion", "messages": user(BOARD), "parts": PARTS, "temperature": 0}
    reply = httpx.post(f"{client.base_url}infill", json=asked, timeout=60).json()
    text = reply["choices"][0]["text"]
    return hold(text == FILLED, repr(text[-17:]))


def program(client: openai.OpenAI) -> str:
    reply = client.chat.completions.create(model=f"program:game24@{PUZZLES}", messages=user("4 9 10 13"), seed=1)
    calls = reply.llmprog["usage"]["calls"]
    return hold(reply.llmprog["runs"][0]["solved"], f"{reply.choices[0].message.content}, {calls} calls")


def in_flight(url: str) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"{url.removesuffix('/v1')}/health", timeout=30).json()
    return found


@asynccontextmanager
async def clients_of(url: str, count: int):
    """So many clients, each with connections of its own; making them takes longer than a call, so it comes first."""
    certificates = ssl.create_default_context()  # reading them is most of it, and none is needed
    clients = []
    async with AsyncExitStack() as stack:
        for _ in range(count):
            http = openai.DefaultAsyncHttpxClient(verify=certificates)
            client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600, http_client=http)
            clients.append(await stack.enter_async_context(client))
        yield clients


async def many(url: str, num_clients: int, model: str, text: str, max_tokens: int) -> tuple[float, int]:
    """Seconds and tokens of one call by each of ``num_clients``, at once."""

    async def one(client: openai.AsyncOpenAI, number: int) -> int:
        asked = {"model": model, "messages": user(text), "seed": number, "max_tokens": max_tokens}
        reply = await client.chat.completions.create(**asked)
        return reply.usage.completion_tokens

    async with clients_of(url, num_clients) as clients:
        begun = time.perf_counter()
        tokens = await asyncio.gather(*map(one, clients, range(num_clients)))
        return time.perf_counter() - begun, sum(tokens)


async def compare(url: str, num_clients: int, model: str, text: str, max_tokens: int) -> str:
    """The calls over HTTP and the same of the backend in this process, in turns; of each the best of three."""
    from llmprog.backends import open_backend
    from llmprog.types import Prompt, Request, SamplingParams

    backend = open_backend(model)

    async def one(number: int) -> int:
        params = SamplingParams(temperature=1.0, seed=number, max_tokens=max_tokens)
        (completion,) = await backend.generate(Request(prompt=Prompt.from_text(text), params=params))
        return completion.usage.completion_tokens

    async def in_process() -> tuple[float, int]:
        begun = time.perf_counter()
        tokens = await asyncio.gather(*map(one, range(num_clients)))
        return time.perf_counter() - begun, sum(tokens)

    served, here = [], []
    try:
        for _ in range(ROUNDS):
            served.append(await many(url, num_clients, model, text, max_tokens))
            here.append(await in_process())
    finally:
        await backend.aclose()
    (served_s, tokens), (here_s, tokens_here) = min(served), min(here)
    return hold(
        tokens == tokens_here,
        f"{num_clients / served_s:.1f} calls/s, {tokens / served_s:.0f} tokens/s; in process "
        f"{num_clients / here_s:.1f} and {tokens_here / here_s:.0f}: {here_s / served_s:.0%} of it is reached",
    )


async def leave(url: str, num_clients: int) -> str:
    """Half of the clients go away while their calls are under way; the others get their replies."""
    before = in_flight(url)

    async def one(client: openai.AsyncOpenAI, number: int) -> bool:
        asked = {"model": SMOLLM2, "messages": user("Tell me a long story."), "seed": number, "max_tokens": 48}
        call = asyncio.ensure_future(client.chat.completions.create(**asked))
        if number % 2:
            await asyncio.sleep(0.5 + number / 100)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            return False
        return bool((await call).choices[0].message.content)

    async with clients_of(url, num_clients) as clients:
        stayed = sum(await asyncio.gather(*map(one, clients, range(num_clients))))
    begun = time.perf_counter()
    for _ in range(200):
        found = in_flight(url)
        if not found["in_flight"]:
            break
        await asyncio.sleep(0.05)
    gone = found["gone"] - before["gone"]
    seen = f"{stayed} answered, {gone} left, {found['in_flight']} in flight {time.perf_counter() - begun:.2f} s later"
    return hold(stayed == num_clients - num_clients // 2 and gone > 0 and not found["in_flight"], seen)


CHECKS: dict[str, Callable[[openai.OpenAI], str]] = {
    "chat": chat,
    "stream": stream,
    "stream of a canvas": canvas,
    "n=4": samples,
    "logprobs": logprobs,
    "echo, max_tokens=0": echo,
    "infill": infill,
    "program as a model": program,
}


def line(name: str, check: Callable[[], str]) -> bool:
    """Print one line of the table; returns whether it holds."""
    begun = time.perf_counter()
    try:
        seen, is_so = check(), True
    except (FailedError, openai.OpenAIError, httpx.HTTPError) as error:
        seen, is_so = str(error), False
    print(f"{'ok  ' if is_so else 'FAIL'} {name:<32} {time.perf_counter() - begun:>7.2f} s  {seen}", flush=True)
    return is_so


def waited(work: Awaitable[str]) -> str:
    async def main() -> str:
        return await work

    return asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64, help="clients at once (default: 64)")
    arguments = parser.parse_args()
    loads = ((PUZZLES, STEPS, 48), (SMOLLM2, "Write two sentences about the sea.", 16))
    num = arguments.clients
    with server() as (url, began_s):
        print(f"served {', '.join(SERVED)} after {began_s:.1f} s")
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=600) as client:
            held = [line(name, lambda check=check: check(client)) for name, check in CHECKS.items()]
        for model, text, most in loads:
            held.append(
                line(f"{num} clients, {model}", lambda load=(model, text, most): waited(compare(url, num, *load)))
            )
        held.append(line(f"{num} clients, half leave", lambda: waited(leave(url, num))))
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
