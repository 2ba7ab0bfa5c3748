"""The step of masked diffusion by two kernels: predict every position of the block, write what stays into the canvas.

It replaces what the rules of ``unmask`` do in many passes over the logits, for those that need no more than a number
per position. Letters in shapes: R rows, G canvas columns, K columns of the block, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmprog.backends.local import kernels
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.unmask import Step, UnmaskOptions
from llmprog.backends.local.kernels.reveal import MOST_COLUMNS
from llmprog.backends.local.sampling import Sampler


class FusedStep:
    """One of the rules ``quota``, ``margin``, ``entropy`` with a fixed number, and ``threshold``."""

    def __init__(self, options: UnmaskOptions) -> None:
        """A step by these options."""
        self._options = options

    @classmethod
    def of(cls, options: UnmaskOptions, correction: CorrectionOptions, device: torch.device) -> FusedStep | None:
        """The step for these options on this device; ``None`` where kernels cannot do it."""
        is_simple = options.unmask == "threshold" or (options.is_counted and options.unmask != "random")
        if not is_simple or correction.is_used or not kernels.is_available(device):
            return None
        return cls(options)

    def fits(self, sampler: Sampler, num_columns: int) -> bool:
        """Whether the kernels know all that these rows ask for: top-k and top-p need the logits sorted."""
        return sampler.top_k is None and sampler.top_p is None and num_columns <= MOST_COLUMNS

    def __call__(self, canvas: Tensor, logits: Tensor, forbidden: Tensor, sampler: Sampler, step: Step) -> Tensor:
        """Write into ``canvas``, int64 [R, G], what the rule reveals of the predictions.

        Args:
            canvas: Changed in place.
            logits: float32 or bfloat16 [R, K, V].
            forbidden: float32 [R or 1, V], -inf where a token must not be written.
            sampler: The rows' parameters and streams.
            step: As the rules see it.

        Returns:
            How likely each prediction is, float32 [R, K], at temperature 1.
        """
        temperature = sampler.temperature
        min_p = torch.zeros_like(temperature) if sampler.min_p is None else sampler.min_p
        said = kernels.predict(logits, forbidden < 0, sampler.keys, step.counters, temperature, min_p)
        options = self._options
        if options.unmask == "threshold":
            is_leftmost = options.fallback == "leftmost"
            count = torch.full_like(step.masks, 0 if is_leftmost else 1)
            threshold, confidence = options.threshold, said.confidence
        else:
            steps = step.masks.clamp(min=1) if options.steps is None else options.steps
            count = step.masks // steps + (step.number < step.masks % steps)
            threshold, is_leftmost = math.inf, False
            confidence = {"quota": said.confidence, "margin": said.margin, "entropy": (-said.entropy).exp()}[
                options.unmask
            ]
        kernels.reveal(
            canvas,
            said.tokens,
            confidence,
            step.columns,
            step.eligible,
            count,
            threshold=threshold,
            leftmost=is_leftmost,
        )
        return said.confidence
