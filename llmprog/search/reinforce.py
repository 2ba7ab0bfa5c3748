"""REINFORCE with baseline: a policy for a line of thought learns from what its decisions led to."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from llmprog.errors import OptionError
from llmprog.search.controller import is_number, is_whole, require
from llmprog.search.policy import draw, log_probabilities
from llmprog.search.policy_features import allowed_actions, decision_of, feature_names, features_of
from llmprog.search.policy_network import PolicyNetwork, ValueNetwork
from llmprog.search.rollback import Decision, Situation

_REMEMBERED_BATCHES = 20  # over which the running mean of returns goes
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_STATE = "training."  # of the names of tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforceSettings:
    """How a policy learns.

    A solved episode is worth 1, one that is not 0, and every round costs ``round_cost``.

    Attributes:
        learning_rate: Step of Adam.
        gamma: How much less a reward counts for each round that it comes later; 1 for not at all.
        round_cost: What a round costs, where being solved is worth 1. A policy gives up where the chance to be solved
            is worth less than the rounds that it takes.
        entropy_bonus: How much it is worth to leave decisions open, so that no decision is given up untried.
        baseline: What returns are compared with: ``value``, what a second network expects of the situation, or
            ``mean``, the running mean of all returns.
        batch_size: Episodes between two steps.
        max_back: Steps back that the policy can decide on at most.
        hidden_size: Units of the hidden layer.
    """

    learning_rate: float = 0.02
    gamma: float = 1.0
    round_cost: float = 0.005
    entropy_bonus: float = 0.001
    baseline: Literal["value", "mean"] = "value"
    batch_size: int = 32
    max_back: int = 5
    hidden_size: int = 32

    def __post_init__(self) -> None:
        found: list[str] = []
        rate, gamma = self.learning_rate, self.gamma
        require(found, "learning_rate", rate, "a number > 0", is_number(rate) and 0 < rate < math.inf)
        require(found, "gamma", gamma, "a number from 0 to 1", is_number(gamma) and 0 <= gamma <= 1)
        for name in ("round_cost", "entropy_bonus"):
            value = getattr(self, name)
            require(found, name, value, "a number >= 0", is_number(value) and 0 <= value < math.inf)
        require(found, "baseline", self.baseline, "'value' or 'mean'", self.baseline in ("value", "mean"))
        for name, largest in (("batch_size", 100_000), ("max_back", 64), ("hidden_size", 4096)):
            value = getattr(self, name)
            fits = is_whole(value, 1) and value <= largest
            require(found, name, value, f"a whole number from 1 to {largest}", fits)
        if found:
            raise OptionError("training: " + "; ".join(found))


@dataclass(frozen=True, slots=True)
class Step:
    """A decision that was drawn: what was seen, what was possible, and what was decided."""

    features: tuple[float, ...]
    allowed: tuple[bool, ...]
    action: int


@dataclass(slots=True)
class Explorer:
    """The policy of one episode of training: draws every decision, and remembers it.

    A decision after the last round that is allowed leads to nothing, and is not remembered.

    Attributes:
        network: Says how likely each decision is.
        max_back: Steps back at most.
        steps: What was decided.
        num_rounds: Rounds that were decided after.
    """

    network: PolicyNetwork
    max_back: int
    steps: list[Step] = field(default_factory=list)
    num_rounds: int = 0

    def decide(self, situation: Situation, rng: random.Random) -> Decision:
        """A decision drawn from the policy."""
        features, allowed = features_of(situation, self.max_back), allowed_actions(situation, self.max_back)
        action = draw(log_probabilities(self.network, features, allowed), rng)
        self.num_rounds = situation.num_rounds
        if situation.num_rounds < situation.max_rounds:
            self.steps.append(Step(features, allowed, action))
        return decision_of(action, self.max_back)


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A run to learn from.

    Attributes:
        steps: Its decisions; each but one to give up was followed by a round.
        is_solved: Whether it reached the goal.
    """

    steps: Sequence[Step]
    is_solved: bool

    def returns(self, settings: ReinforceSettings) -> list[float]:
        """What followed each decision: the cost of every later round, and what being solved is worth."""
        give_up = settings.max_back + 1
        found: list[float] = []
        reward = float(self.is_solved)  # the last round's alone
        later = 0.0
        for step in reversed(self.steps):
            later = 0.0 if step.action == give_up else reward - settings.round_cost + settings.gamma * later
            reward = 0.0
            found.append(later)
        return found[::-1]


class Reinforce:
    """A policy that learns by REINFORCE with baseline (Williams 1992, Machine Learning 8, section 4).

    A step follows the gradient of the sum over all decisions of log π(decision) · (return - baseline), a mean over the
    episodes of a batch, plus the entropy bonus, with Adam. With ``gamma`` < 1 the factor gamma^t of the exact gradient
    is left out, as is usual.

    Args:
        settings: How it learns.
        seed: Draws the first weights.
        network: What to begin with; by default a network that knows nothing.
    """

    def __init__(self, settings: ReinforceSettings, *, seed: int, network: PolicyNetwork | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        num_features = len(feature_names(settings.max_back))
        self.settings = settings
        self.network = PolicyNetwork(num_features, settings.max_back, settings.hidden_size, generator)
        if network is not None:
            self.network.load_state_dict(network.state_dict())
        self.value: ValueNetwork | None = None
        if settings.baseline == "value":
            self.value = ValueNetwork(num_features, settings.hidden_size, generator)
        self._mean_return = 0.0
        self._num_returns = 0  # batches that the mean is over
        self._trained = dict(self.network.named_parameters(prefix="policy"))
        if self.value is not None:
            self._trained |= dict(self.value.named_parameters(prefix="value"))
        self._moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self._trained.items()}
        self._num_steps = 0

    def loss(self, episodes: Sequence[Episode]) -> Tensor:
        """What a step makes smaller: by the policy's weights, its gradient is REINFORCE's with the sign turned."""
        steps = [step for episode in episodes for step in episode.steps]
        features = torch.tensor([step.features for step in steps], dtype=torch.float64)
        allowed = torch.tensor([step.allowed for step in steps])
        actions = torch.tensor([step.action for step in steps])
        returns = torch.tensor(
            [value for episode in episodes for value in episode.returns(self.settings)], dtype=torch.float64
        )
        logprobs = self.network(features, allowed)
        chosen = logprobs.gather(1, actions.unsqueeze(1)).squeeze(1)
        entropy = -(logprobs.exp() * logprobs.masked_fill(~allowed, 0.0)).sum(dim=1)
        expected = torch.full_like(returns, self._mean_return) if self.value is None else self.value(features)
        gained = chosen * (returns - expected.detach()) + self.settings.entropy_bonus * entropy
        loss: Tensor = -gained.sum() / len(episodes)
        if self.value is not None:
            loss = loss + (expected - returns).square().mean()
        return loss

    def update(self, episodes: Sequence[Episode]) -> None:
        """Learn from a batch; one without any decision teaches nothing."""
        returns = [value for episode in episodes for value in episode.returns(self.settings)]
        if not returns:
            return
        mean = math.fsum(returns) / len(returns)
        if not self._num_returns:
            self._begin_with(mean)
        gradients = torch.autograd.grad(self.loss(episodes), list(self._trained.values()))
        self._step(dict(zip(self._trained, gradients, strict=True)))
        self._num_returns = min(self._num_returns + 1, _REMEMBERED_BATCHES)
        self._mean_return += (mean - self._mean_return) / self._num_returns

    @torch.no_grad()
    def _begin_with(self, mean: float) -> None:
        """Expect of every situation what the first batch brought.

        With a baseline that begins at 0, whatever happens to be decided first would seem to be good.
        """
        self._mean_return = mean
        if self.value is not None:
            self.value.out.bias.fill_(mean)

    @torch.no_grad()
    def _step(self, gradients: Mapping[str, Tensor]) -> None:
        """A step of Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1, with the values it recommends).

        Written out since importing ``torch.optim`` takes seconds, longer than many trainings.
        """
        self._num_steps += 1
        first_share, second_share = 1 - _BETA_1**self._num_steps, 1 - _BETA_2**self._num_steps
        for name, gradient in gradients.items():
            first, second = self._moments[name]
            first.lerp_(gradient, 1 - _BETA_1)
            second.lerp_(gradient.square(), 1 - _BETA_2)
            scale = (second / second_share).sqrt() + _EPSILON
            self._trained[name].sub_(self.settings.learning_rate * (first / first_share) / scale)

    def state(self) -> dict[str, Tensor]:
        """Everything but the policy that ``load_state`` needs to go on exactly here."""
        counts = torch.tensor([self._num_steps, self._mean_return, self._num_returns], dtype=torch.float64)
        found = {f"{_STATE}counts": counts}
        for name, (first, second) in self._moments.items():
            found |= {f"{_STATE}{name}.first": first, f"{_STATE}{name}.second": second}
            if not name.startswith("policy."):
                found[f"{_STATE}{name}"] = self._trained[name]
        return found

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on where ``state`` was taken; the policy's weights are those that this was made with.

        Raises:
            KeyError: The tensors are not of such a training.
        """
        num_steps, self._mean_return, num_returns = tensors[f"{_STATE}counts"].tolist()
        self._num_steps, self._num_returns = int(num_steps), int(num_returns)
        for name, moments in self._moments.items():
            for moment, which in zip(moments, ("first", "second"), strict=True):
                moment.copy_(tensors[f"{_STATE}{name}.{which}"])
            if not name.startswith("policy."):
                self._trained[name].copy_(tensors[f"{_STATE}{name}"])
