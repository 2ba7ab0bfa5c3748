"""ParticleFilter: weights by hand, systematic resampling, an unbiased estimate, particles that end."""

from __future__ import annotations

import itertools
import math
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import run_search

from llmprog import Completion, Program, Usage, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.search import ParticleFilter
from llmprog.search.particle_filter import effective_sample_size, systematic_resampling


@generator(prompt="after {state}:")
def extend(state: str, completion: str):
    return [state + completion] if completion else None


class Says:
    """The calls of a search, answered at once: sample i of a prompt is what ``say`` returns for it."""

    def __init__(self, say):
        self.say = say

    async def generate(self, node, request):
        samples = range(request.first_sample, request.first_sample + request.num_samples)
        texts = [self.say(request.prompt.text[len("after ") : -1], sample) for sample in samples]
        return [t if isinstance(t, Completion) else Completion(text=t, usage=Usage(1)) for t in texts]


def weigh(weights, controller, **options):
    worth = checker(name="worth")(weights)
    return Program(generators=[extend], checkers=[worth], controller=controller, **options)


async def test_weights_by_hand():
    """Two steps, no resampling: a weight is the product of the scores on the way."""
    scores = {"a": 0.5, "b": 0.25, "aa": 0.5, "ab": 0.2, "ba": 1.0, "bb": 0.0}
    program = weigh(scores.get, ParticleFilter(num_particles=4, max_depth=2, resample_threshold=0.0))
    search, outcome, _ = await run_search(
        program, "", caller=Says(lambda state, sample: "aabb"[sample] if not state else "ab"[sample])
    )
    filter_ = search.controller
    assert [search.graph.states[t] for t in filter_.positions] == ["aa", "ab", "ba", "b"]
    known = [None if weight is None else math.exp(weight) for weight in filter_.log_weights]
    assert known == [pytest.approx(0.25), pytest.approx(0.1), pytest.approx(0.25), None]  # bb weighs nothing
    assert filter_.weights() == pytest.approx([0.25 / 0.6, 0.1 / 0.6, 0.25 / 0.6, 0.0])
    assert math.exp(filter_.log_evidence()) == pytest.approx(0.6 / 4)
    assert outcome.votes.histogram == (
        ("aa", pytest.approx(0.25 / 0.6)),
        ("ba", pytest.approx(0.25 / 0.6)),
        ("ab", pytest.approx(0.1 / 0.6)),
    )
    assert search.graph.states[outcome.thought] == "aa"
    assert outcome.stopped == "max_depth"


async def test_particles_are_resampled_where_few_of_them_carry_the_weight():
    scores = {"a": 0.97, "b": 0.01}
    program = weigh(lambda state: scores.get(state, 1.0), ParticleFilter(num_particles=4, max_depth=2))
    search, _, expanded = await run_search(
        program, "", caller=Says(lambda state, sample: "abbb"[sample] if not state else "abcd"[sample])
    )
    # shares 0.97, 0.01, 0.01, 0.01: worth 1.06 samples, less than half of 4; a gets at least floor(4 * 0.97) = 3 copies
    assert search.controller.num_resamplings == 1
    assert [state for (state,) in expanded].count("a") in (3, 4)
    assert math.exp(search.controller.log_evidence()) == pytest.approx((0.97 + 3 * 0.01) / 4)
    assert len({search.graph.states[t] for t in search.controller.positions}) >= 3  # copies draw samples of their own


async def test_even_weights_are_not_resampled():
    program = weigh(lambda state: 0.3, ParticleFilter(num_particles=8, max_depth=3))
    search, _, _ = await run_search(program, "", caller=Says(lambda state, sample: "abcdefgh"[sample]))
    assert search.controller.num_resamplings == 0
    assert search.controller.log_evidence() == pytest.approx(3 * math.log(0.3))


def chance(*parts):
    return random.Random(zlib.crc32(repr(parts).encode())).random()


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
async def test_the_evidence_is_estimated_without_bias(threshold):
    """The mean of the estimates over seeds is Σ p(path) Π score, counted out over all paths."""
    p_a = 0.3

    def score(state):
        return {"a": 1.0, "b": 0.2}[state[-1]] * (2.0 if state.endswith("aa") else 0.5)

    exact = sum(
        math.prod(p_a if letter == "a" else 1 - p_a for letter in path)
        * math.prod(score("".join(path[: i + 1])) for i in range(3))
        for path in itertools.product("ab", repeat=3)
    )
    controller = ParticleFilter(num_particles=4, max_depth=3, resample_threshold=threshold)
    program = weigh(score, controller)
    estimates = []
    for seed in range(400):
        caller = Says(lambda state, sample, seed=seed: "a" if chance(seed, state, sample) < p_a else "b")
        search, _, _ = await run_search(program, "", caller=caller, seed=seed)
        estimates.append(math.exp(search.controller.log_evidence()))
    mean = sum(estimates) / len(estimates)
    spread = math.sqrt(sum((e - mean) ** 2 for e in estimates) / len(estimates) ** 2)
    assert abs(mean - exact) < 4 * spread
    assert spread < 0.2 * exact


async def test_scores_may_be_logarithms():
    program = weigh(
        lambda state: {"a": -1.0, "b": 1.0}[state[-1]],
        ParticleFilter(num_particles=2, max_depth=1, score_as="log_weight"),
    )
    search, outcome, _ = await run_search(program, "", caller=Says(lambda state, sample: "ab"[sample]))
    assert search.controller.weights() == pytest.approx([1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))])
    assert search.graph.states[outcome.thought] == "b"


def test_answers_collect_the_weight_of_all_their_particles():
    scores = {"1,000": 0.4, "1000": 0.3, "7": 0.6}
    program = weigh(scores.get, ParticleFilter(num_particles=3, max_depth=1, resample_threshold=0.0))
    result = program.run("", backend=ScriptedBackend(lambda text, sample: ["1,000", "7", "1000"][sample]))
    assert result.answer == "1,000"
    assert result.votes.histogram == (("1,000", pytest.approx(0.7 / 1.3)), ("7", pytest.approx(0.6 / 1.3)))
    assert (result.votes.num_valid, result.votes.num_samples) == (3, 3)


async def test_refused_unreadable_and_truncated_particles_weigh_nothing():
    replies = ["a", "", "x", Completion(text="c", finish_reason="length", usage=Usage(1))]
    program = weigh(
        lambda state: 1.0 if state != "x" else False, ParticleFilter(num_particles=4, max_depth=1, resample_threshold=0)
    )
    search, outcome, _ = await run_search(program, "", caller=Says(lambda state, sample: replies[sample]))
    assert search.controller.weights() == [1.0, 0.0, 0.0, 0.0]
    assert outcome.votes.num_valid == 1


async def test_resampling_replaces_the_dead_and_a_filter_without_survivors_ends():
    controller = ParticleFilter(num_particles=4, max_depth=2, resample_threshold=0.9)
    program = weigh(lambda state: 1.0 if "b" not in state else False, controller)
    search, outcome, _ = await run_search(
        program, "", caller=Says(lambda state, sample: "abab"[sample] if not state else "a")
    )
    assert search.controller.num_resamplings == 1
    assert outcome.votes.histogram == (("aa", 1.0),)
    assert outcome.votes.num_valid == 4
    search, outcome, _ = await run_search(program, "", caller=Says(lambda state, sample: "b"))
    assert (outcome.stopped, outcome.thought) == ("exhausted", None)
    assert search.controller.log_evidence() == -math.inf


async def test_particles_at_the_goal_stay_there_and_answer():
    controller = ParticleFilter(num_particles=3, max_depth=3, stop_on_goal=False, resample_threshold=0.0)
    program = weigh(lambda state: 1.0, controller, goal=lambda state: state == "a")
    _, outcome, expanded = await run_search(
        program, "", caller=Says(lambda state, sample: "abc"[sample] if not state else "d")
    )
    assert [state for (state,) in expanded].count("a") == 0
    assert outcome.reached_goal
    assert outcome.votes.histogram == (("a", pytest.approx(1 / 3)),)


def test_by_default_the_first_particle_at_the_goal_ends_the_search():
    program = weigh(lambda state: 1.0, ParticleFilter(num_particles=3, max_depth=9), goal=lambda state: state == "bb")
    result = program.run("", backend=ScriptedBackend(lambda text, sample: "b"))
    assert (result.stopped, result.answer) == ("goal", "bb")


def test_a_negative_weight_is_refused():
    program = weigh(lambda state: -0.5, ParticleFilter(num_particles=1, max_depth=1))
    with pytest.raises(OptionError, match=r"the score -0\.5, and a weight is a number >= 0; .*score_as='log_weight'"):
        program.run("", backend=ScriptedBackend(lambda text, sample: "a"))


# ------------------------------------------------------------------------------------------ resampling itself


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(any), st.floats(0, 1, exclude_max=True))
def test_systematic_resampling_takes_each_as_often_as_its_share_says(raw, offset):
    total = math.fsum(raw)
    shares = [weight / total for weight in raw]
    chosen = systematic_resampling(shares, offset)
    assert len(chosen) == len(shares)
    assert chosen == sorted(chosen)
    for index, share in enumerate(shares):
        expected = share * len(shares)
        assert math.floor(expected - 1e-6) <= chosen.count(index) <= math.ceil(expected + 1e-6)
        assert share or not chosen.count(index)


def test_systematic_resampling_by_hand():
    assert systematic_resampling([0.5, 0.25, 0.25, 0.0], 0.5) == [0, 0, 1, 2]
    assert systematic_resampling([0.1, 0.9], 0.1) == [0, 1]
    assert systematic_resampling([0.1, 0.9], 0.5) == [1, 1]


def test_systematic_resampling_is_unbiased():
    shares, rng = [0.05, 0.15, 0.3, 0.5], random.Random(1)
    counts = [0] * 4
    for _ in range(4000):
        for index in systematic_resampling(shares, rng.random()):
            counts[index] += 1
    assert [count / 16000 for count in counts] == pytest.approx(shares, abs=0.01)


def test_effective_sample_sizes():
    assert effective_sample_size([0.25] * 4) == pytest.approx(4)
    assert effective_sample_size([1.0, 0.0, 0.0]) == pytest.approx(1)
    assert effective_sample_size([0.5, 0.25, 0.25]) == pytest.approx(1 / 0.375)
    assert effective_sample_size([0.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 0}, "num_particles=0; allowed is a whole number >= 1"),
        ({"max_depth": None}, "max_depth=None"),
        ({"resample_threshold": 1.5}, r"resample_threshold=1.5; allowed is a number in \[0, 1\]"),
        ({"score_as": "reward"}, "score_as='reward'; allowed is weight or log_weight"),
    ],
)
def test_bad_parameters_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        ParticleFilter(**{"num_particles": 2, "max_depth": 2, **options})
