"""Keys and values of rows of any length, each in a slot of one slab.

Letters in shapes: B rows fed, L tokens fed per row, N slots, S keys, G key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmprog.backends.local.caches.kv_cache import KVShape, resized_slab
from llmprog.backends.local.caches.recordable_feed import FixedPlace, bucket

_ROUND = 64


def rounded_length(length: int) -> int:
    """Columns that ``length`` tokens take: a multiple of 64, so that a slab does not grow at every step."""
    return -(-length // _ROUND) * _ROUND


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

    def __init__(
        self, shape: KVShape, *, device: torch.device | str, dtype: torch.dtype, most_tokens: int | None = None
    ) -> None:
        """A cache without slots.

        Args:
            shape: What a token takes.
            device: Where the slab lies.
            dtype: Of keys and values.
            most_tokens: The slab has no more columns in all of its slots than this, unless that is too little for what
                is asked of it; ``None`` is no bound. While it is rearranged, the old slab is there beside the new one.
        """
        self.lengths: list[int] = []
        self._most_tokens = most_tokens
        sizes = (shape.num_layers, 0, shape.num_heads, 0)
        self._keys = torch.zeros(*sizes, shape.key_width, device=device, dtype=dtype)
        self._values = torch.zeros(*sizes, shape.value_width, device=device, dtype=dtype)

    @property
    def num_bytes(self) -> int:
        """Memory the slab takes."""
        return self._keys.nbytes + self._values.nbytes

    def reserve(self, num_slots: int, length: int) -> None:
        """Make room for ``num_slots`` slots of ``length`` tokens.

        Where that means copying, some more room is made, and what was there before is kept, so that it happens rarely.
        Where the bound forbids that, the slab gets the size that the slots in use and those asked for need.
        """
        slots, capacity = self._keys.shape[1], self._keys.shape[3]
        if num_slots <= slots and length <= capacity:
            return
        used = max(self.lengths, default=0)
        ahead = max(length, capacity * 5 // 4) if length > capacity > 0 else length
        wanted = max(slots, num_slots), max(capacity, rounded_length(ahead))
        if not self.fits(*wanted):
            wanted = max(len(self.lengths), num_slots), rounded_length(max(used, length))
        self._keys = resized_slab(self._keys, *wanted, used)
        self._values = resized_slab(self._values, *wanted, used)

    def fits(self, num_slots: int, length: int) -> bool:
        """Whether a slab of ``num_slots`` slots of ``length`` tokens is within the bound."""
        return self._most_tokens is None or num_slots * rounded_length(length) <= self._most_tokens

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

    def stay_in_place(self) -> FixedPlace | None:
        """See ``RecordableFeed``: the slab with room to spare, if nothing is stored in slots that are not fed.

        Where memory is short there are no rows to spare.
        """
        if self._slots != slice(0, len(self._cache.lengths)):
            return None
        rows, width = bucket(self._slots.stop), bucket(self._width)
        if not self._cache.fits(rows, width):
            rows = self._slots.stop
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
