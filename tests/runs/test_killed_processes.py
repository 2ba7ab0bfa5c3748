"""Processes that are killed, stopped or forked while they work on a run: nothing acknowledged is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmprog.errors import RunLockedError
from llmprog.runs.store import open_store
from llmprog.types import Prompt, Request, SamplingParams, Usage

WORKER = Path(__file__).with_name("worker.py")
BOUND = Usage(1, 10, 100, 0.02)
COST = Usage(1, 10, 20, 0.01)


def ask(number):
    return Request(prompt=Prompt.from_text(f"question {number}"), params=SamplingParams(seed=1))


class Worker:
    """A process of ``worker.py``."""

    def __init__(self, *arguments):
        command = [sys.executable, WORKER, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = []

    def until(self, word):
        """Wait until it says ``word``; returns the rest of the line."""
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith(word):
                return line.removeprefix(word).strip()
        raise AssertionError(f"it ended without saying {word!r}: {self.said}")

    def tell(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        if how == signal.SIGKILL:
            self.said += self.process.stdout.read().splitlines()
            self.process.wait()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:

        def start(*arguments):
            worker = Worker(*arguments)
            stack.callback(worker.close)
            return worker

        yield start


@pytest.fixture
def store(where):
    store = open_store(where)
    yield store
    store.close()


@contextlib.contextmanager
def others_writing(where, run_id):
    """Another program holds the lock that a commit needs."""
    if where.startswith("postgresql"):
        import psycopg

        with psycopg.connect(where) as connection:
            connection.execute("LOCK TABLE llmprog.outcome IN EXCLUSIVE MODE")
            yield
    else:
        with contextlib.closing(sqlite3.connect(f"{where}/{run_id}.sqlite", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield


def eventually_interrupted(store, run_id):
    """A server may need an instant to notice that the run's owner was killed."""
    deadline = time.monotonic() + 100
    while True:
        with store.open(run_id) as run:
            if run.status == "interrupted":
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def resumed(store, run_id):
    """The journal of a run whose owner was killed just now."""
    eventually_interrupted(store, run_id)
    return store.resume(run_id)


@pytest.mark.fault("process", "SIGKILL before send", "resumed; nothing charged")
async def test_killed_before_a_call_is_sent(store, where, start):
    worker = start("send", where)
    run_id = worker.until("run")
    worker.kill()
    journal = resumed(store, run_id)
    found = journal.at("").recall("think", ask(1))
    # the kill may have come after the call was written down: then it counts as sent
    assert (found, journal.num_unknown, journal.spent) in [({}, 0, Usage()), ({}, 1, BOUND)]
    await journal.aclose()


@pytest.mark.fault("process", "SIGKILL after send", "unknown: charged at its bound, sent again when asked for")
async def test_killed_after_a_call_is_sent(store, where, start):
    worker = start("send", where)
    run_id = worker.until("run")
    worker.until("sent")
    worker.kill()
    journal = resumed(store, run_id)
    assert (journal.num_unknown, journal.spent) == (1, BOUND)
    assert journal.at("").recall("think", ask(1)) == {}
    await journal.aclose()
    journal = store.resume(run_id)
    assert (journal.num_unknown, journal.spent) == (0, BOUND)  # found once, charged once
    await journal.aclose()


@pytest.mark.fault("process", "SIGKILL before commit", "unknown: charged at its bound, sent again when asked for")
async def test_killed_before_an_answer_is_committed(store, where, start):
    worker = start("settle when told", where)
    run_id = worker.until("run")
    worker.until("sent")
    with others_writing(where, run_id):
        worker.tell()
        await asyncio.sleep(0.3)  # it has the answer, and waits to write it
        worker.kill()
    assert not any(line.startswith("settled") for line in worker.said)
    journal = resumed(store, run_id)
    assert (journal.num_unknown, journal.spent) == (1, BOUND)
    assert journal.at("").recall("think", ask(1)) == {}
    await journal.aclose()


@pytest.mark.fault("process", "SIGKILL after commit", "recalled; charged what it cost")
async def test_killed_after_an_answer_is_committed(store, where, start):
    worker = start("hold", where)
    run_id = worker.until("run")
    worker.until("settled")
    worker.kill()
    journal = resumed(store, run_id)
    assert (journal.num_unknown, journal.spent) == (0, COST)
    assert journal.at("").recall("think", ask(1))[0].text.startswith("answer 1")
    await journal.aclose()


@pytest.mark.fault("process", "SIGKILL during resume", "resumed by the next")
async def test_killed_while_resuming(store, where, start):
    worker = start("send", where)
    run_id = worker.until("run")
    worker.until("sent")
    worker.kill()
    eventually_interrupted(store, run_id)
    with others_writing(where, run_id):
        worker = start("send", where, run_id)
        worker.until("opening")
        await asyncio.sleep(0.5)  # it waits to mark what is unknown
        worker.kill()
    assert not any(line.startswith("run") for line in worker.said)
    journal = resumed(store, run_id)
    assert (journal.num_unknown, journal.spent) == (1, BOUND)
    await journal.aclose()


@pytest.mark.fault("process", "SIGKILL at random moments, again and again", "no acknowledged call is lost or repeated")
async def test_no_acknowledged_call_is_lost(store, where, start):
    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)  # noqa: T201 - to run it again
    moments = random.Random(seed)
    run_id, acknowledged = "", []
    for _ in range(8):
        worker = start("call until killed", where, *([run_id] if run_id else []))
        run_id = worker.until("run")
        if not acknowledged:
            worker.until("settled")  # on a slow machine no time would be long enough
        await asyncio.sleep(moments.uniform(0, 0.15))
        worker.kill()
        now = [int(line.split()[1]) for line in worker.said if line.startswith("settled")]
        assert not set(now) & set(acknowledged)  # a settled call is not sent again
        acknowledged += now
        eventually_interrupted(store, run_id)
    assert acknowledged
    journal = store.resume(run_id)
    calls = journal.at("")
    for number in acknowledged:
        assert calls.recall("think", ask(number))[0].text.startswith(f"answer {number} ")
    await journal.aclose()
    with store.open(run_id) as run:
        records = list(run.calls())
        numbers = [record.question.prompt.text for record in records if record.state == "settled"]
        assert len(numbers) == len(set(numbers))
        unknown = [record for record in records if record.state == "unknown"]
        assert len(unknown) <= 8 * 20  # what was in flight at the kills
        assert run.usage.calls == len(records)


@pytest.mark.fault("concurrency", "two processes resume one run", "the second is refused by name of the first")
async def test_the_second_owner_is_refused_by_name_of_the_first(store, where, start):
    worker = start("hold", where)
    run_id = worker.until("run")
    worker.until("settled")
    for refused in (store.resume, store.delete):
        with pytest.raises(RunLockedError, match=rf"process {worker.process.pid} on .*worker\.py hold"):
            refused(run_id)
    with store.open(run_id) as run:
        assert (run.status, run.owner["pid"]) == ("running", worker.process.pid)
        assert [record.state for record in run.calls()] == ["settled"]
    fork = store.fork(run_id, replace(run.info, program_hash="h2"))  # reading it is allowed
    assert fork.at("").recall("think", ask(1))
    await fork.aclose()
    worker.kill()
    eventually_interrupted(store, run_id)
    store.delete(run_id)


@pytest.mark.fault("process", "SIGSTOP of the owner", "still the owner; it goes on when it is continued")
async def test_a_stopped_owner_keeps_its_run(store, where, start):
    worker = start("step by step", where)
    run_id = worker.until("run")
    worker.tell()
    worker.until("settled")
    worker.kill(signal.SIGSTOP)
    with pytest.raises(RunLockedError, match=f"process {worker.process.pid}"):
        store.resume(run_id)
    worker.kill(signal.SIGCONT)
    worker.tell()
    worker.until("settled")
    worker.process.stdin.close()
    worker.until("done")
    worker.process.wait()
    with store.open(run_id) as run:
        assert run.status == "finished"
        assert run.counts().calls == {"settled": 2}


@pytest.mark.fault("concurrency", "fork after open", "the child is refused, and does not keep the run from others")
async def test_a_forked_child_can_neither_write_nor_keep_the_run(tmp_path, start):
    # A server's connection is lost with whichever of the two ends first, so this is about files only.
    store = open_store(tmp_path)
    worker = start("fork", tmp_path)
    run_id = worker.until("run")
    worker.until("parent is done")
    said = worker.until("child:")
    assert "opened by process" in said
    assert "used by its fork" in said
    child = int(said.split("its fork ")[1].split(":")[0])
    try:
        eventually_interrupted(store, run_id)
        journal = store.resume(run_id)
        await journal.aclose()
    finally:
        os.kill(child, signal.SIGKILL)
