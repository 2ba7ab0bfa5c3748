"""The runtime: what runs at once, what is shared, what is cancelled, what an error leaves behind."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass

import pytest
from letters import expand, judge, tree

from llmprog import Program, arun, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError, NodeError, OptionError
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


async def test_a_check_starts_before_slower_sibling_expansions_finish():
    program = Program(generators=[expand], checkers=[judge], controller=BreadthFirstSearch(max_depth=2))
    backend = Gated(tree, gates=["expand xa", "expand xb"])
    run = asyncio.ensure_future(arun(program, "x", backend=backend, seed=0))
    # xc's children are judged although xa and xb, dispatched before it, have not come back.
    await asyncio.wait_for(backend.asked("judge xcc").wait(), 60)
    assert backend.num_in_flight >= 2
    backend.gates["expand xb"].set()
    await asyncio.wait_for(backend.asked("judge xbc").wait(), 60)
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
    await asyncio.wait_for(backend.asked("judge x1").wait(), 60)
    release.set()
    assert [t.score for t in (await run).graph] == [0.0, 2.0, 2.0]


async def test_judges_of_one_generator_do_not_wait_for_a_slower_generator():
    slow = generator(prompt="slow {state}", name="slow")(lambda state, completion: [])
    program = Program(generators=[expand, slow], checkers=[judge], controller=BreadthFirstSearch(max_depth=1))
    backend = Gated(tree, gates=["slow x"])
    run = asyncio.ensure_future(arun(program, "x", backend=backend, seed=0))
    await asyncio.wait_for(backend.asked("judge xa").wait(), 60)
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
        await asyncio.wait_for(backend.asked(gate).wait(), 60)
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
    await asyncio.wait_for(backend.asked("weigh x").wait(), 60)
    for _ in range(20):
        await asyncio.sleep(0)
    backend.gates["weigh x"].set()
    graph = (await run).graph
    assert len(graph) == 31
    assert [(r.prompt.text, r.num_samples, r.first_sample) for r in backend.requests] == [("weigh x", 2, 0)]
    assert all(t.score == 2.0 for t in list(graph)[1:])


def test_events_come_in_order():
    events = []
    program = Program(generators=[expand], checkers=[judge], controller=BreadthFirstSearch(max_depth=1))
    program.run("x", backend=ScriptedBackend(tree), on_event=events.append)
    kinds = [type(e).__name__ for e in events if not isinstance(e, CallSettled)]
    checked = ["ThoughtChecked"] * 3
    assert kinds == ["SearchStarted", "ThoughtExpanded", *checked, "RunFinished"]
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


@dataclass(kw_only=True)
class Odd(Controller):
    """Expands the start, then returns what it is given, or raises it."""

    then: object

    def ask(self, graph, capacity):
        if len(graph) == 1:
            return [Expand(0)]
        if isinstance(self.then, Exception):
            raise self.then
        return self.then

    def tell(self, event):
        pass


@pytest.mark.parametrize(
    ("then", "complaint"),
    [
        (KeyError("level"), r"node 'Odd': its ask raised KeyError: 'level'"),
        (None, "node 'Odd': its ask returned None; allowed is a list of actions"),
        (["expand"], "node 'Odd': its ask returned 'expand'; allowed are actions for the thoughts 0 to 3"),
        ([Expand(4)], r"its ask returned Expand\(thought=4, .*; allowed are actions for the thoughts 0 to 3"),
        ([Expand(-1)], r"its ask returned Expand\(thought=-1, "),
        ([Merge((0, 9))], r"its ask returned Merge\(thoughts=\(0, 9\), "),
    ],
)
def test_an_error_of_a_controller_is_its_own_and_keeps_what_was_paid_for(then, complaint):
    program = Program(generators=[expand], controller=Odd(then=then))
    with pytest.raises(NodeError, match=complaint) as caught:
        program.run("x", backend=ScriptedBackend(tree))
    assert len(caught.value.partial.graph) == 4
    assert caught.value.partial.usage.calls == 1


def test_an_answer_that_a_vote_cannot_compare_keeps_what_was_paid_for():
    def length(answer):
        return str(len(answer) // (len(answer) - 2))

    program = Program(generators=[expand], controller=SelfConsistency(num_samples=3, canonical=length))
    with pytest.raises(NodeError, match=r"SelfConsistency.*ZeroDivisionError") as caught:
        program.run("x", backend=ScriptedBackend(tree))
    assert caught.value.partial.usage.calls == 3


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
