"""The denoising loop of masked diffusion: rows go through their blocks at their own pace, step by step.

Rows whose canvases are still equal are computed once. A row leaves as soon as its text is settled, that is when
everything before the first end is written: what LLaDA would still write behind it is not part of the text. Where
written tokens may change (``remasking``), a block is left only once nothing in it can.

Letters in shapes: R rows, G canvas columns, K columns of the current block, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import DRAWS_PER_STEP, Row, Vocabulary, draw_counter, first_true
from llmprog.backends.local.decoders.canvas_writing import CanvasWriting
from llmprog.backends.local.decoders.remasking import CorrectionOptions, Remasking, edits
from llmprog.backends.local.decoders.unmask import Step, UnmaskOptions, begin_step, make_rule, new_counts
from llmprog.backends.local.decoders.watching import PROBABILITY, note_probabilities, note_written
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import token_logprobs, uniform

if TYPE_CHECKING:
    from llmprog.backends.local.decoders.fused_step import FusedStep

_REMASK_DRAWS = DRAWS_PER_STEP // 4 * 3  # behind those of the tokens and of ``unmask=random``


def shifted(columns: Tensor, positions: Tensor) -> Tensor:
    """Where a model with shifted logits says the tokens in ``columns`` [R, K], int64 [R, K]."""
    return columns - (positions.gather(1, columns) > 0).long()


class MaskedWriting(CanvasWriting):
    """Rows in the course of denoising; every step is one forward pass over the whole of them."""

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        options: UnmaskOptions,
        correction: CorrectionOptions,
        *,
        shift_logits: bool,
    ) -> None:
        """A writing without rows; see ``MaskedDiffusionDecoder``."""
        super().__init__(vocabulary, model.embedding.weight.device, model.config.max_positions)
        self._model = model
        self._options = options
        self._rule = make_rule(options)
        self._fused: FusedStep | None = None
        if self.device.type == "cuda":
            # Registering its operators takes a while, which nobody needs to wait for on a CPU.
            from llmprog.backends.local.decoders.fused_step import FusedStep

            self._fused = FusedStep.of(options, correction, self.device)
        self._correction = correction
        self._remasking = Remasking(correction.remask, correction.remask_eta) if correction.remask else None
        self._shift_logits = shift_logits

    def _new_state(self, rows: Sequence[Row], canvas: Tensor) -> dict[str, Tensor]:
        """Of each row: the block written last, the steps spent in it, its masks when it was begun.

        Where written tokens may change, also: which are ours to change (``blank``), how likely they were, whether the
        block is unfinished (``open``), how many steps it may still be edited.
        """
        state = new_counts(len(rows), self.device)
        if self._correction.is_used:
            state |= {
                "blank": canvas == self.vocabulary.mask_id,
                "share": torch.zeros(canvas.shape, device=self.device),
                "open": torch.zeros(len(rows), dtype=torch.bool, device=self.device),
                "edits_left": torch.zeros_like(state["block"]),
            }
        return state | self._rule.new_state(canvas)

    def _unfinished(self) -> Tensor | None:
        return self.state.get("open")

    @torch.inference_mode()
    def _denoise(self) -> None:
        """Predict the tokens of every row's current block, reveal some of its masks, correct what was revealed."""
        mask_id, state, canvas = self.vocabulary.mask_id, self.state, self.canvas
        masked = canvas == mask_id
        block = first_true(masked) // self.block_length
        if self._correction.is_used:
            block = torch.where(state["open"], state["block"], block)
        columns, inside = self.block_columns(block)
        eligible = masked.gather(1, columns) & inside

        counters = draw_counter(self.age.unsqueeze(1), columns)
        step = begin_step(state, block, eligible=eligible, columns=columns, counters=counters, keys=self.sampler.keys)
        if self._fused is not None and self._fused.fits(self.sampler, columns.shape[1]):
            sure = self._fused(canvas, self._logits(columns), self.forbidden, self.sampler, step)
            if PROBABILITY in state:
                note_probabilities(state, columns, eligible & (canvas.gather(1, columns) != mask_id), sure)
            return
        said = self._logits(columns) + self.forbidden.unsqueeze(1)
        logits = self._rule.adjusted(said, step)
        tokens = self.sampler.sample(logits, counters)
        if self._correction.is_used:
            self._correct(said, logits, tokens, step, inside)
            return
        revealed = self._rule.choose(logits, tokens, step)
        note_written(state, columns, revealed, tokens, said)
        # A column clamped into range repeats the last one; adding 0 there leaves it as it is.
        canvas.scatter_add_(1, columns, torch.where(revealed, tokens - mask_id, 0))

    def _correct(self, said: Tensor, logits: Tensor, tokens: Tensor, step: Step, inside: Tensor) -> None:
        """Reveal, mask and replace tokens of every row's block; mark the rows whose block is not finished by that.

        ``logits`` are what the rule made of what the model ``said``.
        """
        mask_id, state, columns = self.vocabulary.mask_id, self.state, step.columns
        current = self.canvas.gather(1, columns)
        shown = state["blank"].gather(1, columns) & inside & ~step.eligible
        change = torch.zeros_like(current)
        if self._remasking is not None:
            steps = step.masks.clamp(min=1)
            if self._options.steps is not None:
                steps = torch.full_like(steps, self._options.steps)
            draws = uniform(step.keys.unsqueeze(1), step.counters + _REMASK_DRAWS, 1).squeeze(-1)
            doubt = -state["share"].gather(1, columns)
            hidden, step.count = self._remasking.choose(step.number, steps, step.masks, shown, doubt, draws)
            change = torch.where(hidden, mask_id - current, change)
            shown = shown & ~hidden
        was_full = ~step.eligible.any(1)
        revealed = self._rule.choose(logits, tokens, step)
        change = torch.where(revealed, tokens - mask_id, change)
        share = torch.where(revealed, token_logprobs(logits, tokens).exp() - state["share"].gather(1, columns), 0)
        state["share"].scatter_add_(1, columns, share)
        if self._correction.edit_threshold is not None:
            better, replaced = edits(logits, current, shown, self._correction.edit_threshold)
            change = torch.where(replaced, better - current, change)
        self.canvas.scatter_add_(1, columns, change)
        note_written(state, columns, change != 0, current + change, said)

        is_full = ~((self.canvas.gather(1, columns) == mask_id) & inside).any(1)
        state["open"] = ~is_full
        if self._correction.edit_threshold is not None:
            left = torch.where(step.number == 0, self._correction.edit_steps, state["edits_left"]) - was_full.long()
            state["edits_left"] = left
            state["open"] = ~is_full | ((change != 0).any(1) & (left > 0))

    def _logits(self, columns: Tensor) -> Tensor:
        """Logits at the given canvas columns [R, K], float32 [R, K, V]; equal rows are computed once."""
        tokens, positions, valid, width = self.tokens, self.positions, self.valid, self.width
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
            prompt = valid.clone()
            prompt[:, -width:] = False
            # The whole prompt, as LLaDA has it, but for a mode token: that is no part of the question.
            prompt &= ~torch.isin(tokens, torch.tensor(self.vocabulary.never_sampled, device=self.device))
            blind = torch.where(prompt, self.vocabulary.mask_id, tokens)
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
