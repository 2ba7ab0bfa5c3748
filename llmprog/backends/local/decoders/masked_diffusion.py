"""Masked diffusion by LLaDA's rules (arXiv 2502.09992, algorithms 3 to 5): all masked tokens are predicted, some stay.

The canvas is written in blocks from left to right; within a block the order is the model's own confidence (or chance).
Rows whose canvases are still equal are computed once. Every row goes through its blocks at its own pace and leaves the
batch as soon as its text is settled, that is when everything before the first ``eos_id`` is written: what LLaDA would
still write behind it is not part of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from llmprog.backends.local import attention_masks
from llmprog.backends.local.decoders.base import (
    DRAWS_PER_STEP,
    Continuation,
    Row,
    Vocabulary,
    Written,
    distinct,
    draw_counter,
    first_true,
    forbidden_logits,
    left_padding,
    nobody,
    pad_left,
    pad_right,
    written,
)
from llmprog.backends.local.sampling import Sampler, stream_key, token_logprobs, uniform
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


@dataclass(slots=True)
class _Canvases:
    """The rows still being written. R rows, W columns: prompts padded on the left, then G canvas columns."""

    rows: list[int]  # original index of each row
    kinds: list[int]  # equal for rows of equal prompt and block length
    tokens: Tensor  # int64 [R, W]; the mode token is the first valid column
    positions: Tensor  # int64 [R, W]
    valid: Tensor  # bool [R, W]
    block_length: Tensor  # int64 [R]
    block: Tensor  # int64 [R], the block written last
    block_step: Tensor  # int64 [R], steps spent in it
    block_masks: Tensor  # int64 [R], its masks when it was begun
    forbidden: Tensor  # float32 [R or 1, V]
    sampler: Sampler

    def select(self, keep: Tensor) -> _Canvases:
        return replace(
            self,
            rows=[self.rows[i] for i in keep.tolist()],
            kinds=[self.kinds[i] for i in keep.tolist()],
            tokens=self.tokens[keep],
            positions=self.positions[keep],
            valid=self.valid[keep],
            block_length=self.block_length[keep],
            block=self.block[keep],
            block_step=self.block_step[keep],
            block_masks=self.block_masks[keep],
            forbidden=self.forbidden if self.forbidden.shape[0] == 1 else self.forbidden[keep],
            sampler=self.sampler.select(keep),
        )


class MaskedDiffusionDecoder:
    """Writes several tokens per row and step, in any order."""

    name = "masked_diffusion"
    score_is_bound = True

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

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row], cancelled: Callable[[], Collection[int]] = nobody) -> list[Written | None]:
        """See ``Decoder``."""
        results: list[Written | None] = [None] * len(rows)
        width = max(len(row.canvas) for row in rows)
        longest_block = min(max(row.block_length for row in rows), width)
        canvases = self._start(rows)
        step = 0
        while True:
            canvases = self._drop_settled(results, rows, canvases, width, cancelled())
            if not canvases.rows:
                return results
            self._denoise(canvases, width, longest_block, step)
            step += 1

    def _start(self, rows: Sequence[Row]) -> _Canvases:
        vocabulary, device = self._vocabulary, self._device
        tokens, positions, valid = self._layout([row.prompt for row in rows], [row.canvas for row in rows])
        unset = torch.full((len(rows),), -1, device=device)
        return _Canvases(
            rows=list(range(len(rows))),
            kinds=distinct([(row.prompt, row.block_length) for row in rows], device)[1].tolist(),
            tokens=tokens,
            positions=positions,
            valid=valid,
            block_length=torch.tensor([row.block_length for row in rows], device=device),
            block=unset,
            block_step=unset.clone(),
            block_masks=unset.clone(),
            forbidden=forbidden_logits(vocabulary, rows, device),
            sampler=Sampler.of([row.params for row in rows], [row.key for row in rows], device),
        )

    def _layout(
        self, prompts: Sequence[tuple[int, ...]], canvases: Sequence[tuple[int, ...]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, positions and validity, each [B, W]: prompts padded on the left, canvases on the right."""
        prompt, prompt_lengths = pad_left(prompts, self._vocabulary.pad_id, self._device)
        canvas, canvas_lengths = pad_right(canvases, self._vocabulary.pad_id, self._device)
        width = canvas.shape[1]
        positions, valid = left_padding(prompt_lengths + width, prompt.shape[1] + width)
        valid[:, -width:] = attention_masks.lengths_to_valid(canvas_lengths, width)
        # Padding may lie past the last position the model knows; nobody sees it.
        positions = positions.clamp(max=self._model.config.max_positions - 1)
        return torch.cat([prompt, canvas], dim=1), positions, valid

    def _drop_settled(
        self,
        results: list[Written | None],
        rows: Sequence[Row],
        canvases: _Canvases,
        width: int,
        gone: Collection[int],
    ) -> _Canvases:
        """Take out the rows whose text is settled, and those that are ``gone``."""
        canvas = canvases.tokens[:, -width:]
        masked = canvas == self._vocabulary.mask_id
        first_mask = first_true(masked)
        settled = (first_mask == width) | (first_true(canvas == self._vocabulary.eos_id) < first_mask)
        checks = [rows[i].has_stopped for i in canvases.rows]
        if any(check is not None for check in checks):
            texts, ends = canvas.tolist(), first_mask.tolist()
            stopped = [
                place for place, check in enumerate(checks) if check is not None and check(texts[place][: ends[place]])
            ]
            settled[stopped] = True
        if gone:
            settled |= torch.tensor([i in gone for i in canvases.rows], device=self._device)
        finished = settled.nonzero().squeeze(1)
        if not len(finished):
            return canvases
        for place, text in zip(finished.tolist(), canvas[finished].tolist(), strict=True):
            i = canvases.rows[place]
            if i not in gone:
                results[i] = written(rows[i], text[: len(rows[i].canvas)], self._vocabulary)
        return canvases.select((~settled).nonzero().squeeze(1))

    def _denoise(self, canvases: _Canvases, width: int, longest_block: int, step: int) -> None:
        """One step: predict the masked tokens of every row's current block, reveal some."""
        options, mask_id = self._options, self._vocabulary.mask_id
        canvas = canvases.tokens[:, -width:]
        masked = canvas == mask_id
        block = first_true(masked) // canvases.block_length
        columns = (block * canvases.block_length).unsqueeze(1) + torch.arange(longest_block, device=self._device)
        inside = columns < torch.clamp((block + 1) * canvases.block_length, max=width).unsqueeze(1)
        columns = columns.clamp(max=width - 1)
        eligible = masked.gather(1, columns) & inside

        begun = block != canvases.block
        canvases.block_masks = torch.where(begun, eligible.sum(1), canvases.block_masks)
        canvases.block_step = torch.where(begun, 0, canvases.block_step + 1)
        canvases.block = block

        logits = self._logits(canvases, columns, width) + canvases.forbidden.unsqueeze(1)
        counters = draw_counter(step, columns)
        tokens = canvases.sampler.sample(logits, counters)
        if options.unmask == "random":
            confidence = uniform(canvases.sampler.keys.unsqueeze(1), counters + DRAWS_PER_STEP // 2, 1).squeeze(-1)
        else:
            confidence = token_logprobs(logits, tokens).exp()
        revealed = self._reveal(confidence.masked_fill(~eligible, -1.0), eligible, canvases)
        # A column clamped into range repeats the last one; adding 0 there leaves it as it is.
        canvas.scatter_add_(1, columns, torch.where(revealed, tokens - mask_id, 0))

    def _reveal(self, confidence: Tensor, eligible: Tensor, canvases: _Canvases) -> Tensor:
        """Which of the eligible tokens stay, bool [R, K]; ``confidence`` [R, K] is -1 where not eligible."""
        if self._options.unmask == "threshold":
            chosen = confidence >= self._options.threshold
            if self._options.fallback == "leftmost":
                extra = first_true(eligible).unsqueeze(1)
            else:
                extra = confidence.argmax(1, keepdim=True)
            return (chosen & eligible).scatter(1, extra, True)
        steps = canvases.block_masks if self._options.steps is None else self._options.steps
        count = canvases.block_masks // steps + (canvases.block_step < canvases.block_masks % steps)
        order = confidence.argsort(dim=1, descending=True, stable=True)
        rank = torch.arange(confidence.shape[1], device=self._device).expand_as(order)
        return torch.zeros_like(eligible).scatter(1, order, rank < count.unsqueeze(1)) & eligible

    def _logits(self, canvases: _Canvases, columns: Tensor, width: int) -> Tensor:
        """Logits at the given canvas columns [R, K], float32 [R, K, V]; equal rows are computed once."""
        tokens, positions, valid = canvases.tokens, canvases.positions, canvases.valid
        texts = tokens[:, -width:].tolist()
        equal, back = distinct([(kind, *text) for kind, text in zip(canvases.kinds, texts, strict=True)], self._device)
        if len(equal) < len(texts):
            first = {place: i for i, place in reversed(list(enumerate(back.tolist())))}
            places = torch.tensor([first[place] for place in range(len(equal))], device=self._device)
            tokens, positions, valid, columns = tokens[places], positions[places], valid[places], columns[places]
        output = self._source(columns + (tokens.shape[1] - width), positions)
        mask = attention_masks.bidirectional(valid)
        scale = self._options.guidance_scale
        logits: Tensor
        if scale:
            blind = tokens.clone()
            prompt = valid.clone()
            prompt[:, -width:] = False
            prompt &= positions > 0  # the mode token is no part of the question
            blind[prompt] = self._vocabulary.mask_id
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
        return logits if len(equal) == len(texts) else logits[back]

    def _source(self, columns: Tensor, positions: Tensor) -> Tensor:
        """Where the logits of the tokens in ``columns`` [R, K] are read, int64 [R, K]."""
        return columns - (positions.gather(1, columns) > 0).long() if self._shift_logits else columns

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
        tokens, positions, valid = self._layout([owner.prompt for owner in owners], canvases)
        width = max(len(canvas) for canvas in canvases)
        truth, _ = pad_right([(*owner.tokens, self._vocabulary.eos_id) for owner in owners], 0, self._device)
        columns = torch.arange(tokens.shape[1] - width, tokens.shape[1], device=self._device).expand(len(tokens), -1)
        mask = attention_masks.bidirectional(valid)
        logits = self._model(tokens, positions, mask, output=self._source(columns, positions))
        logits = logits.float() + forbidden_logits(self._vocabulary, [], self._device)
        return token_logprobs(logits, truth).tolist()
