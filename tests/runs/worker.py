"""A process that works on a run, for tests that kill, stop and starve it: ``worker.py WHAT STORE [RUN]``.

It says on standard output what it has done, one line each, so that a test can act at that moment.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time

from llmprog.errors import StoreError
from llmprog.runs.info import RunInfo
from llmprog.runs.store import open_store
from llmprog.types import Completion, Prompt, Request, SamplingParams, Usage

INFO = RunInfo(kind="run", program="p", program_hash="h", program_text="p", input=None, config={})
BOUND = Usage(1, 10, 100, 0.02)
COST = Usage(1, 10, 20, 0.01)
FOR_EVER = 1000


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def ask(number):
    return Request(prompt=Prompt.from_text(f"question {number}"), params=SamplingParams(seed=1))


async def one_call(journal, number, *, length=200):
    calls = journal.at("")
    if calls.recall("think", ask(number)):
        return
    call = await calls.send("think", "test:model", ask(number), BOUND)
    say("sent", number)
    await asyncio.sleep(0)
    await calls.settle(call, [Completion(text=f"answer {number} ".ljust(length, "."), usage=COST)], COST, 0.1)
    say("settled", number)


async def many_calls(journal, *, in_flight=20, length=200):
    numbers = iter(range(10**6))

    async def work():
        for number in numbers:
            await one_call(journal, number, length=length)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(work())


async def main(what, where, run_id=None):
    store = open_store(where)
    say("opening")
    journal = store.resume(run_id) if run_id else store.create(INFO)
    say("run", journal.id)
    calls = journal.at("")
    if what == "hold":
        await one_call(journal, 1)
        await asyncio.sleep(FOR_EVER)
    elif what == "send":
        await calls.send("think", "test:model", ask(1), BOUND)
        say("sent", 1)
        await asyncio.sleep(FOR_EVER)
    elif what == "settle when told":
        call = await calls.send("think", "test:model", ask(1), BOUND)
        say("sent", 1)
        sys.stdin.readline()
        await calls.settle(call, [Completion(text="answer", usage=COST)], COST, 0.1)
        say("settled", 1)
    elif what == "call until killed":
        await many_calls(journal)
    elif what == "call until the disk is full":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        await until_refused(journal)
    elif what == "call until a file may not grow":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        await until_refused(journal)
    elif what == "step by step":
        for number, _ in enumerate(sys.stdin, 1):
            await one_call(journal, number)
        await journal.finish("finished", None)
        await journal.aclose()
        say("done")
    elif what == "fork":
        fork(journal)
    else:
        raise SystemExit(f"unknown: {what}")


async def until_refused(journal):
    try:
        await many_calls(journal, length=20_000)
    except* StoreError as errors:
        for error in errors.exceptions:
            say("refused", error)
    try:
        await asyncio.wait_for(one_call(journal, -1), 10)
    except StoreError as error:
        say("refused again", error)


def fork(journal):
    """A child that tries to write, says so, and outlives its parent."""
    child = os.fork()
    if child:
        say("parent is done")
        os._exit(0)
    try:
        journal.event("", "note", {})
    except StoreError as error:
        say("child:", error)
    time.sleep(FOR_EVER)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
