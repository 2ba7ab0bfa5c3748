"""Second thoughts while a block is denoised: written tokens are masked again, or replaced.

Remasking is ReMDM (arXiv 2503.00307). Its posterior masks a written token with probability sigma and reveals masks so
that a share alpha of the tokens is written, whatever sigma is. We keep that share to the token: of a block with M
masks, floor(alpha_s M) are written after the step to time s; which masks are revealed is the ``unmask`` rule's choice.

Editing is LLaDA2.1's (arXiv 2602.08676): a written token is replaced by another that the model now finds likely enough.
A block is finished once a step changes nothing in it. It needs a model that has learnt to predict what it is shown.

Letters in shapes: R rows, K columns of the current block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RemaskSchedule = Literal["cap", "rescale", "conf", "switch", "loop"]

DEFAULT_ETA: dict[RemaskSchedule, float] = {"cap": 0.1, "rescale": 0.1, "conf": 1.0, "switch": 0.1, "loop": 0.1}

LOOP_START, LOOP_END, LOOP_ALPHA = 0.55, 0.05, 0.9
"""From when to when, in time that runs from 1 to 0, tokens are remasked by ``switch`` (the former) and ``loop`` (both);
the share of tokens that is written in the meantime in ``loop``. The values are the paper's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionOptions:
    """How written tokens may change.

    Attributes:
        remask: When written tokens are masked again: ``cap``: with probability eta, or less where that is too much for
            the schedule; ``rescale``: with eta times the most there can be; ``conf``: the latter, shared out by how
            unsure each token was when it was written; ``switch``: as ``cap``, in the second half only; ``loop``: with
            eta, in a phase in which nothing but that happens. ``None`` is never.
        remask_eta: eta in [0, 1]; ``None`` is the schedule's default.
        edit_threshold: Probability above which another token replaces a written one; ``None`` replaces none.
        edit_steps: Most steps of a block behind the one that wrote its last token.
    """

    remask: RemaskSchedule | None = None
    remask_eta: float | None = None
    edit_threshold: float | None = None
    edit_steps: int = 16

    @property
    def is_used(self) -> bool:
        """Whether written tokens may change at all."""
        return self.remask is not None or self.edit_threshold is not None


class Remasking:
    """A schedule of ReMDM."""

    def __init__(self, schedule: RemaskSchedule, eta: float | None = None) -> None:
        """A schedule; ``eta`` as in ``CorrectionOptions``."""
        self._schedule = schedule
        self._eta = DEFAULT_ETA[schedule] if eta is None else eta

    def alpha(self, time: Tensor) -> Tensor:
        """Share of tokens that is written at ``time``, which runs from 1 to 0."""
        if self._schedule != "loop":
            return 1 - time
        rising = (1 - time) / (1 - LOOP_START) * LOOP_ALPHA
        ending = LOOP_ALPHA + (1 - LOOP_ALPHA) * (1 - time / LOOP_END)
        return torch.where(time > LOOP_START, rising, torch.where(time < LOOP_END, ending, LOOP_ALPHA))

    def sigma(self, time: Tensor, then: Tensor) -> Tensor:
        """Probability of masking a written token in the step from ``time`` to ``then``."""
        most = ((1 - self.alpha(then)) / self.alpha(time).clamp(min=1e-9)).clamp(0, 1)
        if self._schedule in ("rescale", "conf"):
            return self._eta * most
        capped = most.clamp(max=self._eta)
        if self._schedule == "switch":
            return torch.where(time <= LOOP_START, capped, 0.0)
        if self._schedule == "loop":
            return torch.where((time <= LOOP_START) & (then >= LOOP_END), capped, 0.0)
        return capped

    def choose(
        self, number: Tensor, steps: Tensor, masks: Tensor, shown: Tensor, doubt: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which tokens are masked again, bool [R, K], and how many masks are revealed in the same step, int64 [R].

        Args:
            number: int64 [R], steps spent in the block.
            steps: int64 [R], steps there are.
            masks: int64 [R], masks the block had when it was begun.
            shown: bool [R, K], tokens written since.
            doubt: Float [R, K], minus the probability that each had when it was written.
            draws: Float [R, K], uniform in (0, 1).
        """
        time = (1 - number / steps).clamp(min=0)
        then = (1 - (number + 1) / steps).clamp(min=0)
        chance = self.sigma(time, then).unsqueeze(1).expand_as(doubt)
        if self._schedule == "conf":
            chance = chance * doubt.masked_fill(~shown, -torch.inf).softmax(-1).nan_to_num()
        target = (self.alpha(then) * masks + 1e-4).long()  # rounding must not lose a token
        hidden = shown & (draws < chance)
        # Chance may ask for more than the schedule leaves room for.
        rank = draws.masked_fill(~hidden, 2.0).argsort(dim=1, stable=True).argsort(dim=1)
        hidden &= rank < (masks - target).unsqueeze(1)
        return hidden, (target - shown.sum(1) + hidden.sum(1)).clamp(min=0)


def edits(logits: Tensor, current: Tensor, shown: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens, int64 [R, K], and which of the ``shown`` ones they replace, bool [R, K].

    Args:
        logits: Float [R, K, V].
        current: int64 [R, K], what is written.
        shown: bool [R, K], tokens that may be replaced.
        threshold: A token replaces another if its probability is above it.
    """
    share, token = logits.softmax(-1).max(-1)
    return token, shown & (token != current) & (share > threshold)
