"""What a decoder is, and what goes into it and comes out: rows of token ids.

A decoder knows no text, no requests and no threads. It writes the rows of a batch together; a row's result depends on
that row alone, however it is batched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from llmprog.types import SamplingParams

_Item = TypeVar("_Item", bound=Hashable)

FINISHED_SHARE = 0.2
"""Rows leave a batch once this share of it has finished: moving the cache costs about as much as a step."""


DRAWS_PER_STEP = 1 << 20
"""Draws set aside for one step: more than two for every column a canvas can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The token ids a decoder has to know.

    Attributes:
        size: V, the number of token ids.
        mask_id: Stands for a token that is not written yet.
        eos_id: Ends a reply; everything behind it is padding.
        other_end_ids: Further ids that end a reply.
        pad_id: Fills rows of a batch up to equal length; never attended.
        never_sampled: Ids that no decoder may write (mask, padding, modes).
    """

    size: int
    mask_id: int
    eos_id: int
    pad_id: int
    never_sampled: tuple[int, ...]
    other_end_ids: tuple[int, ...] = ()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """All ids that end a reply."""
        return (self.eos_id, *self.other_end_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One sample to write.

    Attributes:
        prompt: Token ids, the mode token first.
        canvas: The reply as far as it is given; ``mask_id`` stands for each token to write. An autoregressive
            decoder takes masks only: their number is the longest reply.
        block_length: Diffusion writes blocks of this many tokens from left to right.
        key: Of the row's random stream.
        params: Temperature and filters.
        may_end: Whether ``eos_id`` may be written; a blank inside given text may not end the reply.
        has_stopped: Whether the tokens written so far, from the first on, contain a stop text.
        draft: As many tokens as ``canvas``: what a decoder that revises (``uniform_diffusion``) starts from instead of
            noise; none for the others.
        is_watched: Whether somebody looks at the canvas while it is written: only then ``Writing.seen`` knows it.
    """

    prompt: tuple[int, ...]
    canvas: tuple[int, ...]
    key: int
    block_length: int = 1
    params: SamplingParams
    may_end: bool = True
    has_stopped: Callable[[Sequence[int]], bool] | None = None
    draft: tuple[int, ...] = ()
    is_watched: bool = False


class Seen(NamedTuple):
    """What somebody who watches sees of a canvas.

    Attributes:
        tokens: What it holds, guesses that may still change included; ``mask_id`` where there is not even a guess.
        probabilities: One per token: what the model gave it when it was written; ``None`` of given tokens and masks.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of a row.

    Attributes:
        tokens: The reply without ``eos_id`` and what follows it.
        ended: Whether it ended by ``eos_id`` or a stop text, not by running out of canvas.
        num_generated: Number of tokens written up to the end, ``eos_id`` included and given tokens excluded.
        logprobs: One per token under the unfiltered model at temperature 1, where the decoder's order makes them a
            likelihood; else ``None``.
        num_known: Tokens of the prompt that did not have to be computed, being known from before.
        seen: The tokens as ``Writing.seen`` gives them, of a row that is watched and written on a canvas.
    """

    tokens: tuple[int, ...]
    ended: bool
    num_generated: int
    logprobs: tuple[float, ...] | None = None
    num_known: int = 0
    seen: Seen | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """A text whose likelihood is asked.

    Attributes:
        prompt: Token ids, the mode token first.
        tokens: The text.
        block_length: Decoders whose attention is block-causal divide the text into blocks of this many tokens.
        each_alone: Asks masked and block diffusion for the likelihood of each token given all others instead.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    block_length: int = 1
    each_alone: bool = False


def draw_counter(step: int | Tensor, column: Tensor) -> Tensor:
    """Number of the draw that canvas ``column`` takes in ``step``; the same however wide the batch's canvas is."""
    return step * DRAWS_PER_STEP + column


class Writing(Protocol):
    """Rows that are being written together, one step after the other; used by one thread.

    A row's ticket is the number its owner knows it by. After an error nothing of a writing may be used any more.
    """

    def room(self, rows: Sequence[Row]) -> int:
        """How many of ``rows``, from the first on, may join now.

        Raises:
            LLMProgError: The first of them fits into no writing, not even alone.
        """
        ...

    def admit(self, rows: Mapping[int, Row]) -> None:
        """Take rows in, by their tickets."""
        ...

    def step(self) -> Mapping[int, Written]:
        """Make one step for every row; those that are finished by it leave, and are given back."""
        ...

    def drop(self, tickets: Collection[int]) -> None:
        """Let rows leave that nobody waits for any more."""
        ...

    def text(self, ticket: int) -> tuple[int, ...]:
        """A row's canvas as it reads now, ``mask_id`` where nothing is written."""
        ...

    def seen(self, ticket: int) -> Seen | None:
        """The canvas of a row that is watched; ``None`` where there is none, as of what is written left to right."""
        ...

    def __len__(self) -> int:
        """Number of rows still being written."""
        ...


class Decoder(Protocol):
    """Writes and scores rows."""

    @property
    def name(self) -> str:
        """Its name in options and ids."""
        ...

    @property
    def score_is_bound(self) -> bool:
        """Whether ``score`` gives a lower bound rather than the likelihood."""
        ...

    @property
    def keeps_tokens(self) -> bool:
        """Whether a token once written stays; where it may change, nothing is settled before the end."""
        ...

    @property
    def takes_joiners(self) -> bool:
        """Whether rows can join a writing under way; where they cannot, they are written in another beside it."""
        ...

    def start(self) -> Writing:
        """A writing without rows."""
        ...

    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """For each continuation one log-probability per token, in order."""
        ...


def write_all(decoder: Decoder, rows: Sequence[Row]) -> list[Written]:
    """All rows written in one batch, in order: for tests, benchmarks and scripts."""
    writing = decoder.start()
    found: dict[int, Written] = {}
    left = dict(enumerate(rows))
    while left or len(writing):
        joining = dict(list(left.items())[: writing.room(list(left.values()))] if left else [])
        writing.admit(joining)
        left = {ticket: row for ticket, row in left.items() if ticket not in joining}
        found |= writing.step()
        if left and not len(writing):
            writing = decoder.start()
    return [found[ticket] for ticket in range(len(rows))]


def pad_left(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """int64 [B, L] with every sequence ending in the last column, and each row's length, int64 [B]."""
    width = max(len(sequence) for sequence in sequences)
    padded = [[pad_id] * (width - len(sequence)) + list(sequence) for sequence in sequences]
    lengths = [len(sequence) for sequence in sequences]
    return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)


def pad_right(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """int64 [B, L] with every sequence beginning in the first column, and each row's length, int64 [B]."""
    width = max(len(sequence) for sequence in sequences)
    padded = [list(sequence) + [pad_id] * (width - len(sequence)) for sequence in sequences]
    lengths = [len(sequence) for sequence in sequences]
    return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)


def distinct(items: Sequence[_Item], device: torch.device) -> tuple[list[_Item], Tensor]:
    """The distinct items in order of appearance, and for each item its place among them, int64 [B]."""
    places = {item: place for place, item in enumerate(dict.fromkeys(items))}
    return list(places), torch.tensor([places[item] for item in items], device=device)


def left_padding(lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """For rows of ``lengths`` [B] padded on the left to ``width``: positions int64 and validity bool, both [B, L].

    Padding gets position 0, so that every position lies in the model's range.
    """
    positions = torch.arange(width, device=lengths.device) - (width - lengths).unsqueeze(1)
    return positions.clamp(min=0), positions >= 0


def forbidden_logits(vocabulary: Vocabulary, rows: Sequence[Row], device: torch.device) -> Tensor:
    """What is added to a row's logits: -inf where a token must not be written, else 0; float32 [N or 1, V]."""
    forbidden = torch.zeros(1, vocabulary.size, device=device)
    forbidden[:, list(vocabulary.never_sampled)] = -torch.inf
    if all(row.may_end for row in rows):
        return forbidden
    forbidden = forbidden.repeat(len(rows), 1)
    for end in vocabulary.end_ids:
        forbidden[[not row.may_end for row in rows], end] = -torch.inf
    return forbidden


def first_true(flags: Tensor) -> Tensor:
    """Index of the first True of each row, int64 [B]; the row's width where there is none. flags: bool [B, L]."""
    width = flags.shape[1]
    return torch.where(flags.any(1), flags.int().argmax(1), width)


def written(
    row: Row,
    tokens: Sequence[int],
    vocabulary: Vocabulary,
    *,
    logprobs: Sequence[float] | None = None,
    num_known: int = 0,
    seen: Seen | None = None,
) -> Written:
    """The result of a row whose canvas now reads ``tokens``; masks behind the end are ignored.

    ``logprobs`` has one value per token, ``seen`` is that of the whole canvas; ``num_known`` is ``Written``'s.
    """
    length = len(tokens)
    ends = vocabulary.end_ids
    end = next((i for i, token in enumerate(tokens) if token in ends or token == vocabulary.mask_id), length)
    by_eos = end < length and tokens[end] in ends
    reached = end + by_eos
    blanks = sum(token == vocabulary.mask_id for token in row.canvas[:reached])
    stopped = row.has_stopped is not None and row.has_stopped(tokens[:end])
    return Written(
        tokens=tuple(tokens[:end]),
        ended=by_eos or stopped,
        num_generated=blanks,
        logprobs=None if logprobs is None else tuple(logprobs[:end]),
        num_known=num_known,
        seen=None if seen is None else Seen(seen.tokens[:end], seen.probabilities[:end]),
    )
