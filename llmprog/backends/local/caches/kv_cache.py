"""Where keys and values of tokens already fed are kept, for rows that hold equally many.

Letters in shapes: B rows fed, L tokens fed per row, N slots, S keys, G key/value heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


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
            self._keys = resized_slab(self._keys, self._keys.shape[1], grown, self.length)
            self._values = resized_slab(self._values, self._values.shape[1], grown, self.length)

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


def resized_slab(slab: Tensor, rows: int, capacity: int, used: int) -> Tensor:
    """``slab`` [layers, N, G, C, D] with other numbers of rows and columns, of which the first ``used`` are kept."""
    layers, count, heads, _, width = slab.shape
    resized = slab.new_zeros(layers, rows, heads, capacity, width)
    kept = min(count, rows)
    resized[:, :kept, :, :used] = slab[:, :kept, :, :used]
    return resized
