"""Joined runs have one journal and one budget, and come to the same whatever the timing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from joining import asking, counting, letters, scripted, stepping, texts, word

from llmprog import Program, arun, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.combinators import Apply, Branch, Loop, Map, Parallel, Reduce, Sequence, Vote
from llmprog.errors import BackendError, OptionError, ProgramChangedError, StoreError
from llmprog.events import CallSettled
from llmprog.jobs.job import map as map_rows
from llmprog.runs.store import open_store
from llmprog.search import BestOfN, BetaStop, BreadthFirstSearch


def essay():
    """All combinators in one: 3 items of two searches each, a fold, a vote."""
    letter = Sequence(stepping("draft"), Apply(lambda text: text[-2:]), name="letter")
    item = Parallel(
        {"letter": letter, "word": Branch(len, {1: asking("short")}, otherwise=asking("long"))}, name="item"
    )
    joined = Sequence(
        Map(item, name="items"), Apply(lambda items: [i["letter"] + i["word"] for i in items], name="flat")
    )
    whole = Sequence(Apply(str.split), joined, Reduce(Sequence(Apply("+".join), asking("merge")), name="reduced"))
    done = Loop(asking("polish"), until=lambda text: text.startswith("p(p("), max_rounds=4, name="polished")
    return Sequence(whole, done, Vote(asking("judge"), num_samples=3, stopping=BetaStop(batch_size=2)), name="essay")


def reply(text, sample):
    return letters(text, sample) if text.startswith("draft") else word(text, sample)


GIVEN = "a bb c"
UNDISTURBED = run(essay(), GIVEN, backend=ScriptedBackend(reply), seed=7)


def asked(backend):
    return sum(request.num_samples for request in backend.requests)


def test_the_whole_comes_to_an_answer():
    assert UNDISTURBED.solved
    assert UNDISTURBED.answer.startswith("j(p(p(m(m(")
    assert UNDISTURBED.usage.calls == 3 * (14 + 1) + 2 + 2 + 3


@pytest.mark.parametrize("shuffle", range(6))
@pytest.mark.parametrize("n", [True, False])
def test_the_same_seed_comes_to_the_same_whatever_the_latencies(shuffle, n):
    backend = ScriptedBackend(reply, shuffle=shuffle, n=n)
    assert texts(run(essay(), GIVEN, backend=backend, seed=7)) == texts(UNDISTURBED)


def test_another_seed_asks_with_other_seeds():
    seeds = []
    for seed in (7, 8):
        backend = ScriptedBackend(reply)
        run(essay(), GIVEN, backend=backend, seed=seed)
        seeds.append({request.params.seed for request in backend.requests})
    assert not seeds[0] & seeds[1]


# --------------------------------------------------------------------------------------------- journal


class Failing(ScriptedBackend):
    """Answers so many calls, then fails."""

    def __init__(self, good_calls):
        super().__init__(reply)
        self.good_calls = good_calls

    async def generate(self, request):
        if len(self.requests) >= self.good_calls:
            raise BackendError("it is down", backend=self.id)
        return await super().generate(request)


@pytest.mark.parametrize("good_calls", [0, 1, 9, 24, 28, 30])
def test_a_failed_run_is_resumed_without_asking_again_for_what_had_settled(tmp_path, good_calls):
    failing = Failing(good_calls)
    with pytest.raises(BackendError, match="it is down") as caught:
        run(essay(), GIVEN, backend=failing, seed=7, store=tmp_path)
    (kept,) = open_store(tmp_path).list()
    assert kept.status == "failed"
    assert caught.value.partial.usage.calls <= asked(failing)
    backend = ScriptedBackend(reply)
    result = run(essay(), GIVEN, backend=backend, store=tmp_path, resume=kept.id)
    assert texts(result) == texts(UNDISTURBED)
    assert asked(backend) + asked(failing) == UNDISTURBED.usage.calls
    assert open_store(tmp_path).open(kept.id).usage.calls == UNDISTURBED.usage.calls


def test_a_finished_run_is_shown_again_without_a_single_call(tmp_path):
    first = run(essay(), GIVEN, backend=ScriptedBackend(reply), seed=7, store=tmp_path)
    backend = ScriptedBackend(reply)
    assert texts(run(essay(), GIVEN, backend=backend, store=tmp_path, resume=first.run_id)) == texts(UNDISTURBED)
    assert backend.requests == []


def test_paths_say_where_in_the_program_a_call_was_made(tmp_path):
    result = run(essay(), GIVEN, backend=ScriptedBackend(reply), seed=7, store=tmp_path)
    with open_store(tmp_path).open(result.run_id) as kept:
        paths = {call.path for call in kept.calls()}
        thoughts = [thought for event in kept.events("") if event.kind == "thoughts" for thought in event.data]
    assert paths >= {
        "/sequence/sequence/items/0/letter/draft",
        "/sequence/sequence/items/1/word/otherwise",
        "/sequence/reduced/2/merge",
        "/polished/1",
        "/vote/2",
    }
    assert [thought["node"] for thought in thoughts] == ["", "sequence", "polished", "vote"]
    assert thoughts[-1]["answer"] == UNDISTURBED.answer


def test_a_row_of_a_job_is_found_in_the_paths_of_its_parts(tmp_path):
    rows = ["a", "bb", "c d"]
    results = map_rows(essay(), rows, backend=ScriptedBackend(reply), seed=3, store=tmp_path)
    assert [result.answer is not None for result in results] == [True] * 3
    (kept,) = open_store(tmp_path).list()
    with kept:
        numbers = {int(call.path.partition("/")[0]) for call in kept.calls()}
        assert numbers == {0, 1, 2}
        assert kept.usage.calls == sum(result.usage.calls for result in results)


SCRIPT = """
import sys
from test_runs import GIVEN, essay, reply
from llmprog import run
from llmprog.backends import ScriptedBackend

def noted(text, sample):
    print("asked", flush=True)
    return reply(text, sample)

run(essay(), GIVEN, backend=ScriptedBackend(noted, latency_s=0.01, n=False), seed=7, store=sys.argv[1])
"""


@pytest.mark.fault(
    "process", "SIGKILL in the middle of a joined run", "resumed; what had settled is not asked for again"
)
@pytest.mark.parametrize("after", [3, 30, 47])
def test_a_killed_run_is_gone_on_with(tmp_path, after):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        for _ in range(after):
            assert process.stdout.readline() == "asked\n"
        process.kill()
    (kept,) = open_store(tmp_path).list()
    assert kept.status == "interrupted"
    with kept:
        settled = kept.counts().calls.get("settled", 0)
    backend = ScriptedBackend(reply)
    result = run(essay(), GIVEN, backend=backend, store=tmp_path, resume=kept.id)
    assert texts(result) == texts(UNDISTURBED)
    assert asked(backend) == UNDISTURBED.usage.calls - settled


def test_an_edited_part_needs_a_fork_which_takes_over_what_still_fits(tmp_path):
    first = Sequence(asking("plan"), asking("write"), name="both")
    edited = Sequence(asking("plan"), asking("rewrite"), name="both")
    before = run(first, "x", backend=scripted(), seed=1, store=tmp_path)
    with pytest.raises(ProgramChangedError, match=r"-.*write \{state\}(.*\n)*.*\+.*rewrite \{state\}"):
        run(edited, "x", backend=scripted(), store=tmp_path, resume=before.run_id)
    backend = scripted()
    forked = run(edited, "x", backend=backend, store=tmp_path, resume=before.run_id, fork=True)
    assert forked.answer == "r(p(x))"
    assert asked(backend) == 1


def test_a_cancelled_run_leaves_nothing_behind_and_is_gone_on_with(tmp_path):
    async def cut_short():
        backend = ScriptedBackend(reply, latency_s=0.02)
        task = asyncio.ensure_future(arun(essay(), GIVEN, backend=backend, seed=7, store=tmp_path))
        while len(backend.requests) < 3:  # noqa: ASYNC110 - the time limit of the test is its limit
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backend.num_in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(cut_short())
    (kept,) = open_store(tmp_path).list()
    assert kept.status == "interrupted"
    result = run(essay(), GIVEN, backend=ScriptedBackend(reply), store=tmp_path, resume=kept.id)
    assert texts(result) == texts(UNDISTURBED)


@pytest.mark.parametrize("program", [Loop(Apply(lambda n: n + 1), until=lambda n: False, max_rounds=10**9), None])
async def test_parts_that_wait_for_nothing_can_be_cancelled(program):
    begun = []
    program = program or Map(Apply(lambda n: begun.append(n) or n))
    task = asyncio.ensure_future(arun(program, 0 if isinstance(program, Loop) else range(10**6)))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(begun) < 10**5


@pytest.mark.parametrize("after", [1, 8, 30, 48])
def test_a_run_that_is_asked_to_stop_begins_no_further_part(tmp_path, after):
    stop = threading.Event()
    settled = 0

    def watch(event):
        nonlocal settled
        settled += isinstance(event, CallSettled)
        if settled == after:
            stop.set()

    backend = ScriptedBackend(reply, latency_s=0.001, n=False)
    result = run(essay(), GIVEN, backend=backend, seed=7, store=tmp_path, on_event=watch, stop=stop)
    assert (result.stopped, result.usage.calls) == ("interrupted", asked(backend))
    assert result.usage.calls < UNDISTURBED.usage.calls
    assert open_store(tmp_path).open(result.run_id).status == "stopped"
    again = run(essay(), GIVEN, backend=backend, store=tmp_path, resume=result.run_id)
    assert texts(again) == texts(UNDISTURBED)
    assert asked(backend) == UNDISTURBED.usage.calls  # nothing that was paid for was thrown away


def test_completions_of_other_runs_do_not_make_a_votes_samples_alike(tmp_path):
    class Seedless(ScriptedBackend):
        def __init__(self):
            super().__init__(lambda text, sample: str(len(self.requests)))
            self.capabilities = type(self.capabilities)(n=True, seed=False)

    program = Vote(asking("q"), num_samples=4)
    first = run(program, "x", backend=Seedless(), seed=1, cache=tmp_path / "cache")
    backend = Seedless()
    again = run(program, "x", backend=backend, seed=2, cache=tmp_path / "cache")
    assert backend.requests == []
    assert len(first.votes.histogram) == 4
    assert again.votes == first.votes


# ---------------------------------------------------------------------------------------------- budget


@pytest.mark.parametrize("calls", [1, 7, 15, 31, 46, 50])
@pytest.mark.parametrize("shuffle", [None, 5])
def test_parts_that_run_side_by_side_never_exceed_the_budget(tmp_path, calls, shuffle):
    backend = ScriptedBackend(reply, shuffle=shuffle)
    result = run(essay(), GIVEN, backend=backend, seed=7, store=tmp_path, budget=f"calls={calls}")
    assert asked(backend) == result.usage.calls == calls
    assert result.stopped == "budget"
    assert result.shortfall.startswith(f"calls: {calls} of {calls} spent")
    rest = run(essay(), GIVEN, backend=backend, store=tmp_path, resume=result.run_id, budget="calls=52")
    assert texts(rest) == texts(UNDISTURBED)
    assert asked(backend) == UNDISTURBED.usage.calls


def test_the_best_so_far_comes_back_when_the_budget_ends():
    backend = scripted()
    mapped = run(Map(asking("write"), concurrency=1), list("abcd"), backend=backend, budget="calls=2", seed=1)
    assert (mapped.answer, mapped.solved, mapped.stopped) == (["w(a)", "w(b)", None, None], False, "budget")
    looped = run(
        Loop(asking("more"), until=lambda _: False, max_rounds=9), "x", backend=backend, budget="calls=3", seed=1
    )
    assert (looped.answer, looped.solved, looped.stopped) == ("m(m(m(x)))", False, "budget")
    voted = run(Vote(asking("q"), num_samples=9), "x", backend=backend, budget="calls=4", seed=1)
    assert (voted.answer, voted.stopped, voted.votes.num_valid) == ("q(x)", "budget", 4)
    written = run(Sequence(asking("plan"), asking("write")), "x", backend=backend, budget="calls=1", seed=1)
    assert (written.answer, written.stopped, written.parts["plan"].answer) == (None, "budget", "p(x)")
    halves = Parallel({"a": asking("a"), "b": asking("b")})
    assert run(halves, "x", backend=backend, budget="calls=1", seed=1).answer in ({"a": "a(x)"}, {"b": "b(x)"})


def test_no_part_is_begun_once_the_budget_has_ended():
    begun = []
    note = Apply(lambda item: begun.append(item) or item, name="note")
    both = Parallel({"spend": Map(asking("q"), concurrency=1), "note": Map(Sequence(asking("q"), note), concurrency=1)})
    result = run(both, list("abcdef"), backend=scripted(latency_s=0.001), budget="calls=5", seed=1)
    assert result.stopped == "budget"
    assert len(begun) < 6
    assert result.usage.calls == 5


def test_a_tool_ends_with_the_time_of_the_budget():
    async def endless(given):
        await asyncio.sleep(600)

    begun = time.monotonic()
    result = run(Sequence(Apply(str), Apply(endless)), "x", budget="seconds=0.1")
    assert time.monotonic() - begun < 120
    assert (result.stopped, result.solved, result.answer) == ("budget", False, None)
    assert re.match(r"seconds: \d+\.\d of 0\.1 over", result.shortfall)


def test_thoughts_are_limited_over_all_parts():
    result = run(Map(counting(), concurrency=1), range(10), budget="thoughts=5", seed=1)
    assert result.stopped == "budget"
    assert sum(len(part.graph) for part in result.parts.values()) <= 5


# -------------------------------------------------------------------------------------------- backends


def test_parts_and_their_nodes_have_backends_of_their_own():
    program = Sequence(
        asking("plan"), Sequence(stepping("draft", max_depth=1), asking("write"), name="text"), name="all"
    )
    backends = {name: scripted(letters) for name in ("default", "text", "text.write", "plan.say")}
    for name, backend in backends.items():
        backend.id = name
    result = run(program, "x", backend=backends, seed=1)
    heard = {name: [request.prompt.text for request in backend.requests] for name, backend in backends.items()}
    assert heard == {"default": [], "text": ["draft a"], "text.write": ["write aa"], "plan.say": ["plan x"]}
    assert result.parts["text"].parts["write"].backend == "text.write"
    assert result.backend == "text=text, text.write=text.write, plan.say=plan.say, default=default"


def test_a_part_without_a_backend_is_named_before_anything_is_paid_for():
    program = Sequence(asking("plan"), asking("write"), Apply(len))
    backend = scripted()
    with pytest.raises(OptionError, match=r"has none for write\.say; add 'default'"):
        run(program, "x", backend={"plan": backend})
    known = r"for program 'sequence': 'writ' \(did you mean 'write'\?\); known: default, plan, plan.say, write, "
    with pytest.raises(OptionError, match=known):
        run(program, "x", backend={"writ": backend, "default": backend})
    with pytest.raises(OptionError, match=r"program 'sequence' calls a model in plan\.say, write\.say, but no backend"):
        run(program, "x")
    assert backend.requests == []
    assert run(Apply(len), "abc").answer == 3


# ---------------------------------------------------------------------------------------------- results


def test_a_result_is_json_with_those_of_its_parts():
    shown = json.loads(json.dumps(UNDISTURBED.to_json()))
    assert list(shown["parts"]) == ["sequence", "polished", "vote"]
    vote = shown["parts"]["vote"]
    assert vote["votes"]["num_samples"] == 3
    assert [part["answer"] for part in vote["parts"].values()] == [UNDISTURBED.answer] * 3
    assert shown["usage"]["calls"] == sum(part["usage"]["calls"] for part in shown["parts"].values())
    assert shown["thoughts"] == 4


def test_the_graph_says_what_was_made_from_what():
    graph = UNDISTURBED.parts["sequence"].parts["sequence"].parts["items"].graph
    *items, last = list(graph)[1:]
    assert [arrival.generator for item in items for arrival in item.arrivals] == ["item"] * 3
    assert [parent.id for parent in last.parents] == [item.id for item in items]
    assert last.arrivals[0].generator == "Map"


def test_a_part_that_is_not_solved_is_a_refused_thought():
    picky = Apply(lambda item: item if item != "b" else None, name="pick")
    graph = run(Map(picky, on_unsolved="skip"), list("abc")).graph
    (refused,) = (thought for thought in graph if thought.status.name == "INVALID")
    assert refused.verdicts[0][1].reason == "1: pick returned None"


# ------------------------------------------------------------------------------------ programs in nodes


def helper_program(part):
    @generator(name="think")
    async def think(state, model):
        first = await model.run(part, state)
        second = await model.run(part, state)
        own = await model.generate(f"own {state}")
        return [f"{first.answer}|{second.answer}|{own[0].text}"]

    return Program(generators=[think], controller=BestOfN(num_samples=2, max_depth=2), name="thinking")


def test_a_node_can_run_a_program(tmp_path):
    program = helper_program(asking("ask"))
    backend = ScriptedBackend(lambda text, sample: word(text[:9], sample))
    result = run(program, "x", backend=backend, seed=1, store=tmp_path)
    assert "a(x)|a(x)|o(x)" in [thought.state for thought in result.graph]
    assert result.usage.calls == asked(backend)
    seeds = {request.params.seed for request in backend.requests}
    assert len(seeds) == len(backend.requests)
    with open_store(tmp_path).open(result.run_id) as kept:
        paths = [call.path for call in kept.calls()]
        assert kept.usage.calls == result.usage.calls
    assert {"", "/think:1:0", "/think:1:1", "/think:2:0", "/think:2:1"} <= set(paths)
    backend = ScriptedBackend(reply)
    again = run(program, "x", backend=backend, store=tmp_path, resume=result.run_id)
    assert texts(again) == texts(result)
    assert backend.requests == []


@pytest.mark.parametrize("calls", range(1, 9))
def test_programs_in_nodes_keep_to_the_budget(calls):
    backend = ScriptedBackend(reply)
    result = run(helper_program(stepping("ask", max_depth=2)), "x", backend=backend, seed=1, budget=f"calls={calls}")
    assert (result.stopped, result.usage.calls, asked(backend)) == ("budget", calls, calls)


def test_whoever_stops_a_run_waits_for_the_programs_of_nodes_under_way(tmp_path):
    stop = threading.Event()

    @generator(name="think")
    async def think(state, model):
        result = await model.run(Sequence(asking("plan"), asking("write")), state)
        return [result.answer.upper()]

    program = Program(generators=[think], controller=BreadthFirstSearch(max_depth=9), name="thinking")
    backend = scripted(latency_s=0.001)
    result = run(program, "x", backend=backend, seed=1, on_event=lambda _: stop.set(), stop=stop)
    assert (result.stopped, result.answer, result.usage.calls) == ("interrupted", "W(P(X))", 2)


def test_a_checker_can_run_a_program_and_a_joined_one():
    from llmprog import checker

    @checker(name="judged")
    async def judged(state, model):
        result = await model.run(Vote(Sequence(asking("rate"), Apply(len)), num_samples=3), state)
        return float(result.answer)

    say = asking("q").generators[0]
    program = Program(generators=[say], checkers=[judged], controller=BestOfN(num_samples=1), name="checked")
    result = run(program, "x", backend=scripted(), seed=1)
    assert result.thought.score == len("r(q(x))")
    assert result.usage.calls == 4


def test_an_error_in_a_program_of_a_node_keeps_the_whole_searches_partial_result():
    with pytest.raises(BackendError) as caught:
        run(helper_program(asking("ask")), "x", backend=Failing(1), seed=1)
    assert caught.value.partial.program == "thinking"
    assert caught.value.partial.usage.calls == 1


@pytest.mark.fault("users", "the run file deleted in a joined run", "an error that names the file; its result so far")
def test_a_run_file_that_is_deleted_leaves_the_result_so_far(tmp_path):
    def delete(text):
        for file in tmp_path.iterdir():
            file.unlink()
        return text

    program = Sequence(asking("plan"), Apply(delete), asking("write"), asking("last"))
    with pytest.raises(StoreError, match="it was deleted or replaced") as caught:
        run(program, "x", backend=scripted(), seed=1, store=tmp_path)
    partial = caught.value.partial
    assert (partial.stopped, partial.parts["plan"].answer) == ("error", "p(x)")
    assert "last" not in partial.parts
