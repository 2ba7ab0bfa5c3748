"""Where keys and values of tokens already fed are kept: equal rows in one block, or rows of any length in slots.

Letters in shapes: B rows fed, L tokens fed per row, N slots, S keys, G key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

_ROUND = 64  # capacities are multiples of it, so that a slab does not grow at every step


class Cache(Protocol):
    """What attention writes to and reads from while tokens are fed."""

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a layer's keys and values [B, G, L, D] of the tokens fed; give back all that they may attend.

        Returns:
            Keys and values [B, G, S, D], S as wide as the mask of the forward pass.
        """
        ...

    def advance(self, count: int) -> None:
        """Count the leading ``count`` of the tokens fed as stored, after every layer has been updated."""
        ...


class FixedPlace(NamedTuple):
    """Memory and sizes that a recorded forward pass is good for.

    Attributes:
        address: Differs once the memory has moved or its layout changed.
        rows: B as recorded, at least that of the pass.
        width: S as recorded, likewise.
    """

    address: tuple[int, ...]
    rows: int
    width: int


@runtime_checkable
class RecordableFeed(Cache, Protocol):
    """A cache whose passes can be recorded and replayed, because it can stay where it is."""

    @property
    def fixed_place(self) -> FixedPlace | None:
        """Where this pass can be recorded, room for padding made; ``None``: nowhere."""
        ...

    @property
    def columns(self) -> Tensor:
        """int64 [B, L], where the tokens fed are written."""
        ...

    def fixed(self, place: FixedPlace, columns: Tensor) -> Cache:
        """A feed of the memory as it lies now, to be used again and again; it reads ``columns`` [B, L] at each use."""
        ...


def bucket(size: int) -> int:
    """The smallest size of a recording that holds ``size``: powers of two up to 32, then multiples of 32."""
    return 1 << max(0, size - 1).bit_length() if size <= 32 else -(-size // 32) * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShape:
    """The size of what a network caches per token.

    Attributes:
        num_layers: Layers with keys and values.
        num_heads: G.
        key_width: D of keys.
        value_width: D of values.
    """

    num_layers: int
    num_heads: int
    key_width: int
    value_width: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Memory that one token takes."""
        return self.num_layers * self.num_heads * (self.key_width + self.value_width) * dtype.itemsize


class KVCache:
    """Keys and values of tokens already fed, in the order they were appended.

    The order in the cache is the order of feeding, not of positions: rotary positions are applied before a key is
    stored, so a hybrid decoder may append tokens in any order. All rows hold the same number of tokens; which of
    them a row may see is the mask's business.

    Attributes:
        length: Number of tokens stored per row.
    """

    def __init__(
        self,
        shape: KVShape,
        batch_size: int,
        *,
        capacity: int = 64,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """An empty cache of ``batch_size`` rows with room for ``capacity`` tokens; it grows when that is exceeded."""
        self.length = 0
        sizes = (shape.num_layers, batch_size, shape.num_heads, max(1, capacity))
        self._keys = torch.zeros(*sizes, shape.key_width, device=device, dtype=dtype)
        self._values = torch.zeros(*sizes, shape.value_width, device=device, dtype=dtype)

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return self._keys.shape[1]

    @property
    def num_bytes(self) -> int:
        """Memory the cache takes."""
        return self._keys.nbytes + self._values.nbytes

    def reserve(self, extra: int) -> None:
        """Make room for ``extra`` further tokens."""
        capacity = self._keys.shape[3]
        if self.length + extra > capacity:
            grown = max(self.length + extra, 2 * capacity)
            self._keys = _grown(self._keys, self._keys.shape[1], grown, self.length)
            self._values = _grown(self._values, self._values.shape[1], grown, self.length)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Cache``. All tokens fed are written; the next call overwrites what ``advance`` has not counted."""
        self.reserve(keys.shape[2])
        end = self.length + keys.shape[2]
        self._keys[layer, :, :, self.length : end] = keys
        self._values[layer, :, :, self.length : end] = values
        return self.read(layer, end)

    def advance(self, count: int) -> None:
        """See ``Cache``."""
        self.length += count

    def read(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """The first ``length`` keys and values [B, G, length, D] of one layer (views)."""
        return self._keys[layer, :, :, :length], self._values[layer, :, :, :length]

    def expand(self, rows: Tensor) -> KVCache:
        """A new cache whose row i is a copy of row ``rows[i]``: n samples share one prefill."""
        other = KVCache.__new__(KVCache)
        other.length = self.length
        other._keys = self._keys.index_select(1, rows.to(self._keys.device))
        other._values = self._values.index_select(1, rows.to(self._values.device))
        return other

    def beside(self, other: KVCache) -> KVCache:
        """A new cache with the rows of both; the shorter ones are filled up with zeros, which no mask may show."""
        both = KVCache.__new__(KVCache)
        both.length = max(self.length, other.length)
        both._keys, both._values = (
            torch.cat(
                [
                    F.pad(slab[:, :, :, : cache.length], (0, 0, 0, both.length - cache.length))
                    for cache, slab in zip((self, other), slabs, strict=True)
                ],
                dim=1,
            )
            for slabs in ((self._keys, other._keys), (self._values, other._values))
        )
        return both

    def gather(self, columns: Tensor) -> KVCache:
        """A new cache with the tokens at ``columns``, int64 [B, S], of each row."""
        other = KVCache.__new__(KVCache)
        other.length = columns.shape[1]
        index = columns[None, :, None, :, None]
        other._keys, other._values = (
            slab.gather(3, index.expand(slab.shape[0], -1, slab.shape[2], -1, slab.shape[4]))
            for slab in (self._keys, self._values)
        )
        return other

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens of every row."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} tokens to {length}")
        self.length = length


@dataclass(frozen=True, slots=True)
class KVSegment:
    """Keys and values of a run of tokens of one row: [layers, G, n, D] each."""

    keys: Tensor
    values: Tensor

    @property
    def num_bytes(self) -> int:
        """Memory it takes."""
        return self.keys.nbytes + self.values.nbytes

    def part(self, start: int, end: int) -> KVSegment:
        """A copy of the tokens ``start`` to ``end``."""
        return KVSegment(self.keys[:, :, start:end].clone(), self.values[:, :, start:end].clone())


class SlotCache:
    """Keys and values of rows of different lengths, each in a slot of one slab; token i of a row lies in column i.

    Slots are numbered from 0 without gaps, so that a forward pass over all of them copies nothing.

    Attributes:
        lengths: Number of tokens stored in each slot.
    """

    def __init__(self, shape: KVShape, *, device: torch.device | str, dtype: torch.dtype) -> None:
        """A cache without slots."""
        self.lengths: list[int] = []
        self._shape = shape
        sizes = (shape.num_layers, 0, shape.num_heads, 0)
        self._keys = torch.zeros(*sizes, shape.key_width, device=device, dtype=dtype)
        self._values = torch.zeros(*sizes, shape.value_width, device=device, dtype=dtype)

    @property
    def num_bytes(self) -> int:
        """Memory the slab takes."""
        return self._keys.nbytes + self._values.nbytes

    def reserve(self, num_slots: int, length: int) -> None:
        """Make room for ``num_slots`` slots of ``length`` tokens, and for some more tokens where that means copying."""
        slots, capacity = self._keys.shape[1], self._keys.shape[3]
        if num_slots > slots or length > capacity:
            if length > capacity > 0:
                length = max(length, capacity * 5 // 4)
            wanted = max(slots, num_slots), max(capacity, -(-length // _ROUND) * _ROUND)
            self._keys = _grown(self._keys, *wanted, capacity)
            self._values = _grown(self._values, *wanted, capacity)

    def add(self, segments: Sequence[Sequence[KVSegment]]) -> None:
        """Add a slot for each list of segments, which it begins with, one behind the other."""
        first = len(self.lengths)
        lengths = [sum(segment.keys.shape[2] for segment in run) for run in segments]
        self.reserve(first + len(lengths), max(lengths, default=0))
        for slot, run in enumerate(segments, start=first):
            start = 0
            for segment in run:
                end = start + segment.keys.shape[2]
                self._keys[:, slot, :, start:end] = segment.keys
                self._values[:, slot, :, start:end] = segment.values
                start = end
        self.lengths += lengths

    def fork(self, slots: Sequence[int]) -> None:
        """Add copies of ``slots``."""
        if not slots:
            return
        first = len(self.lengths)
        length = max(self.lengths[slot] for slot in slots)
        self.reserve(first + len(slots), length)
        index = torch.tensor(slots, device=self._keys.device)
        for slab in (self._keys, self._values):
            slab[:, first : first + len(slots), :, :length] = slab[:, index, :, :length]
        self.lengths += [self.lengths[slot] for slot in slots]

    def keep(self, slots: Sequence[int]) -> list[int]:
        """Forget all slots but these; the last ones fill the holes.

        Returns:
            For each of the new slots its former number.
        """
        order = sorted(slots)
        kept = set(order)
        holes = [slot for slot in range(len(order)) if slot not in kept]
        movers = order[len(order) - len(holes) :]
        former = list(range(len(order)))
        for hole, mover in zip(holes, movers, strict=True):
            length = self.lengths[mover]
            for slab in (self._keys, self._values):
                slab[:, hole, :, :length] = slab[:, mover, :, :length]
            self.lengths[hole] = length
            former[hole] = mover
        del self.lengths[len(order) :]
        return former

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a slot."""
        if not 0 <= length <= self.lengths[slot]:
            raise ValueError(f"cannot truncate a slot of {self.lengths[slot]} tokens to {length}")
        self.lengths[slot] = length

    def segment(self, slot: int, start: int, end: int) -> KVSegment:
        """A copy of tokens ``start`` to ``end`` of a slot."""
        return KVSegment(self._keys[:, slot, :, start:end].clone(), self._values[:, slot, :, start:end].clone())

    def feed(self, first: int, last: int, num_tokens: int) -> SlotFeed:
        """What a forward pass over the slots ``first`` to ``last`` needs, ``num_tokens`` being fed to each."""
        starts = self.lengths[first:last]
        self.reserve(last, max(starts) + num_tokens)
        return SlotFeed(self, first, last, num_tokens)


class SlotFeed:
    """One forward pass over some slots; a ``Cache``.

    Attributes:
        positions: int64 [B, L], of the tokens fed.
        mask: bool [B, L, S]: each token sees its slot's tokens up to itself.
        begins: Whether the slots were empty, so that the tokens fed are all there is to see.
    """

    def __init__(self, cache: SlotCache, first: int, last: int, num_tokens: int) -> None:
        """See ``SlotCache.feed``."""
        self._cache = cache
        self._slots = slice(first, last)
        starts = cache.lengths[first:last]
        device = cache._keys.device
        self._width = max(starts) + num_tokens
        self._columns = torch.tensor(starts, device=device).unsqueeze(1) + torch.arange(num_tokens, device=device)
        self._start = starts[0] if min(starts) == max(starts) else None  # where all write, if they write alike
        self._row = torch.arange(last - first, device=device).unsqueeze(1)
        self.begins = self._start == 0
        self.positions = self._columns
        self.mask = torch.arange(self._width, device=device) <= self._columns.unsqueeze(2)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Cache``."""
        found = []
        for slab, new in ((self._cache._keys, keys), (self._cache._values, values)):
            slots = slab[layer, self._slots]
            if self._start is not None:
                slots[:, :, self._start : self._start + new.shape[2]] = new
            else:
                slots[self._row, :, self._columns] = new.transpose(1, 2)
            found.append(slots[:, :, : self._width])
        return found[0], found[1]

    def advance(self, count: int) -> None:
        """See ``Cache``: ``count`` tokens of every slot are stored."""
        self.advance_each([count] * (self._slots.stop - self._slots.start))

    def advance_each(self, counts: Sequence[int]) -> None:
        """Count the first ``counts[i]`` tokens fed to the i-th slot as stored."""
        for slot, count in enumerate(counts, start=self._slots.start):
            self._cache.lengths[slot] += count

    @property
    def fixed_place(self) -> FixedPlace | None:
        """See ``RecordableFeed``: the slab with room to spare, if nothing is stored in slots that are not fed."""
        if self._slots != slice(0, len(self._cache.lengths)):
            return None
        rows, width = bucket(self._slots.stop), bucket(self._width)
        self._cache.reserve(rows, width)
        keys, values = self._cache._keys, self._cache._values
        return FixedPlace((keys.data_ptr(), values.data_ptr(), *keys.shape), rows, width)

    @property
    def columns(self) -> Tensor:
        """See ``RecordableFeed``."""
        return self._columns

    def fixed(self, place: FixedPlace, columns: Tensor) -> FixedFeed:
        """See ``RecordableFeed``."""
        return FixedFeed(self._cache._keys, self._cache._values, columns, place.width)


class FixedFeed:
    """A ``Cache`` whose memory and shapes stay the same from one forward pass to the next, as CUDA graphs need it."""

    def __init__(self, keys: Tensor, values: Tensor, columns: Tensor, width: int) -> None:
        """A feed of the first rows of slabs; ``columns`` [B, L] is read at each use, ``width`` is S."""
        self._slabs = keys, values
        self._columns = columns
        self._rows = torch.arange(columns.shape[0], device=columns.device).unsqueeze(1)
        self._width = width

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Cache``."""
        found = []
        for slab, new in zip(self._slabs, (keys, values), strict=True):
            slots = slab[layer, : len(self._rows)]
            slots[self._rows, :, self._columns] = new.transpose(1, 2)
            found.append(slots[:, :, : self._width])
        return found[0], found[1]

    def advance(self, count: int) -> None:
        """Nothing: whoever uses it again counts what is stored."""


def _grown(slab: Tensor, rows: int, capacity: int, used: int) -> Tensor:
    """``slab`` [layers, N, G, C, D] with more rows and columns."""
    layers, count, heads, _, width = slab.shape
    grown = slab.new_zeros(layers, rows, heads, capacity, width)
    grown[:, :count, :, :used] = slab[:, :, :, :used]
    return grown
