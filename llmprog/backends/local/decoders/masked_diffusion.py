"""Masked diffusion by LLaDA's rules (arXiv 2502.09992, algorithms 3 to 5): all masked tokens are predicted, some stay.

The canvas is written in blocks from left to right; within a block the order is what the ``unmask`` rule says. How is in
``masked_writing``; likelihoods are here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import Continuation, Vocabulary, Writing, forbidden_logits, pad_right
from llmprog.backends.local.decoders.cached_diffusion import CachedWriting, CacheOptions
from llmprog.backends.local.decoders.canvas_writing import layout
from llmprog.backends.local.decoders.masked_writing import MaskedWriting, shifted
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import stream_key, token_logprobs, uniform
from llmprog.errors import OptionError

SCORE_ROWS = 256
"""Rows of one forward pass when scoring."""


class MaskedDiffusionDecoder:
    """Writes several tokens per row and step, in any order."""

    name = "masked_diffusion"
    score_is_bound = True
    takes_joiners = True

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        options: UnmaskOptions | None = None,
        correction: CorrectionOptions | None = None,
        cache: CacheOptions | None = None,
        *,
        score_samples: int = 64,
        score_seed: int = 0,
        shift_logits: bool = False,
    ) -> None:
        """A decoder.

        Args:
            model: Its output at i predicts token i, or with ``shift_logits`` token i + 1.
            vocabulary: The model's.
            options: Which tokens a step reveals.
            correction: How revealed tokens may change; ``None`` leaves them.
            cache: What is kept between steps, an approximation; ``None`` computes everything in every step.
            score_samples: Monte-Carlo samples per continuation scored.
            score_seed: Of the masks drawn for them.
            shift_logits: Whether token i is read from the output at i - 1, as in models that were autoregressive
                before (Dream, arXiv 2508.15487). The first token of all is read from its own.

        Raises:
            OptionError: Guidance with a cache, or remasking by a rule that does not count tokens.
        """
        options, correction = options or UnmaskOptions(), correction or CorrectionOptions()
        if cache is not None and options.guidance_scale:
            raise OptionError(
                f"guidance_scale={options.guidance_scale!r} with cache={cache.kind!r}: what the model says without the "
                "prompt is not cached; use either of them"
            )
        if correction.remask is not None and not options.is_counted:
            raise OptionError(
                f"remask={correction.remask!r} with unmask={options.unmask!r}: it goes with a rule that counts tokens; "
                "use unmask='quota', 'random', 'margin' or 'entropy' without a bound"
            )
        self._model = model
        self._vocabulary = vocabulary
        self._options = options
        self._correction = correction
        self.keeps_tokens = not correction.is_used
        self._cache = cache
        self._score_samples = score_samples
        self._score_seed = score_seed
        self._shift_logits = shift_logits
        self._device = model.embedding.weight.device

    def start(self) -> Writing:
        parts = (self._model, self._vocabulary, self._options, self._correction)
        if self._cache is not None:
            return CachedWriting(*parts, self._cache, shift_logits=self._shift_logits)
        return MaskedWriting(*parts, shift_logits=self._shift_logits)

    @torch.inference_mode()
    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """See ``Decoder``: LLaDA's bound, given that the reply ends behind the continuation.

        Per sample l of the L tokens are masked and predicted from the rest; the bound is the mean of
        L/l times the sum of their log-probabilities (eq. 14), and a token's value is its share of that. The counts l
        are stratified over 1..L. Samples depend on ``score_seed`` and the prompt, so continuations of equal length
        are compared under the same masks.
        """
        mask_id = self._vocabulary.mask_id
        totals = [[0.0] * len(continuation.tokens) for continuation in continuations]
        # (continuation, its tokens with some masked) -> how much its log-probabilities weigh; equal draws add up
        weights: dict[tuple[int, tuple[int, ...]], float] = {}
        for place, continuation in enumerate(continuations):
            length = len(continuation.tokens)
            for hidden in self._draw_masks(continuation).tolist():
                masked = tuple(mask_id if h else t for h, t in zip(hidden, continuation.tokens, strict=True))
                weight = 1.0 if continuation.each_alone else length / sum(hidden) / self._score_samples
                weights[place, masked] = weights.get((place, masked), 0.0) + weight
        todo = list(weights.items())
        for start in range(0, len(todo), SCORE_ROWS):
            chunk = todo[start : start + SCORE_ROWS]
            owners = [continuations[place] for (place, _), _ in chunk]
            logprobs = self._logprobs(owners, [masked for (_, masked), _ in chunk])
            for ((place, masked), weight), values in zip(chunk, logprobs, strict=True):
                for i, token in enumerate(masked):
                    if token == mask_id:
                        totals[place][i] += weight * values[i]
        return [tuple(total) for total in totals]

    def _draw_masks(self, continuation: Continuation) -> Tensor:
        """Which tokens each sample masks, bool [samples, L], at least one in each."""
        length = len(continuation.tokens)
        if continuation.each_alone:
            return torch.eye(length, dtype=torch.bool)
        key = stream_key(self._score_seed, repr(continuation.prompt).encode(), 0)
        index = torch.arange(self._score_samples)
        draws = uniform(torch.full_like(index, key), index, length + 1)
        count = ((index + draws[:, 0]) / self._score_samples * length).long().clamp(max=length - 1) + 1
        return draws[:, 1:].argsort(dim=1).argsort(dim=1) < count.unsqueeze(1)

    def _logprobs(self, owners: Sequence[Continuation], masked: Sequence[tuple[int, ...]]) -> list[list[float]]:
        """Log-probabilities of the owners' tokens, predicted from their masked versions closed by ``eos_id``."""
        canvases = [(*tokens, self._vocabulary.eos_id) for tokens in masked]
        tokens, positions, valid = layout(
            [owner.prompt for owner in owners],
            canvases,
            self._vocabulary.pad_id,
            self._device,
            self._model.config.max_positions,
        )
        width = max(len(canvas) for canvas in canvases)
        truth, _ = pad_right([(*owner.tokens, self._vocabulary.eos_id) for owner in owners], 0, self._device)
        columns = torch.arange(tokens.shape[1] - width, tokens.shape[1], device=self._device).expand(len(tokens), -1)
        if self._shift_logits:
            columns = shifted(columns, positions)
        logits = self._model(tokens, positions, attention_masks.bidirectional(valid), output=columns)
        logits = logits.float() + forbidden_logits(self._vocabulary, [], self._device)
        return token_logprobs(logits, truth).tolist()
