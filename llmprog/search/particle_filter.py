"""Particle filtering: samples that go on step by step, in numbers in proportion to how good they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmprog.errors import OptionError
from llmprog.events import ControllerEvent, ThoughtChecked, ThoughtExpanded
from llmprog.search.controller import Action, Controller, Expand, Stop, VoteResult, is_number, is_whole, require
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.search.voting import Tally, canonical_answer


@dataclass(kw_only=True)
class ParticleFilter(Controller):
    """Particle filtering for inference-time scaling (Puri et al. 2025, arXiv 2502.01618, algorithm 1).

    ``num_particles`` samples take one step each. A step multiplies a particle's weight by what the checkers say of the
    thought it came to; one that is refused, unreadable or cut at ``max_tokens`` weighs nothing from then on. When the
    effective sample size ``1 / Σ w²`` of the normalised weights falls below ``resample_threshold * num_particles``, the
    particles are resampled: each goes on in as many copies as its share of the weight says, by systematic resampling
    (one random offset, then equal strides), and all weigh the same again. Weights are kept as logarithms.

    The answer is the one that most weight speaks for among the particles that reached the goal, else among those that
    took all steps; answers are compared in canonical form, ties go to the first particle. (Deviation: the paper returns
    the particle of highest score.) ``log_evidence`` estimates the normalising constant: its exponential is unbiased.

    Steps are synchronous only because particles are compared; with ``resample_threshold=0`` none waits for another.

    Attributes:
        num_particles: Particles.
        max_depth: Steps per particle.
        resample_threshold: Share of ``num_particles`` below which the effective sample size leads to resampling, in
            [0, 1]; 1 resamples after every step, as published, 0 never (importance sampling).
        score_as: What a thought's score is: a ``weight`` (>= 0; 0 ends the particle), or a ``log_weight`` (a logit or a
            log-probability; the paper's softmax over rewards).
        canonical: Maps an answer to the text it is compared by, ``None`` for no vote.
    """

    num_particles: int
    max_depth: int
    resample_threshold: float = 0.5
    score_as: Literal["weight", "log_weight"] = "weight"
    canonical: Callable[[Any], str | None] = canonical_answer
    positions: list[int] = field(default_factory=list, init=False, repr=False)
    log_weights: list[float | None] = field(default_factory=list, init=False, repr=False)  # None: weighs nothing
    steps: list[int] = field(default_factory=list, init=False, repr=False)
    queue: list[int] = field(default_factory=list, init=False, repr=False)  # particles to take a step
    num_walking: int = field(default=0, init=False, repr=False)
    arrived: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False)  # (particle, thought or -1)
    unchecked: set[int] = field(default_factory=set, init=False, repr=False)
    log_evidence_before: float = field(default=0.0, init=False, repr=False)  # of the steps before the last resampling
    num_resamplings: int = field(default=0, init=False, repr=False)

    def faults(self) -> list[str]:
        found: list[str] = []
        for name in ("num_particles", "max_depth"):
            require(found, name, getattr(self, name), "a whole number >= 1", is_whole(getattr(self, name), 1))
        value = self.resample_threshold
        require(found, "resample_threshold", value, "a number in [0, 1]", is_number(value) and 0 <= value <= 1)
        is_known = self.score_as in ("weight", "log_weight")
        require(found, "score_as", self.score_as, "weight or log_weight", is_known)
        return found

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtExpanded):
            completion = event.completions[0] if event.completions else None
            cut = completion is not None and completion.finish_reason != "stop"
            self.arrived.append((event.tag, event.children[0] if event.children and not cut else -1))
            self.unchecked.update(child for child, new in zip(event.children, event.is_new, strict=True) if new)
        elif isinstance(event, ThoughtChecked):
            self.unchecked.discard(event.thought)

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        if not self.positions:
            self.positions, self.log_weights = [0] * self.num_particles, [0.0] * self.num_particles
            self.steps = [0] * self.num_particles
            self.queue = list(range(self.num_particles))
        waiting = [item for item in self.arrived if item[1] in self.unchecked]
        for particle, thought in self.arrived:
            if thought not in self.unchecked:
                self._take_step(graph, particle, thought)
        self.arrived = waiting
        if not self.num_walking and not self.queue:
            if all(weight is None for weight in self.log_weights):
                return [Stop("exhausted")]
            if not self._can_go_on(graph):
                return [Stop("max_depth")]
            self._resample_if_needed()
            self.queue = self._can_go_on(graph)
        now, self.queue = self.queue[:capacity], self.queue[capacity:]
        self.num_walking += len(now)
        return [Expand(self.positions[particle], num_samples=1, tag=particle) for particle in now]

    def _take_step(self, graph: ThoughtGraph, particle: int, thought: int) -> None:
        self.num_walking -= 1
        self.steps[particle] += 1
        before = self.log_weights[particle]
        gain = None if thought < 0 or not graph.is_usable(thought) else self._log_weight(graph, thought)
        if gain is None or before is None:
            self.log_weights[particle] = None
            return
        self.positions[particle], self.log_weights[particle] = thought, before + gain
        if not self.resample_threshold and self._is_under_way(graph, particle):
            self.queue.append(particle)

    def _log_weight(self, graph: ThoughtGraph, thought: int) -> float | None:
        score = graph.scores[thought]
        if self.score_as == "log_weight":
            return score
        if score < 0:
            raise OptionError(
                f"ParticleFilter: thought {thought} has the score {score:g}, and a weight is a number >= 0; have the "
                "checkers give such scores, or use score_as='log_weight'"
            )
        return math.log(score) if score else None

    def _is_under_way(self, graph: ThoughtGraph, particle: int) -> bool:
        is_alive = self.log_weights[particle] is not None
        return is_alive and self.steps[particle] < self.max_depth and graph.is_open(self.positions[particle])

    def _can_go_on(self, graph: ThoughtGraph) -> list[int]:
        return [particle for particle in range(self.num_particles) if self._is_under_way(graph, particle)]

    def _resample_if_needed(self) -> None:
        shares = self.weights()
        if effective_sample_size(shares) >= self.resample_threshold * self.num_particles:
            return
        self.log_evidence_before = self.log_evidence()
        chosen = systematic_resampling(shares, self._context.rng.random())
        self.positions = [self.positions[particle] for particle in chosen]
        self.steps = [self.steps[particle] for particle in chosen]
        self.log_weights = [0.0] * self.num_particles
        self.num_resamplings += 1

    def weights(self) -> list[float]:
        """The particles' shares of the weight, which sum to 1 unless all weigh nothing."""
        known = [weight for weight in self.log_weights if weight is not None]
        most = max(known, default=0.0)
        raw = [0.0 if weight is None else math.exp(weight - most) for weight in self.log_weights]
        total = math.fsum(raw)
        return [weight / total for weight in raw] if total else raw

    def log_evidence(self) -> float:
        """The logarithm of the product over resamplings of the mean weight: the estimated normalising constant."""
        known = [weight for weight in self.log_weights if weight is not None]
        if not known:
            return -math.inf
        most = max(known)
        mean = math.fsum(math.exp(weight - most) for weight in known) / self.num_particles
        return self.log_evidence_before + most + math.log(mean)

    def _finished(self, graph: ThoughtGraph) -> list[int]:
        """The particles that answer: those that reached the goal if any did, else those that took all steps."""
        alive = [i for i, weight in enumerate(self.log_weights) if weight is not None]
        goals = [particle for particle in alive if graph.is_goal(self.positions[particle])]
        return goals or [particle for particle in alive if self.steps[particle] >= self.max_depth]

    def _ranking(self, graph: ThoughtGraph) -> list[tuple[int, float]]:
        """The first thought of each answer, and the share of the weight that speaks for it; most first."""
        shares, tally, first = self.weights(), Tally(canonical=self.canonical), dict[str, int]()
        for particle in self._finished(graph):
            thought = self.positions[particle]
            form = tally.add(self._context.answer(graph.states[thought]), None, shares[particle])
            if form is not None:
                first.setdefault(form, thought)
        return [(first[form], share) for form, share in tally.ranking()]

    def best(self, graph: ThoughtGraph) -> int | None:
        """The first thought of the answer with most weight; before there is one, where the heaviest particle is."""
        ranking = self._ranking(graph)
        if ranking:
            return ranking[0][0]
        shares = self.weights()
        alive = [particle for particle, position in enumerate(self.positions) if position and shares[particle]]
        return self.positions[max(alive, key=lambda particle: shares[particle])] if alive else None

    def votes(self, graph: ThoughtGraph) -> VoteResult:
        """The answers with their shares of the weight; particles that are left against those begun."""
        ranking = self._ranking(graph)
        return VoteResult(
            histogram=tuple((self._context.answer(graph.states[thought]), share) for thought, share in ranking),
            confidence=None,
            num_samples=self.num_particles,
            num_valid=len(self._finished(graph)),
            num_allowed=self.num_particles,
        )


def effective_sample_size(weights: Sequence[float]) -> float:
    """``(Σ w)² / Σ w²``: how many equal samples the weighted ones are worth (Kong, Liu and Wong 1994)."""
    squares = math.fsum(weight * weight for weight in weights)
    return math.fsum(weights) ** 2 / squares if squares else 0.0


def systematic_resampling(weights: Sequence[float], offset: float) -> list[int]:
    """As many indices as weights, each i ``n * w_i`` times, rounded up or down (Carpenter et al. 1999).

    Args:
        weights: Shares that sum to 1.
        offset: Uniform in [0, 1): where in the first stride the first point lies.
    """
    chosen: list[int] = []
    cumulated, index = weights[0], 0
    for i in range(len(weights)):
        point = (i + offset) / len(weights)
        while cumulated <= point and index < len(weights) - 1:
            index += 1
            cumulated += weights[index]
        chosen.append(index)
    while chosen and not weights[chosen[-1]]:  # the sum of the shares was rounded below 1: the last that has weight
        last = max(i for i, weight in enumerate(weights) if weight)
        chosen = [min(index, last) for index in chosen]
    return chosen
