"""The rules by which a masked-diffusion step decides which of its predictions stay: one small class each.

A rule turns the predictions of a block into confidences and these into a choice; at least one token of every row that
has masks is chosen. Nothing here waits for the device.

Letters in shapes: R rows, K columns of the current block, G canvas columns, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import DRAWS_PER_STEP, first_true
from llmprog.backends.local.sampling import token_logprobs, uniform

UnmaskName = Literal["quota", "threshold", "random", "factor", "margin", "entropy", "credit", "hierarchical"]
Fallback = Literal["confident", "leftmost"]

CREDIT_SLOTS = 8
"""Tokens per position that keep credit; a token beyond them takes the place of the one with the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskOptions:
    """Which tokens a denoising step reveals.

    Attributes:
        unmask: ``quota``: the most confident ones, a fixed number per step; ``random``: that number at random;
            ``margin``: that number by the distance of the two likeliest tokens; ``entropy``: that number by least
            entropy, or by ``entropy_bound``; ``threshold``: all whose confidence reaches ``threshold``; ``credit``:
            the same, of a confidence that grows where the prediction stays the same; ``factor``: as many as are
            confident together; ``hierarchical``: the best of every run of masks.
        steps: Denoising steps per block where their number is fixed; ``None`` is one per token.
        threshold: Confidence in [0, 1] of ``threshold``, ``credit`` and ``hierarchical``.
        fallback: What ``threshold`` and ``credit`` reveal besides: ``confident``: the most confident token where none
            reaches the threshold; ``leftmost``: the first masked token, always. The latter keeps tokens that are one
            fact (``13 - 9 = 4``) from being written independently.
        factor: f of ``factor``.
        entropy_bound: Most joint uncertainty, in nats, of what ``entropy`` reveals in a step; ``None`` is a quota.
        low_threshold: Least confidence of a run's best token in ``hierarchical``.
        credit_weight: How much ``credit`` counts against a logit.
        credit_decay: Share of the credit that is left after a step.
        credit_power: Exponent of the probability that is credited.
        guidance_scale: w of classifier-free guidance, un + (w + 1)(lg - un), un seeing a masked prompt; 0 is none.
    """

    unmask: UnmaskName = "threshold"
    steps: int | None = None
    threshold: float = 0.99
    fallback: Fallback = "confident"
    factor: float = 0.1
    entropy_bound: float | None = None
    low_threshold: float = 0.6
    credit_weight: float = 0.7
    credit_decay: float = 0.8
    credit_power: float = 0.2
    guidance_scale: float = 0.0

    @property
    def is_counted(self) -> bool:
        """Whether the rule reveals a number of tokens that is fixed beforehand."""
        return self.unmask in ("quota", "random", "margin", "entropy") and self.entropy_bound is None


@dataclass(slots=True, kw_only=True)
class Step:
    """What a rule sees of a step.

    Attributes:
        eligible: bool [R, K], the masked columns of each row's block.
        columns: int64 [R, K], their places on the canvas; some repeat where a block is shorter than K.
        number: int64 [R], how many steps the row has spent in the block.
        masks: int64 [R], masks in the block when it was begun.
        keys: int64 [R], random streams.
        counters: int64 [R, K], the draws that the tokens took; the half of a step's draws behind them is free.
        state: What the rule keeps between steps; see ``UnmaskRule.new_state``.
        count: int64 [R], how many tokens are revealed; ``None`` leaves it to the rule.
    """

    eligible: Tensor
    columns: Tensor
    number: Tensor
    masks: Tensor
    keys: Tensor
    counters: Tensor
    state: dict[str, Tensor]
    count: Tensor | None = None


def new_counts(num_rows: int, device: torch.device) -> dict[str, Tensor]:
    """The ``state`` that ``begin_step`` keeps of rows that join."""
    unset = torch.full((num_rows,), -1, device=device)
    return {"block": unset, "block_step": unset.clone(), "block_masks": unset.clone()}


def begin_step(
    state: dict[str, Tensor], block: Tensor, *, eligible: Tensor, columns: Tensor, counters: Tensor, keys: Tensor
) -> Step:
    """The next step of rows at ``block`` [R], counted in ``state``; the other arguments are ``Step``'s."""
    begun = block != state["block"]
    state["block_masks"] = torch.where(begun, eligible.sum(1), state["block_masks"])
    state["block_step"] = torch.where(begun, 0, state["block_step"] + 1)
    state["block"] = block
    return Step(
        eligible=eligible,
        columns=columns,
        number=state["block_step"],
        masks=state["block_masks"],
        keys=keys,
        counters=counters,
        state=state,
    )


class UnmaskRule(ABC):
    """Which of the predictions of a step stay."""

    def new_state(self, canvas: Tensor) -> dict[str, Tensor]:
        """What the rule keeps of rows that join with ``canvas`` [R, G]: tensors [R, ...] or [R, G, ...], by name."""
        return {}

    def adjusted(self, logits: Tensor, step: Step) -> Tensor:
        """The logits [R, K, V] that tokens are drawn from and judged by."""
        return logits

    def confidence(self, logits: Tensor, tokens: Tensor, step: Step) -> Tensor:
        """How sure the rule is of ``tokens``, float32 [R, K]: their probability."""
        return token_logprobs(logits, tokens).exp()

    @abstractmethod
    def reveal(self, confidence: Tensor, step: Step) -> Tensor:
        """Which eligible tokens stay, bool [R, K]; ``confidence`` [R, K] is -inf where a column is not eligible."""

    def choose(self, logits: Tensor, tokens: Tensor, step: Step) -> Tensor:
        """Which of ``tokens`` [R, K], drawn from the ``adjusted`` logits, stay, bool [R, K]."""
        return self.reveal(self.confidence(logits, tokens, step).masked_fill(~step.eligible, -torch.inf), step)


class Quota(UnmaskRule):
    """LLaDA (arXiv 2502.09992, algorithm 5): the most confident, M // S + (i < M % S) of them in step i of S."""

    def __init__(self, steps: int | None) -> None:
        """A rule of ``steps`` steps per block; ``None`` is one per token."""
        self._steps = steps

    def reveal(self, confidence: Tensor, step: Step) -> Tensor:
        count = step.count
        if count is None:
            steps = step.masks.clamp(min=1) if self._steps is None else self._steps
            count = step.masks // steps + (step.number < step.masks % steps)
        return best(confidence, count) & step.eligible


class Random(Quota):
    """As many as ``Quota``, at random."""

    def confidence(self, logits: Tensor, tokens: Tensor, step: Step) -> Tensor:
        return uniform(step.keys.unsqueeze(1), step.counters + DRAWS_PER_STEP // 2, 1).squeeze(-1)


class Margin(Quota):
    """As many as ``Quota``, by how far the likeliest token is ahead of the next (arXiv 2502.06768, section 4.1)."""

    def confidence(self, logits: Tensor, tokens: Tensor, step: Step) -> Tensor:
        first, second = logits.softmax(-1).topk(2, dim=-1).values.unbind(-1)
        return first - second


class Entropy(Quota):
    """As many as ``Quota``, by least entropy."""

    def confidence(self, logits: Tensor, tokens: Tensor, step: Step) -> Tensor:
        return -entropy(logits)


class EntropyBound(UnmaskRule):
    """By ascending entropy, while the entropies of those before a token sum to no more than a bound.

    The sum without its largest term bounds what the tokens know of each other (arXiv 2505.24857), that is what is lost
    by writing them independently.
    """

    def __init__(self, bound: float) -> None:
        """A rule that loses at most ``bound`` nats per step."""
        self._bound = bound

    def confidence(self, logits: Tensor, tokens: Tensor, step: Step) -> Tensor:
        return -entropy(logits)

    def reveal(self, confidence: Tensor, step: Step) -> Tensor:
        ordered, order = (-confidence).sort(dim=1, stable=True)
        before = ordered.masked_fill(ordered == torch.inf, 0.0).cumsum(1) - ordered
        return torch.zeros_like(step.eligible).scatter(1, order, before <= self._bound) & step.eligible


class Threshold(UnmaskRule):
    """All whose confidence reaches a threshold, and one besides (arXiv 2505.22618, algorithm 1)."""

    def __init__(self, threshold: float, fallback: Fallback) -> None:
        """A rule; see ``UnmaskOptions``."""
        self._threshold = threshold
        self._fallback = fallback

    def reveal(self, confidence: Tensor, step: Step) -> Tensor:
        if self._fallback == "leftmost":
            extra = first_true(step.eligible).clamp(max=step.eligible.shape[1] - 1).unsqueeze(1)
        else:
            extra = confidence.argmax(1, keepdim=True)
        return (confidence >= self._threshold).scatter(1, extra, True) & step.eligible


class Credit(Threshold):
    """``Threshold`` of a distribution in which a token that keeps being predicted gains (arXiv 2510.06133).

    In every step the credit of all tokens of a position decays, and the likeliest one gets its probability to a power
    below 1, which favours the unsure; a logit grows by ``weight`` times ln(1 + credit). Deviation: a position remembers
    ``CREDIT_SLOTS`` tokens instead of the whole vocabulary.
    """

    def __init__(self, threshold: float, fallback: Fallback, *, weight: float, decay: float, power: float) -> None:
        """A rule; see ``UnmaskOptions``."""
        super().__init__(threshold, fallback)
        self._weight = weight
        self._decay = decay
        self._power = power

    def new_state(self, canvas: Tensor) -> dict[str, Tensor]:
        shape = (*canvas.shape, CREDIT_SLOTS)
        return {
            "credit": torch.zeros(shape, device=canvas.device),
            "credit_token": torch.zeros(shape, dtype=torch.int64, device=canvas.device),
        }

    def adjusted(self, logits: Tensor, step: Step) -> Tensor:
        place = step.columns.unsqueeze(2).expand(-1, -1, CREDIT_SLOTS)
        before, former = (step.state[name].gather(1, place) for name in ("credit", "credit_token"))
        share, token = logits.softmax(-1).max(dim=-1, keepdim=True)
        credit = before * self._decay
        known = (former == token) & (credit > 0)
        is_known = known.any(-1, keepdim=True)
        slot = torch.where(is_known, known.int().argmax(-1, keepdim=True), credit.argmin(-1, keepdim=True))
        gained = torch.where(is_known, credit.gather(2, slot), 0.0) + share**self._power
        credit, owner = credit.scatter(2, slot, gained), former.scatter(2, slot, token)
        # Columns that are not eligible change nothing: what a row sees of them depends on the rest of the batch.
        eligible = step.eligible.unsqueeze(2)
        for name, change in (("credit", credit - before), ("credit_token", owner - former)):
            step.state[name] = step.state[name].scatter_add(1, place, torch.where(eligible, change, 0))
        return logits.scatter_add(2, owner, self._weight * torch.log1p(credit))


class Factor(UnmaskRule):
    """The largest n with (n + 1)(1 - c_n) < f, c_n being the n-th highest confidence (arXiv 2505.22618, section 3.3).

    With that, the n tokens are what greedy decoding one by one would write, if f is at most 1.
    """

    def __init__(self, factor: float) -> None:
        """A rule with f = ``factor``."""
        self._factor = factor

    def reveal(self, confidence: Tensor, step: Step) -> Tensor:
        ordered = confidence.sort(dim=1, descending=True).values
        number = torch.arange(1, ordered.shape[1] + 1, device=ordered.device)
        safe = (number + 1) * (1 - ordered) < self._factor
        return best(confidence, (safe * number).amax(1).clamp(min=1)) & step.eligible


class Hierarchical(UnmaskRule):
    """Divide and conquer (dInfer, arXiv 2510.08666): the best token of every run of masks, which it cuts in two.

    A run's best has to exceed ``low_threshold``; tokens above ``threshold`` are revealed wherever they are. Where no
    token exceeds ``low_threshold``, the best one of the block stays alone.
    """

    def __init__(self, threshold: float, low_threshold: float) -> None:
        """A rule; see ``UnmaskOptions``."""
        self._threshold = threshold
        self._low_threshold = low_threshold

    def reveal(self, confidence: Tensor, step: Step) -> Tensor:
        eligible = step.eligible
        begins = eligible.clone()
        begins[:, 1:] &= ~eligible[:, :-1]
        run = begins.long().cumsum(1)
        order = confidence.argsort(dim=1, descending=True, stable=True)
        width = eligible.shape[1]
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(width, device=order.device).expand_as(order).contiguous()
        )
        rank = rank.masked_fill(~eligible, width)
        first = torch.full((rank.shape[0], width + 1), width, device=rank.device).scatter_reduce(1, run, rank, "amin")
        best_of_run = rank == first.gather(1, run)
        chosen = best_of_run & (confidence > self._low_threshold) | (confidence >= self._threshold) | (rank == 0)
        return chosen & eligible


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits [..., V]), float32 [...]."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs.masked_fill(logprobs == -torch.inf, 0.0)).sum(-1)


def best(confidence: Tensor, count: Tensor) -> Tensor:
    """The ``count`` [R] highest of each row, the first of equals, bool [R, K]. confidence: [R, K]."""
    order = confidence.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(confidence.shape[1], device=confidence.device).expand_as(order)
    return torch.zeros_like(confidence, dtype=torch.bool).scatter(1, order, rank < count.unsqueeze(1))


def make_rule(options: UnmaskOptions) -> UnmaskRule:
    """The rule that ``options`` describe."""
    return _RULES[options.unmask](options)


def _entropy(options: UnmaskOptions) -> UnmaskRule:
    return Entropy(options.steps) if options.entropy_bound is None else EntropyBound(options.entropy_bound)


def _credit(options: UnmaskOptions) -> UnmaskRule:
    return Credit(
        options.threshold,
        options.fallback,
        weight=options.credit_weight,
        decay=options.credit_decay,
        power=options.credit_power,
    )


_RULES: dict[UnmaskName, Callable[[UnmaskOptions], UnmaskRule]] = {
    "quota": lambda options: Quota(options.steps),
    "random": lambda options: Random(options.steps),
    "margin": lambda options: Margin(options.steps),
    "entropy": _entropy,
    "threshold": lambda options: Threshold(options.threshold, options.fallback),
    "credit": _credit,
    "factor": lambda options: Factor(options.factor),
    "hierarchical": lambda options: Hierarchical(options.threshold, options.low_threshold),
}
