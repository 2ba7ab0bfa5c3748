"""What a cache has to offer for passes over it to be recorded as CUDA graphs."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from llmprog.backends.local.caches.kv_cache import Cache


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

    def stay_in_place(self) -> FixedPlace | None:
        """Make room for padding, which may move the cache; where this pass can be recorded then, ``None``: nowhere."""
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
