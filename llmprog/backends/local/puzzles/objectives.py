"""The three training objectives, as inputs and weighted targets of one forward pass.

Letters in shapes: B rows, P prompt tokens (mode token included), C canvas tokens, N = P + C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.forward_pass import ForwardPass
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.puzzles.language import PuzzleTokenizer


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples of one shape: ``prompt`` [B, P - 1] without the mode token, ``canvas`` [B, C], the natural block."""

    prompt: Tensor
    canvas: Tensor
    block_length: int


@dataclass(frozen=True, slots=True)
class TrainingInput:
    """One forward pass and its loss: the sum over ``weights`` * cross-entropy is a mean over rows or tokens.

    Attributes:
        tokens: int64 [B, L].
        positions: int64 [B, L].
        mask: bool [B or 1, L, L].
        output: Slice of the L positions whose logits are trained, C long.
        targets: int64 [B, C].
        weights: float [B, C], summing to about 1.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    output: slice
    targets: Tensor
    weights: Tensor

    def emphasise(self, words: Tensor, factor: float) -> TrainingInput:
        """The same input with the weights of the targets among ``words`` multiplied by ``factor``."""
        return replace(self, weights=torch.where(torch.isin(self.targets, words), factor, 1.0) * self.weights)

    def loss(self, model: Transformer) -> Tensor:
        """The weighted cross-entropy of ``model``, in float32."""
        hidden = model.hidden(ForwardPass(self.tokens, self.positions, self.mask, output=self.output))
        used = self.weights > 0
        logits = model.unembed(hidden[used])
        return F.cross_entropy(logits.float(), self.targets[used], reduction="none").mul(self.weights[used]).sum()


def autoregressive(batch: Batch, tokenizer: PuzzleTokenizer, _generator: torch.Generator) -> TrainingInput:
    """Next-token prediction of the completion up to its first ``<eos>``."""
    tokens, positions, start = sequence(batch, tokenizer.ar_id)
    is_end = batch.canvas == tokenizer.eos_id
    weights = (is_end.cumsum(1) - is_end.long() == 0).float()
    return TrainingInput(
        tokens=tokens,
        positions=positions,
        mask=attention_masks.causal(tokens.shape[1]),
        output=slice(start - 1, tokens.shape[1] - 1),
        targets=batch.canvas,
        weights=weights / weights.sum(),
    )


def masked_diffusion(batch: Batch, tokenizer: PuzzleTokenizer, generator: torch.Generator) -> TrainingInput:
    """LLaDA's objective (arXiv 2502.09992): m of a range of positions are masked and weighted 1/m.

    The range is the whole canvas, or, as in semi-autoregressive decoding, one block with everything before it clean and
    everything after it masked. Which of the range are masked is uniformly random for half of the rows; for the others
    fixed signs tend to be revealed first and the rest from the left, as confidence-ordered decoding does.
    """
    tokens, positions, start = sequence(batch, tokenizer.diffusion_id)
    rows, length = batch.canvas.shape
    block = batch.block_length
    index = torch.arange(length)
    used_blocks = ((batch.canvas != tokenizer.eos_id).sum(1) // block + 1).clamp(max=length // block)
    chosen = (torch.rand(rows, generator=generator) * used_blocks).long()
    whole = torch.rand(rows, generator=generator) < (0.3 if block < length else 1.0)
    low = torch.where(whole, 0, chosen * block).unsqueeze(1)
    high = torch.where(whole, length, (chosen + 1) * block).unsqueeze(1)
    inside = (index >= low) & (index < high)
    size = high - low
    masked_count = 1 + (torch.rand(rows, 1, generator=generator) * size).long()
    order = torch.rand(rows, length, generator=generator)
    by_kind = torch.where(fixed_signs(batch.canvas, tokenizer), 0.0, 0.5 + (index - low) / size) + 0.7 * torch.rand(
        rows, length, generator=generator
    )
    order = torch.where(torch.rand(rows, 1, generator=generator) < 0.5, order, by_kind)
    rank = order.masked_fill(~inside, float("inf")).argsort(1).argsort(1)
    masked = inside & (rank >= size - masked_count)
    hidden = masked | (index >= high)
    tokens[:, start:] = torch.where(hidden, tokenizer.mask_id, batch.canvas)
    return TrainingInput(
        tokens=tokens,
        positions=positions,
        mask=torch.ones(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool),
        output=slice(start, tokens.shape[1]),
        targets=batch.canvas,
        weights=masked.float() / (masked_count * rows),
    )


def hybrid(batch: Batch, tokenizer: PuzzleTokenizer, generator: torch.Generator) -> TrainingInput:
    """Eso-LM B (arXiv 2506.01928), both phases in one double-length pass.

    Each row draws alpha0 and, in every block, which positions are diffused; sigma is their random order, then the rest
    ascending, blocks left to right. The diffused part of sigma is cut into denoising steps at random; a token is
    predicted by its mask from the tokens clean before its step, the rest one at a time. The paper draws one step of a
    schedule and weights it by 1/(1 - alpha_t); here all steps of a drawn schedule are trained at once with weight 1.
    That has the same expectation for schedules of one token a step, and trains larger steps as they are decoded.
    """
    tokens, positions, start = sequence(batch, tokenizer.hybrid_id)
    rows, length = batch.canvas.shape
    block = batch.block_length if float(torch.rand((), generator=generator)) < 0.8 else length
    index = torch.arange(length)
    draw = torch.rand(rows, 1, generator=generator)
    alpha = torch.rand(rows, 1, generator=generator)
    for bound, value in ((0.55, 1.0), (0.4, 0.25), (0.15, 0.0)):
        alpha = torch.where(draw < bound, value, alpha)
    diffused = torch.rand(rows, length, generator=generator) < alpha
    within = torch.where(diffused, torch.rand(rows, length, generator=generator), 1.0 + index / length)
    place = (within + 3.0 * (index // block)).argsort(1)
    rank = place.argsort(1)
    # In sigma order: a step starts at every sequential token, at every block, and at random among the diffused.
    starts = torch.rand(rows, length, generator=generator) < torch.rand(rows, 1, generator=generator).sqrt()
    starts |= ~diffused.gather(1, place) | (index % block == 0)
    step_start = torch.where(starts, index, 0).cummax(1).values
    context = start + step_start.gather(1, rank)
    prompt_rank = torch.arange(start).expand(rows, -1)
    mask = attention_masks.esolm_training(
        torch.cat([prompt_rank, start + rank], 1), torch.cat([prompt_rank, context], 1)
    )
    total = tokens.shape[1]
    keep = torch.cat([torch.arange(total), torch.arange(total + start, 2 * total)])
    return TrainingInput(
        tokens=torch.cat([tokens, torch.full_like(batch.canvas, tokenizer.mask_id)], 1),
        positions=torch.cat([positions, positions[:, start:]], 1),
        mask=mask[:, keep][:, :, keep],
        output=slice(total, total + length),
        targets=batch.canvas,
        weights=torch.full((rows, length), 1.0 / (rows * length)),
    )


Objective = Callable[[Batch, PuzzleTokenizer, torch.Generator], TrainingInput]
OBJECTIVES: dict[str, Objective] = {"ar": autoregressive, "diffusion": masked_diffusion, "hybrid": hybrid}


def sequence(batch: Batch, mode_id: int) -> tuple[Tensor, Tensor, int]:
    """Mode, prompt and canvas [B, N], their positions, and where the canvas starts."""
    mode = torch.full((batch.prompt.shape[0], 1), mode_id)
    tokens = torch.cat([mode, batch.prompt, batch.canvas], 1)
    return tokens, torch.arange(tokens.shape[1]).expand_as(tokens), batch.prompt.shape[1] + 1


def fixed_signs(canvas: Tensor, tokenizer: PuzzleTokenizer) -> Tensor:
    """Where the canvas holds signs that every completion of its kind has, bool [B, C]."""
    signs = [tokenizer.id_of(word) for word in ("=", "(left:", ")", "\n", "|", ":", "Answer:")]
    return torch.isin(canvas, torch.tensor([*signs, tokenizer.eos_id]))
