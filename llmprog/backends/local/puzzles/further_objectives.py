"""The training objectives of the second set of weights: uniform diffusion, block diffusion and Eso-LM A.

Letters in shapes: B rows, P prompt tokens (mode token included), C canvas tokens, N = P + C, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.forward_pass import ForwardPass
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.puzzles.objectives import Batch, Objective, TrainingInput, fixed_signs, sequence

WHOLE_CANVAS_SHARE = 0.2
"""How often the canvas is one block, so that other block lengths than the natural one can be asked for."""


@dataclass(frozen=True, slots=True)
class SelfConditionedInput(TrainingInput):
    """A training input of which some rows are shown what the model made of them before.

    Attributes:
        conditioned: bool [B], the rows whose outputs see the expected embedding of a first prediction, added to their
            own; the others see zeros there, as in the first step of sampling.
    """

    conditioned: Tensor

    def loss(self, model: Transformer) -> Tensor:
        """The weighted cross-entropy of ``model``, in float32; nothing is learnt from the first prediction."""
        added = torch.zeros(*self.tokens.shape, model.config.d_model)
        rows = self.conditioned
        if bool(rows.any()):
            with torch.no_grad():
                mask = self.mask[rows] if self.mask.shape[0] > 1 else self.mask
                first = model(self.tokens[rows], self.positions[rows], mask, output=self.output)
                added[rows, self.output] = expected_embedding(model, first).float()
        hidden = model.hidden(ForwardPass(self.tokens, self.positions, self.mask, output=self.output, added=added))
        used = self.weights > 0
        logits = model.unembed(hidden[used])
        return F.cross_entropy(logits.float(), self.targets[used], reduction="none").mul(self.weights[used]).sum()


def expected_embedding(model: Transformer, logits: Tensor) -> Tensor:
    """The mean embedding [..., d_model] of tokens drawn from ``softmax(logits)`` [..., V]."""
    weight = model.embedding.weight
    return logits.float().softmax(-1).to(weight.dtype) @ weight


def block_diffusion(batch: Batch, tokenizer: PuzzleTokenizer, generator: torch.Generator) -> TrainingInput:
    """BD3-LM (arXiv 2503.09573): every block is denoised from itself and the clean blocks before it, all in one pass.

    Of each block m tokens are masked, m uniform, and weighted 1/m. As in ``objectives.masked_diffusion``, which of them
    is random for half of the rows and as confidence orders them for the others. Blocks behind the end are not trained.
    """
    tokens, positions, block, length, start = _blocks(batch, tokenizer.mode_id("block"), generator)
    rows, width = batch.canvas.shape
    masked_count = 1 + (torch.rand(rows, width // length, 1, generator=generator) * length).long()
    hidden, weights = _hidden_of_blocks(batch, tokenizer, generator, masked_count, length)
    weights = weights / masked_count.expand(-1, -1, length).flatten(1)
    noisy = torch.where(hidden, tokenizer.mask_id, batch.canvas)
    return _doubled(batch, tokens, positions, block, noisy, hidden * weights, start)


def uniform_diffusion(batch: Batch, tokenizer: PuzzleTokenizer, generator: torch.Generator) -> TrainingInput:
    """Uniform diffusion in blocks: m tokens of each are replaced by random ones, and every token is predicted.

    A sixth of the blocks is all noise, the canvas sampling begins with; for the others m is uniform. Noise is uniform
    over the vocabulary. A quarter of the rows takes it from the row's own canvas instead: wrong tokens that are
    plausible in their place are what a draft holds, and what a sampler has accepted too early. Half of the rows is
    shown a first prediction (self-conditioning, arXiv 2208.04202).
    """
    tokens, positions, block, length, start = _blocks(batch, tokenizer.mode_id("uniform"), generator)
    rows, width = batch.canvas.shape
    draw = torch.rand(rows, width // length, 1, generator=generator)
    replaced_count = torch.where(draw < 1 / 6, length, (draw * 6 - 1) / 5 * length).long()
    hidden, weights = _hidden_of_blocks(batch, tokenizer, generator, replaced_count, length)
    own = batch.canvas.gather(1, (torch.rand(rows, width, generator=generator) * width).long())
    is_plausible = torch.rand(rows, 1, generator=generator) < 0.25
    noise = torch.where(is_plausible, own, random_tokens(tokenizer, (rows, width), generator))
    plain = _doubled(batch, tokens, positions, block, torch.where(hidden, noise, batch.canvas), weights / length, start)
    return SelfConditionedInput(
        tokens=plain.tokens,
        positions=plain.positions,
        mask=plain.mask,
        output=plain.output,
        targets=plain.targets,
        weights=plain.weights,
        conditioned=torch.rand(rows, generator=generator) < 0.5,
    )


def hybrid_a(batch: Batch, tokenizer: PuzzleTokenizer, generator: torch.Generator) -> TrainingInput:
    """Eso-LM A (arXiv 2506.01928): either phase for half of the batches, in one block chosen for the whole batch.

    The prompt and the blocks before are clean. Diffusion: m tokens of the block are masks that see the clean tokens,
    which see each other, and no other mask; weight 1/m. Sequential: a share alpha0 of the block is clean, and the rest
    follows one by one, on the double-length input z_0 and x.
    """
    tokens, positions, start = sequence(batch, tokenizer.mode_id("hybrid_a"))
    rows, width = batch.canvas.shape
    is_whole = float(torch.rand((), generator=generator)) < WHOLE_CANVAS_SHARE
    length = width if is_whole else batch.block_length
    used = _used_blocks(batch, tokenizer, length)
    example = int(torch.randint(rows, (), generator=generator))
    chosen = int(torch.rand((), generator=generator) * int(used[example]))
    low, high = chosen * length, (chosen + 1) * length
    canvas = batch.canvas[:, low:high]
    end = start + high
    tokens, positions = tokens[:, :end], positions[:, :end]
    active = (used > chosen).float().unsqueeze(1)
    noise = torch.rand(rows, length, generator=generator)
    if float(torch.rand((), generator=generator)) < 0.5:
        count = 1 + (torch.rand(rows, 1, generator=generator) * length).long()
        masked = noise.argsort(1).argsort(1) < count
        tokens[:, start + low :] = torch.where(masked, tokenizer.mask_id, canvas)
        clean = torch.ones(rows, end, dtype=torch.bool)
        clean[:, start + low :] = ~masked
        weights = masked * active / count
        mask = attention_masks.bidirectional(clean)
        output = slice(start + low, end)
    else:
        draw = torch.rand(rows, 1, generator=generator)
        alpha = torch.rand(rows, 1, generator=generator)
        for bound, value in ((0.7, 0.1), (0.4, 0.25), (0.2, 0.0)):
            alpha = torch.where(draw < bound, value, alpha)
        sequential = noise >= alpha
        rank = F.pad(torch.where(sequential, 1 + torch.arange(length), 0), (start + low, 0))
        mask = attention_masks.esolm_sequential(rank)
        keep = torch.cat([torch.arange(end), torch.arange(end + start + low, 2 * end)])
        mask = mask[:, keep][:, :, keep]
        tokens = torch.cat([tokens, torch.full_like(canvas, tokenizer.mask_id)], 1)
        positions = torch.cat([positions, positions[:, start + low :]], 1)
        weights = sequential * active / sequential.sum(1, keepdim=True).clamp(min=1)
        output = slice(end, end + length)
    return TrainingInput(
        tokens=tokens,
        positions=positions,
        mask=mask,
        output=output,
        targets=canvas,
        weights=weights / active.sum(),
    )


def random_tokens(tokenizer: PuzzleTokenizer, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Tokens drawn uniformly from those a decoder may write, int64 of ``shape``."""
    never = set(tokenizer.never_sampled)
    allowed = torch.tensor([token for token in range(tokenizer.vocab_size) if token not in never])
    return allowed[torch.randint(len(allowed), shape, generator=generator)]


FURTHER_OBJECTIVES: dict[str, Objective] = {
    "uniform": uniform_diffusion,
    "block": block_diffusion,
    "hybrid_a": hybrid_a,
}


def _blocks(batch: Batch, mode_id: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Tokens, positions and blocks [B, N] (the prompt is block -1), the length of a block, where the canvas starts."""
    tokens, positions, start = sequence(batch, mode_id)
    width = batch.canvas.shape[1]
    is_whole = float(torch.rand((), generator=generator)) < WHOLE_CANVAS_SHARE
    length = width if is_whole else batch.block_length
    block = torch.cat([torch.full((start,), -1), torch.arange(width) // length])
    return tokens, positions, block.expand_as(tokens), length, start


def _hidden_of_blocks(
    batch: Batch, tokenizer: PuzzleTokenizer, generator: torch.Generator, count: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """``count`` [B, blocks, 1] tokens of each block: where they are, bool [B, C], and what a block weighs, [B, C].

    A token weighs one over the number of blocks that are trained; those behind the first end are not, and weigh 0.
    """
    rows, width = batch.canvas.shape
    shape = (rows, width // length, length)
    noise = torch.rand(shape, generator=generator)
    place = torch.arange(length) / length
    signs = fixed_signs(batch.canvas, tokenizer).view(shape)
    by_kind = torch.where(signs, 0.0, 0.5 + place) + 0.7 * torch.rand(shape, generator=generator)
    order = torch.where(torch.rand(rows, 1, 1, generator=generator) < 0.5, noise, by_kind)
    hidden = order.argsort(2).argsort(2) >= length - count
    used = torch.arange(width // length) < _used_blocks(batch, tokenizer, length).unsqueeze(1)
    weights = used.unsqueeze(2).expand(shape).float() / used.sum()
    return hidden.flatten(1), weights.flatten(1)


def _used_blocks(batch: Batch, tokenizer: PuzzleTokenizer, length: int) -> Tensor:
    """How many blocks there are up to the one with the first end, int64 [B]."""
    written = (batch.canvas != tokenizer.eos_id).sum(1)
    return (written // length + 1).clamp(max=batch.canvas.shape[1] // length)


def _doubled(
    batch: Batch, tokens: Tensor, positions: Tensor, block: Tensor, noisy: Tensor, weights: Tensor, start: int
) -> TrainingInput:
    """The clean sequence followed by its noisy canvas."""
    total = tokens.shape[1]
    keep = torch.cat([torch.arange(total), torch.arange(total + start, 2 * total)])
    mask = attention_masks.block_training(block[:1])
    return TrainingInput(
        tokens=torch.cat([tokens, noisy], 1),
        positions=torch.cat([positions, positions[:, start:]], 1),
        mask=mask[:, keep][:, :, keep],
        output=slice(total, total + batch.canvas.shape[1]),
        targets=batch.canvas,
        weights=weights,
    )
