"""Networks of the ``transformers`` library, called as ours are: explicit positions, a mask, our caches.

The library's own code computes the layers; what it attends, where its keys and values are kept and which outputs are
read is decided here. So every causal network with rotary or learned positions fits: latent attention (DeepSeek), whose
keys and values have different widths, mixtures of experts, sliding windows (Gemma), capped logits.

Letters in shapes: B rows, L tokens fed, S keys, O output positions, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache as LibraryCache
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from llmprog.backends.local.caches.kv_cache import Cache, KVShape
from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.forward_pass import ForwardPass
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig

DIFFUSION = "diffusion_gemma"
FULL, SLIDING = "full_attention", "sliding_attention"
_PROBE = 12
"""Tokens of the text by which a network is tried when it is loaded."""
_MOST_DIFFERENT = 0.1
"""Share of the last layer that rounding may change, in bfloat16."""
_FORMS = {"sdpa", "eager"}  # of attention, that take any mask


class HostedModel(Transformer):
    """A causal network of the ``transformers`` library with ``Transformer``'s call signature.

    Its masks have to be those of text from left to right: what lies how far back is counted in them.
    """

    def __init__(self, model: PreTrainedModel, config: TransformerConfig) -> None:
        """A network around ``model``, which is in evaluation mode.

        Args:
            model: With a language model's head; one that ``refuse_other_networks`` lets pass.
            config: Its sizes as far as others ask for them: those of the vocabulary, the context and the caches.

        Raises:
            FaultyFileError: It has no plain embedding, keeps no keys and values, or computes something else where it
                is called as here.
        """
        nn.Module.__init__(self)  # the layers are not ours
        self.config = config
        embedding = model.get_input_embeddings()
        if not isinstance(embedding, nn.Embedding):
            raise FaultyFileError(f"its input embedding is a {type(embedding).__name__}, which is not known here")
        self.embedding = embedding
        self._body = body_of(model)
        self._head = _head_of(model)
        text = model.config.get_text_config()
        kinds = getattr(text, "layer_types", None)
        window = getattr(text, "sliding_window", None)
        if kinds is None:
            kinds = [SLIDING if window else FULL]
        self._kinds = tuple(dict.fromkeys(kinds))
        self._is_mixed = len(self._kinds) > 1
        self._window = int(window or 0)
        self._is_additive = model.config._attn_implementation == "eager"
        self._widths = self._probed()
        self._refuse_other_results()

    def hidden(self, given: ForwardPass) -> Tensor:
        tokens, cache, stored = given.tokens, given.cache, given.num_stored
        bridge = None if cache is None else _Bridge(cache, self._widths)
        fed = {"input_ids": tokens} if given.added is None else {"inputs_embeds": self.embedding(tokens) + given.added}
        x: Tensor = self._body(
            **fed,
            attention_mask=self._masks(given.mask.expand(len(tokens), -1, -1)),
            position_ids=given.positions.expand(len(tokens), -1),
            past_key_values=bridge,
            use_cache=cache is not None,
        ).last_hidden_state
        if cache is not None:
            cache.advance(stored)
        return given.selected(x)

    def unembed(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(inputs_embeds=hidden).logits
        return logits[..., : self.config.vocab_size]

    @property
    def kv_shape(self) -> KVShape:
        """What a token takes in a cache: the most that any layer needs, so that all fit into one slab."""
        return KVShape(
            num_layers=self.config.num_layers,
            num_heads=max(heads for heads, _, _ in self._widths.values()),
            key_width=max(key for _, key, _ in self._widths.values()),
            value_width=max(value for _, _, value in self._widths.values()),
        )

    def _masks(self, mask: Tensor) -> Tensor | Mapping[str, Tensor]:
        """A mask [B, L, S] as the network takes it: one for each kind of layer."""
        found = {kind: self._shaped(mask if kind == FULL else within(mask, self._window)) for kind in self._kinds}
        return found if self._is_mixed else found[self._kinds[0]]

    def _shaped(self, mask: Tensor) -> Tensor:
        mask = mask.unsqueeze(1)
        if not self._is_additive:
            return mask
        weight = self.embedding.weight
        return torch.zeros(mask.shape, dtype=weight.dtype, device=mask.device).masked_fill(
            ~mask, torch.finfo(weight.dtype).min
        )

    @torch.inference_mode()
    def _probed(self) -> dict[int, tuple[int, int, int]]:
        """Of each layer that caches: heads, width of keys, width of values, seen by feeding one token."""
        recorder = _Recorder()
        token = torch.zeros(1, 1, dtype=torch.int64, device=self.embedding.weight.device)
        mask = self._masks(torch.ones(1, 1, 1, dtype=torch.bool, device=token.device))
        self._body(input_ids=token, attention_mask=mask, position_ids=token, past_key_values=recorder, use_cache=True)
        if not recorder.widths:
            raise FaultyFileError("its network keeps no keys and values; networks of another kind are not run here")
        return recorder.widths

    @torch.inference_mode()
    def _refuse_other_results(self) -> None:
        """Compare what it makes of a text by itself with what it makes of it in two parts, on our masks and cache."""
        tokens = torch.arange(_PROBE, device=self.embedding.weight.device).unsqueeze(0) % self.config.vocab_size
        expected: Tensor = self._body(input_ids=tokens).last_hidden_state
        cache, parts, half = self.make_cache(1, _PROBE), [], _PROBE // 2
        for start in (0, half):
            positions = torch.arange(start, start + half, device=tokens.device).unsqueeze(0)
            mask = attention_masks.causal(half, start, device=tokens.device)
            given = ForwardPass(tokens[:, start : start + half], positions, mask, cache)
            parts.append(HostedModel.hidden(self, given))
        difference = (torch.cat(parts, dim=1) - expected).norm() / expected.norm()
        if not difference < _MOST_DIFFERENT:
            raise FaultyFileError(
                "its network gives other results when it is fed in parts, with explicit masks: they differ by "
                f"{difference:.2f} of what it computes by itself; it cannot be run here"
            )


def within(mask: Tensor, window: int) -> Tensor:
    """``mask`` [B, L, S] of text from left to right, each query seeing the last ``window`` of its keys only."""
    behind = mask.flip(-1).cumsum(-1).flip(-1) - mask.long()  # visible keys between this one and the query
    return mask & (behind < window)


class _Recorder(LibraryCache):
    """A cache that notes the shapes of what it is given."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.widths: dict[int, tuple[int, int, int]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.widths[layer_idx] = (key_states.shape[1], key_states.shape[3], value_states.shape[3])
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class _Bridge(LibraryCache):
    """Our cache as the library's; narrower layers are padded on the way in and cut on the way out."""

    def __init__(self, cache: Cache, widths: Mapping[int, tuple[int, int, int]]) -> None:
        super().__init__(layers=[])
        self._cache = cache
        self._widths = widths
        self._most = [max(sizes) for sizes in zip(*widths.values(), strict=True)]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        heads, key, value = self._widths[layer_idx]
        most = self._most
        keys, values = self._cache.update(
            layer_idx,
            F.pad(key_states, (0, most[1] - key, 0, 0, 0, most[0] - heads)),
            F.pad(value_states, (0, most[2] - value, 0, 0, 0, most[0] - heads)),
        )
        return keys[:, :heads, :, :key], values[:, :heads, :, :value]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and masks say it


class _LastLayer(MoeModelOutputWithPast):
    """What a body returns: its last layer, and none of what else heads of some families pass on."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Given(nn.Module):
    """Stands in for a network's body where its last layer is known."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> _LastLayer:
        return _LastLayer(last_hidden_state=inputs_embeds)


def body_of(model: PreTrainedModel) -> nn.Module:
    """What of a network reads tokens and keeps keys and values."""
    body: Any = getattr(model, model.base_model_prefix)
    found: nn.Module = body.encoder.language_model if model.config.model_type == DIFFUSION else body
    return found


def _head_of(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` without its body: what it makes of the last layer, logits scaled and capped as it does."""
    head = copy.copy(model)
    head._modules = {**model._modules, model.base_model_prefix: _Given()}
    return head


def refuse_other_networks(model: PreTrainedModel) -> None:
    """Refuse a network that decoders here cannot call with explicit positions, masks and caches.

    Raises:
        FaultyFileError: It takes none of these, or its layers or its attention are of an unknown kind.
    """
    kind = model.config.model_type
    names: Sequence[str] = ()
    if hasattr(model, model.base_model_prefix):
        names = list(inspect.signature(body_of(model).forward).parameters)
    missing = [
        name for name in ("position_ids", "attention_mask", "past_key_values", "inputs_embeds") if name not in names
    ]
    if missing:
        raise FaultyFileError(f"the network of model_type={kind!r} takes no {missing[0]}, which decoders here need")
    text = model.config.get_text_config()
    others = sorted(set(getattr(text, "layer_types", None) or ()) - {FULL, SLIDING})
    if others:
        raise FaultyFileError(f"its layers are {', '.join(others)}; known are {FULL} and {SLIDING}")
    if SLIDING in (getattr(text, "layer_types", None) or ()) and not getattr(text, "sliding_window", None):
        raise FaultyFileError(f"its layers are {SLIDING}, and sliding_window is missing")
    if model.config._attn_implementation not in _FORMS:
        raise FaultyFileError(f"its attention is {model.config._attn_implementation!r}; known are sdpa and eager")
