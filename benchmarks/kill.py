"""A voting job over a faulty endpoint, SIGKILLed at random moments and begun again: what is asked twice, what is lost.

    python benchmarks/kill.py [--rows 250] [--samples 40] [--kills 100] [--latency-ms 40] [--faults 1.0] [--seed 0]

The job is the command ``llmprog vote`` in a process of its own, given again after every kill. The endpoint is another
process, which fails one request in a hundred and writes down every request that it reads. After each kill the run's
journal is read: from then on, no call that it holds an answer of may be seen by the endpoint. In the end the output is
held against that of a run that nobody disturbed, with the same seed. Kills come at random: one in ten while the command
starts, the others after a random number of requests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmprog.runs.store import open_store
from llmprog.types import Request, sample_seed

HERE = Path(__file__).resolve().parent
LARGEST_SEED = 2**31  # the seeds that are sent are smaller
STARTING_S = 1.5  # a kill in this time hits the command while it starts, or reads what there is
EARLY_SHARE = 0.1  # of the kills
GRACE_S = 0.1  # for the endpoint to read what a killed process had sent

Call = tuple[str, int]  # last line of the prompt, seed: one completion


@dataclass
class Log:
    """What the endpoint has written down, read on where it was left."""

    path: Path
    rest: str = ""

    def __post_init__(self) -> None:
        self.path.touch()
        self.file = self.path.open(encoding="utf-8")

    def news(self) -> list[tuple[str, Call]]:
        """The events since the last reading: ``R`` (request) or ``A`` (answered), and of which call."""
        *lines, self.rest = (self.rest + self.file.read()).split("\n")
        return [(kind, (prompt, int(seed))) for kind, prompt, seed in (line.split("\t") for line in lines)]


@dataclass(frozen=True)
class Session:
    """What the endpoint saw of one run of the command, and how that ended."""

    events: Sequence[tuple[str, Call]]
    was_killed: bool
    is_early: bool


@dataclass
class Tally:
    """What came of all sessions together."""

    requests: int = 0
    settled_asked_again: int = 0
    unjournaled: int = 0
    repeats: int = 0
    in_flight: int = 0
    kills: int = 0
    kills_at_start: int = 0
    settled: set[Call] = field(default_factory=set)
    asked: set[Call] = field(default_factory=set)
    failed: int = 0


@contextlib.contextmanager
def endpoint(log: Path, *, latency_ms: float, faults: float, seed: int) -> Iterator[str]:
    """The faulty endpoint in a process of its own; gives its base URL."""
    command = [sys.executable, str(HERE / "faulty_server.py"), str(log)]
    command += [f"--latency-ms={latency_ms}", f"--faults={faults}", f"--seed={seed}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def command_of(url: str, data: Path, out: Path, store: Path, samples: int, seed: int) -> list[str]:
    """The command that is given again and again."""
    arguments = [
        *("vote", "--data", data, "--gold", "gold", "--out", out, "--store", store, "--seed", seed, "--json"),
        *("--backend", f"{url}#bench", "--set", f"num_samples={samples}", "--concurrency", 4),
    ]
    return [sys.executable, "-c", "from llmprog.cli import main; main()", *map(str, arguments)]


def write_data(path: Path, num_rows: int) -> Path:
    """The job's rows, in a file."""
    rows = ({"question": f"How many has row {n}?", "gold": 7} for n in range(num_rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def journaled(store: Path) -> tuple[set[Call], set[Call], int]:
    """The completions whose answers the journal holds, those it was about to ask for, and how many calls failed."""
    settled: set[Call] = set()
    asked: set[Call] = set()
    failed = 0
    runs = open_store(store).list()
    if not runs or runs[0].status == "unreadable":
        return settled, asked, failed
    with open_store(store).open(runs[0].id) as run:
        for call in run.calls():
            if not isinstance(call.question, Request):
                continue
            question = call.question
            prompt = question.prompt.text.splitlines()[-1]  # no template
            for sample in range(call.first_sample, call.first_sample + max(1, question.num_samples)):
                one = prompt, (sample_seed(question.params.seed, sample) or 0) % LARGEST_SEED
                asked.add(one)
                if call.state == "settled":
                    settled.add(one)
            failed += call.state == "failed"
    return settled, asked, failed


def run_and_kill(command: Sequence[str], log: Log, rng: random.Random, most_requests: float) -> Session:
    """Run the command until a random moment: while it starts, or after some of at most so many requests."""
    events: list[tuple[str, Call]] = []
    is_early = rng.random() < EARLY_SHARE
    begun = time.monotonic()
    seconds = rng.uniform(0.0, STARTING_S) if is_early else float("inf")
    requests = float("inf") if is_early else rng.uniform(0.0, most_requests)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:  # noqa: S603
        while process.poll() is None:
            events += log.news()
            if time.monotonic() - begun > seconds or sum(kind == "R" for kind, _ in events) > requests:
                time.sleep(rng.uniform(0.0, 0.03))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        errors = process.stderr.read().decode()
    time.sleep(GRACE_S)
    events += log.news()
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the command ended with {process.returncode}:\n{errors}")
    return Session(events, was_killed=process.returncode != 0, is_early=is_early)


def run_to_the_end(command: Sequence[str], log: Log) -> Session:
    """Let the command come to its end."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return Session(log.news(), was_killed=False, is_early=False)


def take_session(tally: Tally, session: Session, store: Path) -> None:
    """Hold what the endpoint saw in a session against what the journal held before it, and holds now."""
    requested = {call for kind, call in session.events if kind == "R"}
    tally.requests += sum(kind == "R" for kind, _ in session.events)
    tally.kills += session.was_killed
    tally.kills_at_start += session.was_killed and session.is_early
    tally.settled_asked_again += len(requested & tally.settled)
    tally.repeats += len(requested & tally.asked)
    settled, asked, tally.failed = journaled(store)
    if lost := tally.settled - settled:
        raise SystemExit(f"{len(lost)} calls that the journal held are not in it any more")
    tally.unjournaled += len(requested - asked)
    tally.in_flight += len(requested - settled)
    tally.settled = settled
    tally.asked |= requested
    if session.was_killed and tally.kills % 10 == 0:
        print(f"{tally.kills} kills: {len(settled)} calls settled, {tally.in_flight} were in flight", flush=True)


def outputs(path: Path) -> dict[int, Any]:
    """The output's rows by index, without the run's id; a row that is there twice is an error."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if twice := [index for index, count in Counter(row["index"] for row in rows).items() if count > 1]:
        raise SystemExit(f"rows {twice} are there twice")
    return {row["index"]: {name: value for name, value in row.items() if name != "run"} for row in rows}


def disturbed(given: argparse.Namespace, place: Path, data: Path) -> Tally:
    """The job over the faulty endpoint, killed again and again, then left to end."""
    tally, rng = Tally(), random.Random(given.seed)
    most = given.rows * given.samples / max(1, given.kills)
    log = Log(place / "faulty.log")
    with endpoint(log.path, latency_ms=given.latency_ms, faults=given.faults, seed=given.seed) as url:
        command = command_of(url, data, place / "out.jsonl", place / "runs", given.samples, given.seed)
        is_going = True
        while is_going:
            is_last = tally.kills == given.kills
            session = run_to_the_end(command, log) if is_last else run_and_kill(command, log, rng, most)
            take_session(tally, session, place / "runs")
            is_going = session.was_killed
    return tally


def undisturbed(given: argparse.Namespace, place: Path, data: Path) -> None:
    """The same job over an endpoint without faults."""
    with endpoint(place / "calm.log", latency_ms=given.latency_ms, faults=0.0, seed=given.seed) as url:
        command = command_of(url, data, place / "calm.jsonl", place / "calm", given.samples, given.seed)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=250)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--latency-ms", type=float, default=40.0)
    parser.add_argument("--faults", type=float, default=1.0, help="per cent of requests that fail")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    calls = given.rows * given.samples
    print(f"{given.rows} rows x {given.samples} samples = {calls} calls, {given.kills} kills, seed {given.seed}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        data = write_data(place / "data.jsonl", given.rows)
        begun = time.monotonic()
        undisturbed(given, place, data)
        print(f"undisturbed: {calls} calls in {time.monotonic() - begun:.1f} s", flush=True)
        begun = time.monotonic()
        tally = disturbed(given, place, data)
        took = time.monotonic() - begun
        expected, found = outputs(place / "calm.jsonl"), outputs(place / "out.jsonl")
    different = [index for index in expected if found.get(index) != expected[index]]
    print(f"{tally.kills} kills ({tally.kills_at_start} of them while the command starts), {took:.0f} s")
    report(tally, calls, different, given.kills)


def report(tally: Tally, calls: int, different: list[int], kills: int) -> None:
    """Print the table; exit with 1 where a promise is broken."""
    settled, repeats, in_flight = len(tally.settled), tally.repeats, tally.in_flight
    checks = [
        ("settled calls asked again", tally.settled_asked_again, "0", tally.settled_asked_again == 0),
        ("calls without an answer in the end", calls - settled, "0", settled == calls),
        ("requests that no journal row foretold", tally.unjournaled, "0", tally.unjournaled == 0),
        ("rows other than in the undisturbed run", len(different), "0", not different),
        ("calls asked in more than one session", repeats, f"<= {in_flight} in flight at kills", repeats <= in_flight),
        ("kills", tally.kills, str(kills), tally.kills == kills),
    ]
    print(f"{tally.requests} requests for {calls} calls; {tally.failed} calls failed after all attempts")
    for what, value, promised, holds in checks:
        print(f"{'ok  ' if holds else 'FAIL'} {what:<42}{value:>8}   promised {promised}")
    if not all(holds for *_, holds in checks):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
