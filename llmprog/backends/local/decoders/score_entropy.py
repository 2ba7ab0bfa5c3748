"""SEDD's samplers (arXiv 2310.16834, absorbing): tokens change at rates given by ratios of probabilities.

The ratio s(y) = p_t(text with y at i) / p_t(text) says how much more likely a text is with y in place of its token at
i. For a mask it is r times the probability of y given what is written, r = e^-sigma / (1 - e^-sigma) (RADD, arXiv
2406.03736, theorem 1): so a network that predicts masked tokens knows the ratios, at every time. The noise is
log-linear, sigma(t) = -ln(1 - (1 - 1e-3) t), or geometric, 1e-4 to 20. From t to s, with d = sigma(t) - sigma(s):

analytic  (Tweedie tau-leaping): to y by the staggered ratio s(y) e^d times the transition 1 - e^-d; the mask stays by
          its staggered ratio, 1 + (1 - e^d) times the sum of all s(y).
euler     (reverse rates): to y by s(y) sigma'(t) (t - s); the mask stays by what is missing to 1.

With log-linear noise alpha_t falls evenly, so that the rate at the beginning of a step is that of the whole step, and
both predictors have the law of MDLM's ancestral sampler. With geometric noise they differ.

The last step goes from t = 1e-5 to 0 and leaves out the mask's column, so that everything is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import Row, Vocabulary, Writing, draw_counter
from llmprog.backends.local.decoders.masked_process import (
    SMALLEST_ALPHA,
    MaskedProcessDecoder,
    MaskedProcessWriting,
)
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler, filter_logits, log_exponential

Predictor = Literal["analytic", "euler"]
Noise = Literal["loglinear", "geometric"]
SMALLEST_TIME = 1e-5
LEAST_NOISE, MOST_NOISE = 1e-4, 20.0
"""Of the geometric schedule, whose logarithm grows evenly."""


class ScoreEntropyDecoder(MaskedProcessDecoder):
    """Lets every mask of a block become a token at its rate, in a fixed number of steps."""

    name = "score_entropy"

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        *,
        predictor: Predictor = "analytic",
        noise: Noise = "loglinear",
        steps: int = 16,
        shift_logits: bool = False,
        score_samples: int = 64,
        score_seed: int = 0,
    ) -> None:
        """A decoder.

        Args:
            model: Fed a mask, it predicts the token at the mask's position.
            vocabulary: The model's.
            predictor: How a step uses the ratios.
            noise: How much of it there is at a time.
            steps: Passes of a block, the last one included; a block that is full ends earlier.
            shift_logits: As for ``MaskedDiffusionDecoder``, like the other arguments.
            score_samples: See there.
            score_seed: See there.
        """
        super().__init__(
            model, vocabulary, shift_logits=shift_logits, score_samples=score_samples, score_seed=score_seed
        )
        self._predictor: Predictor = predictor
        self._noise: Noise = noise
        self._steps = steps

    def start(self) -> Writing:
        return _ScoreWriting(
            self._model,
            self._vocabulary,
            self._predictor,
            self._noise,
            self._steps,
            shift_logits=self._shift_logits,
        )


class _ScoreWriting(MaskedProcessWriting):
    """Rows each of which counts the steps of its block."""

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        predictor: Predictor,
        noise: Noise,
        steps: int,
        *,
        shift_logits: bool,
    ) -> None:
        super().__init__(model, vocabulary, shift_logits=shift_logits)
        self._predictor: Predictor = predictor
        self._noise: Noise = noise
        self._steps = steps

    def _new_state(self, rows: Sequence[Row], canvas: Tensor) -> dict[str, Tensor]:
        """Of each row: the block written last, and the steps made in it."""
        unset = torch.full((len(rows),), -1, device=self.device)
        return {"block": unset, "block_step": unset.clone()}

    @torch.inference_mode()
    def _denoise(self) -> None:
        """Make one step in time for every row."""
        block, columns, masked = self._current_block()
        state = self.state
        step = torch.where(block != state["block"], 0, state["block_step"] + 1)
        state["block"], state["block_step"] = block, step
        logits = self._logits(columns)
        log_probs = tempered(self.sampler, logits)
        before, after = times(self._steps, step)
        weights = transition(log_probs, before, after, self._predictor, self._noise)
        is_last = step + 1 >= self._steps
        weights[..., -1] = weights[..., -1].masked_fill(is_last.unsqueeze(1), -torch.inf)
        keys = self.sampler.keys.unsqueeze(1)
        noise = log_exponential(keys, draw_counter(self.age.unsqueeze(1), columns), weights.shape[-1])
        drawn = (weights - noise).argmax(-1)
        self._reveal(columns, masked & (drawn < self.vocabulary.size), drawn, logits)


def times(steps: int, step: Tensor) -> tuple[Tensor, Tensor]:
    """The times float64 [R] between which the steps numbered ``step`` [R] go; the last ends at 0."""
    if steps == 1:
        return torch.ones_like(step, dtype=torch.float64), torch.zeros_like(step, dtype=torch.float64)
    width = (1 - SMALLEST_TIME) / (steps - 1)
    before, after = 1 - step.double() * width, 1 - (step + 1).double() * width
    return before, torch.where(step + 1 >= steps, 0.0, after)


def sigma(time: Tensor, noise: Noise = "loglinear") -> Tensor:
    """The total noise up to a time; none at time 0."""
    if noise == "loglinear":
        return -torch.log1p(-(1 - SMALLEST_ALPHA) * time)
    return torch.where(time > 0, LEAST_NOISE ** (1 - time) * MOST_NOISE**time, 0.0)


def slope(time: Tensor, noise: Noise) -> Tensor:
    """The rate of the noise at a time, the derivative of ``sigma``."""
    if noise == "loglinear":
        return (1 - SMALLEST_ALPHA) / (1 - (1 - SMALLEST_ALPHA) * time)
    return sigma(time, noise) * math.log(MOST_NOISE / LEAST_NOISE)


def ratios(log_probs: Tensor, time: Tensor, noise: Noise = "loglinear") -> Tensor:
    """ln s(y) at masks, [R, K, V], of a network that says ln p(y | what is written); ``time`` [R]."""
    total = sigma(time, noise)
    return log_probs - total.expm1().log().to(log_probs.dtype)[:, None, None]  # e^-x / (1 - e^-x) = 1 / (e^x - 1)


def transition(
    log_probs: Tensor, before: Tensor, after: Tensor, predictor: Predictor, noise: Noise = "loglinear"
) -> Tensor:
    """Logarithms [R, K, V + 1] of the probabilities with which a mask becomes each token, and, last, stays.

    Args:
        log_probs: Float [R, K, V], of each token given what is written.
        before: float64 [R], the time now.
        after: float64 [R], the time the step goes to.
        predictor: See the module.
        noise: See there.
    """
    log_ratios = ratios(log_probs, before, noise)
    change = sigma(before, noise) - sigma(after, noise)
    if predictor == "analytic":
        log_moves = log_ratios + change.expm1().log().to(log_ratios.dtype)[:, None, None]  # e^d (1 - e^-d) = e^d - 1
    else:
        log_moves = log_ratios + (slope(before, noise) * (before - after)).log().to(log_ratios.dtype)[:, None, None]
    # Both are what the moves leave: 1 + (1 - e^d) sum s = 1 - sum s e^d (1 - e^-d). Steps of Euler's may overshoot.
    stays = (1 - log_moves.exp().sum(-1, keepdim=True)).clamp(min=0).log()
    return torch.cat([log_moves, stays], dim=-1)


def tempered(sampler: Sampler, logits: Tensor) -> Tensor:
    """ln p [R, K, V] after each row's temperature and filters; at temperature 0 the most likely token has it all."""
    temperature = sampler.temperature.view(-1, 1, 1)
    scaled = logits / torch.where(temperature > 0, temperature, 1.0)

    def spread(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.view(-1, 1)

    kept = filter_logits(scaled, spread(sampler.top_k), spread(sampler.top_p), spread(sampler.min_p))
    best = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(-1, keepdim=True), True)
    return kept.masked_fill((temperature == 0) & ~best, -torch.inf).log_softmax(-1)
