"""MDLM's ancestral sampler (arXiv 2406.07524) and the first-hitting sampler (arXiv 2409.02908), without wasted passes.

Between the times t and s each masked token is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t), alone, and
drawn from the prediction at time t. The network does not see the time, so while no token is revealed its prediction is
the one it made before: only steps that reveal something cost a pass (MDLM's reuse). Which steps these are does not
depend on the tokens: the probability not to be revealed before s telescopes to (1 - alpha_s) / (1 - alpha_1), s for
the log-linear schedule. So one uniform draw per token is the time of its reveal, and rows go from one to the next.

With infinitely many steps no two tokens share one: each is predicted from all that were revealed before. That is the
first-hitting sampler. It has no error of discretisation and takes one pass per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import Row, Vocabulary, Writing, draw_counter
from llmprog.backends.local.decoders.masked_process import MaskedProcessDecoder, MaskedProcessWriting
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import uniform

ProcessSampler = Literal["ancestral", "first_hitting"]


class MDLMDecoder(MaskedProcessDecoder):
    """Reveals random tokens: of a block those whose time has come."""

    name = "mdlm"

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        *,
        sampler: ProcessSampler = "ancestral",
        steps: int = 16,
        shift_logits: bool = False,
        score_samples: int = 64,
        score_seed: int = 0,
    ) -> None:
        """A decoder.

        Args:
            model: Fed a mask, it predicts the token at the mask's position.
            vocabulary: The model's.
            sampler: ``ancestral``: in ``steps`` steps per block; ``first_hitting``: in the limit of infinitely many.
            steps: Most passes of a block; those that would reveal nothing are left out.
            shift_logits: As for ``MaskedDiffusionDecoder``, like the other arguments.
            score_samples: See there.
            score_seed: See there.
        """
        super().__init__(
            model, vocabulary, shift_logits=shift_logits, score_samples=score_samples, score_seed=score_seed
        )
        self._steps = steps if sampler == "ancestral" else None

    def start(self) -> Writing:
        return _MDLMWriting(self._model, self._vocabulary, self._steps, shift_logits=self._shift_logits)


class _MDLMWriting(MaskedProcessWriting):
    """Rows whose times of reveal are drawn when they join."""

    def __init__(self, model: Transformer, vocabulary: Vocabulary, steps: int | None, *, shift_logits: bool) -> None:
        super().__init__(model, vocabulary, shift_logits=shift_logits)
        self._steps = steps

    def _new_state(self, rows: Sequence[Row], canvas: Tensor) -> dict[str, Tensor]:
        """When each token is revealed, float32 [R, G]: a time in (0, 1), or the number of a step."""
        keys = torch.tensor([row.key for row in rows], device=self.device)
        # Token draws count from 0, so negative counters are free. A column's draw does not depend on the width.
        times = uniform(keys, torch.full_like(keys, -1), canvas.shape[1])
        return {"when": times if self._steps is None else (times * self._steps).floor()}

    @torch.inference_mode()
    def _denoise(self) -> None:
        """Reveal the tokens of every row's current block that are next in time."""
        _, columns, masked = self._current_block()
        when = self.state["when"].gather(1, columns).masked_fill(~masked, torch.inf)
        if self._steps is None:
            columns = columns.gather(1, when.argmin(1, keepdim=True))
            revealed = torch.ones_like(columns, dtype=torch.bool)
        else:
            revealed = masked & (when == when.amin(1, keepdim=True))
        counters = draw_counter(self.age.unsqueeze(1), columns)
        logits = self._logits(columns)
        self._reveal(columns, revealed, self.sampler.sample(logits, counters), logits)
