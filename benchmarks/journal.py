"""What keeping every call costs: rows per second, CPU per call, memory and time of a long run, and what kills lose.

    python benchmarks/journal.py [--calls 100000] [--in-flight 2000] [--kills 40] [--store DIR]

A call is written twice: when it is about to be sent, and with its answer of about 300 characters; both times its task
waits until that is on disk. The backend answers at once, so nearly all that is measured is the journal.

Goals: under 60 µs of CPU per call, the thread that writes included; with 100,000 calls in one run, memory that grows by
less than 5 % after the first 10,000, and time per call that stays as it is; no acknowledged call lost to any kill.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from llmprog.accounting import CallJournal
from llmprog.runs.info import RunInfo
from llmprog.runs.journal import RunJournal
from llmprog.runs.store import RunStore, open_store
from llmprog.types import Completion, Prompt, Request, SamplingParams, Usage

GOAL_US_PER_CALL = 60.0
GOAL_GROWTH = 0.05
SAMPLES_PER_QUESTION = 40
INFO = RunInfo(kind="map", program="vote", program_hash="0" * 64, program_text="vote", input=None, config={"seed": 1})
PARAMS = SamplingParams(seed=7)
ANSWER = "There are three boxes with twelve pencils each, so there are thirty-six pencils. " * 4
BOUND = Usage(1, 120, 256, 0.002)
COST = Usage(1, 118, 74, 0.0007)


@functools.lru_cache(maxsize=4096)
def prompt(row: int) -> Prompt:
    """What all samples of a row share."""
    return Prompt.from_text(f"Row {row}: how many pencils are there?")


def question(number: int) -> Request:
    """The request for the next sample: each question is asked for many, as in a vote."""
    row, sample = divmod(number, SAMPLES_PER_QUESTION)
    return Request(prompt=prompt(row), params=PARAMS, first_sample=sample)


async def call(calls: CallJournal | None, number: int) -> Completion:
    """One call as a scheduler makes it, of a backend that answers at once."""
    request = question(number)
    if calls is None:
        await asyncio.sleep(0)
        return Completion(text=f"{ANSWER}{number}", usage=COST)
    if found := calls.recall("reason", request):
        return found[request.first_sample]
    kept = await calls.send("reason", "test:model", request, BOUND)
    completion = Completion(text=f"{ANSWER}{number}", usage=COST)
    await calls.settle(kept, [completion], COST, 0.5)
    return completion


async def many_calls(journal: RunJournal | None, numbers: Iterator[int], in_flight: int) -> None:
    """All of ``numbers``, so many at once."""
    calls = None if journal is None else journal.at("")

    async def work() -> None:
        for number in numbers:
            await call(calls, number)

    await asyncio.gather(*(work() for _ in range(in_flight)))


async def timed(journal: RunJournal | None, num_calls: int, in_flight: int) -> tuple[float, float]:
    """Seconds and CPU seconds of this process for so many calls."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    await many_calls(journal, iter(range(num_calls)), in_flight)
    return time.perf_counter() - wall, time.process_time() - cpu


async def one_by_one_or_grouped(store: RunStore, num_calls: int, in_flight: int) -> float:
    """Rows per second."""
    journal = store.create(INFO)
    seconds, _ = await timed(journal, num_calls, in_flight)
    await journal.aclose()
    store.delete(journal.id)
    return 2 * num_calls / seconds


async def cpu_per_call(store: RunStore, num_calls: int, in_flight: int) -> float:
    """Microseconds that the journal adds; the best of three, the machine may be busy with other things."""
    best = float("inf")
    for _ in range(3):
        _, without = await timed(None, num_calls, in_flight)
        journal = store.create(INFO)
        _, kept = await timed(journal, num_calls, in_flight)
        await journal.aclose()
        store.delete(journal.id)
        best = min(best, (kept - without) / num_calls * 1e6)
    return best


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def size_on_disk(store: RunStore, run_id: str) -> int:
    """Bytes of a run's files."""
    return sum(path.stat().st_size for path in Path(str(store)).glob(f"{run_id}*"))


async def long_run(store: RunStore, num_calls: int, in_flight: int) -> tuple[bool, str]:
    """A line for every 10,000 calls of one run; whether memory and time per call stay as they are."""
    journal = store.create(INFO)
    numbers = iter(range(num_calls))
    measured = []
    for start in range(0, num_calls, 10_000):
        part = iter([next(numbers) for _ in range(min(10_000, num_calls - start))])
        wall, cpu = time.perf_counter(), time.process_time()
        await many_calls(journal, part, in_flight)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        measured.append((resident_bytes(), cpu))
        memory = measured[-1][0] / 2**20
        print(f"  {start + 10_000:>9,} calls  {wall * 100:6.1f} µs  {cpu * 100:6.1f} µs of CPU  {memory:7.1f} MiB")
    await journal.aclose()
    size = size_on_disk(store, journal.id)
    growth = measured[-1][0] / measured[0][0] - 1
    slowing = (
        sum(cpu for _, cpu in measured[-3:]) / sum(cpu for _, cpu in measured[:3]) - 1 if len(measured) > 5 else 0.0
    )
    text = (
        f"memory grew by {growth:+.1%}, CPU per call by {slowing:+.1%}; {size / num_calls:,.0f} bytes per call on disk"
    )
    begun = time.perf_counter()
    journal = store.resume(journal.id)
    calls = journal.at("")
    opened = time.perf_counter() - begun
    recalled = sum(len(calls.recall("reason", question(number))) for number in range(num_calls))
    seconds = time.perf_counter() - begun
    await journal.aclose()
    text += f"\n  resumed in {opened:.2f} s, and all {recalled:,} calls recalled in {seconds:.2f} s"
    return growth < GOAL_GROWTH and recalled == num_calls, text


async def work_until_killed(where: str, run_id: str, first: int) -> None:
    """What a killed process did: it says what is on disk, each as soon as it is told."""
    journal = open_store(where).resume(run_id)
    calls = journal.at("")
    numbers = iter(range(first, 10**9))

    async def work() -> None:
        for number in numbers:
            if not calls.recall("reason", question(number)):
                await call(calls, number)
                os.write(1, f"{number}\n".encode())

    await asyncio.gather(*(work() for _ in range(200)))


def kills(store: RunStore, count: int) -> tuple[bool, str]:
    """A run whose process is killed at random moments: what had been acknowledged must be there."""
    seed = random.SystemRandom().getrandbits(32)
    moments = random.Random(seed)
    journal = store.create(INFO)
    asyncio.run(journal.aclose())
    acknowledged: list[int] = []
    for _ in range(count):
        first = max(
            0, max(acknowledged, default=0) - 5000
        )  # calls that the process before had in flight are among these
        command = [
            sys.executable,
            __file__,
            "--work-until-killed",
            str(store),
            "--run",
            journal.id,
            "--first",
            str(first),
        ]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - this very script
        begun = worker.stdout.readline() if worker.stdout else b""
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(moments.uniform(0, 0.2))
        worker.kill()
        acknowledged += map(int, (begun + worker.communicate()[0]).split())
    journal = store.resume(journal.id)
    calls = journal.at("")
    lost = sum(not calls.recall("reason", question(number)) for number in acknowledged)
    repeated = len(acknowledged) - len(set(acknowledged))
    asyncio.run(journal.aclose())
    text = f"{count} kills, {len(acknowledged):,} acknowledged calls: {lost} lost, {repeated} repeated (seed {seed})"
    return not lost and not repeated and bool(acknowledged), text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000, help="calls of the long run")
    parser.add_argument("--in-flight", type=int, default=2000, help="calls at once")
    parser.add_argument("--kills", type=int, default=20, help="how often a process is killed")
    parser.add_argument("--store", help="a directory on the disk to be measured (default: a temporary one)")
    parser.add_argument("--work-until-killed", help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work_until_killed:
        asyncio.run(work_until_killed(options.work_until_killed, options.run, options.first))
        return 0
    with tempfile.TemporaryDirectory(dir=options.store) as directory:
        store = open_store(directory)
        results = []
        single = asyncio.run(one_by_one_or_grouped(store, 200, 1))
        grouped = asyncio.run(one_by_one_or_grouped(store, 20_000, options.in_flight))
        print(f"one call at a time: {single:,.0f} rows/s; {options.in_flight:,} at once: {grouped:,.0f} rows/s")
        added = asyncio.run(cpu_per_call(store, 20_000, options.in_flight))
        results.append(added < GOAL_US_PER_CALL)
        print(f"CPU per call that the journal adds: {added:.1f} µs (goal: under {GOAL_US_PER_CALL:.0f})")
        print(f"a run of {options.calls:,} calls:")
        good, text = asyncio.run(long_run(store, options.calls, options.in_flight))
        results.append(good)
        print(f"  {text} (goal: under {GOAL_GROWTH:.0%} more memory)")
        good, text = kills(store, options.kills)
        results.append(good)
        print(text)
    print("goals met" if all(results) else "GOALS MISSED")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
