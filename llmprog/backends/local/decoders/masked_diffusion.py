"""Masked diffusion by LLaDA's rules (arXiv 2502.09992, algorithms 3 to 5): all masked tokens are predicted, some stay.

The canvas is written in blocks from left to right; within a block the order is the model's own confidence (or chance).
Rows whose canvases are still equal are computed once. Every row goes through its blocks at its own pace and leaves the
batch as soon as its text is settled, that is when everything before the first ``eos_id`` is written: what LLaDA would
still write behind it is not part of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llmprog.backends.local import attention_masks
from llmprog.backends.local.decoders.base import (
    DRAWS_PER_STEP,
    Continuation,
    Row,
    Vocabulary,
    Writing,
    draw_counter,
    first_true,
    forbidden_logits,
    pad_right,
)
from llmprog.backends.local.decoders.canvas_writing import CanvasWriting, layout
from llmprog.backends.local.sampling import stream_key, token_logprobs, uniform
from llmprog.backends.local.transformer import Transformer

UnmaskRule = Literal["quota", "threshold", "random"]
Fallback = Literal["confident", "leftmost"]

SCORE_ROWS = 256
"""Rows of one forward pass when scoring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmaskOptions:
    """Which tokens a denoising step reveals.

    Attributes:
        unmask: ``quota``: the most confident ones, a fixed number per step; ``random``: that number at random;
            ``threshold``: all whose confidence reaches ``threshold``.
        steps: Denoising steps per block for ``quota`` and ``random``; ``None`` is one per token.
        threshold: Confidence in [0, 1].
        fallback: What ``threshold`` reveals besides: ``confident``: the most confident token where none reaches it;
            ``leftmost``: the first masked token, always. The latter keeps tokens that are one fact (``13 - 9 = 4``)
            from being written independently.
        guidance_scale: w of classifier-free guidance, un + (w + 1)(lg - un), un seeing a masked prompt; 0 is none.
    """

    unmask: UnmaskRule = "threshold"
    steps: int | None = None
    threshold: float = 0.99
    fallback: Fallback = "confident"
    guidance_scale: float = 0.0


class MaskedDiffusionDecoder:
    """Writes several tokens per row and step, in any order."""

    name = "masked_diffusion"
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
        shift_logits: bool = False,
    ) -> None:
        """A decoder.

        Args:
            model: Its output at i predicts token i, or with ``shift_logits`` token i + 1.
            vocabulary: The model's.
            options: Which tokens a step reveals.
            score_samples: Monte-Carlo samples per continuation scored.
            score_seed: Of the masks drawn for them.
            shift_logits: Whether token i is read from the output at i - 1, as in models that were autoregressive
                before (Dream, arXiv 2508.15487). The first token of all is read from its own.
        """
        self._model = model
        self._vocabulary = vocabulary
        self._options = options or UnmaskOptions()
        self._score_samples = score_samples
        self._score_seed = score_seed
        self._shift_logits = shift_logits
        self._device = model.embedding.weight.device

    def start(self) -> Writing:
        return _MaskedWriting(self._model, self._vocabulary, self._options, shift_logits=self._shift_logits)

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
                weight = length / sum(hidden) / self._score_samples
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


def shifted(columns: Tensor, positions: Tensor) -> Tensor:
    """Where a model with shifted logits says the tokens in ``columns`` [R, K], int64 [R, K]."""
    return columns - (positions.gather(1, columns) > 0).long()


class _MaskedWriting(CanvasWriting):
    """Rows in the course of denoising."""

    def __init__(
        self, model: Transformer, vocabulary: Vocabulary, options: UnmaskOptions, *, shift_logits: bool
    ) -> None:
        super().__init__(vocabulary, model.embedding.weight.device, model.config.max_positions)
        self._model = model
        self._options = options
        self._shift_logits = shift_logits

    def _new_state(self, rows: Sequence[Row], canvas: Tensor) -> dict[str, Tensor]:
        """Of each row: the block written last, the steps spent in it, its masks when it was begun."""
        unset = torch.full((len(rows),), -1, device=self.device)
        return {"block": unset, "block_step": unset.clone(), "block_masks": unset.clone()}

    @torch.inference_mode()
    def _denoise(self) -> None:
        """Predict the masked tokens of every row's current block, reveal some."""
        options, mask_id, state = self._options, self.vocabulary.mask_id, self.state
        width = self.width
        longest_block = min(max(row.block_length for row in self.rows), width)
        canvas = self.canvas
        masked = canvas == mask_id
        block = first_true(masked) // self.block_length
        columns = (block * self.block_length).unsqueeze(1) + torch.arange(longest_block, device=self.device)
        inside = columns < torch.clamp((block + 1) * self.block_length, max=width).unsqueeze(1)
        columns = columns.clamp(max=width - 1)
        eligible = masked.gather(1, columns) & inside

        begun = block != state["block"]
        state["block_masks"] = torch.where(begun, eligible.sum(1), state["block_masks"])
        state["block_step"] = torch.where(begun, 0, state["block_step"] + 1)
        state["block"] = block

        logits = self._logits(columns, width) + self.forbidden.unsqueeze(1)
        counters = draw_counter(self.age.unsqueeze(1), columns)
        tokens = self.sampler.sample(logits, counters)
        if options.unmask == "random":
            confidence = uniform(self.sampler.keys.unsqueeze(1), counters + DRAWS_PER_STEP // 2, 1).squeeze(-1)
        else:
            confidence = token_logprobs(logits, tokens).exp()
        revealed = self._reveal(confidence.masked_fill(~eligible, -1.0), eligible)
        # A column clamped into range repeats the last one; adding 0 there leaves it as it is.
        canvas.scatter_add_(1, columns, torch.where(revealed, tokens - mask_id, 0))

    def _reveal(self, confidence: Tensor, eligible: Tensor) -> Tensor:
        """Which of the eligible tokens stay, bool [R, K]; ``confidence`` [R, K] is -1 where not eligible."""
        if self._options.unmask == "threshold":
            chosen = confidence >= self._options.threshold
            if self._options.fallback == "leftmost":
                extra = first_true(eligible).unsqueeze(1)
            else:
                extra = confidence.argmax(1, keepdim=True)
            return (chosen & eligible).scatter(1, extra, True)
        masks, step = self.state["block_masks"], self.state["block_step"]
        steps = masks if self._options.steps is None else self._options.steps
        count = masks // steps + (step < masks % steps)
        order = confidence.argsort(dim=1, descending=True, stable=True)
        rank = torch.arange(confidence.shape[1], device=self.device).expand_as(order)
        return torch.zeros_like(eligible).scatter(1, order, rank < count.unsqueeze(1)) & eligible

    def _logits(self, columns: Tensor, width: int) -> Tensor:
        """Logits at the given canvas columns [R, K], float32 [R, K, V]; equal rows are computed once."""
        tokens, positions, valid = self.tokens, self.positions, self.valid
        equal = self.equal_rows()
        if equal is not None:
            first, _ = equal
            tokens, positions, valid, columns = tokens[first], positions[first], valid[first], columns[first]
        output = columns + (tokens.shape[1] - width)
        if self._shift_logits:
            output = shifted(output, positions)
        mask = attention_masks.bidirectional(valid)
        scale = self._options.guidance_scale
        logits: Tensor
        if scale:
            blind = tokens.clone()
            prompt = valid.clone()
            prompt[:, -width:] = False
            prompt &= positions > 0  # the mode token is no part of the question
            blind[prompt] = self.vocabulary.mask_id
            both = self._model(
                torch.cat([tokens, blind]),
                torch.cat([positions, positions]),
                torch.cat([mask, mask]),
                output=torch.cat([output, output]),
            ).float()
            seeing, unseeing = both.chunk(2)
            logits = unseeing + (scale + 1) * (seeing - unseeing)
        else:
            logits = self._model(tokens, positions, mask, output=output).float()
        return logits if equal is None else logits[equal[1]]
