"""The runtime: what runs at once, what is shared, what is cancelled, what an error leaves behind."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass

import pytest

from llmprog import Program, Verdict, arun, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError, CapabilityError, DeclarationError, NodeError, OptionError
from llmprog.events import CallSettled, RunFinished, ThoughtChecked, ThoughtExpanded
from llmprog.search import (
    BeamSearch,
    BestFirstSearch,
    BestOfN,
    BreadthFirstSearch,
    Controller,
    DepthFirstSearch,
    Expand,
    Merge,
    SelfConsistency,
    Status,
    Stop,
)


class Gated(ScriptedBackend):
    """Answers a prompt only once its gate has been opened; ``asked`` wakes whoever waits for a prompt."""

    def __init__(self, script, gates=()):
        super().__init__(script)
        self.gates = {text: asyncio.Event() for text in gates}
        self.seen = {}

    def asked(self, text):
        return self.seen.setdefault(text, asyncio.Event())

    async def generate(self, request):
        self.num_in_flight += 1
        try:
            self.asked(request.prompt.text).set()
            gate = self.gates.get(request.prompt.text)
            if gate is not None:
                await gate.wait()
            return await super().generate(request)
        finally:
            self.num_in_flight -= 1


def nothing_is_left(backend):
    assert backend.num_in_flight == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@generator(prompt="expand {state}")
def expand(state: str, completion: str):
    return completion.split()


@checker(prompt="judge {state}")
def judge(state: str, completion: str) -> float:
    return float(len(completion))


def tree(text, sample):
    """Three children below any state; judgements are as long as the state."""
    task, _, state = text.partition(" ")
    return " ".join(state + letter for letter in "abc") if task == "expand" else state


async def test_a_check_starts_before_slower_sibling_expansions_finish():
    program = Program(generators=[expand], checkers=[judge], controller=BreadthFirstSearch(max_depth=2))
    backend = Gated(tree, gates=["expand xa", "expand xb"])
    run = asyncio.ensure_future(arun(program, "x", backend=backend, seed=0))
    # xc's children are judged although xa and xb, dispatched before it, have not come back.
    await asyncio.wait_for(backend.asked("judge xcc").wait(), 5)
    assert backend.num_in_flight >= 2
    backend.gates["expand xb"].set()
    await asyncio.wait_for(backend.asked("judge xbc").wait(), 5)
    backend.gates["expand xa"].set()
    result = await run
    assert [t.state for t in result.graph][1:7] == ["xa", "xb", "xc", "xaa", "xab", "xac"]
    nothing_is_left(backend)


async def test_what_an_async_generator_has_yielded_is_judged_while_it_goes_on():
    release = asyncio.Event()

    @generator
    async def dream(state: str, model):
        yield state + "1"
        await release.wait()
        yield state + "2"

    program = Program(generators=[dream], checkers=[judge], controller=BreadthFirstSearch(max_depth=1))
    backend = Gated(tree)
    run = asyncio.ensure_future(arun(program, "x", backend=backend, seed=0))
    await asyncio.wait_for(backend.asked("judge x1").wait(), 5)
    release.set()
    assert [t.score for t in (await run).graph] == [0.0, 2.0, 2.0]


async def test_judges_of_one_generator_do_not_wait_for_a_slower_generator():
    slow = generator(prompt="slow {state}", name="slow")(lambda state, completion: [])
    program = Program(generators=[expand, slow], checkers=[judge], controller=BreadthFirstSearch(max_depth=1))
    backend = Gated(tree, gates=["slow x"])
    run = asyncio.ensure_future(arun(program, "x", backend=backend, seed=0))
    await asyncio.wait_for(backend.asked("judge xa").wait(), 5)
    backend.gates["slow x"].set()
    await run
    nothing_is_left(backend)


async def test_a_found_goal_cancels_what_is_in_flight():
    never = ["expand xb", "judge xb", "judge xc", "judge xaa"]
    program = Program(
        generators=[expand],
        checkers=[judge],
        controller=BreadthFirstSearch(max_depth=3),
        goal=lambda s: s == "xac",
    )
    backend = Gated(tree, gates=never)
    for text in ("judge xb", "judge xc"):
        backend.gates[text].set()
    events = []
    result = await arun(program, "x", backend=backend, seed=0, on_event=events.append)
    assert result.solved
    assert result.answer == "xac"
    assert result.stopped == "goal"
    assert result.thought.status == Status.GOAL
    assert isinstance(events[-1], RunFinished)
    assert events[-1].thought == result.thought.id
    assert not backend.gates["expand xb"].is_set()
    nothing_is_left(backend)


async def test_a_start_that_is_the_goal_asks_nobody():
    program = Program(generators=[expand], controller=BreadthFirstSearch(max_depth=3), goal=lambda s: s == "x")
    backend = Gated(tree)
    result = await arun(program, "x", backend=backend)
    assert result.solved
    assert backend.requests == []


@pytest.mark.parametrize("n", [True, False])
async def test_an_error_cancels_the_rest_and_keeps_what_was_found(n):
    never = asyncio.Event()

    class Failing(ScriptedBackend):
        async def generate(self, request):
            if request.prompt.text == "expand xb" and request.first_sample >= 1:
                raise BackendError("out of memory", backend="scripted", status=507, retryable=True)
            if request.prompt.text == "expand xb":
                self.num_in_flight += 1
                try:
                    await never.wait()
                finally:
                    self.num_in_flight -= 1
            return await super().generate(request)

    other = generator(prompt="other {state}", name="other")(lambda state, completion: [])
    program = Program(
        generators=[expand.with_options(n=3), other], checkers=[judge], controller=BreadthFirstSearch(max_depth=3)
    )
    backend = (
        Failing(tree, n=False)
        if not n
        else Failing(lambda text, sample: tree(text, sample) if not text.startswith("expand xb") else 1 / 0)
    )
    if n:
        never.set()
    with pytest.raises(BackendError) as caught:
        await arun(program, "x", backend=backend, seed=0)
    partial = caught.value.partial
    assert {t.state for t in partial.graph} >= {"x", "xa", "xb", "xc"}
    assert partial.stopped == "error"
    assert not partial.solved
    assert partial.usage.calls > 0
    assert partial.thought is not None
    assert (caught.value.status == 507) == (not n)
    nothing_is_left(backend)


async def test_an_error_of_one_judge_cancels_the_others():
    bad = checker(prompt="bad {state}", name="bad")(lambda state, completion: 1 / 0)
    program = Program(generators=[expand], checkers=[judge, bad], controller=BreadthFirstSearch(max_depth=2))
    backend = Gated(tree, gates=["judge xa", "judge xb", "judge xc"])
    with pytest.raises(NodeError, match="node 'bad': its function raised ZeroDivisionError") as caught:
        await arun(program, "x", backend=backend, seed=0)
    assert caught.value.node == "bad"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [t.state for t in caught.value.partial.graph] == ["x", "xa", "xb", "xc"]
    nothing_is_left(backend)


async def test_cancelling_the_caller_leaves_nothing():
    pairs = checker(prompt="{first} {second}", kind="pairwise", name="pairs")(lambda a, b, completion: 1.0)
    for gate, controller in [
        ("expand xb", BreadthFirstSearch(max_depth=3)),
        ("judge xb", BreadthFirstSearch(max_depth=3)),
        ("xb xc", BeamSearch(beam_width=2, max_depth=3)),
    ]:
        checkers = [judge, pairs] if controller.compares else [judge]
        program = Program(generators=[expand], checkers=checkers, controller=controller)
        backend = Gated(tree, gates=[gate])
        run = asyncio.ensure_future(arun(program, "x", backend=backend, seed=0))
        await asyncio.wait_for(backend.asked(gate).wait(), 5)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        nothing_is_left(backend)


async def test_a_search_without_model_calls_can_be_cancelled():
    endless = generator(name="endless")(lambda state: [state + 1])
    program = Program(generators=[endless], controller=DepthFirstSearch(max_depth=10**9))
    run = asyncio.ensure_future(arun(program, 0))
    for _ in range(5):
        await asyncio.sleep(0)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


def test_distinct_samples_never_collapse():
    say = generator(prompt="the one prompt", name="say")(lambda state, completion: [completion])
    program = Program(generators=[say], controller=SelfConsistency(num_samples=40))
    backend = ScriptedBackend(lambda text, sample: "yes" if sample % 4 else "no")
    result = program.run("", backend=backend, seed=0)
    assert sorted(r.first_sample for r in backend.requests) == list(range(40))
    assert all(r.num_samples == 1 for r in backend.requests)
    assert len(result.graph) == 3  # equal thoughts are one thought …
    assert dict(result.votes.histogram) == {"yes": 30, "no": 10}  # … and still vote once per chain
    assert sorted(a.sample for t in list(result.graph)[1:] for a in t.arrivals) == list(range(40))


def test_expansions_that_ask_the_same_question_get_further_samples():
    say = generator(prompt="the one prompt", name="say", n=3)(lambda state, completion: [f"{state}{completion}"])
    program = Program(generators=[say], controller=BreadthFirstSearch(max_depth=2))
    backend = ScriptedBackend(lambda text, sample: f"-{sample}")
    graph = program.run("", backend=backend, seed=0).graph
    assert [(r.first_sample, r.num_samples) for r in backend.requests] == [(0, 3), (3, 3), (6, 3), (9, 3)]
    assert [t.state for t in graph] == [
        "",
        "-0",
        "-1",
        "-2",
        *(f"-{i}-{3 + 3 * i + j}" for i in range(3) for j in range(3)),
    ]


async def test_identical_judgements_are_one_call_in_flight_and_settled():
    @dataclass(frozen=True)
    class Word:
        text: str
        steps: int

    many = generator(name="many")(lambda w: [Word(w.text, w.steps * 10 + i) for i in range(5)])
    weigh = checker(prompt="weigh {text}", name="weigh", n=2)(lambda w, completions: float(len(completions)))
    program = Program(generators=[many], checkers=[weigh], controller=BreadthFirstSearch(max_depth=2))
    backend = Gated(lambda text, sample: "ok", gates=["weigh x"])
    run = asyncio.ensure_future(arun(program, Word("x", 1), backend=backend, seed=0))
    await asyncio.wait_for(backend.asked("weigh x").wait(), 5)
    for _ in range(20):
        await asyncio.sleep(0)
    backend.gates["weigh x"].set()
    graph = (await run).graph
    assert len(graph) == 31
    assert [(r.prompt.text, r.num_samples, r.first_sample) for r in backend.requests] == [("weigh x", 2, 0)]
    assert all(t.score == 2.0 for t in list(graph)[1:])


def test_rules_that_refuse_end_the_judging_of_a_thought():
    asked = []
    short = checker(name="short")(lambda s: len(s) < 3)
    named = checker(name="named")(lambda s: asked.append(s) or Verdict(valid="b" not in s, reason="has a b"))
    program = Program(generators=[expand], checkers=[short, named, judge], controller=BreadthFirstSearch(max_depth=3))
    backend = ScriptedBackend(tree)
    graph = program.run("x", backend=backend, seed=0).graph
    by_state = {t.state: t for t in graph}
    assert asked == ["xa", "xb", "xc"]
    assert by_state["xb"].status == Status.INVALID
    assert by_state["xb"].verdicts == (("named", Verdict(valid=False, reason="has a b")),)
    assert by_state["xaa"].verdicts == (("short", Verdict(valid=False)),)
    assert {r.prompt.text for r in backend.requests} == {"expand x", "expand xa", "expand xc", "judge xa", "judge xc"}


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (True, []),
        (False, [Verdict(valid=False)]),
        (2, [Verdict(score=2.0)]),
        (0.25, [Verdict(score=0.25)]),
        (Verdict(score=1.5, reason="so"), [Verdict(score=1.5, reason="so")]),
    ],
)
def test_what_a_rule_may_return(returned, expected):
    rule = checker(name="rule")(lambda s: returned)
    go = generator(name="go")(lambda s: [s + 1])
    graph = Program(generators=[go], checkers=[rule], controller=BreadthFirstSearch(max_depth=1)).run(0).graph
    assert [verdict for _, verdict in graph[1].verdicts] == expected


@pytest.mark.parametrize("returned", [None, "good", float("nan"), float("inf"), 10**400, Verdict(score=float("nan"))])
def test_what_a_rule_may_not_return(returned):
    rule = checker(name="rule")(lambda s: returned)
    go = generator(name="go")(lambda s: [s + 1])
    program = Program(generators=[go], checkers=[rule], controller=BreadthFirstSearch(max_depth=1))
    with pytest.raises(NodeError, match=r"node 'rule': returned .*; allowed are"):
        program.run(0)


def test_samples_of_a_judgement_are_averaged_or_taken_together():
    single = checker(prompt="{state}", name="single", n=4)(
        lambda s, completion: Verdict(valid=completion != "0", score=float(completion))
    )
    program = Program(
        generators=[generator(name="go")(lambda s: [s + 1])],
        checkers=[single],
        controller=BreadthFirstSearch(max_depth=1),
    )
    graph = program.run(0, backend=ScriptedBackend(lambda text, sample: "0011"[sample])).graph
    assert graph[1].score == 0.5
    assert graph[1].status == Status.OPEN
    graph = program.run(0, backend=ScriptedBackend(lambda text, sample: "0001"[sample])).graph
    assert graph[1].status == Status.INVALID


def test_a_vote_scores_each_state_by_its_votes_and_ignores_choices_off_the_menu():
    said = ["2", "2", "1", "7", "", "2"]

    @checker(prompt="{num_candidates}:\n{candidates}", kind="vote", n=6)
    def choose(states, completion: str):
        return int(completion) - 1 if completion else None

    program = Program(generators=[expand], checkers=[choose], controller=BeamSearch(beam_width=1, max_depth=1))
    backend = ScriptedBackend(lambda text, sample: tree(text, sample) if text.startswith("expand") else said[sample])
    result = program.run("x", backend=backend, seed=0)
    assert [t.score for t in result.graph] == [0.0, 1.0, 3.0, 0.0]
    assert result.answer == "xb"
    assert backend.requests[-1].prompt.text == "3:\nChoice 1:\nxa\nChoice 2:\nxb\nChoice 3:\nxc"


@pytest.mark.parametrize("form", ["prompt", "rule", "async"])
def test_pairwise_judges_every_pair_in_both_orders(form):
    asked = []

    def prefers(first, second):
        asked.append((first, second))
        return {"xa": 1, "xb": 3, "xc": 2}[first] > {"xa": 1, "xb": 3, "xc": 2}[second]

    if form == "prompt":
        compare = checker(prompt="{first} or {second}", kind="pairwise", name="compare")(
            lambda first, second, completion: prefers(first, second)
        )
    elif form == "rule":
        compare = checker(kind="pairwise", name="compare")(prefers)
    else:

        @checker(kind="pairwise")
        async def compare(first, second, model):
            (completion,) = await model.generate(f"{first} or {second}")
            return prefers(*completion.text.split(" or "))

    program = Program(generators=[expand], checkers=[compare], controller=BeamSearch(beam_width=1, max_depth=1))
    backend = ScriptedBackend(lambda text, sample: tree(text, sample) if text.startswith("expand") else text)
    result = program.run("x", backend=backend, seed=0)
    assert sorted(asked) == sorted((a, b) for a in ("xa", "xb", "xc") for b in ("xa", "xb", "xc") if a != b)
    assert [t.score for t in result.graph] == [0.0, 0.0, 4.0, 2.0]
    assert result.answer == "xb"


def test_a_comparison_outside_its_range_is_an_error():
    compare = checker(kind="pairwise", name="compare")(lambda first, second: 2)
    program = Program(generators=[expand], checkers=[compare], controller=BeamSearch(beam_width=1, max_depth=1))
    with pytest.raises(NodeError, match=r"node 'compare': returned \[2\]; allowed are bool or numbers in \[0, 1\]"):
        program.run("x", backend=ScriptedBackend(tree))


@dataclass(kw_only=True)
class SplitAndMerge(Controller):
    """Expands the root once, merges all its children, stops."""

    aggregates = True
    step: int = 0

    def ask(self, graph, capacity):
        self.step += 1
        if self.step == 1:
            return [Expand(0)]
        if len(graph) == 4:
            return [Merge((1, 2, 3), tag=7)]
        return [Stop("merged")] if len(graph) == 5 else []

    def tell(self, event):
        pass


def test_aggregation_gives_a_thought_several_parents():
    join = generator(prompt="join {num_candidates}", name="join", aggregates=True)(
        lambda states, completion: ["+".join(states) + completion]
    )
    program = Program(generators=[expand, join], controller=SplitAndMerge())
    backend = ScriptedBackend(lambda text, sample: tree(text, sample) if text.startswith("expand") else "!")
    events = []
    result = program.run("x", backend=backend, seed=0, on_event=events.append)
    merged = result.graph[4]
    assert merged.state == "xa+xb+xc!"
    assert [p.state for p in merged.parents] == ["xa", "xb", "xc"]
    assert merged.depth == 2
    assert [t.state for t in result.graph.path(4)] == ["x", "xa", "xa+xb+xc!"]
    assert [e.tag for e in events if isinstance(e, ThoughtExpanded)] == [0, 7]
    assert sorted(result.graph.to_networkx().in_edges(4)) == [(1, 4), (2, 4), (3, 4)]


def test_a_plain_function_may_aggregate_and_without_one_merging_is_refused():
    join = generator(name="join", aggregates=True)("+".join)
    program = Program(generators=[expand, join], controller=SplitAndMerge())
    assert program.run("x", backend=ScriptedBackend(tree)).graph[4].state == "xa+xb+xc"
    with pytest.raises(DeclarationError, match="declare one with @generator\\(aggregates=True\\)"):
        Program(generators=[expand], controller=SplitAndMerge()).run("x", backend=ScriptedBackend(tree))


def test_async_nodes_make_scheduled_and_counted_calls():
    @generator
    async def think(state: str, model):
        first, second = await model.generate("idea", n=2, temperature=1.0)
        (third,) = await model.generate("idea", temperature=1.0)
        return [first.text, second.text, third.text]

    @checker
    async def doubt(state: str, model) -> float:
        (completion,) = await model.generate("sure?", max_tokens=3)
        return float(completion.text)

    program = Program(generators=[think], checkers=[doubt], controller=BreadthFirstSearch(max_depth=1))
    backend = ScriptedBackend(lambda text, sample: f"{text}{sample}" if text == "idea" else "0.5")
    events = []
    result = program.run("x", backend=backend, seed=0, on_event=events.append)
    assert [t.state for t in result.graph] == ["x", "idea0", "idea1", "idea2"]  # asked again: further samples
    assert [t.score for t in result.graph] == [0.0, 0.5, 0.5, 0.5]
    assert result.usage.calls == 6
    assert {e.node for e in events if isinstance(e, CallSettled)} == {"think", "doubt"}
    assert {r.params.max_tokens for r in backend.requests} == {256, 3}


def test_each_running_of_an_async_node_has_a_seed_of_its_own():
    @generator
    async def think(state: int, model):
        await model.generate("same")
        return [state + 1]

    def seeds(run_seed):
        backend = ScriptedBackend(lambda text, sample: "")
        Program(generators=[think], controller=BreadthFirstSearch(max_depth=3)).run(0, backend=backend, seed=run_seed)
        return [r.params.seed for r in backend.requests]

    assert len(set(seeds(1))) == 3
    assert seeds(1) == seeds(1)
    assert not set(seeds(1)) & set(seeds(2))


def test_an_async_node_may_not_ask_for_what_a_backend_cannot_do():
    @generator
    async def likely(state: str, model):
        await model.score("prompt", ["a", "b"])

    program = Program(generators=[likely], controller=BreadthFirstSearch(max_depth=1))
    with pytest.raises(CapabilityError, match="score with a local model"):
        program.run("x", backend=ScriptedBackend(tree))

    @generator
    async def odd(state: str, model):
        await model.generate("prompt", heat=3)

    with pytest.raises(
        DeclarationError, match="node 'odd': unknown option 'heat'; known sampling options: temperature"
    ):
        Program(generators=[odd], controller=BreadthFirstSearch(max_depth=1)).run("x", backend=ScriptedBackend(tree))


def test_an_async_node_can_ask_what_its_backend_can_do():
    found = {}

    @generator
    async def likely(state: str, model):
        found["score"], found["n"] = model.can("score"), model.can("n")
        return [state + "!"]

    program = Program(generators=[likely], controller=BreadthFirstSearch(max_depth=1))
    program.run("x", backend=ScriptedBackend(tree))
    assert found == {"score": False, "n": True}

    @generator
    async def odd(state: str, model):
        return [model.can("fly")]

    with pytest.raises(DeclarationError, match=r"'odd': model.can\('fly'\); allowed are n, logprobs, score"):
        Program(generators=[odd], controller=BreadthFirstSearch(max_depth=1)).run("x", backend=ScriptedBackend(tree))


@dataclass(frozen=True)
class Pair:
    a: int
    b: int


@pytest.mark.parametrize(
    ("returned", "states"),
    [(None, []), ([], []), (iter([1, 2]), [1, 2]), ("text", ["text"]), (Pair(1, 2), [Pair(1, 2)]), ((1, 2), [1, 2])],
)
def test_what_a_generator_may_return(returned, states):
    go = generator(name="go")(lambda state: returned)
    graph = Program(generators=[go], controller=BreadthFirstSearch(max_depth=1)).run(0).graph
    assert [t.state for t in graph][1:] == states


def test_a_named_tuple_is_one_state():
    from collections import namedtuple

    Point = namedtuple("Point", "x y")
    go = generator(name="go")(lambda state: Point(1, 2))
    graph = Program(generators=[go], controller=BreadthFirstSearch(max_depth=1)).run(0).graph
    assert graph[1].state == Point(1, 2)


def test_what_a_generator_may_not_return():
    go = generator(name="go")(lambda state: 5)
    with pytest.raises(NodeError, match="node 'go': returned 5; allowed are an iterable of states, one state or None"):
        Program(generators=[go], controller=BreadthFirstSearch(max_depth=1)).run(0)
    go = generator(name="go")(lambda state: [[1]])
    with pytest.raises(DeclarationError, match=r"no key for \[1\] .*states must be hashable"):
        Program(generators=[go], controller=BreadthFirstSearch(max_depth=1)).run(0)


def test_events_come_in_order():
    events = []
    program = Program(generators=[expand], checkers=[judge], controller=BreadthFirstSearch(max_depth=1))
    program.run("x", backend=ScriptedBackend(tree), on_event=events.append)
    kinds = [type(e).__name__ for e in events if not isinstance(e, CallSettled)]
    assert kinds == ["ThoughtExpanded", "ThoughtChecked", "ThoughtChecked", "ThoughtChecked", "RunFinished"]
    expanded = next(e for e in events if isinstance(e, ThoughtExpanded))
    assert expanded.parents == (0,)
    assert expanded.children == (1, 2, 3)
    assert expanded.is_new == (True, True, True)
    assert [c.text for c in expanded.completions] == ["xa xb xc"] * 3
    assert [e.thought for e in events if isinstance(e, ThoughtChecked)] == [1, 2, 3]


def test_completions_stay_beside_their_children_when_generators_mix():
    plain = generator(name="plain")(lambda state: ["p"])
    events = []
    program = Program(generators=[plain, expand], controller=BreadthFirstSearch(max_depth=1))
    program.run("x", backend=ScriptedBackend(tree), on_event=events.append)
    (expanded,) = (e for e in events if isinstance(e, ThoughtExpanded))
    assert [c and c.text for c in expanded.completions] == [None, *["xa xb xc"] * 3]


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize(
    "controller",
    [
        BreadthFirstSearch(max_depth=3),
        BeamSearch(beam_width=9, max_depth=3),
        BestFirstSearch(max_thoughts=100, max_depth=3, batch_size=50),
        SelfConsistency(num_samples=30, max_depth=2),
        BestOfN(num_samples=30, max_depth=2),
    ],
    ids=lambda c: c.name,
)
def test_no_more_expansions_are_in_flight_than_allowed(limit, controller):
    in_flight = [0]
    highest = [0]

    class Counting(ScriptedBackend):
        async def generate(self, request):
            expands = request.prompt.text.startswith("expand")
            in_flight[0] += expands
            highest[0] = max(highest[0], in_flight[0])
            try:
                await asyncio.sleep(0)
                return await super().generate(request)
            finally:
                in_flight[0] -= expands

    program = Program(generators=[expand], checkers=[judge], controller=controller)
    program.run("x", backend=Counting(tree, shuffle=limit), max_in_flight=limit)
    assert highest[0] <= limit


def test_errors_of_goal_and_answer_name_the_part():
    program = Program(generators=[expand], controller=BreadthFirstSearch(max_depth=1), goal=lambda s: 0 / (len(s) - 2))
    with pytest.raises(NodeError, match=r"node 'goal': raised ZeroDivisionError: .* for the state 'xa'") as caught:
        program.run("x", backend=ScriptedBackend(tree))
    assert len(caught.value.partial.graph) == 1
    program = Program(generators=[expand], controller=BreadthFirstSearch(max_depth=1), answer=lambda s: s[100])
    with pytest.raises(NodeError, match="node 'answer': raised IndexError") as caught:
        program.run("x", backend=ScriptedBackend(tree))
    assert len(caught.value.partial.graph) == 4


def test_a_missing_backend_is_said_with_the_node():
    program = Program(generators=[expand], controller=BreadthFirstSearch(max_depth=1))
    with pytest.raises(OptionError, match="calls a model in expand, but no backend was given"):
        program.run("x")


def test_equal_states_with_different_wording_are_judged_as_the_one_in_the_graph():
    """Whichever expansion comes back first, the judge sees the wording that the graph keeps."""

    @dataclass(frozen=True)
    class Named:
        key: str
        wording: str

    spread = generator(prompt="spread {wording}", name="spread")(
        lambda s, completion: [Named(w[0], w) for w in completion.split()]
    )
    rate = checker(prompt="rate {wording}", name="rate")(lambda s, completion: float(completion))
    program = Program(
        generators=[spread], checkers=[rate], controller=BreadthFirstSearch(max_depth=2), key=lambda s: s.key
    )
    replies = {"spread r0": "a0 b0", "spread a0": "c1", "spread b0": "c2", "rate c1": "1", "rate c2": "2"}

    def script(text, sample):
        return replies.get(text, "0" if text.startswith("rate") else "")

    scores = set()
    for shuffle in random.Random(5).sample(range(10**6), 30):
        graph = program.run(Named("r", "r0"), backend=ScriptedBackend(script, shuffle=shuffle), seed=0).graph
        scores |= {(t.state.wording, t.score) for t in graph if t.state.key == "c"}
    assert scores == {("c1", 1.0)}


def test_the_graph_as_json_has_the_provenance_of_every_thought():
    program = Program(generators=[expand], checkers=[judge], controller=BreadthFirstSearch(max_depth=1))
    thoughts = json.loads(program.run("x", backend=ScriptedBackend(tree)).graph.to_json())["thoughts"]
    assert thoughts[2]["arrivals"] == [{"parents": [0], "generator": "expand", "sample": 0, "completion": "xa xb xc"}]
    assert thoughts[2]["verdicts"] == [{"checker": "judge", "valid": True, "score": 2.0, "reason": ""}]
