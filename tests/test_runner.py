from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from llmprog import Program, arun, checker, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, LLMProgError, NodeError, OptionError
from llmprog.search import BreadthFirstSearch, SelfConsistency


@generator(prompt="after {state}")
def grow(state: str, completion: str):
    return [state + letter for letter in completion]


@checker(prompt="worth {state}")
def worth(state: str, completion: str) -> float:
    return float(len(state))


def reply(text, sample):
    return "ab" if text.startswith("after") else "x"


program = Program(generators=[grow], checkers=[worth], controller=BreadthFirstSearch(max_depth=2), name="toy")


def test_a_result_says_what_was_found_and_spent():
    result = run(program, "r", backend=ScriptedBackend(reply), seed=5)
    assert (result.program, result.input, result.seed, result.backend) == ("toy", "r", 5, "scripted")
    assert result.answer == "raa"
    assert result.usage.calls == 9
    assert result.wall_s >= 0
    shown = json.loads(json.dumps(result.to_json()))
    assert list(shown) == [
        "program", "input", "answer", "solved", "stopped", "explanation", "votes", "usage", "thoughts", "wall_s",
        "seed", "backend", "run", "shortfall", "parts",
    ]  # fmt: skip
    assert shown["thoughts"] == len(result.graph) == 7


def test_a_seed_is_drawn_and_reported():
    seeds = {run(program, "r", backend=ScriptedBackend(reply)).seed for _ in range(3)}
    assert len(seeds) == 3


def test_votes_are_part_of_the_json():
    say = generator(prompt="q", name="say")(lambda state, completion: [completion])
    voting = Program(generators=[say], controller=SelfConsistency(num_samples=3))
    shown = voting.run("", backend=ScriptedBackend(lambda text, sample: "aab"[sample])).to_json()
    assert shown["votes"]["histogram"] == [{"answer": "a", "votes": 2}, {"answer": "b", "votes": 1}]
    assert shown["votes"]["num_allowed"] == 3


async def test_run_works_inside_a_running_event_loop():
    assert program.run("r", backend=ScriptedBackend(reply)).answer == "raa"


def test_run_works_from_several_threads_at_once():
    def one(seed):
        return program.run("r", backend=ScriptedBackend(reply, shuffle=seed), seed=1).graph.to_json()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(one, range(24)))) == 1


def test_run_from_inside_a_search_is_refused_instead_of_waiting_for_itself():
    nested = generator(name="nested")(lambda state: [program.run("r", backend=ScriptedBackend(reply)).answer])
    with pytest.raises(LLMProgError, match=r"from inside a running search.*await program\.arun"):
        Program(generators=[nested], controller=BreadthFirstSearch(max_depth=1)).run("")


def test_a_program_within_an_async_node():
    @generator
    async def nested(state: str, model):
        result = await program.arun("r", backend=ScriptedBackend(reply))
        return [result.answer]

    assert Program(generators=[nested], controller=BreadthFirstSearch(max_depth=1)).run("").answer == "raa"


def is_waiting(thread):
    """Whether a thread waits for another."""
    code = sys._current_frames()[thread.ident].f_code
    return (code.co_filename, code.co_name) == (threading.__file__, "wait")


class Interrupting(ScriptedBackend):
    """Has Ctrl-C pressed during its first call, and once more when that was heard, if ``times`` is 2.

    It answers when it was told to come to an end; without ``stop``, not in the time that a test may take.
    """

    def __init__(self, times=1, stop=None, answers=False):
        super().__init__(reply)
        self.times = times
        self.stop = stop
        self.answers = answers
        self.cancelled = False

    def press(self):
        while not is_waiting(threading.main_thread()):
            time.sleep(0.01)
        for _ in range(self.times):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            if self.stop is not None:
                self.stop.wait(60)

    async def generate(self, request):
        if self.num_in_flight == 0:
            threading.Thread(target=self.press).start()
        self.num_in_flight += 1
        try:
            while not (self.answers and self.stop.is_set()):  # noqa: ASYNC110 - it is set by another thread
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.num_in_flight -= 1
        return await super().generate(request)


@pytest.fixture
def ctrl_c():
    """Ctrl-C works: a shell that runs the tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_of_the_waiting_thread_cancels_the_run():
    backend = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        program.run("r", backend=backend)
    assert backend.cancelled
    assert backend.num_in_flight == 0
    assert program.run("r", backend=ScriptedBackend(reply)).solved  # the loop is still of use


@pytest.mark.usefixtures("ctrl_c")
def test_the_first_interrupt_can_ask_a_run_to_come_to_its_end():
    stop = threading.Event()
    backend = Interrupting(stop=stop, answers=True)
    result = program.run("r", backend=backend, stop=stop, on_interrupt=stop.set)
    assert (result.stopped, result.usage.calls, backend.cancelled) == ("interrupted", 1, False)


@pytest.mark.usefixtures("ctrl_c")
def test_the_second_interrupt_cancels_a_run_that_was_asked_to_end():
    stop = threading.Event()
    say = generator(prompt="after {state}", n=2, name="say")(lambda state, completion: [completion])
    two_calls = Program(generators=[say], controller=BreadthFirstSearch(max_depth=1))
    backend = Interrupting(times=2, stop=stop)
    backend.capabilities = replace(backend.capabilities, n=False)
    with pytest.raises(KeyboardInterrupt):
        two_calls.run("r", backend=backend, stop=stop, on_interrupt=stop.set)
    assert stop.is_set()
    assert backend.cancelled
    assert backend.num_in_flight == 0


@pytest.mark.parametrize("ending", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.timeout(60)
def test_a_node_that_exits_ends_the_run_and_not_the_loop_of_all_runs(ending):
    def leave(state, completion):
        raise ending

    leaving = Program(
        generators=[generator(prompt="q", name="leave")(leave)], controller=BreadthFirstSearch(max_depth=1)
    )
    with pytest.raises(type(ending)):
        leaving.run("r", backend=ScriptedBackend(reply))
    assert program.run("r", backend=ScriptedBackend(reply)).solved


FORKING = """
import multiprocessing
from llmprog.programs import arithmetic

def work(seed):
    return arithmetic(num_samples=1).run("17 + 25", backend="local:puzzles", seed=seed).answer

assert work(1) == 42
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.map_async(work, [1]).get(timeout=120) == [42]
assert work(1) == 42
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process forks on this system")
def test_a_process_forked_after_a_run_runs_programs_too():
    script = [sys.executable, "-c", FORKING]
    ended = subprocess.run(script, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr


def test_backends_by_node():
    growing, judging = ScriptedBackend(reply), ScriptedBackend(reply)
    result = program.run("r", backend={"grow": growing, "default": judging})
    assert {r.prompt.text.split()[0] for r in growing.requests} == {"after"}
    assert {r.prompt.text.split()[0] for r in judging.requests} == {"worth"}
    assert result.backend == "grow=scripted, default=scripted"
    with pytest.raises(OptionError, match=r"'wroth' \(did you mean 'worth'\?\); known: default, grow, worth"):
        program.run("r", backend={"wroth": judging})


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True])
def test_a_bad_limit_is_refused(value):
    with pytest.raises(OptionError, match=r"max_in_flight=.*; allowed is a whole number >= 1"):
        program.run("r", backend=ScriptedBackend(reply), max_in_flight=value)


@pytest.mark.parametrize("given", ["x", None, ""])
def test_what_start_cannot_use_is_an_input_error(given):
    fussy = Program(
        generators=[grow], controller=BreadthFirstSearch(max_depth=1), start=lambda text: text.split(",")[3]
    )
    with pytest.raises(InputError, match="cannot use the input") as caught:
        fussy.run(given)
    assert caught.value.__cause__ is not None


def test_an_unsolved_run_explains_itself():
    hopeless = Program(
        generators=[grow],
        controller=BreadthFirstSearch(max_depth=1),
        goal=lambda s: s == "never",
        answer=lambda s: {}[s],
        explain=lambda start: f"{start!r} has no solution",
    )
    result = hopeless.run("r", backend=ScriptedBackend(reply))
    assert (result.solved, result.answer, result.explanation) == (False, None, "'r' has no solution")
    assert result.thought.state == "ra"


def test_an_explanation_that_fails_keeps_what_was_found():
    hopeless = Program(
        generators=[grow], controller=BreadthFirstSearch(max_depth=1), goal=lambda s: False, explain=lambda s: 1 / 0
    )
    with pytest.raises(NodeError, match="node 'explain': raised ZeroDivisionError") as caught:
        hopeless.run("r", backend=ScriptedBackend(reply))
    assert len(caught.value.partial.graph) == 3


async def test_arun_is_what_run_runs():
    graphs = {(await arun(program, "r", backend=ScriptedBackend(reply), seed=1)).graph.to_json() for _ in range(2)}
    assert len(graphs) == 1


def test_backends_by_node_are_complete_before_anything_is_called():
    backend = ScriptedBackend(reply)
    with pytest.raises(OptionError, match=r"unknown node in backend= .*'nobody'; known: "):
        program.run("r", backend={"nobody": backend, "default": backend})
    with pytest.raises(OptionError, match=r"has none for .*; add 'default'"):
        program.run("r", backend={})
    assert not backend.requests


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"backend": 5}, "backend=5; allowed is an id"),
        ({"seed": "a"}, "seed='a'; allowed is a whole number"),
        ({"budget": 5}, "budget=5; allowed is a Budget, its text"),
        ({"budget": {"calls": 5}}, "budget={'calls': 5}; allowed is a Budget, its text"),
        ({"store": 5}, "store=5; allowed is a directory"),
        ({"store": ""}, "store=''; allowed is a directory"),
        ({"cache": 5}, "cache=5; allowed is True, False, a file"),
        ({"stop": True}, "stop=True; allowed is a threading.Event"),
    ],
)
def test_options_of_a_run_are_checked(options, complaint):
    with pytest.raises(OptionError, match=complaint):
        program.run("r", **{"backend": ScriptedBackend(reply), **options})


@pytest.mark.parametrize("given", [None, "game24", BreadthFirstSearch])
def test_what_is_no_program_is_refused_by_name(given):
    with pytest.raises(OptionError, match="allowed is a Program, such as"):
        run(given, "r", backend=ScriptedBackend(reply))
