"""Rows that are written block after block under block-causal attention: what decoders of that kind have in common.

A finished block sees earlier blocks and itself and never changes, so its keys and values are kept in a cache that is
exact: with it and without it a step computes the same. Rows are at different blocks and finish them at different
steps; they join and leave between steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llmprog.backends.local.caches.kv_cache import KVCache
from llmprog.backends.local.decoders.base import (
    FINISHED_SHARE,
    Row,
    Seen,
    Vocabulary,
    Written,
    distinct,
    first_true,
    forbidden_logits,
    pad_right,
    written,
)
from llmprog.backends.local.decoders.watching import PROBABILITY, seen_of, unknown
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.forward_pass import ForwardPass
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler


class JoiningWriting(ABC):
    """A ``Writing`` of rows in blocks that a subclass writes; they join and leave between steps.

    R rows, W columns: each row's prompt and canvas from column 0 on, so that a column is a position. K columns of the
    longest block, S tokens in the cache, V vocabulary.

    Attributes:
        tokens: int64 [R, W]; ``mask_id`` where nothing is written yet.
        start: int64 [R], column of the first canvas token; likewise ``end``, behind the last.
        block: int64 [R], the block being written.
        block_length: int64 [R].
        age: int64 [R], steps each row has made.
        state: What the decoder keeps of each row between steps, [R] or [R, W, ...]; see ``_new_state``. Once a row is
            watched, ``watching.PROBABILITY`` is part of it.
        sampler: The rows' parameters and random streams.
        cache: Keys and values of tokens of every row; ``None`` where there is none.
        cached: bool [R, S], which of them a row may see.
        forbidden: float32 [R or 1, V], added to logits.
    """

    tokens: Tensor
    start: Tensor
    end: Tensor
    block: Tensor
    block_length: Tensor
    age: Tensor
    state: dict[str, Tensor]
    sampler: Sampler

    def __init__(self, model: Transformer, vocabulary: Vocabulary) -> None:
        """A writing without rows."""
        self.model = model
        self.vocabulary = vocabulary
        self.device = model.embedding.weight.device
        self._rows: dict[int, Row] = {}
        self._batch: list[tuple[int, Row]] = []  # in the order of the tensors, those that left included
        self._settled_at_once: dict[int, Written] = {}
        self.cache: KVCache | None = None
        self.cached = torch.zeros(0, 0, dtype=torch.bool, device=self.device)
        self._ends = torch.tensor(vocabulary.end_ids, device=self.device)
        self.forbidden = torch.zeros(1, vocabulary.size, device=self.device)

    @abstractmethod
    def _write(self) -> None:
        """Make one step for every row: change ``tokens`` in place."""

    @abstractmethod
    def _begin(self, rows: Sequence[Row], tokens: Tensor, begin: Tensor) -> tuple[KVCache | None, Tensor]:
        """The cache of rows that join, and what each may see of it, bool [R, S].

        Args:
            rows: They.
            tokens: int64 [R, W].
            begin: int64 [R], column of the first block with a mask.
        """

    def _new_state(self, rows: Sequence[Row], tokens: Tensor) -> dict[str, Tensor]:
        """The ``state`` of rows that join, whose prompts and canvases are ``tokens`` [R, W]."""
        return {}

    def room(self, rows: Sequence[Row]) -> int:
        return len(rows)

    @torch.inference_mode()
    def admit(self, rows: Mapping[int, Row]) -> None:
        mask_id = self.vocabulary.mask_id
        for ticket, row in rows.items():
            if mask_id not in row.canvas:
                seen = Seen(row.canvas, (None,) * len(row.canvas)) if row.is_watched else None
                self._settled_at_once[ticket] = written(row, row.canvas, self.vocabulary, seen=seen)
        joining = {ticket: row for ticket, row in rows.items() if ticket not in self._settled_at_once}
        self._rows |= rows
        if not joining:
            return
        self._shrink(force=True)
        new = list(joining.values())
        texts = [(*row.prompt, *row.canvas) for row in new]
        tokens, end = pad_right(texts, self.vocabulary.pad_id, self.device)
        start = torch.tensor([len(row.prompt) for row in new], device=self.device)
        block_length = torch.tensor([row.block_length for row in new], device=self.device)
        block = (first_true(tokens == mask_id) - start) // block_length
        state = self._new_state(new, tokens)
        if any(row.is_watched for row in new) or (self._batch and PROBABILITY in self.state):
            state[PROBABILITY] = unknown(tokens)
            if self._batch:
                self.state.setdefault(PROBABILITY, unknown(self.tokens))
        cache, cached = self._begin(new, tokens, start + block * block_length)
        age = torch.zeros_like(start)
        if self._batch:
            width = max(self.tokens.shape[1], tokens.shape[1])
            pad_id = self.vocabulary.pad_id
            tokens = torch.cat([_wider(self.tokens, width, pad_id), _wider(tokens, width, pad_id)])
            state = {
                name: torch.cat([_wider(self.state[name], width), _wider(values, width)])
                for name, values in state.items()
            }
            start, end = torch.cat([self.start, start]), torch.cat([self.end, end])
            block, block_length = torch.cat([self.block, block]), torch.cat([self.block_length, block_length])
            age = torch.cat([self.age, age])
            if cache is not None and self.cache is not None:
                cache = self.cache.beside(cache)
            columns = max(self.cached.shape[1], cached.shape[1])
            cached = torch.cat([_wider(self.cached, columns), _wider(cached, columns)])
        self.tokens, self.start, self.end, self.block, self.block_length = tokens, start, end, block, block_length
        self.state, self.age = state, age
        self.cache, self.cached = cache, cached
        self._batch += list(joining.items())
        self._describe_rows()

    @torch.inference_mode()
    def step(self) -> Mapping[int, Written]:
        found, self._settled_at_once = self._settled_at_once, {}
        for ticket in found:
            self._rows.pop(ticket, None)
        if not any(ticket in self._rows for ticket, _ in self._batch):
            self._batch = []
            return found
        self._write()
        self.age += 1
        masks = self.tokens == self.vocabulary.mask_id
        self.block = (first_true(masks).minimum(self.end - 1) - self.start) // self.block_length
        found |= self._leave(masks)
        self._shrink()
        return found

    def drop(self, tickets: Collection[int]) -> None:
        for ticket in tickets:
            self._rows.pop(ticket, None)
            self._settled_at_once.pop(ticket, None)
        self._shrink()

    def text(self, ticket: int) -> tuple[int, ...]:
        row = self._rows[ticket]
        if ticket in self._settled_at_once:
            return row.canvas
        place = [number for number, _ in self._batch].index(ticket)
        start = len(row.prompt)
        return tuple(self.tokens[place, start : start + len(row.canvas)].tolist())

    def seen(self, ticket: int) -> Seen | None:
        if ticket in self._settled_at_once:
            return self._settled_at_once[ticket].seen
        return self._seen([number for number, _ in self._batch].index(ticket), self._rows[ticket])

    def _seen(self, place: int, row: Row) -> Seen | None:
        if not row.is_watched:
            return None
        columns = slice(len(row.prompt), len(row.prompt) + len(row.canvas))
        probabilities = self.state[PROBABILITY][place, columns]
        return seen_of(self._shown(place, columns, probabilities), probabilities, self.vocabulary.mask_id)

    def _shown(self, place: int, columns: slice, probabilities: Tensor) -> Tensor:
        """What a watcher sees of a row in ``columns``, int64 [G]; of what was written there, the probabilities [G]."""
        return self.tokens[place, columns]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> Sequence[Row]:
        """The rows in the order of the batch, those that have left it included until it shrinks."""
        return [row for _, row in self._batch]

    def _compact(self) -> None:
        """Close the gaps of the cache once they are most of it: a row leaves one where another finished a block."""
        if self.cache is None:
            return
        counts = self.cached.sum(1)
        longest = int(counts.max())
        if self.cached.shape[1] <= 2 * longest + 16:
            return
        order = self.cached.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
        self.cache = self.cache.gather(order)
        self.cached = attention_masks.lengths_to_valid(counts, longest)

    def _leave(self, masks: Tensor) -> dict[int, Written]:
        """Give back the rows that are settled: no mask in front of their first end; their place stays for a while."""
        column = torch.arange(self.tokens.shape[1], device=self.device)
        in_canvas = (column >= self.start.unsqueeze(1)) & (column < self.end.unsqueeze(1))
        first_mask = first_true(masks).minimum(self.end)
        first_end = first_true(torch.isin(self.tokens, self._ends) & in_canvas)
        settled = ((first_mask == self.end) | (first_end < first_mask)).tolist()
        known = first_mask.tolist()
        found: dict[int, Written] = {}
        for place, (ticket, row) in enumerate(self._batch):
            if ticket not in self._rows or not (settled[place] or row.has_stopped is not None):
                continue
            start = len(row.prompt)
            text = self.tokens[place, start : start + len(row.canvas)].tolist()
            if settled[place] or (row.has_stopped is not None and row.has_stopped(text[: known[place] - start])):
                seen = self._seen(place, row)
                found[ticket] = written(self._rows.pop(ticket), text, self.vocabulary, seen=seen)
        return found

    def _shrink(self, *, force: bool = False) -> None:
        """Take the rows that have left out of the tensors, once they are many."""
        places = [place for place, (ticket, _) in enumerate(self._batch) if ticket in self._rows]
        gone = len(self._batch) - len(places)
        if not gone or (places and not force and gone < FINISHED_SHARE * len(self._batch)):
            return
        self._batch = [self._batch[place] for place in places]
        if not places:
            self.cache = None
            return
        index = torch.tensor(places, device=self.device)
        width = max(len(row.prompt) + len(row.canvas) for row in self.rows)
        self.tokens = self.tokens[index, :width]
        self.state = {
            name: values[index, :width] if values.dim() > 1 else values[index] for name, values in self.state.items()
        }
        self.start, self.end, self.block = self.start[index], self.end[index], self.block[index]
        self.block_length, self.age = self.block_length[index], self.age[index]
        self.cached = self.cached[index]
        if self.cache is not None:
            self.cache = self.cache.expand(index)
        self._describe_rows()

    def _describe_rows(self) -> None:
        rows = self.rows
        self.forbidden = forbidden_logits(self.vocabulary, rows, self.device)
        self.sampler = Sampler.of([row.params for row in rows], [row.key for row in rows], self.device)


class BlockWriting(JoiningWriting):
    """A ``Writing`` under block-causal attention, whose decoder says what it feeds of a block and makes of the logits.

    Letters and attributes as in ``JoiningWriting``. The cache holds a row's tokens up to the block that it writes; the
    block before joins them in the first step of the next.
    """

    def __init__(self, model: Transformer, vocabulary: Vocabulary, *, use_cache: bool = True) -> None:
        """A writing without rows; ``use_cache=False`` feeds the whole past in every step, for comparison."""
        super().__init__(model, vocabulary)
        self._use_cache = use_cache

    @abstractmethod
    def _noisy(self, columns: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a step feeds at ``columns`` [R, K] of the rows' blocks.

        Returns:
            Tokens int64 [R, K], and float [R, K, d_model] that is added to their embeddings, or ``None``.
        """

    @abstractmethod
    def _denoise(self, logits: Tensor, columns: Tensor, inside: Tensor) -> None:
        """Make a step: ``tokens`` in place, without masks in a block that is finished by it.

        Args:
            logits: float32 [R, K, V], -inf where a token must not be written.
            columns: int64 [R, K].
            inside: bool [R, K], False in columns that are not of the row's block.
        """

    def _write(self) -> None:
        begin = self.start + self.block * self.block_length
        longest = int(self.block_length.minimum(self.end - self.start).max())
        columns = begin.unsqueeze(1) + torch.arange(longest, device=self.device)
        inside = columns < (begin + self.block_length).minimum(self.end).unsqueeze(1)
        columns = columns.clamp(max=self.tokens.shape[1] - 1)
        logits = self._logits(begin, columns, inside)
        self._denoise(logits + self.forbidden.unsqueeze(1), columns, inside)

    def _logits(self, begin: Tensor, columns: Tensor, inside: Tensor) -> Tensor:
        """Logits at ``columns`` [R, K], float32; what stands before ``begin`` [R] and is not cached is fed before."""
        fed = self.cached.sum(1)
        count = int((begin - fed).max())
        past = fed.unsqueeze(1) + torch.arange(count, device=self.device)
        is_past = past < begin.unsqueeze(1)
        places = torch.cat([past.clamp(max=self.tokens.shape[1] - 1), columns], dim=1)
        valid = torch.cat([is_past, inside], dim=1)
        offset = places - self.start.unsqueeze(1)
        blocks = torch.where(offset < 0, -1, offset // self.block_length.unsqueeze(1))
        mask = attention_masks.block_causal(blocks, valid)
        mask = torch.cat([self.cached.unsqueeze(1).expand(-1, mask.shape[1], -1), mask], dim=2)
        tokens, added = self._noisy(columns)
        if added is not None:
            added = F.pad(added, (0, 0, count, 0))
        # Padding may lie past the last position the model knows; nobody sees it.
        logits: Tensor = self.model(
            torch.cat([self.tokens.gather(1, places[:, :count]), tokens], dim=1),
            places.clamp(max=self.model.config.max_positions - 1),
            mask,
            self.cache,
            store=count if self.cache is not None else None,
            output=slice(count, None),
            added=added,
        )
        if self.cache is not None:
            self.cached = torch.cat([self.cached, is_past], dim=1)
            self._compact()
        return logits.float()

    def _begin(self, rows: Sequence[Row], tokens: Tensor, begin: Tensor) -> tuple[KVCache | None, Tensor]:
        """What stands before a row's first mask's block is computed now, once for rows that begin alike."""
        if not self._use_cache:
            return None, torch.zeros(len(rows), 0, dtype=torch.bool, device=self.device)
        heads = [
            (tuple(text[:count]), row) for text, count, row in zip(tokens.tolist(), begin.tolist(), rows, strict=True)
        ]
        shapes, index = distinct([(head, len(row.prompt), row.block_length) for head, row in heads], self.device)
        tokens, lengths = pad_right([head for head, _, _ in shapes], self.vocabulary.pad_id, self.device)
        width = tokens.shape[1]
        start = torch.tensor([start for _, start, _ in shapes], device=self.device).unsqueeze(1)
        length = torch.tensor([length for _, _, length in shapes], device=self.device).unsqueeze(1)
        offset = torch.arange(width, device=self.device) - start
        valid = attention_masks.lengths_to_valid(lengths, width)
        mask = attention_masks.block_causal(torch.where(offset < 0, -1, offset // length), valid)
        cache = self.model.make_cache(len(shapes), width)
        positions = torch.arange(width, device=self.device).expand_as(tokens)
        self.model.hidden(ForwardPass(tokens, positions, mask, cache, output=slice(0, 0)))
        return cache.expand(index), valid[index]


def _wider(values: Tensor, width: int, fill: int = 0) -> Tensor:
    """[R, W, ...] padded on the right to ``width`` columns; [R] as it is."""
    if values.dim() == 1:
        return values
    missing = width - values.shape[1]
    return F.pad(values, (0, 0) * (values.dim() - 2) + (0, missing), value=fill)
