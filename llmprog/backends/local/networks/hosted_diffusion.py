"""DiffusionGemma as the ``transformers`` library computes it: an encoder of what is written, a decoder of the canvas.

The encoder reads prompt and finished blocks from left to right and keeps their keys and values. The decoder, which
shares its weights, reads a canvas of guesses: each of them sees all the others and what the encoder keeps, in layers
with a sliding window the last of it. So of the tokens fed, those to be stored go to the encoder, and the others are a
canvas. What ``Transformer`` calls ``added``, the expected embedding of the last prediction, goes through the network's
own self-conditioning layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import Cache as LibraryCache
from transformers import DiffusionGemmaForBlockDiffusion

from llmprog.backends.local.caches.kv_cache import KVCache
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.forward_pass import ForwardPass
from llmprog.backends.local.networks.hosted_model import FULL, HostedModel, within
from llmprog.backends.local.networks.transformer import TransformerConfig


class HostedDiffusion(HostedModel):
    """DiffusionGemma with ``Transformer``'s call signature, for ``uniform_diffusion``."""

    def __init__(self, model: DiffusionGemmaForBlockDiffusion, config: TransformerConfig) -> None:
        """A network around ``model``; see ``HostedModel``."""
        super().__init__(model, config)
        self._decoder = model.model.decoder

    def hidden(self, given: ForwardPass) -> Tensor:
        tokens, cache, store, output = given.tokens, given.cache, given.store, given.output
        length = tokens.shape[1]
        if cache is None:
            # Without a cache the outputs that are asked for are the canvas.
            cache = self.make_cache(len(tokens), length)
            store = output.start or 0 if isinstance(output, slice) else 0
        if not isinstance(cache, KVCache):
            raise TypeError(f"a canvas reads from a KVCache, not from a {type(cache).__name__}")
        kept = length if store is None else store
        positions, mask = given.positions.expand(len(tokens), -1), given.mask.expand(len(tokens), -1, -1)
        parts = []
        if kept:
            seen = mask[:, :kept, : cache.length + kept]
            seen = seen & attention_masks.causal(kept, cache.length, device=mask.device)
            parts.append(super().hidden(ForwardPass(tokens[:, :kept], positions[:, :kept], seen, cache)))
        if kept < length:
            shown = None if given.added is None else given.added[:, kept:]
            parts.append(self._canvas(tokens[:, kept:], positions[:, kept:], mask[:, kept:], cache, shown))
        return given.selected(torch.cat(parts, dim=1))

    def _canvas(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: KVCache, shown: Tensor | None) -> Tensor:
        """The last layer of a canvas [B, L] whose tokens see what ``mask`` [B, L, S] shows of cache and canvas."""
        decoder = self._decoder
        embedded = decoder.embed_tokens(tokens)
        scale = decoder.embed_tokens.embed_scale.to(embedded.dtype)
        x = decoder.self_conditioning(embedded, torch.zeros_like(embedded) if shown is None else shown * scale)
        kinds = decoder.text_config.layer_types
        rotary = {kind: decoder.rotary_emb(x, positions, kind) for kind in dict.fromkeys(kinds)}
        masks = self._canvas_masks(mask, cache.length)
        kept = _Kept(cache, self._widths)
        for kind, layer in zip(kinds, decoder.layers, strict=True):
            x = layer(
                x,
                position_embeddings=rotary[kind],
                attention_mask=masks[kind],
                position_ids=positions,
                past_key_values=kept,
            )
        found: Tensor = decoder.norm(x)
        return found

    def _canvas_masks(self, mask: Tensor, cached: int) -> Mapping[str, Tensor]:
        """One mask for each kind of layer: a window ends behind the cache, whatever the place in the canvas."""
        recent = torch.cat([within(mask[..., :cached], self._window - 1), mask[..., cached:]], dim=-1)
        return {kind: self._shaped(mask if kind == FULL else recent) for kind in self._kinds}


class _Kept(LibraryCache):
    """What the encoder keeps, as the library's decoder reads it."""

    def __init__(self, cache: KVCache, widths: Mapping[int, tuple[int, int, int]]) -> None:
        layers = []
        for layer, (heads, key, value) in sorted(widths.items()):
            keys, values = cache.read(layer, cache.length)
            layers.append(SimpleNamespace(keys=keys[:, :heads, :, :key], values=values[:, :heads, :, :value]))
        super().__init__(layers=layers)  # type: ignore[arg-type]  # all that the decoder reads of them

    @property
    def is_compileable(self) -> bool:
        """Whether keys lie in a slab of fixed size, which the decoder treats otherwise."""
        return False
