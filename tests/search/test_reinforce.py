"""REINFORCE: returns, gradients against finite differences of the expected return, Adam, and what it learns."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmprog.errors import OptionError
from llmprog.search.policy_features import feature_names
from llmprog.search.reinforce import Episode, Reinforce, ReinforceSettings, Step

MAX_BACK = 1  # actions: 0 goes on, 1 goes back by one, 2 gives up
NUM_FEATURES = len(feature_names(MAX_BACK))


def settings_of(**options):
    return ReinforceSettings(
        **{"max_back": MAX_BACK, "hidden_size": 3, "entropy_bonus": 0.0, "round_cost": 0.1} | options
    )


def step(action, seen=0, allowed=(True, True, True)):
    return Step(tuple(math.sin(seen + i) for i in range(NUM_FEATURES)), allowed, action)


def disturbed(learner, seed=0):
    """The learner with weights that make everything depend on everything."""
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in learner.network.parameters():
            weights.normal_(std=0.5, generator=made)
        for weights in learner.value.parameters() if learner.value is not None else ():
            weights.normal_(std=0.5, generator=made)
    return learner


# ---------------------------------------------------------------------------------------------------- what followed


@pytest.mark.parametrize(
    ("actions", "is_solved", "gamma", "wanted"),
    [
        ((0, 1, 0), True, 1.0, [0.7, 0.8, 0.9]),
        ((0, 1, 0), False, 1.0, [-0.3, -0.2, -0.1]),
        ((0, 0, 2), False, 1.0, [-0.2, -0.1, 0.0]),
        ((0, 1, 0), True, 0.5, [-0.1 + 0.5 * (-0.1 + 0.5 * 0.9), -0.1 + 0.5 * 0.9, 0.9]),
        ((0, 1), True, 0.0, [-0.1, 0.9]),
        ((), True, 1.0, []),
    ],
)
def test_a_return_is_what_followed_a_decision(actions, is_solved, gamma, wanted):
    episode = Episode(steps=[step(action) for action in actions], is_solved=is_solved)
    assert episode.returns(settings_of(gamma=gamma)) == pytest.approx(wanted)


@given(st.integers(1, 60), st.booleans(), st.floats(0, 0.1))
def test_without_discount_the_first_return_is_success_less_the_cost_of_all_rounds(num_steps, is_solved, cost):
    episode = Episode(steps=[step(0)] * num_steps, is_solved=is_solved)
    assert episode.returns(settings_of(round_cost=cost))[0] == pytest.approx(is_solved - num_steps * cost)


# ---------------------------------------------------------------------------------------------------- gradients


def test_the_gradient_of_the_last_biases_is_advantage_times_what_was_done_less_what_was_likely():
    """The closed form for a softmax: d log π(a) / d logits = one-hot(a) - π."""
    learner = disturbed(Reinforce(settings_of(baseline="mean"), seed=0))
    learner._mean_return = 0.3
    episodes = [Episode(steps=[step(0, 1), step(2, 2)], is_solved=False), Episode(steps=[step(1, 3)], is_solved=True)]
    (found,) = torch.autograd.grad(learner.loss(episodes), [learner.network.out.bias])
    wanted = torch.zeros(3, dtype=torch.float64)
    for episode in episodes:
        for taken, value in zip(episode.steps, episode.returns(learner.settings), strict=True):
            features = torch.tensor([taken.features], dtype=torch.float64)
            likely = learner.network(features, torch.tensor([taken.allowed])).exp()[0].detach()
            done = torch.eye(3, dtype=torch.float64)[taken.action]
            wanted -= (value - 0.3) * (done - likely) / len(episodes)
    assert torch.allclose(found, wanted)


def all_episodes():
    """Every course of a small world: three decisions, which see what was decided before; the first two may give up.

    It is solved by going on twice at the end.
    """
    for actions in itertools.chain(itertools.product((0, 1), repeat=3), [(2,), (0, 2), (1, 2)]):
        history = [sum(3**i * (action + 1) for i, action in enumerate(actions[:n])) for n in range(len(actions))]
        steps = [
            step(action, seen, (True, True, n < 2))
            for n, (action, seen) in enumerate(zip(actions, history, strict=True))
        ]
        yield Episode(steps=steps, is_solved=actions in ((1, 0, 0), (0, 0, 0)))


def probability(learner, episode):
    found = torch.ones((), dtype=torch.float64)
    for taken in episode.steps:
        features = torch.tensor([taken.features], dtype=torch.float64)
        found = found * learner.network(features, torch.tensor([taken.allowed])).exp()[0, taken.action]
    return found


def expected_return(learner):
    with torch.no_grad():
        return sum(
            float(probability(learner, episode)) * episode.returns(learner.settings)[0] for episode in all_episodes()
        )


@pytest.mark.parametrize("baseline", ["mean", "value"])
def test_the_expected_gradient_is_that_of_the_expected_return(baseline):
    """Over all courses of a small world, weighted by how likely they are; the baseline changes nothing of it."""
    learner = disturbed(Reinforce(settings_of(baseline=baseline), seed=0))
    learner._mean_return = 0.4
    weights = list(learner.network.parameters())
    with torch.no_grad():
        assert sum(float(probability(learner, episode)) for episode in all_episodes()) == pytest.approx(1)
    found = [torch.zeros_like(weight) for weight in weights]
    for episode in all_episodes():
        chance = float(probability(learner, episode).detach())
        parts = torch.autograd.grad(learner.loss([episode]), weights)
        found = [total - chance * part for total, part in zip(found, parts, strict=True)]
    tiny = 1e-5
    for weight, gradient in zip(weights, found, strict=True):
        flat, wanted = weight.data.view(-1), gradient.view(-1)
        for i in range(0, len(flat), 5):
            before = float(flat[i])
            flat[i] = before + tiny
            above = expected_return(learner)
            flat[i] = before - tiny
            below = expected_return(learner)
            flat[i] = before
            assert (above - below) / (2 * tiny) == pytest.approx(float(wanted[i]), abs=1e-8)


def test_the_entropy_bonus_opens_decisions_and_the_value_network_learns_returns():
    # One decision, that is all: its return is 0.9 where it is to go on, else -0.1 or, given up, 0.
    taught = [Episode(steps=[step(action)], is_solved=not action) for action in range(3)]

    def after(**options):
        learner = Reinforce(settings_of(learning_rate=0.05, **options), seed=0)
        for _ in range(200):
            learner.update(taught)
        features = torch.tensor([step(0).features], dtype=torch.float64)
        with torch.no_grad():
            value = None if learner.value is None else float(learner.value(features))
            return value, learner.network(features, torch.tensor([[True] * 3])).exp()[0].tolist()

    value, _ = after()
    assert value == pytest.approx(0.8 / 3, abs=1e-3)
    _, bold = after(baseline="mean")
    _, open_minded = after(baseline="mean", entropy_bonus=10.0)
    assert bold[0] > 0.8
    assert open_minded == pytest.approx([1 / 3] * 3, abs=0.05)


# ---------------------------------------------------------------------------------------------------- steps


def test_a_step_is_one_of_adam():
    learner = disturbed(Reinforce(settings_of(baseline="mean", learning_rate=0.01), seed=0))
    episodes = [Episode(steps=[step(0, 1), step(1, 2)], is_solved=True), Episode(steps=[step(2, 3)], is_solved=False)]
    learner._num_returns = 1  # the baseline has begun
    bias = learner.network.out.bias
    first, second, value = [0.0] * 3, [0.0] * 3, bias.tolist()
    for t in range(1, 5):
        (gradient,) = torch.autograd.grad(learner.loss(episodes), [bias])
        learner.update(episodes)
        for i, g in enumerate(gradient.tolist()):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g * g
            value[i] -= 0.01 * (first[i] / (1 - 0.9**t)) / (math.sqrt(second[i] / (1 - 0.999**t)) + 1e-8)
        assert bias.tolist() == pytest.approx(value, rel=1e-9)


def test_the_running_mean_of_returns_is_theirs():
    learner = Reinforce(settings_of(baseline="mean"), seed=0)
    for is_solved in (True, False, True):
        learner.update([Episode(steps=[step(0)], is_solved=is_solved)])
    assert learner._mean_return == pytest.approx((0.9 - 0.1 + 0.9) / 3)


@pytest.mark.parametrize("baseline", ["mean", "value"])
def test_what_is_decided_first_does_not_seem_good_for_being_first(baseline):
    """All returns are the same, so nothing is learned, not even in the first step."""
    learner = Reinforce(settings_of(baseline=baseline), seed=0)
    before = [weights.clone() for weights in learner.network.parameters()]
    learner.update([Episode(steps=[step(action)], is_solved=True) for action in (0, 0, 1)])
    assert all(torch.allclose(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))


def test_a_batch_without_decisions_teaches_nothing():
    learner = disturbed(Reinforce(settings_of(), seed=0))
    before = [weights.clone() for weights in learner.network.parameters()]
    learner.update([Episode(steps=[], is_solved=True)])
    assert all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))


@pytest.mark.parametrize("baseline", ["mean", "value"])
def test_a_learner_goes_on_exactly_from_its_state(baseline):
    episodes = [Episode(steps=[step(0, 1), step(1, 2)], is_solved=True), Episode(steps=[step(2, 3)], is_solved=False)]
    learner = Reinforce(settings_of(baseline=baseline), seed=0)
    for _ in range(3):
        learner.update(episodes)
    other = Reinforce(settings_of(baseline=baseline), seed=5, network=learner.network)
    other.load_state({name: tensor.clone() for name, tensor in learner.state().items()})
    for each in (learner, other):
        each.update(episodes)
    assert other.state().keys() == learner.state().keys()
    assert all(torch.equal(tensor, learner.state()[name]) for name, tensor in other.state().items())
    assert all(torch.equal(a, b) for a, b in zip(learner.network.parameters(), other.network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0}, "learning_rate=0; allowed is a number > 0"),
        ({"learning_rate": math.inf}, "learning_rate=inf"),
        ({"gamma": 1.5}, "gamma=1.5; allowed is a number from 0 to 1"),
        ({"round_cost": -1}, "round_cost=-1; allowed is a number >= 0"),
        ({"entropy_bonus": "much"}, "entropy_bonus='much'"),
        ({"baseline": "best"}, "baseline='best'; allowed is 'value' or 'mean'"),
        ({"batch_size": 0}, "batch_size=0; allowed is a whole number from 1 to 100000"),
        ({"max_back": 65}, "max_back=65; allowed is a whole number from 1 to 64"),
        ({"hidden_size": True}, "hidden_size=True"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        ReinforceSettings(**options)
