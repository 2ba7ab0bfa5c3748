"""A vote in which chains count by how good or how likely they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmprog.errors import OptionError
from llmprog.nodes import Checker, Generator
from llmprog.search.controller import require
from llmprog.search.self_consistency import SelfConsistency
from llmprog.search.thought_graph import ThoughtGraph


@dataclass(kw_only=True)
class WeightedVote(SelfConsistency):
    """The answer whose chains weigh most together, of ``num_samples`` chains.

    With ``weight="score"`` a chain weighs what the checkers said of it, which must be 0 or more (weighted best-of-n: Li
    et al. 2023, arXiv 2206.02336). With ``weight="logprob"`` it weighs the mean probability of its tokens,
    ``exp(1/K * Σ log p)`` (the normalized weighted sum of Wang et al. 2022, arXiv 2203.11171, section 2).

    Which chains vote, how answers are compared and how ties are broken is as in ``SelfConsistency``; weights that
    differ by rounding alone tie. ``VoteResult.histogram`` holds sums of weights, and there is no confidence. There are
    no stopping rules: they count votes.

    Attributes:
        weight: What a chain weighs: its ``score``, or its tokens' ``logprob``.
    """

    weight: Literal["score", "logprob"] = "score"

    def faults(self) -> list[str]:
        found = super().faults()
        require(found, "weight", self.weight, "score or logprob", self.weight in ("score", "logprob"))
        if self.stopping is not None:
            found.append(f"stopping={self.stopping!r}; allowed is None: stopping rules count votes, not weights")
        return found

    def program_faults(self, generators: Sequence[Generator], checkers: Sequence[Checker]) -> list[str]:
        if self.weight == "score":
            return (
                [] if checkers else ["weight='score' without checkers: every chain would weigh 0; give checkers=[...]"]
            )
        return [
            f"weight='logprob', but generator {node.name!r} does not ask for log-probabilities; declare it with "
            "a prompt and logprobs=True"
            for node in generators
            if node.prompt is None or not node.params.logprobs
        ]

    def weigh(self, graph: ThoughtGraph, thought: int, mean_logprob: float | None) -> float:
        """The chain's score, or the mean probability of its tokens.

        Raises:
            OptionError: Its score is negative, or its log-probabilities are not known.
        """
        if self.weight == "score":
            score = graph.scores[thought]
            if score < 0:
                raise OptionError(
                    f"WeightedVote: thought {thought} has the score {score:g}, and a weight is a number >= 0; have the "
                    "checkers give such scores, or use weight='logprob'"
                )
            return score
        if mean_logprob is None:
            raise OptionError(
                f"WeightedVote: the chain that ends in thought {thought} came without log-probabilities; use a backend "
                "that reports them, or weight='score'"
            )
        return math.exp(mean_logprob)

    def _confidence(self, votes: Sequence[float]) -> float | None:
        return None
