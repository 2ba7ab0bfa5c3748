"""Random schedules against a shared budget: 64 tasks in 4 processes, with failures, cancellations and killed processes.

    python benchmarks/budgets.py [--schedules 10000] [--seed N] [--teams 2] [--durable] [--ledger postgresql://…]

Each schedule has limits of its own and more or less work than they allow. Every process keeps an account of its own,
apart from the ledger: a line when a completion has been granted (it may now cost up to its bound), one when it has cost
something or was given up, each written before the ledger is told. In the order of time, what was spent plus what might
have been must never exceed a limit; in the end the ledger must hold neither less than was spent, nor, unless a process
was killed, anything else. So that this is not had by refusing everything, a schedule that was refused something must
have had too little left for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmprog.backends.bounds import times
from llmprog.errors import BudgetExceededError
from llmprog.runs.amounts import NOTHING, Amount, caps_of, charged_amount, reserved_amount
from llmprog.runs.budget import Budget
from llmprog.runs.shared_ledger import open_ledger, read_ledger
from llmprog.types import Usage

NUM_PROCESSES = 4
TASKS_PER_PROCESS = 16
KILLED = 0.2  # of the schedules lose a process
LEASE_S = 0.2  # short, so that who waits for a killed process soon finds out

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What is drawn at random for one schedule; the rest follows from the seed."""

    where: str
    accounts: str
    seed: int
    budget: Budget
    durable: bool


def draw_budget(draw: random.Random) -> Budget:
    """Limits around what the tasks of a schedule want: about 144 completions, 22,000 tokens, 1 dollar."""
    limits: dict[str, float] = {}
    while not limits:
        scale = draw.choice([0.05, 0.3, 0.8, 2.0])
        wanted = {"calls": 144 * scale, "tokens": 22_000 * scale, "usd": 1.0 * scale}
        limits = {name: draw.uniform(0.5, 1.5) * most for name, most in wanted.items() if draw.random() < 0.6}
    calls, tokens = limits.get("calls"), limits.get("tokens")
    return Budget(
        calls=None if calls is None else max(1, int(calls)),
        tokens=None if tokens is None else max(1, int(tokens)),
        usd=limits.get("usd"),
    )


class Account:
    """A process's own account of what it may have to pay: lines that a killed process leaves behind."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, kind: str, may_cost: Amount, costs: Amount) -> None:
        """Write a line; ``may_cost`` is the change of what calls under way may cost."""
        os.write(self._file, (json.dumps([time.monotonic_ns(), kind, may_cost, costs]) + "\n").encode())

    def close(self) -> None:
        os.close(self._file)


class Worker:
    """One process's part of a schedule."""

    def __init__(self, schedule: Schedule, index: int) -> None:
        self.schedule = schedule
        self.draw = random.Random(f"{schedule.seed}/{index}")
        self.account = Account(f"{schedule.accounts}.{index}")
        self.refused: list[tuple[Amount, bool]] = []
        self.cancelled = 0

    async def run(self) -> dict[str, Any]:
        schedule = self.schedule
        budget = schedule.budget
        self.ledger = await open_ledger(schedule.where, budget, lease_s=LEASE_S, durable=schedule.durable)
        tasks = [asyncio.create_task(self.task()) for _ in range(TASKS_PER_PROCESS)]
        loop = asyncio.get_running_loop()
        for _ in range(self.draw.choice([0, 0, 2, 6])):
            loop.call_later(self.draw.uniform(0, 0.05), self.draw.choice(tasks).cancel)
        await asyncio.wait(tasks)
        for task in tasks:
            if task.cancelled():
                self.cancelled += 1
            else:
                task.result()
        await self.ledger.aclose()
        self.account.close()
        return {"refused": self.refused, "cancelled": self.cancelled}

    async def task(self) -> None:
        for _ in range(self.draw.randint(1, 2)):
            each = Usage(1, self.draw.randint(0, 200), self.draw.randint(1, 200), self.draw.uniform(0, 0.02))
            count = self.draw.randint(1, 2)
            while count:
                try:
                    granted = await self.ledger.reserve(each, count)
                except BudgetExceededError as error:
                    self.refused.append((reserved_amount(each), "processes that ended" in str(error)))
                    return
                count -= granted
                await self.calls(each, granted)

    async def calls(self, each: Usage, held: int) -> None:
        bound = reserved_amount(each)
        self.account.note("granted", bound.times(held), NOTHING)
        try:
            while held:
                await asyncio.sleep(self.draw.choice([0, 0, 0.001]))
                if self.draw.random() < 0.1:
                    return  # it failed, and nothing of it is billed
                part = self.draw.choice([self.draw.random(), 1.0])
                tokens = int(each.completion_tokens * part)
                actual = Usage(1, each.prompt_tokens, tokens, (each.usd or 0) * part)
                self.account.note("spent", NOTHING - bound, charged_amount(actual))
                held -= 1
                await self.ledger.settle(each, actual)
        finally:
            if held:
                self.account.note("given up", NOTHING - bound.times(held), NOTHING)
                # All at once: a second cancellation would keep the rest from being given back.
                await self.ledger.settle(times(each, held), Usage())


def serve(connection: Connection) -> None:
    """A worker process: schedules come in, reports go out."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            schedule, index = connection.recv()
            connection.send(asyncio.run(Worker(schedule, index).run()))


@dataclass(slots=True)
class Seat:
    """A worker process, replaced by another when it was killed."""

    process: Any = None
    connection: Any = None

    def fill(self) -> None:
        if self.process is not None and self.process.is_alive():
            return
        self.connection, theirs = _FORK.Pipe()
        self.process = _FORK.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()


@dataclass(slots=True)
class Findings:
    """What the schedules came to."""

    counts: Counter[str] = field(default_factory=Counter)
    used: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def play(schedule: Schedule, seats: list[Seat], findings: Findings) -> None:
    """One schedule on all processes, one of which may be killed."""
    draw = random.Random(f"{schedule.seed}/kill")
    for seat in seats:
        seat.fill()
    for index, seat in enumerate(seats):
        seat.connection.send((schedule, index))
    victim = draw.randrange(len(seats)) if draw.random() < KILLED else None
    is_killed = False
    if victim is not None:
        seat = seats[victim]
        if not seat.connection.poll(draw.uniform(0.005, 0.06)):
            os.kill(seat.process.pid, signal.SIGKILL)
            seat.process.join()
            is_killed = True
    reports = []
    for index, seat in enumerate(seats):
        with contextlib.suppress(EOFError, ConnectionResetError):
            if not (is_killed and index == victim):
                reports.append(seat.connection.recv())
    if len(reports) < len(seats) - is_killed:
        findings.faults.append(f"schedule {schedule.seed}: a worker ended by itself")
    check(schedule, reports, is_killed, findings)


def check(schedule: Schedule, reports: list[dict[str, Any]], is_killed: bool, findings: Findings) -> None:
    """Compare the ledger with the processes' own accounts, and both with the limits."""
    caps = caps_of(schedule.budget)
    lines = []
    for index in range(NUM_PROCESSES):
        path = Path(f"{schedule.accounts}.{index}")
        if path.exists():
            lines += [json.loads(line) for line in path.read_text().splitlines()]
            path.unlink()
    spent = may_cost = NOTHING
    for _, kind, more, costs in sorted(lines):
        may_cost += Amount(*more)
        spent += Amount(*costs)
        findings.counts["completions paid for"] += kind == "spent"
        if any(cap is not None and have > cap for cap, have in zip(caps, spent + may_cost, strict=True)):
            findings.counts["overspends"] += 1
            findings.faults.append(f"schedule {schedule.seed}: {spent} spent and {may_cost} under way, of {caps}")
            break
    state = read_ledger(schedule.where)
    held = state.settled + state.reserved
    if any(cap is not None and have > cap for cap, have in zip(caps, held, strict=True)):
        findings.counts["overspends"] += 1
        findings.faults.append(f"schedule {schedule.seed}: the ledger holds {held}, of {caps}")
    # What a killed process had settled or set aside, but not written into its account, only the ledger knows.
    if any(in_ledger < own for in_ledger, own in zip(held, spent + may_cost, strict=True)):
        findings.faults.append(f"schedule {schedule.seed}: {spent} and {may_cost} under way, the ledger has {held}")
    if not is_killed and (state.settled != spent or any(state.reserved) or state.holders):
        findings.faults.append(f"schedule {schedule.seed}: {spent} spent, the ledger has {state}")
    refused = [(Amount(*need), is_for_dead) for report in reports for need, is_for_dead in report["refused"]]
    for need, is_for_dead in refused:
        if any(cap is not None and have + more > cap for cap, have, more in zip(caps, held, need, strict=True)):
            continue
        if is_for_dead:  # on a busy machine a process may show no sign of life for so short a lease, and then settle
            findings.counts["refusals for a process that only seemed dead"] += 1
        else:
            findings.faults.append(f"schedule {schedule.seed}: {need} was refused with {held} held, of {caps}")
    counts = findings.counts
    counts["schedules"] += 1
    counts["schedules with a killed process"] += is_killed
    counts["schedules with something left set aside by it"] += bool(state.holders)
    counts["schedules with a refusal"] += bool(refused)
    counts["refusals"] += len(refused)
    counts["cancelled tasks"] += sum(report["cancelled"] for report in reports)
    if refused:
        findings.used.append(max(have / cap for cap, have in zip(caps, held, strict=True) if cap is not None))


def play_all(options: argparse.Namespace, numbers: Sequence[int], connection: Connection) -> None:
    """A team of worker processes plays these schedules; its findings go out."""
    seats = [Seat() for _ in range(NUM_PROCESSES)]
    findings = Findings()
    with tempfile.TemporaryDirectory() as directory:
        for number in numbers:
            where = f"{options.ledger}#{number}-{os.getpid()}" if options.ledger else f"{directory}/{number}.ledger"
            schedule = Schedule(
                where=where,
                accounts=f"{directory}/{number}.account",
                seed=number,
                budget=draw_budget(random.Random(number)),
                durable=options.durable,
            )
            play(schedule, seats, findings)
            if not options.ledger:
                Path(where).unlink()
    for seat in seats:
        if seat.process is not None:
            seat.process.kill()
    connection.send(findings)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random schedules against a shared budget.")
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--teams", type=int, default=os.cpu_count(), help="schedules under way at once")
    parser.add_argument(
        "--durable", action="store_true", help="have each change of a file on the disk before it counts"
    )
    parser.add_argument("--ledger", help="a postgresql:// URL instead of files")
    options = parser.parse_args()
    print(
        f"{options.schedules} schedules of {NUM_PROCESSES} processes x {TASKS_PER_PROCESS} tasks, seed {options.seed}"
    )
    begun = time.perf_counter()
    connections = []
    for team in range(options.teams):
        ours, theirs = _FORK.Pipe()
        numbers = range(options.seed + team, options.seed + options.schedules, options.teams)
        _FORK.Process(target=play_all, args=(options, numbers, theirs)).start()
        theirs.close()
        connections.append(ours)
    findings = Findings()
    for connection in connections:
        found = connection.recv()
        findings.counts += found.counts
        findings.used += found.used
        findings.faults += found.faults
    findings.counts["overspends"] += 0
    for name, count in sorted(findings.counts.items()):
        print(f"{name:<48}{count:>10}")
    if findings.used:
        used = sorted(findings.used)
        print(f"{'used of a limit when it refused: median':<48}{used[len(used) // 2]:>10.1%}")
        print(f"{'used of a limit when it refused: least':<48}{used[0]:>10.1%}")
    print(f"{'seconds':<48}{time.perf_counter() - begun:>10.1f}")
    for fault in findings.faults[:20]:
        print("FAULT", fault)
    return 1 if findings.faults else 0


if __name__ == "__main__":
    sys.exit(main())
