"""How likely the tokens on a canvas were when they were written, for rows that somebody watches.

It is kept like any other state of a writing, but only once one of its rows is watched: what nobody looks at costs
nothing. Letters in shapes: R rows, G columns, K columns of the step, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import Seen
from llmprog.backends.local.sampling import token_logprobs

PROBABILITY = "probability"
"""Name of the state, float32 [R, G]; below 0 where it is not known."""

_DIGITS = 4  # that are seen: a change of less is none


def unknown(canvas: Tensor) -> Tensor:
    """The state of canvases [R, G] on which nothing has been written."""
    return torch.full(canvas.shape, -1.0, device=canvas.device)


def note_written(state: dict[str, Tensor], columns: Tensor, written: Tensor, tokens: Tensor, logits: Tensor) -> None:
    """Keep how likely the tokens of a step were, if rows are watched.

    Args:
        state: Of the writing.
        columns: int64 [R, K].
        written: bool [R, K], where the step wrote; False where a column repeats another.
        tokens: int64 [R, K], what it wrote there.
        logits: Float [R, K, V], -inf where a token must not be written.
    """
    if PROBABILITY in state:
        note_probabilities(state, columns, written, token_logprobs(logits, torch.where(written, tokens, 0)).exp())


def note_probabilities(state: dict[str, Tensor], columns: Tensor, written: Tensor, probabilities: Tensor) -> None:
    """``note_written`` of probabilities that are known, float32 [R, K]."""
    if PROBABILITY in state:
        change = probabilities - state[PROBABILITY].gather(1, columns)
        # A column clamped into range repeats another one; adding 0 leaves it as it is.
        state[PROBABILITY].scatter_add_(1, columns, torch.where(written, change, 0.0))


def seen_of(tokens: Tensor, probabilities: Tensor, mask_id: int) -> Seen:
    """What is seen of a row whose canvas holds ``tokens``, int64 [G], with their part of the state, float32 [G]."""
    held, values = tokens.tolist(), probabilities.round(decimals=_DIGITS).tolist()
    pairs = zip(held, values, strict=True)
    return Seen(tuple(held), tuple([None if value < 0 or token == mask_id else value for token, value in pairs]))
