"""Masked diffusion with keys and values kept between steps: Fast-dLLM's caches (arXiv 2505.22618, section 3.2).

They are approximations. Attention is bidirectional, so every key changes with every token that is written; a kept one
is that of the last refresh. A row is refreshed, that is computed as a whole, when it begins a block, and every
``refresh_every`` steps within. In between only a part of it is fed:

- ``prefix``: the block and what stands behind it; prompt and finished blocks are kept.
- ``dual``: the block alone.

With ``refresh_every=1`` nothing is kept and the result is that without a cache.

On the CPU the host sees which rows are to be refreshed, and feeds the others apart from them. On CUDA it does not wait
for that: all rows are refreshed together, every ``refresh_every`` steps, and a row that is ready for its next block
before rests until then. A row makes the same steps either way.

Letters in shapes: R rows, W columns, L columns fed, K columns of the current block, G key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llmprog.backends.local.caches.kv_cache import KVShape
from llmprog.backends.local.caches.recordable_feed import FixedPlace
from llmprog.backends.local.decoders.base import Vocabulary
from llmprog.backends.local.decoders.masked_writing import MaskedWriting, shifted
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer

CacheKind = Literal["prefix", "dual"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """What is kept between steps.

    Attributes:
        kind: ``prefix`` keeps what stands before the block, ``dual`` also what stands behind it.
        refresh_every: Steps of a block after which everything is computed anew; what is more than a block takes is only
            when it is begun, as in the paper.
    """

    kind: CacheKind = "prefix"
    refresh_every: int = 8


class ColumnCache:
    """Keys and values of all columns of the rows of a batch, each of which may be replaced."""

    def __init__(self, shape: KVShape, rows: int, width: int, *, device: torch.device, dtype: torch.dtype) -> None:
        """A cache of ``rows`` rows and ``width`` columns, all zeros."""
        sizes = (shape.num_layers, rows, shape.num_heads, width)
        self.keys = torch.zeros(*sizes, shape.key_width, device=device, dtype=dtype)
        self.values = torch.zeros(*sizes, shape.value_width, device=device, dtype=dtype)

    def take(self, other: ColumnCache, rows: Sequence[tuple[int, int]], shift: int) -> None:
        """Copy rows, (from, to), of ``other``, whose column c is column c + ``shift`` here."""
        if not rows:
            return
        sources, targets = torch.tensor(rows, device=self.keys.device).unbind(1)
        here = slice(max(0, shift), min(self.keys.shape[3], other.keys.shape[3] + shift))
        there = slice(here.start - shift, here.stop - shift)
        for slab, old in ((self.keys, other.keys), (self.values, other.values)):
            slab[:, targets, :, here] = old[:, sources, :, there]

    def repeat(self, rows: Tensor) -> None:
        """Let row i be a copy of row ``rows[i]``."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def feed(self, rows: Tensor | None, columns: Tensor) -> ColumnFeed:
        """A forward pass over ``columns`` [R', L] of ``rows`` [R']; ``None`` is all rows."""
        return ColumnFeed(self, rows, columns)


class ColumnFeed:
    """One forward pass: what is fed replaces its columns, and every column may be attended; a ``Cache``."""

    def __init__(self, cache: ColumnCache, rows: Tensor | None, columns: Tensor) -> None:
        """See ``ColumnCache.feed``."""
        self._cache = cache
        self._rows = rows
        self._columns = columns

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Cache``: keys and values [R', G, W, D] of all columns."""
        return self._put(self._cache.keys[layer], keys), self._put(self._cache.values[layer], values)

    def advance(self, count: int) -> None:
        """See ``Cache``: columns have their places, so nothing is counted."""

    def stay_in_place(self) -> FixedPlace | None:
        """See ``RecordableFeed``: where the cache lies, if all of its rows are fed."""
        if self._rows is not None:
            return None
        keys, values = self._cache.keys, self._cache.values
        return FixedPlace((keys.data_ptr(), values.data_ptr(), *keys.shape), keys.shape[1], keys.shape[3])

    @property
    def columns(self) -> Tensor:
        """See ``RecordableFeed``."""
        return self._columns

    def fixed(self, place: FixedPlace, columns: Tensor) -> ColumnFeed:
        """See ``RecordableFeed``."""
        return ColumnFeed(copy(self._cache), None, columns)

    def _put(self, slab: Tensor, new: Tensor) -> Tensor:
        rows = torch.arange(len(slab), device=slab.device) if self._rows is None else self._rows
        slab[rows.unsqueeze(1), :, self._columns] = new.transpose(1, 2)
        return slab if self._rows is None else slab[self._rows]


class CachedWriting(MaskedWriting):
    """Rows of which a step feeds a part."""

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        options: UnmaskOptions,
        correction: CorrectionOptions,
        cache: CacheOptions,
        *,
        shift_logits: bool,
    ) -> None:
        """A writing without rows; see ``MaskedDiffusionDecoder``."""
        super().__init__(model, vocabulary, options, correction, shift_logits=shift_logits)
        self._cache_options = cache
        self._cache: ColumnCache | None = None
        self._cached_tickets: list[int] = []
        self._cached_layout = (0, 0)  # columns of prompts, and of all
        self._phase = 0  # steps since all rows were refreshed together

    @torch.inference_mode()
    def _denoise(self) -> None:
        if self.look_every == 1:
            super()._denoise()
            return
        canvas, state = self.canvas.clone(), {name: values.clone() for name, values in self.state.items()}
        super()._denoise()
        rests = self.state["block_step"] % self._cache_options.refresh_every != self._phase
        self._phase = (self._phase + 1) % self._cache_options.refresh_every
        self.canvas.copy_(torch.where(rests.unsqueeze(1), canvas, self.canvas))
        self.state = {
            name: torch.where(rests.view(-1, *[1] * (values.dim() - 1)), state[name], values)
            for name, values in self.state.items()
        }
        self.age -= rests.long()

    def _logits(self, columns: Tensor) -> Tensor:
        cache = self._fitting_cache()
        prompts = self.tokens.shape[1] - self.width
        places = columns + prompts
        first = shifted(places[:, :1], self.positions) if self._shift_logits else places[:, :1]
        most = (places.shape[1] if self._cache_options.kind == "dual" else self.width) + int(self._shift_logits)
        if self.look_every > 1:
            if self._phase == 0:
                return self._rows_whole(cache, None, places)
            return self._part(cache, None, places, first + torch.arange(most, device=self.device))
        stale = self.state["block_step"] % self._cache_options.refresh_every == 0
        flags, starts = torch.stack([stale.long(), first.squeeze(1)]).tolist()
        if all(flags):
            return self._whole(cache, places)
        left = self.tokens.shape[1] - min(start for flag, start in zip(flags, starts, strict=True) if not flag)
        fed = first + torch.arange(min(most, left), device=self.device)
        if not any(flags):
            return self._part(cache, None, places, fed)
        whole, part = stale.nonzero().squeeze(1), (~stale).nonzero().squeeze(1)
        found = self._part(cache, part, places[part], fed[part])
        logits = found.new_empty(len(flags), *found.shape[1:])
        logits[part] = found
        logits[whole] = self._rows_whole(cache, whole, places[whole])
        return logits

    def _whole(self, cache: ColumnCache, places: Tensor) -> Tensor:
        """Logits at ``places`` [R, K], all rows being computed as a whole, equal ones once."""
        equal = self.equal_rows()
        if equal is None:
            return self._rows_whole(cache, None, places)
        firsts, back = equal
        logits = self._rows_whole(cache, firsts, places[firsts])[back]
        cache.repeat(firsts[back])
        return logits

    def _rows_whole(self, cache: ColumnCache, rows: Tensor | None, places: Tensor) -> Tensor:
        """Logits at ``places`` [R', K] of ``rows``; everything of them is fed and kept."""
        index = slice(None) if rows is None else rows
        tokens, positions, valid = self.tokens[index], self.positions[index], self.valid[index]
        output = shifted(places, positions) if self._shift_logits else places
        everywhere = torch.arange(tokens.shape[1], device=self.device).expand_as(tokens)
        logits: Tensor = self._model(
            tokens, positions, attention_masks.bidirectional(valid), cache.feed(rows, everywhere), output=output
        )
        return logits.float()

    def _part(self, cache: ColumnCache, rows: Tensor | None, places: Tensor, fed: Tensor) -> Tensor:
        """Logits at ``places`` [R', K] of ``rows``, of which the columns ``fed`` [R', L] are fed."""
        index = slice(None) if rows is None else rows
        tokens, positions, valid = self.tokens[index], self.positions[index], self.valid[index]
        last, prompts = tokens.shape[1] - 1, tokens.shape[1] - self.width
        output = (shifted(places, positions) if self._shift_logits else places) - fed[:, :1]
        # A row feeds its last column again where another needs more: it writes the same there.
        if self._cache_options.kind == "dual":
            end = (self.state["block"][index] + 1) * self.block_length[index] + prompts - 1
            fed = fed.minimum(end.unsqueeze(1))
        fed = fed.clamp(max=last)
        itself = fed.unsqueeze(2) == torch.arange(last + 1, device=self.device)
        logits: Tensor = self._model(
            tokens.gather(1, fed),
            positions.gather(1, fed),
            valid.unsqueeze(1) | itself,
            cache.feed(rows, fed),
            output=output,
        )
        return logits.float()

    def _fitting_cache(self) -> ColumnCache:
        """The cache in the layout of the batch as it is now; rows that have joined are begun, so zeros will do."""
        tickets, prompts = list(self._rows), self.tokens.shape[1] - self.width
        old = self._cache
        layout = (prompts, self.tokens.shape[1])
        if old is not None and tickets == self._cached_tickets and layout == self._cached_layout:
            return old
        weight = self._model.embedding.weight
        self._cache = ColumnCache(
            self._model.kv_shape, len(tickets), self.tokens.shape[1], device=self.device, dtype=weight.dtype
        )
        if old is not None:
            former = {ticket: place for place, ticket in enumerate(self._cached_tickets)}
            kept = [(former[ticket], place) for place, ticket in enumerate(tickets) if ticket in former]
            self._cache.take(old, kept, prompts - self._cached_layout[0])
        self._cached_tickets, self._cached_layout = tickets, layout
        return self._cache
