"""Jobs on Ray workers: what they come to, what they cost, and what a worker that dies takes along."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmprog import Budget, Program, generator, map, open_store  # noqa: A004 - it maps a program over rows
from llmprog.backends import ScriptedBackend
from llmprog.errors import AuthenticationError, LLMProgError, OptionError
from llmprog.jobs.job import Job
from llmprog.jobs.ray import executor
from llmprog.jobs.ray.cluster import Cluster
from llmprog.jobs.ray.options import RayOptions
from llmprog.programs.self_consistency import self_consistency
from llmprog.redaction import register_secret
from llmprog.runs.ledger import BudgetLedger
from llmprog.search import BestOfN

pytestmark = pytest.mark.timeout(300)

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "executors.py"
TWO_WORKERS = RayOptions(num_workers=2)


@pytest.fixture(scope="module", autouse=True)
def ray():
    """One Ray for all tests of this file: it takes seconds to begin."""
    cluster = Cluster.open(TWO_WORKERS)
    yield cluster.ray
    cluster.close()


@pytest.fixture(autouse=True)
def slow_workers_are_waited_for(monkeypatch):
    """A job of few rows would be over before the second worker is there, where that takes long."""
    monkeypatch.setattr(executor, "_OTHERS_S", 200.0)


@dataclass(frozen=True)
class Sum:
    """An input of a class that only this file knows."""

    left: int
    right: int

    def __str__(self):
        return f"{self.left} plus {self.right}"


def rows(count):
    return [{"question": f"{n} plus {n + 1}", "sum": 2 * n + 1} for n in range(count)]


def answering(prompt, sample):
    words = prompt.rsplit("Question: ", 1)[1].split()
    wrong = sample % 5 == 4
    return f"Answer: {int(words[0]) + int(words[2]) + wrong}"


class LoggedBackend(ScriptedBackend):
    """Writes each sample that it is asked for into a file, which all workers share; ``trouble`` may raise, or worse."""

    def __init__(self, log, script=answering, trouble=lambda prompt, sample: None, **options):
        super().__init__(script, **options)
        self.log = log
        self.trouble = trouble

    async def generate(self, request):
        prompt = request.prompt.text.splitlines()[-1]
        for sample in range(request.first_sample, request.first_sample + request.num_samples):
            with self.log.open("a") as file:
                file.write(json.dumps([prompt, sample, os.getpid()]) + "\n")
            self.trouble(prompt, sample)
        return await super().generate(request)

    def asked(self):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter((prompt, sample) for prompt, sample, _ in map_json(lines))

    def processes(self):
        return {pid for _, _, pid in map_json(self.log.read_text().splitlines())}


def map_json(lines):
    return [json.loads(line) for line in lines]


def vote(**settings):
    return self_consistency(**{"num_samples": 5, **settings})


def as_json(results):
    return [result.to_json() for result in sorted(results, key=lambda result: result.index)]


async def collected(job):
    return [result async for result in job]


def logged(tmp_path, name="asked", **options):
    return LoggedBackend(tmp_path / name, n=False, **options)


def test_rows_come_to_the_same_as_in_this_process_and_every_call_is_made_once(tmp_path):
    here, there = logged(tmp_path, "here"), logged(tmp_path, "there", latency_s=0.01)
    expected = map(vote(), rows(12), backend=here, gold="sum", seed=3)
    found = map(vote(), rows(12), backend=there, gold="sum", seed=3, executor=TWO_WORKERS)
    assert as_json(found) == as_json(expected)
    assert there.asked() == here.asked()
    assert len(there.processes()) == 2
    assert os.getpid() not in there.processes()


def test_programs_and_inputs_of_classes_that_only_this_file_knows_reach_the_workers():
    offset = 10

    @generator
    def add(state):
        return [str(offset + state.left + state.right)] if isinstance(state, Sum) else []

    program = Program(name="add", generators=[add], controller=BestOfN(num_samples=1))
    found = map(program, [{"input": Sum(1, 2)}, {"input": Sum(3, 4)}], input="input", executor=TWO_WORKERS)
    assert [result.answer for result in found] == ["13", "17"]


def test_a_row_that_cannot_be_sent_fails_alone_and_a_program_that_cannot_is_refused(tmp_path):
    given = [{"input": "1 plus 2"}, {"input": threading.Lock()}]
    good, bad = map(vote(), given, backend=logged(tmp_path), executor=TWO_WORKERS)
    assert good.answer == "3"
    assert "row 1: its input cannot be sent" in bad.error.message
    lock = threading.Lock()

    @generator
    def guarded(state):
        with lock:
            return [state]

    program = Program(name="guarded", generators=[guarded], controller=BestOfN(num_samples=1))
    with pytest.raises(OptionError, match=r"'guarded' or its backend cannot be sent.*lock"):
        map(program, ["a"], executor=TWO_WORKERS)


@pytest.mark.fault("process", "SIGKILL of one of two Ray workers", "equal answers; settled calls are not made again")
def test_a_killed_worker_loses_nothing_that_had_settled(tmp_path):
    marker = tmp_path / "killed"

    def kill_once(prompt, sample):
        if prompt.endswith("4 plus 5") and sample == 4 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    expected = map(vote(), rows(8), backend=logged(tmp_path, "here"), seed=1)
    backend = logged(tmp_path, "there", latency_s=0.05, trouble=kill_once)
    ledger = BudgetLedger(Budget(calls=1000))
    with closing(open_store(tmp_path / "runs")) as store:
        job = Job(vote(), rows(8), backend=backend, seed=1, budget=ledger, store=store, executor=TWO_WORKERS)
        found = asyncio.run(collected(job))
        with store.open(job.progress.run_id) as run:
            states = Counter(call.state for call in run.calls())
    assert marker.exists()
    assert as_json(found) == as_json(expected)
    assert states["settled"] == 40
    repeated = sum(backend.asked().values()) - 40
    assert 1 <= repeated <= states["unknown"]  # one that was noted may not have been sent
    assert ledger.settled.calls == 40 + states["unknown"]  # they may be billed
    assert ledger.reserved.calls == 0


def test_a_row_that_kills_every_worker_is_told_as_failed_and_the_others_go_on(tmp_path):
    def kill(prompt, sample):
        if "2 plus 3" in prompt:
            os.kill(os.getpid(), signal.SIGKILL)

    found = map(vote(), rows(5), backend=logged(tmp_path, trouble=kill), executor=TWO_WORKERS, concurrency=1)
    assert [result.error is not None for result in found] == [False, False, True, False, False]
    assert "3 Ray workers died while they were at work on it" in found[2].error.message


def test_a_job_goes_on_where_its_budget_ended_and_pays_nothing_twice(tmp_path):
    backend = logged(tmp_path, latency_s=0.005)
    with closing(open_store(tmp_path / "runs")) as store:
        begun = Job(vote(), rows(8), backend=backend, seed=1, budget="calls=17", store=store, executor=TWO_WORKERS)
        asyncio.run(collected(begun))
        assert begun.stopped == "budget"
        assert begun.shortfall.startswith("calls: 17 of 17 spent")
        assert sum(backend.asked().values()) == 17
        run_id = begun.progress.run_id
        ended = Job(vote(), rows(8), backend=backend, store=store, resume=run_id, executor=TWO_WORKERS)
        found = asyncio.run(collected(ended))
    assert ended.unasked == 0
    assert set(backend.asked().values()) == {1}
    assert as_json(found) == as_json(map(vote(), rows(8), backend=logged(tmp_path, "here"), seed=1))


def test_thoughts_and_time_are_limited_over_all_workers(tmp_path):
    thoughts = Budget(thoughts=20)
    job = Job(vote(), rows(8), backend=logged(tmp_path), budget=thoughts, executor=TWO_WORKERS)
    asyncio.run(collected(job))
    assert job.stopped == "budget"
    assert job.shortfall == "thoughts: 20 of 20 made"
    slow = logged(tmp_path, "slow", latency_s=120.0)
    job = Job(vote(), rows(2), backend=slow, budget="seconds=8", executor=TWO_WORKERS)
    asyncio.run(collected(job))
    assert job.stopped == "budget"
    assert job.shortfall.startswith("seconds: ")


def test_what_is_wrong_for_all_rows_ends_the_job(tmp_path):
    def refuse(prompt, sample):
        raise AuthenticationError("no key is set", backend="scripted", status=401)

    with pytest.raises(AuthenticationError, match="no key is set") as caught:
        map(vote(), rows(8), backend=logged(tmp_path, trouble=refuse), executor=TWO_WORKERS)
    assert caught.value.status == 401


def test_a_job_that_is_stopped_takes_in_what_is_under_way(tmp_path):
    backend = logged(tmp_path, latency_s=0.2)

    async def stopped_after_the_first(job):
        async for _ in job:
            job.stop()

    with closing(open_store(tmp_path / "runs")) as store:
        job = Job(vote(), rows(30), backend=backend, seed=1, store=store, concurrency=4, executor=TWO_WORKERS)
        asyncio.run(stopped_after_the_first(job))
        assert job.stopped == "interrupted"
        asked = backend.asked()
        assert sum(asked.values()) < 60
        ended = Job(vote(), rows(30), backend=backend, store=store, resume=job.progress.run_id, executor=TWO_WORKERS)
        assert len(asyncio.run(collected(ended))) == 30
    assert set(backend.asked().values()) == {1}


def test_a_job_that_is_given_up_notes_what_was_under_way(tmp_path):
    backend = logged(tmp_path, latency_s=60.0)

    async def given_up(job):
        task = asyncio.create_task(collected(job))
        while not backend.log.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with closing(open_store(tmp_path / "runs")) as store:
        job = Job(vote(), rows(4), backend=backend, store=store, executor=TWO_WORKERS)
        asyncio.run(given_up(job))
        with store.open(job.progress.run_id) as run:
            assert {call.state for call in run.calls()} == {"unknown"}


def test_a_secret_that_only_workers_know_is_not_kept(tmp_path):
    secret = "sk-of-the-worker-0123456789"

    def telling(prompt, sample):
        register_secret(secret)
        return f"the key is {secret}\nAnswer: 1"

    with closing(open_store(tmp_path / "runs")) as store:
        map(vote(), rows(2), backend=logged(tmp_path, script=telling), store=store, executor=TWO_WORKERS)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "runs").iterdir())
    assert b"Answer: 1" in kept
    assert secret.encode() not in kept


def test_more_workers_than_there_are_cpus_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"num_workers=999: the cluster has \d+ CPUs"):
        map(vote(), rows(1), backend=logged(tmp_path), executor=RayOptions(num_workers=999))


def test_a_program_that_workers_cannot_load_is_told_with_its_reason():
    class Unloadable:
        def __reduce__(self):
            return __import__, ("no_such_package",)

    made = Unloadable()

    @generator
    def using(state):
        return [str(made)]

    program = Program(name="using", generators=[using], controller=BestOfN(num_samples=1))
    with pytest.raises(LLMProgError, match="cannot load the program: ModuleNotFoundError: No module named 'no_such"):
        map(program, ["a"], executor=TWO_WORKERS)


def test_without_ray_the_extra_is_named():
    code = """
import sys
sys.modules["ray"] = None
import llmprog
from llmprog.programs.self_consistency import self_consistency
llmprog.map(self_consistency(), ["a"], backend="local:puzzles", executor="ray")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "llmprog[ray]"' in done.stderr.splitlines()[-1]


@pytest.mark.fault("process", "SIGKILL of a Ray worker of the command", "equal answers; repeats <= its calls in flight")
def test_the_command_gives_the_same_with_ray_although_a_worker_is_killed():
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--rows=12", "--samples=10", "--latency-ms=100"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"^ok ", done.stdout, re.MULTILINE)) == 5
