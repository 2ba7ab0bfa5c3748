"""Same program, same backend, same seed: same thought graph, in whatever order the answers come back."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprog import Program, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.search import (
    Aggregate,
    BeamSearch,
    BestFirstSearch,
    BestOfN,
    BetaStop,
    BreadthFirstSearch,
    Decide,
    DepthFirstSearch,
    DiverseBeam,
    Generate,
    GraphOfThoughts,
    KeepBest,
    LearnedPolicy,
    MonteCarloTreeSearch,
    OperationGraph,
    ParticleFilter,
    PolicyController,
    Refine,
    RollbackRules,
    Score,
    Select,
    SelfConsistency,
    TreeOfThoughtController,
    UniversalSelfConsistency,
    WeightedVote,
    WindowStop,
)
from llmprog.search.controller import Controller
from llmprog.search.policy_features import feature_names
from llmprog.search.policy_network import PolicyNetwork


def by_what_was_found(thoughts):
    """A choice by states, scores and number of thoughts; now and then the end."""
    if not thoughts or sum(thought.state.number for thought in thoughts) % 5 == 0:
        return None
    return "merge" if len(thoughts) > 2 and max(thought.score for thought in thoughts) > 5 else "wander"


DECIDED = OperationGraph(
    {
        "start": Generate(num_samples=3),
        "decide": Decide(
            choose=by_what_was_found,
            plans={
                "merge": OperationGraph({"pairs": Aggregate(size=2), "best": KeepBest(per=lambda s: s.number % 3)}),
                "wander": OperationGraph({"on": Generate(num_samples=2), "better": Refine(while_better=True)}),
            },
            max_rounds=4,
        ),
        "last": Generate(num_samples=1),
    }
)


def abs_difference(before, after):
    return abs(before.number - after.number) + 1


def distance(state):
    return abs(25 - state.number)


OPERATIONS = OperationGraph(
    {
        "first": Generate(num_samples=3),
        "left": Select(index=0),
        "more": Generate(generator="go"),
        "best": KeepBest(num_kept=2),
        "right": Select(where=lambda state: state.number % 2 == 1, after="first"),
        "refine": Refine(generator="go", threshold=7.0),
        "join": Aggregate(num_samples=2, after=("best", "refine")),
        "vote": Score(compare=True, after=("join", "best")),
        "last": KeepBest(),
    }
)
POLICY = LearnedPolicy(
    max_back=2,
    program="",
    program_hash="",
    training={},
    digest="",
    network=PolicyNetwork(len(feature_names(2)), 2, 3, torch.Generator().manual_seed(0)),
)
CONTROLLERS = [
    BreadthFirstSearch(max_depth=3),
    BreadthFirstSearch(max_depth=4, branching_factor=2, max_thoughts=25),
    BeamSearch(beam_width=2, max_depth=3),
    BeamSearch(beam_width=3, max_depth=3, selection="sample", branching_factor=2),
    DepthFirstSearch(max_depth=3, value_threshold=2.0, max_children=3),
    BestFirstSearch(max_thoughts=30, batch_size=3),
    BestFirstSearch(max_thoughts=30, max_depth=2, batch_size=2),
    BestFirstSearch(max_thoughts=30, batch_size=2, cost=abs_difference, heuristic=distance),
    MonteCarloTreeSearch(num_simulations=12, max_depth=3, num_parallel=4),
    MonteCarloTreeSearch(num_simulations=6, max_depth=3, num_parallel=2, evaluation="random_rollout", backup="max"),
    SelfConsistency(num_samples=12, max_depth=2),
    SelfConsistency(num_samples=20, stopping=BetaStop(0.9)),
    SelfConsistency(num_samples=20, stopping=WindowStop(3)),
    DiverseBeam(num_subtrees=3, max_depth=3),
    DiverseBeam(num_subtrees=2, max_depth=3, beam_width=2),
    ParticleFilter(num_particles=6, max_depth=3),
    ParticleFilter(num_particles=5, max_depth=3, resample_threshold=1.0, score_as="log_weight"),
    ParticleFilter(num_particles=5, max_depth=3, resample_threshold=0.0),
    TreeOfThoughtController(max_depth=3, max_rounds=12, policy=RollbackRules(max_visits=2, patience=4)),
    PolicyController(max_depth=3, max_rounds=12, policy=POLICY, selection="sample"),
    GraphOfThoughts(operations=OPERATIONS),
    GraphOfThoughts(operations=DECIDED),
    WeightedVote(num_samples=12, max_depth=2),
    UniversalSelfConsistency(num_samples=8, max_depth=2),
    BestOfN(num_samples=8, max_depth=2, batch_size=3),
]


@dataclass(frozen=True)
class Place:
    number: int
    via: str = ""


def reply(world, num_places):
    """Completions and judgements that depend on the prompt and the sample alone."""

    def script(text, sample):
        chance = random.Random(zlib.crc32(f"{world}|{text}|{sample}".encode()))
        if text.startswith("From"):
            return " ".join(str(chance.randrange(num_places)) for _ in range(chance.randrange(4)))
        return str(chance.randrange(10))

    return script


@generator(prompt="From {number} reached by {via}:{hint}{dialogue}", n=2)
def go(state: Place, completion: str):
    for position, word in enumerate(completion.split()):
        yield Place(int(word), f"{state.number}:{position}")


@generator
async def wander(state: Place, model):
    for completion in await model.generate(f"From {state.number} wander:", n=2, temperature=1.0):
        yield Place(len(completion.text) % 11, "wandering")


@generator
def step(state: Place):
    return [Place((state.number * 3 + 1) % 13, "step")]


@generator(prompt="From all of\n{candidates}", aggregates=True, n=2)
def join(states, completion: str):
    for word in completion.split():
        yield Place(int(word), "+".join(str(state.number) for state in states))


@checker
def is_allowed(state: Place) -> bool:
    return state.number % 7 != 5


@checker(prompt="How good is {number} by {via}?", n=2)
def value(state: Place, completion: str) -> float:
    return float(completion)


@checker
async def second_opinion(state: Place, model) -> float:
    (completion,) = await model.generate(f"And {state.number}, by {state.via}?")
    return float(completion.text) / 10


@checker(prompt="Best of {candidates}?", kind="vote", n=3)
def best(states, completion: str):
    return int(completion)


def program_for(controller, goal=None):
    compares = controller.compares
    return Program(
        generators=[go, wander, step, *([join] if controller.aggregates else [])],
        checkers=[is_allowed, value, second_opinion, *([best] if compares else [])],
        controller=controller,
        key=lambda s: s.number,
        goal=goal,
        answer=lambda s: s.number % 3,
    )


def record(result):
    return result.graph.to_json(), result.stopped, result.answer, result.votes, result.thought and result.thought.id


@settings(max_examples=60)
@given(
    controller=st.sampled_from(CONTROLLERS),
    world=st.integers(0, 10**6),
    num_places=st.integers(2, 20),
    seed=st.integers(0, 2**31),
    max_in_flight=st.sampled_from([1, 2, 3, 7, 1024]),
    goal=st.one_of(st.none(), st.integers(0, 25)),
    n=st.booleans(),
)
def test_the_graph_does_not_depend_on_the_order_of_answers(controller, world, num_places, seed, max_in_flight, goal, n):
    program = program_for(controller, None if goal is None else lambda s: s.number == goal)
    records = []
    for shuffle in (None, 1, 2):
        backend = ScriptedBackend(reply(world, num_places), shuffle=shuffle, n=n)
        result = program.run(Place(0), backend=backend, seed=seed, max_in_flight=max_in_flight)
        assert backend.num_in_flight == 0
        records.append(record(result))
    assert records[1] == records[0]
    assert records[2] == records[0]


class Interrupted(Controller):
    """Before every question, the controller is written down as JSON and read into a new one."""

    def __init__(self, declared, context=None):
        self.declared = declared
        self.context = context
        self.compares = declared.compares
        self.aggregates = declared.aggregates
        self.inner = None if context is None else declared.fresh(context)
        self.stop_on_goal = (self.inner or declared).stop_on_goal
        self.program_faults = declared.program_faults

    def parameters(self):
        return self.declared.parameters()

    @property
    def step_cost(self):
        return self.declared.step_cost

    def fresh(self, context):
        return Interrupted(self.declared, context)

    def ask(self, graph, capacity):
        state = json.loads(json.dumps(self.inner.state_dict()))
        self.inner = self.declared.fresh(replace(self.context, rng=random.Random(0)))
        self.inner.load_state_dict(state)
        return self.inner.ask(graph, capacity)

    def tell(self, event):
        self.inner.tell(event)

    def best(self, graph):
        return self.inner.best(graph)

    def votes(self, graph):
        return self.inner.votes(graph)


@pytest.mark.parametrize("controller", CONTROLLERS, ids=lambda c: c.name)
@settings(max_examples=4)
@given(world=st.integers(0, 10**6), max_in_flight=st.sampled_from([2, 1024]))
def test_a_controller_continues_from_its_state_as_json(controller, world, max_in_flight):
    records = []
    for declared in (controller, Interrupted(controller)):
        program = program_for(controller)
        program = replace(program, controller=declared)
        backend = ScriptedBackend(reply(world, 15))
        records.append(record(program.run(Place(0), backend=backend, seed=world, max_in_flight=max_in_flight)))
    assert records[0] == records[1]


def test_another_seed_samples_another_beam():
    def graph(seed):
        controller = BeamSearch(beam_width=2, max_depth=3, selection="sample")
        backend = ScriptedBackend(reply(1, 30))
        return program_for(controller).run(Place(0), backend=backend, seed=seed).graph.to_json()

    assert len({graph(seed) for seed in range(8)}) > 1


def test_the_seed_of_a_request_follows_from_the_run_and_the_node():
    def seeds(seed):
        backend = ScriptedBackend(reply(1, 30))
        program_for(BreadthFirstSearch(max_depth=2)).run(Place(0), backend=backend, seed=seed)
        return {request.params.seed for request in backend.requests if request.prompt.text.startswith("From 0 reached")}

    assert seeds(3) == seeds(3)
    assert len(seeds(3)) == 1
    assert seeds(3) != seeds(4)
