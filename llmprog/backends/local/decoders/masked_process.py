"""Masked canvases whose tokens are revealed by a process in time, not by confidence: what its samplers have in common.

The network is not told the time, so its prediction at a mask depends on the tokens that are written and on nothing
else. Blocks from left to right, each with a process of its own, are our generalisation; one block over the whole canvas
is the original.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import Continuation, Vocabulary, first_true
from llmprog.backends.local.decoders.canvas_writing import CanvasWriting
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.masked_writing import shifted
from llmprog.backends.local.decoders.watching import note_written
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer

SMALLEST_ALPHA = 1e-3
"""alpha_t = 1 - (1 - 1e-3) t: what the log-linear noise of MDLM and SEDD leaves unmasked at t = 1."""


class MaskedProcessWriting(CanvasWriting):
    """A ``CanvasWriting`` over a network that predicts the token at a mask."""

    def __init__(self, model: Transformer, vocabulary: Vocabulary, *, shift_logits: bool) -> None:
        """A writing without rows; see ``MaskedProcessDecoder``."""
        super().__init__(vocabulary, model.embedding.weight.device, model.config.max_positions)
        self._model = model
        self._shift_logits = shift_logits

    def _current_block(self) -> tuple[Tensor, Tensor, Tensor]:
        """Each row's first block with a mask: its number, int64 [R], its columns, int64 [R, K], its masks, bool [R, K].

        A column beyond the block repeats another one and is no mask.
        """
        masked = self.canvas == self.vocabulary.mask_id
        block = first_true(masked) // self.block_length
        columns, inside = self.block_columns(block)
        return block, columns, masked.gather(1, columns) & inside

    def _logits(self, columns: Tensor) -> Tensor:
        """Logits at canvas ``columns`` [R, K], float32 [R, K, V]; equal rows are computed once."""
        tokens, positions, valid = self.tokens, self.positions, self.valid
        equal = self.equal_rows()
        if equal is not None:
            first, _ = equal
            # Rows that read the same may ask for different columns.
            output = torch.arange(self.width, device=self.device).expand(len(first), -1)
            tokens, positions, valid = tokens[first], positions[first], valid[first]
        else:
            output = columns
        output = output + (tokens.shape[1] - self.width)
        if self._shift_logits:
            output = shifted(output, positions)
        logits: Tensor = self._model(tokens, positions, attention_masks.bidirectional(valid), output=output).float()
        if equal is not None:
            logits = logits[equal[1]].gather(1, columns.unsqueeze(2).expand(-1, -1, logits.shape[2]))
        return logits + self.forbidden.unsqueeze(1)

    def _reveal(self, columns: Tensor, revealed: Tensor, tokens: Tensor, logits: Tensor) -> None:
        """Write ``tokens`` [R, K], drawn by ``logits``, where ``revealed``; adding 0 leaves repeated columns alone."""
        note_written(self.state, columns, revealed, tokens, logits)
        self.canvas.scatter_add_(1, columns, torch.where(revealed, tokens - self.vocabulary.mask_id, 0))


class MaskedProcessDecoder:
    """The part of such a decoder that does not depend on how it samples."""

    score_is_bound = True
    keeps_tokens = True
    takes_joiners = True

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        *,
        shift_logits: bool = False,
        score_samples: int = 64,
        score_seed: int = 0,
    ) -> None:
        """A decoder; the arguments are those of ``MaskedDiffusionDecoder``."""
        self._model = model
        self._vocabulary = vocabulary
        self._shift_logits = shift_logits
        self._scorer = MaskedDiffusionDecoder(
            model, vocabulary, score_samples=score_samples, score_seed=score_seed, shift_logits=shift_logits
        )

    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """See ``Decoder``: the bound of ``MaskedDiffusionDecoder``.

        In one block the bounds of MDLM (arXiv 2406.07524), of score entropy with the absorbing transition (as RADD
        shows, arXiv 2406.03736) and of LLaDA are one and the same integral, written in different variables.
        """
        return self._scorer.score(continuations)
