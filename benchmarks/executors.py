"""One voting job, worked on in one process and by two Ray workers, of which one is SIGKILLed: the same answers?

    python benchmarks/executors.py [--rows 60] [--samples 20] [--latency-ms 40] [--workers 2] [--seed 0]

The job is the command ``llmprog vote`` over a loopback endpoint that writes down every request, and whose answers are a
function of prompt and seed. With Ray, one worker process is killed once the endpoint has read 41 % of the requests; its
rows go to another worker. Counted are the requests that the endpoint reads a second time: no more than the killed
worker had in flight, which the journal holds as unknown.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kill import Call, Log, command_of, endpoint, journaled, outputs, write_data

from llmprog.runs.store import open_store

KILL_AT = 0.41  # of the requests: in the middle of a burst of them
WORKER_NAME = "ray::RowWorker"  # what Ray calls the process


@dataclass(frozen=True)
class Outcome:
    """One run of the command, and what the endpoint saw of it."""

    seconds: float
    requests: Sequence[tuple[str, Call]]
    killed: int | None = None


def workers_of(command: int) -> list[int]:
    """The Ray workers that a process has started, by way of Ray's own processes."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                names[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
    found = []
    for pid, name in names.items():
        above = pid
        while above in parents and above != command:
            above = parents[above]
        if above == command and name.startswith(WORKER_NAME):
            found.append(pid)
    return sorted(found)


def run(command: Sequence[str], log: Log, kill_after: float | None) -> Outcome:
    """Run the command to its end; with ``kill_after`` requests, one of its workers is killed."""
    begun = time.monotonic()
    events: list[tuple[str, Call]] = []
    killed = None
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:  # noqa: S603
        while process.poll() is None:
            events += log.news()
            if kill_after is not None and killed is None and sum(kind == "R" for kind, _ in events) >= kill_after:
                killed = workers_of(process.pid)[0]
                os.kill(killed, signal.SIGKILL)
            time.sleep(0.002)
        errors = process.stderr.read().decode()
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}:\n{errors}")
    if errors:
        print(f"it said: {errors.strip()}")
    return Outcome(time.monotonic() - begun, events + log.news(), killed)


def in_flight(store: Path) -> int:
    """Calls that the killed worker had in flight: the journal holds them as unknown."""
    kept = open_store(store)
    with kept.open(kept.list()[0].id) as run:
        return sum(call.state == "unknown" for call in run.calls())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--latency-ms", type=float, default=40.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    calls = given.rows * given.samples
    print(f"{given.rows} rows x {given.samples} samples = {calls} calls, {given.workers} workers, one of them killed")
    found, outcomes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = write_data(place / "data.jsonl", given.rows)
        for executor in ("local", "ray"):
            log = Log(place / f"{executor}.log")
            with endpoint(log.path, latency_ms=given.latency_ms, faults=0.0, seed=given.seed) as url:
                out, store = place / f"{executor}.jsonl", place / executor
                command = command_of(url, data, out, store, given.samples, given.seed)
                if executor == "ray":
                    command += ["--executor", "ray", "--num-workers", str(given.workers)]
                outcomes[executor] = run(command, log, KILL_AT * calls if executor == "ray" else None)
            found[executor] = outputs(out)
            requests = sum(kind == "R" for kind, _ in outcomes[executor].requests)
            print(f"--executor {executor:<6}{requests:>6} requests {outcomes[executor].seconds:>7.1f} s", flush=True)
        settled, lost = len(journaled(place / "ray")[0]), in_flight(place / "ray")
    outcome = outcomes["ray"]
    asked = Counter(call for kind, call in outcome.requests if kind == "R")
    repeats = sum(asked.values()) - len(asked)
    different = [i for i, row in found["local"].items() if found["ray"].get(i) != row]
    checks = [
        ("rows other than with --executor local", len(different), "0", not different),
        ("rows", len(found["ray"]), str(len(found["local"])), len(found["ray"]) == len(found["local"])),
        ("calls without an answer in the end", calls - settled, "0", settled == calls),
        ("workers killed", int(outcome.killed is not None), "1", outcome.killed is not None),
        ("calls asked twice", repeats, f"<= {lost} in flight there", repeats <= lost),
    ]
    for what, value, promised, holds in checks:
        print(f"{'ok  ' if holds else 'FAIL'} {what:<42}{value:>8}   promised {promised}")
    if not all(holds for *_, holds in checks):
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
