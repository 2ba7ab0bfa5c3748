"""One line of thought whose decisions were learned: a small network says whether to go on, go back, or give up."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llmprog.errors import MissingExtraError
from llmprog.search.controller import require
from llmprog.search.policy_features import allowed_actions, decision_of, features_of
from llmprog.search.rollback import Decision, Situation
from llmprog.search.tree_of_thought import TreeOfThoughtController

if TYPE_CHECKING:
    from llmprog.search.policy_network import PolicyNetwork

Selection: TypeAlias = Literal["greedy", "sample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedPolicy:
    """A policy that was learned; ``load_policy`` reads one, ``llmprog train-policy`` makes one.

    Attributes:
        max_back: Steps back at most.
        program: The program that it was trained on.
        program_hash: That program's hash.
        training: How it was trained.
        digest: Tells it from other policies.
        network: Its network.
    """

    max_back: int
    program: str
    program_hash: str
    training: Mapping[str, Any] = field(repr=False, compare=False)
    digest: str
    network: PolicyNetwork = field(repr=False, compare=False)

    def log_probabilities(self, situation: Situation) -> list[float]:
        """The log-probability of each action of ``policy_features``; minus infinity for what is not possible."""
        return log_probabilities(
            self.network, features_of(situation, self.max_back), allowed_actions(situation, self.max_back)
        )

    def decide(self, situation: Situation, rng: random.Random, *, selection: Selection = "sample") -> Decision:
        """A decision that is drawn, or, with ``selection="greedy"``, the likeliest (of several the first)."""
        logprobs = self.log_probabilities(situation)
        if selection == "sample":
            return decision_of(draw(logprobs, rng), self.max_back)
        return decision_of(max(range(len(logprobs)), key=logprobs.__getitem__), self.max_back)


def log_probabilities(network: PolicyNetwork, features: tuple[float, ...], allowed: tuple[bool, ...]) -> list[float]:
    """What ``network`` says of one situation."""
    import torch

    with torch.inference_mode():
        found: list[float] = network(torch.tensor([features], dtype=torch.float64), torch.tensor([allowed]))[0].tolist()
    return found


def draw(logprobs: list[float], rng: random.Random) -> int:
    """An index, drawn with the probability that its log-probability says."""
    return rng.choices(range(len(logprobs)), [math.exp(logprob) for logprob in logprobs])[0]


def load_policy(path: str | Path) -> LearnedPolicy:
    """The policy in a file that ``llmprog train-policy`` wrote.

    Raises:
        MissingExtraError: torch or safetensors is not installed.
        OptionError: There is no such file, it holds no policy, or one that this version cannot use.
    """
    try:
        from llmprog.search.policy_file import digest_of, read_policy
    except ImportError as error:
        raise MissingExtraError("a learned policy", error.name or "torch", "local") from error
    network, about, _ = read_policy(Path(path))
    return LearnedPolicy(
        max_back=about.max_back,
        program=about.program,
        program_hash=about.program_hash,
        training=about.training,
        digest=digest_of(network),
        network=network,
    )


@dataclass(kw_only=True)
class PolicyController(TreeOfThoughtController):
    """One line of thought whose decisions were learned: the controller that Long 2023 (arXiv 2305.08291) describes.

    The paper describes a policy network that sees the checker's verdicts and the history of the search and decides how
    far to go back; its public code has rules alone. Here the network sees the ``feature_names`` of
    ``llmprog.search.policy_features``, and REINFORCE trains it (``llmprog train-policy``). Everything else is as in
    ``TreeOfThoughtController``.

    Attributes:
        policy: ``load_policy(FILE)``.
        selection: ``sample`` draws decisions, with the run's seed, as in training. ``greedy`` takes the likeliest: in
            situations that look alike it does the same again and again, also where that leads nowhere.
    """

    policy: LearnedPolicy
    selection: Selection = "sample"

    def faults(self) -> list[str]:
        found: list[str] = []
        is_learned = isinstance(self.policy, LearnedPolicy)
        require(found, "policy", self.policy, "load_policy(FILE)", is_learned)
        require(found, "selection", self.selection, "'greedy' or 'sample'", self.selection in ("greedy", "sample"))
        return [*TreeOfThoughtController.faults(self), *found] if is_learned else found

    def _decide(self, situation: Situation) -> Decision:
        return self.policy.decide(situation, self._context.rng, selection=self.selection)
