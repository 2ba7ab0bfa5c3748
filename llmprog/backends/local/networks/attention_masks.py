"""Named builders of boolean attention masks: True where the query may attend the key.

Letters in shapes: B rows, L tokens fed (queries), C tokens cached, S = C + L keys, N canvas positions. Every query
may attend itself in every mask, padding included, so no softmax is taken over nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal(
    length: int, cached: int = 0, valid: Tensor | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Each token attends everything cached and the tokens fed up to and including itself.

    Also the mask of one Eso-LM B step: feed the newly clean tokens in sigma order, then the scheduled masks.

    Args:
        length: L.
        cached: C.
        valid: bool [B, S]; False where a key is padding or belongs to another row. ``None`` is all valid.

    Returns:
        bool [B or 1, L, S].
    """
    device = valid.device if valid is not None else device
    mask = torch.ones(length, cached + length, dtype=torch.bool, device=device).tril(cached).unsqueeze(0)
    return mask if valid is None else _with_self(mask & valid.unsqueeze(1))


def bidirectional(valid: Tensor, length: int | None = None) -> Tensor:
    """Each of the last ``length`` tokens attends every valid key, before and after it.

    Args:
        valid: bool [B, S], False where a key is padding.
        length: L; ``None`` is S (nothing is cached).

    Returns:
        bool [B, L, S].
    """
    length = valid.shape[1] if length is None else length
    return _with_self(valid.unsqueeze(1).expand(-1, length, -1))


def lengths_to_valid(lengths: Tensor, length: int) -> Tensor:
    """bool [B, L]: True at the first ``lengths[b]`` positions of row b (right padding)."""
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(1)


def esolm_training(rank: Tensor, context: Tensor, valid: Tensor | None = None) -> Tensor:
    """The mask of Eso-LM B training on the double-length input: clean tokens, then their mask copies.

    The first N tokens fed are prompt and clean canvas x; the next N are the copies z, ``<mask>`` at the same positions.
    A clean token of rank r attends clean tokens of rank <= r. The mask copy of the token of rank r, revealed when the
    tokens of rank < c were clean, attends clean tokens of rank < c, and the masks revealed in the same step at ranks
    c..r (itself included). c = r for every token is the paper's sequential phase; c = the number of clean tokens for
    all masks is its diffusion phase; blocks mix both.

    Args:
        rank: int [B, N], place of each position in sigma.
        context: int [B, N], c of each position; c <= rank.
        valid: bool [B, N], False at padding.

    Returns:
        bool [B, 2N, 2N].
    """
    clean = rank.unsqueeze(1) <= rank.unsqueeze(2)
    sees_clean = rank.unsqueeze(1) < context.unsqueeze(2)
    sees_masks = clean & (rank.unsqueeze(1) >= context.unsqueeze(2))
    nothing = torch.zeros_like(clean)
    mask = torch.cat([torch.cat([clean, nothing], dim=2), torch.cat([sees_clean, sees_masks], dim=2)], dim=1)
    return mask if valid is None else _with_self(mask & torch.cat([valid, valid], dim=1).unsqueeze(1))


def esolm_sequential(rank: Tensor, valid: Tensor | None = None) -> Tensor:
    """The sequential phase alone: each mask sees the clean tokens before it in sigma, and no other mask.

    With distinct ranks it is Eso-LM B's. Where all tokens that were diffused share the lowest rank it is Eso-LM A's:
    they see each other in both directions, the others come one after the other.

    Args and result as in ``esolm_training``.
    """
    return esolm_training(rank, rank, valid)


def block_causal(block: Tensor, valid: Tensor | None = None) -> Tensor:
    """Bidirectional within a block, causal between blocks (BD3-LM, arXiv 2503.09573).

    Keys and values of a finished block never change, so they can be cached: a query of the block that is being written
    attends everything cached and its own block.

    Args:
        block: int [B, L], each token's block, ascending from left to right; the prompt is one block, the lowest.
        valid: bool [B, L], False at padding.

    Returns:
        bool [B, L, L].
    """
    mask = block.unsqueeze(1) <= block.unsqueeze(2)
    return mask if valid is None else _with_self(mask & valid.unsqueeze(1))


def block_training(block: Tensor, valid: Tensor | None = None) -> Tensor:
    """The mask of BD3-LM's training on the double-length input: clean tokens x, then their noisy copies x_t.

    The first N tokens fed are x; the next N are x_t at the same positions. A clean token sees what it will see in the
    cache (``block_causal``). A noisy token sees the clean tokens of earlier blocks and the noisy ones of its own: what
    a denoising step of its block sees. So one pass trains every block.

    Args:
        block: int [B, N], as in ``block_causal``.
        valid: bool [B, N], False at padding.

    Returns:
        bool [B, 2N, 2N].
    """
    clean = block.unsqueeze(1) <= block.unsqueeze(2)
    earlier = block.unsqueeze(1) < block.unsqueeze(2)
    nothing = torch.zeros_like(clean)
    mask = torch.cat([torch.cat([clean, nothing], dim=2), torch.cat([earlier, clean & ~earlier], dim=2)], dim=1)
    return mask if valid is None else _with_self(mask & torch.cat([valid, valid], dim=1).unsqueeze(1))


def _with_self(mask: Tensor) -> Tensor:
    """``mask`` [B, L, S] with every query allowed to attend itself, the last L keys being the queries."""
    length, keys = mask.shape[-2:]
    itself = torch.ones(length, keys, dtype=torch.bool, device=mask.device)
    return mask | (itself.tril(keys - length) & itself.triu(keys - length))
