"""What nodes return and ask for, and what the runtime makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from letters import expand, judge, tree

from llmprog import Program, Verdict, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import CapabilityError, DeclarationError, NodeError
from llmprog.events import CallSettled, ThoughtExpanded
from llmprog.search import (
    BeamSearch,
    BreadthFirstSearch,
    Controller,
    Expand,
    Merge,
    Status,
    Stop,
)


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
