"""What one forward pass is given, as one value: every network, and what is wrapped around one, takes the same.

Letters in shapes are those of ``transformer``.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from llmprog.backends.local.caches.kv_cache import Cache


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """Tokens to feed, what they see, and which of them are asked about.

    Attributes:
        tokens: int64 [B, L].
        positions: int64 [B, L] (or [1, L]), each token's own position, independent of the order of feeding.
        mask: bool [B or 1, L, S], True where the query may attend the key; keys are the cached tokens in the order
            they were appended, then the L tokens fed. Every query needs at least one key (itself will do).
        cache: Holds the tokens fed earlier and takes the leading ``store`` of these.
        store: How many leading tokens are appended to the cache; ``None`` is all of them.
        output: Which of the L positions get logits: a slice, indices [O], indices [B, O], or ``None`` for all.
        added: Float [B, L, d_model], added to the embeddings (self-conditioning); ``None`` adds nothing.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    cache: Cache | None = None
    _: KW_ONLY
    store: int | None = None
    output: Tensor | slice | None = None
    added: Tensor | None = None

    @property
    def num_stored(self) -> int:
        """How many leading tokens the cache keeps; 0 without one.

        Raises:
            ValueError: ``store`` is more than is fed, or negative.
        """
        length = self.tokens.shape[1]
        stored = 0 if self.cache is None else length if self.store is None else self.store
        if not 0 <= stored <= length:
            raise ValueError(f"store={self.store!r}: allowed is 0..{length}, the number of tokens fed")
        return stored

    def selected(self, x: Tensor) -> Tensor:
        """The rows [B, O, d_model] of ``x`` [B, L, d_model] that ``output`` asks for."""
        output = self.output
        if isinstance(output, slice):
            return x[:, output]
        if output is None:
            return x
        return x[:, output] if output.dim() == 1 else x.gather(1, output[..., None].expand(-1, -1, x.shape[-1]))
