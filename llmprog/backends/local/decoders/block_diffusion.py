"""Block diffusion (BD3-LM, arXiv 2503.09573): masked diffusion within a block, left to right from block to block.

Attention is block-causal: a token sees its own block and what stands before it. So a finished block never changes, and
its keys and values are cached exactly; the likelihood of a text is a product over its blocks, each bounded like that of
masked diffusion. Given text behind the block that is being written is kept, but not seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import (
    Continuation,
    Row,
    Vocabulary,
    Writing,
    draw_counter,
    forbidden_logits,
)
from llmprog.backends.local.decoders.block_writing import BlockWriting
from llmprog.backends.local.decoders.canvas_writing import layout
from llmprog.backends.local.decoders.unmask import UnmaskOptions, begin_step, make_rule, new_counts
from llmprog.backends.local.decoders.watching import note_written
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import stream_key, token_logprobs, uniform
from llmprog.errors import OptionError

SCORE_ROWS = 128
"""Rows of one forward pass when scoring; each is the text twice."""


class BlockDiffusionDecoder:
    """Writes several tokens of a block per step, in any order; finished blocks are cached."""

    name = "block_diffusion"
    score_is_bound = True
    keeps_tokens = True
    takes_joiners = True

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        options: UnmaskOptions | None = None,
        *,
        score_samples: int = 64,
        score_seed: int = 0,
        use_cache: bool = True,
    ) -> None:
        """A decoder.

        Args:
            model: Trained with block-causal attention; its output at i predicts token i.
            vocabulary: The model's.
            options: Which tokens a step reveals, without guidance.
            score_samples: Monte-Carlo samples per continuation scored.
            score_seed: Of the masks drawn for them.
            use_cache: False feeds the whole past in every step; the result is the same. It is there for comparison.

        Raises:
            OptionError: Guidance is asked for.
        """
        if options is not None and options.guidance_scale:
            raise OptionError(
                f"guidance_scale={options.guidance_scale!r} with decoder={self.name!r}: the cache holds no prediction "
                "without the prompt; use decoder='masked_diffusion'"
            )
        self._model = model
        self._vocabulary = vocabulary
        self._options = options or UnmaskOptions()
        self._score_samples = score_samples
        self._score_seed = score_seed
        self._use_cache = use_cache
        self._device = model.embedding.weight.device

    def start(self) -> Writing:
        return _BlockDiffusionWriting(self._model, self._vocabulary, self._options, use_cache=self._use_cache)

    @torch.inference_mode()
    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """See ``Decoder``: BD3-LM's bound (eq. 8), given that the reply ends behind the continuation.

        In a sample some tokens of every block are masked, l of its n with l stratified over 1..n, and predicted from
        the rest of the block and the clean blocks before, all blocks in one pass; n/l times the sum of a block's
        log-probabilities is the block's share of the bound.
        """
        totals = [torch.zeros(len(c.tokens), device=self._device) for c in continuations]
        todo = [
            (place, hidden, weight)
            for place, continuation in enumerate(continuations)
            for hidden, weight in zip(*self._draw_masks(continuation), strict=True)
        ]
        for start in range(0, len(todo), SCORE_ROWS):
            chunk = todo[start : start + SCORE_ROWS]
            owners = [continuations[place] for place, _, _ in chunk]
            logprobs = self._logprobs(owners, [hidden for _, hidden, _ in chunk])
            for (place, hidden, weight), values in zip(chunk, logprobs, strict=True):
                totals[place] += torch.where(hidden, weight * values[: len(hidden)], 0.0)
        return [tuple(total.tolist()) for total in totals]

    def _draw_masks(self, continuation: Continuation) -> tuple[Tensor, Tensor]:
        """Which tokens each sample masks, bool [S, L], and the weights of their log-probabilities, float [S, L]."""
        length, size = len(continuation.tokens), continuation.block_length
        if continuation.each_alone:
            alone = torch.eye(length, dtype=torch.bool, device=self._device)
            return alone, torch.ones_like(alone, dtype=torch.float32)
        key = stream_key(self._score_seed, repr(continuation.prompt).encode(), 0)
        index = torch.arange(self._score_samples)
        draws = uniform(torch.full_like(index, key), index, 2 * length)
        hidden, weights = torch.zeros(len(index), length, dtype=torch.bool), torch.zeros(len(index), length)
        for start in range(0, length, size):
            place = slice(start, min(start + size, length))
            n = place.stop - start
            # Every block has strata of its own, in an order of its own.
            stratum = draws[:, length + start].argsort() + draws[:, place.stop - 1 + length]
            count = (stratum / len(index) * n).long().clamp(max=n - 1) + 1
            hidden[:, place] = draws[:, place].argsort(dim=1).argsort(dim=1) < count.unsqueeze(1)
            weights[:, place] = (n / count / len(index)).unsqueeze(1)
        return hidden.to(self._device), weights.to(self._device)

    def _logprobs(self, owners: Sequence[Continuation], hidden: Sequence[Tensor]) -> Tensor:
        """Log-probabilities [B, G] of the owners' tokens where they are ``hidden``, float32."""
        vocabulary = self._vocabulary
        texts = [(*owner.tokens, vocabulary.eos_id) for owner in owners]
        tokens, positions, valid = layout(
            [owner.prompt for owner in owners],
            texts,
            vocabulary.pad_id,
            self._device,
            self._model.config.max_positions,
        )
        total, width = tokens.shape[1], max(map(len, texts))
        truth = tokens[:, -width:]
        noisy = truth.clone()
        for row, mask in enumerate(hidden):
            noisy[row, : len(mask)] = noisy[row, : len(mask)].masked_fill(mask, vocabulary.mask_id)
        size = torch.tensor([owner.block_length for owner in owners], device=self._device).unsqueeze(1)
        offset = torch.arange(width - total, width, device=self._device)
        block = torch.where(offset < 0, -1, offset // size)
        keep = torch.cat([torch.arange(total), torch.arange(2 * total - width, 2 * total)]).to(self._device)
        logits: Tensor = self._model(
            torch.cat([tokens, noisy], dim=1),
            torch.cat([positions, positions[:, -width:]], dim=1),
            attention_masks.block_training(block, valid)[:, keep][:, :, keep],
            output=slice(total, None),
        )
        return token_logprobs(logits.float() + forbidden_logits(vocabulary, [], self._device), truth)


class _BlockDiffusionWriting(BlockWriting):
    """Rows of which one block each is denoised."""

    def __init__(self, model: Transformer, vocabulary: Vocabulary, options: UnmaskOptions, *, use_cache: bool) -> None:
        super().__init__(model, vocabulary, use_cache=use_cache)
        self._rule = make_rule(options)

    def _new_state(self, rows: Sequence[Row], tokens: Tensor) -> dict[str, Tensor]:
        return new_counts(len(rows), self.device) | self._rule.new_state(tokens)

    def _noisy(self, columns: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.tokens.gather(1, columns), None

    def _denoise(self, logits: Tensor, columns: Tensor, inside: Tensor) -> None:
        mask_id = self.vocabulary.mask_id
        eligible = (self.tokens.gather(1, columns) == mask_id) & inside
        counters = draw_counter(self.age.unsqueeze(1), columns)
        step = begin_step(
            self.state, self.block, eligible=eligible, columns=columns, counters=counters, keys=self.sampler.keys
        )
        adjusted = self._rule.adjusted(logits, step)
        tokens = self.sampler.sample(adjusted, counters)
        revealed = self._rule.choose(adjusted, tokens, step)
        note_written(self.state, columns, revealed, tokens, logits)
        # A column clamped into range repeats the last one; adding 0 there leaves it as it is.
        self.tokens.scatter_add_(1, columns, torch.where(revealed, tokens - mask_id, 0))
