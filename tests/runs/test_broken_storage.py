"""Disks that are full, directories that are read-only, files that vanish: each ends in the promised way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llmprog.errors import StoreError
from llmprog.runs.store import DirectoryStore, open_store
from llmprog.types import Completion, Prompt, Request, SamplingParams, Usage

WORKER = Path(__file__).with_name("worker.py")
BOUND = Usage(1, 10, 100, 0.02)
COST = Usage(1, 10, 20, 0.01)


def ask(number):
    return Request(prompt=Prompt.from_text(f"question {number}"), params=SamplingParams(seed=1))


async def settled(journal, number, length=10):
    calls = journal.at("")
    call = await calls.send("think", "test:model", ask(number), BOUND)
    await calls.settle(call, [Completion(text=f"answer {number} ".ljust(length, "."), usage=COST)], COST, 0.1)


async def assert_refused_at_once(journal, message):
    """All who wait and all who come later are told, none is left waiting."""
    tasks = [settled(journal, number) for number in range(100, 130)]
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 100)
    assert {type(outcome) for outcome in outcomes} == {StoreError}
    assert all(message in str(outcome) for outcome in outcomes)
    with pytest.raises(StoreError, match=message):
        await asyncio.wait_for(settled(journal, 200), 100)
    with pytest.raises(StoreError, match=message):
        journal.event("", "note", {})
    with pytest.raises(StoreError, match=message):
        await asyncio.wait_for(journal.aclose(), 100)


def worked(what, where):
    """What a worker said until it ended by itself."""
    command = [sys.executable, WORKER, what, str(where)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def assert_kept(store, said):
    """Whatever was acknowledged is there when the run goes on."""
    run_id = said[1].removeprefix("run ")
    acknowledged = [int(line.split()[1]) for line in said if line.startswith("settled ")]
    assert len(acknowledged) > 5
    journal = store.resume(run_id)
    calls = journal.at("")
    for number in acknowledged:
        assert len(calls.recall("think", ask(number))[0].text) == 20_000
    await settled(journal, 10**6)
    await journal.aclose()


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a file system of its own of three megabytes."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield small
    subprocess.run(["umount", str(small)], check=True)


@pytest.mark.fault("process", "disk full", "all who wait get a StoreError; what was acknowledged is kept")
async def test_a_full_disk(tmp_path, small_disk):
    said = worked("call until the disk is full", small_disk / "runs")
    refused = [line for line in said if line.startswith("refused")]
    assert refused
    assert all("disk is full: make room and resume the run" in line for line in refused)
    assert refused[-1].startswith("refused again")
    shutil.copytree(small_disk / "runs", tmp_path / "larger")
    await assert_kept(DirectoryStore(tmp_path / "larger"), said)


@pytest.mark.fault(
    "process", "a limit on the size of files", "all who wait get a StoreError; what was acknowledged is kept"
)
async def test_a_file_that_may_not_grow(tmp_path):
    said = worked("call until a file may not grow", tmp_path)
    assert any(line.startswith("refused again") for line in said)
    await assert_kept(DirectoryStore(tmp_path), said)


@pytest.fixture
def read_only(tmp_path):
    """Makes a directory read-only, for root too."""
    with contextlib.ExitStack() as stack:

        def make(directory):
            if os.geteuid() != 0:
                directory.chmod(0o500)
                stack.callback(directory.chmod, 0o700)
                return
            bind = ["mount", "--bind", str(directory), str(directory)]
            if subprocess.run(bind, capture_output=True, check=False).returncode != 0:
                pytest.skip("root may write to every directory, and mounting one read-only is not permitted here")
            stack.callback(subprocess.run, ["umount", str(directory)], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", str(directory)], check=True)

        yield make


@pytest.mark.fault("process", "read-only directory", "refused before anything is sent; what is there can be read")
async def test_a_read_only_directory(tmp_path, info, read_only):
    directory = tmp_path / "runs"
    store = DirectoryStore(directory)
    journal = store.create(info)
    await settled(journal, 1)
    await journal.aclose()
    read_only(directory)
    with pytest.raises(StoreError, match=r"cannot be written to: .*choose another directory"):
        store.create(info)
    with pytest.raises(StoreError, match=r"(cannot be written to|must be writable): .*choose another"):
        store.resume(journal.id)
    with pytest.raises(StoreError, match=r"cannot be"):
        store.delete(journal.id)
    with pytest.raises(StoreError, match=r"cannot be made: .*choose another"):
        DirectoryStore(directory / "deeper").create(info)
    (run,) = store.list()
    assert (run.status, run.usage) == ("interrupted", COST)
    assert [record.completions[0].text for record in run.calls()] == ["answer 1 ."]
    run.close()


@pytest.mark.fault("users", "the run file deleted mid-run", "a StoreError at the next call, not after hours")
async def test_a_run_file_that_is_deleted(tmp_path, info):
    store = DirectoryStore(tmp_path)
    journal = store.create(info)
    await settled(journal, 1)
    for path in tmp_path.glob("*.sqlite*"):
        path.unlink()
    await assert_refused_at_once(journal, "deleted or replaced while the run was under way")
    assert list(store.list()) == []


@pytest.mark.fault("users", "the run file replaced mid-run", "a StoreError at the next call")
async def test_a_run_file_that_is_replaced(tmp_path, info):
    store = DirectoryStore(tmp_path)
    journal = store.create(info)
    await settled(journal, 1)
    path = tmp_path / f"{journal.id}.sqlite"
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").replace(path)
    await assert_refused_at_once(journal, "deleted or replaced while the run was under way")


@pytest.mark.fault("process", "the write-ahead log deleted or cut off mid-run", "a StoreError at the next call")
@pytest.mark.parametrize("harm", ["delete", "truncate"])
async def test_a_write_ahead_log_that_is_harmed(tmp_path, info, harm):
    store = DirectoryStore(tmp_path)
    journal = store.create(info)
    await settled(journal, 1)
    log = tmp_path / f"{journal.id}.sqlite-wal"
    if harm == "delete":
        log.unlink()
    else:
        os.truncate(log, log.stat().st_size // 2)
    await assert_refused_at_once(journal, "write-ahead log")


@pytest.mark.fault("process", "a truncated WAL", "what it still holds is used, what it lost is asked again")
async def test_a_write_ahead_log_that_was_cut_off(tmp_path, info):
    store = DirectoryStore(tmp_path / "whole")
    journal = store.create(info)
    for number in range(20):
        await settled(journal, number)
    log = (tmp_path / "whole" / f"{journal.id}.sqlite-wal").stat().st_size
    kept = []
    for tenth in range(11):
        directory = tmp_path / f"cut-{tenth}"
        shutil.copytree(tmp_path / "whole", directory)
        os.truncate(directory / f"{journal.id}.sqlite-wal", log * tenth // 10)
        cut = DirectoryStore(directory)
        resumed = cut.resume(journal.id)
        calls = resumed.at("")
        found = [bool(calls.recall("think", ask(number))) for number in range(20)]
        assert found == sorted(found, reverse=True)  # the first ones, without a gap
        kept.append(sum(found))
        for number in range(kept[-1], 20):
            await settled(resumed, number)
        await resumed.aclose()
        resumed = cut.resume(journal.id)
        assert all(resumed.at("").recall("think", ask(number)) for number in range(20))
        await resumed.aclose()
    assert (kept[0], kept[-1]) == (0, 20)
    await journal.aclose()


@pytest.mark.fault("process", "a run file cut off or overwritten", "refused by name; the other runs are listed")
@pytest.mark.parametrize("harm", ["truncate", "overwrite"])
async def test_a_damaged_run_file(tmp_path, info, harm):
    store = DirectoryStore(tmp_path)
    damaged, other = store.create(info), store.create(info)
    for number in range(200):
        await settled(damaged, number)
    for journal in (damaged, other):
        await journal.aclose()
    path = tmp_path / f"{damaged.id}.sqlite"
    size = path.stat().st_size
    if harm == "truncate":
        os.truncate(path, size // 2)
    else:
        with path.open("r+b") as file:
            file.seek(size // 4)
            file.write(b"\xff" * (size // 2))
    with pytest.raises(StoreError, match="damaged: restore it from a copy"):
        store.resume(damaged.id)
    assert {run.id for run in store.list()} == {damaged.id, other.id}
    with store.open(other.id) as run:
        assert run.status == "interrupted"


@pytest.mark.fault("process", "lock held by another program", "waited for; nothing is lost")
async def test_a_lock_that_is_held_for_a_while(tmp_path, info):
    store = DirectoryStore(tmp_path)
    journal = store.create(info)
    with contextlib.closing(sqlite3.connect(tmp_path / f"{journal.id}.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(settled(journal, 1))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        other.execute("COMMIT")
        await asyncio.wait_for(waiting, 100)
    await journal.aclose()


@pytest.mark.fault("process", "lock held for longer than the patience", "a StoreError that says so")
async def test_a_lock_that_is_held_for_too_long(tmp_path, info):
    store = DirectoryStore(tmp_path, busy_timeout_s=0.2)
    journal = store.create(info)
    with contextlib.closing(sqlite3.connect(tmp_path / f"{journal.id}.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await assert_refused_at_once(journal, "for 0.2 s by another program")


@pytest.mark.fault("process", "the database server stops", "a StoreError at the next call")
async def test_a_server_that_ends_the_session(postgres_url, info):
    import psycopg

    store = open_store(postgres_url)
    journal = store.create(info)
    await settled(journal, 1)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()"
        )
    await assert_refused_at_once(journal, "see whether the server is up")
    store.close()
    again = open_store(postgres_url)
    resumed = again.resume(journal.id)
    assert resumed.at("").recall("think", ask(1))
    await resumed.aclose()
    again.close()


@pytest.mark.fault("process", "the database server ends a closed session late", "the run can be resumed at once")
async def test_a_server_that_ends_a_closed_session_late(postgres_url, info, monkeypatch):
    from llmprog.runs import postgres

    store = open_store(postgres_url)
    journal = store.create(info)
    late = []

    def close(session):
        late.append(session)

    with monkeypatch.context() as server:
        server.setattr(postgres._Session, "close", close)
        await journal.aclose()
    with store.open(journal.id) as run:
        assert run.status == "interrupted"
    await store.resume(journal.id).aclose()
    for session in late:
        session.close()
    store.close()


@pytest.mark.fault("concurrency", "a slow reader", "it holds up nothing, and sees what was there")
async def test_a_slow_reader_holds_up_nothing(tmp_path, info):
    store = DirectoryStore(tmp_path, busy_timeout_s=0.5)
    journal = store.create(info)
    for start in range(0, 600, 100):
        await asyncio.gather(*(settled(journal, number) for number in range(start, start + 100)))
    with store.open(journal.id) as run:
        calls = run.calls()
        next(calls)
        for start in range(1000, 4000, 300):
            await asyncio.gather(*(settled(journal, number, 2000) for number in range(start, start + 300)))
        log = (tmp_path / f"{journal.id}.sqlite-wal").stat().st_size
        assert log < 8 * 2**20  # the reader does not keep it from being emptied
        await journal.aclose()
        again = store.resume(journal.id)
        await again.aclose()
        assert sum(1 for _ in calls) == 3599


@pytest.mark.fault("process", "wall clock ± 1 day", "the order stays that of what happened")
async def test_a_clock_that_jumps(tmp_path, info):
    times = [1e9]

    def clock():
        times.append(times[-1] + (86400 if len(times) % 2 else -86400 - 60))
        return times[-1]

    store = DirectoryStore(tmp_path, clock=clock)
    journal = store.create(info)
    for number in range(10):
        await settled(journal, number)
        journal.event("", "note", number)
    await journal.aclose()
    journal = store.resume(journal.id)
    assert 0 <= journal.elapsed_s < 60
    assert all(journal.at("").recall("think", ask(number)) for number in range(10))
    await journal.aclose()
    with store.open(journal.id) as run:
        assert [record.question.prompt.text for record in run.calls()] == [f"question {n}" for n in range(10)]
        assert [event.data for event in run.events()] == list(range(10))
        assert all(record.duration_s == 0.1 for record in run.calls())


@pytest.mark.fault("concurrency", "a second event loop", "each writes its own run")
def test_a_second_event_loop(tmp_path, info):
    import threading

    store = DirectoryStore(tmp_path)
    failures = []

    async def work():
        journal = store.create(info)
        await asyncio.gather(*(settled(journal, number) for number in range(50)))
        await journal.aclose()

    def run():
        try:
            asyncio.run(work())
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [run.counts().calls for run in store.list()] == [{"settled": 50}] * 3


@pytest.mark.fault("concurrency", "a second event loop writes to one run", "both are told when it is on disk")
def test_a_journal_that_two_loops_share(tmp_path, info):
    store = DirectoryStore(tmp_path)
    journal = store.create(info)
    asyncio.run(settled(journal, 1))
    asyncio.run(settled(journal, 2))

    async def cut_short():
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
        await settled(journal, 3)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cut_short())  # its loop is closed before the row is on disk
    asyncio.run(settled(journal, 4))
    asyncio.run(journal.aclose())
    with store.open(journal.id) as run:
        assert run.counts().calls["settled"] == 3
