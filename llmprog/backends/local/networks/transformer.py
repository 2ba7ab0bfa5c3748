"""A compact decoder-style transformer whose attention takes a mask specification.

One module serves autoregressive, masked-diffusion and hybrid decoding: what differs between them is only the
mask, the order in which tokens are fed and the positions whose logits are read (see ``attention_masks``).

Letters in shapes: B rows, L tokens fed, C tokens cached, S = C + L keys, O output positions, V vocabulary,
H query heads, G key/value heads, D head width.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmprog.backends.local.caches.kv_cache import Cache, KVCache, KVShape
from llmprog.backends.local.caches.slot_cache import SlotFeed
from llmprog.backends.local.networks.forward_pass import ForwardPass
from llmprog.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of rotary positions beyond the trained context.

    Frequencies whose wavelength is below ``original_max_positions / high_freq_factor`` stay, those above
    ``original_max_positions / low_freq_factor`` are divided by ``factor``, those between are interpolated.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """The shape of a ``Transformer``.

    Attributes:
        vocab_size: Number of token ids.
        d_model: Width of the residual stream; a multiple of ``num_heads``.
        num_layers: Number of blocks.
        num_heads: Query heads; a multiple of ``num_kv_heads``.
        num_kv_heads: Key/value heads, each shared by ``num_heads // num_kv_heads`` query heads.
        d_ff: Width of the gated feed-forward layer.
        rope_theta: Base of the rotary position frequencies.
        norm_eps: Added to the mean square in every RMSNorm.
        max_positions: Position ids lie in ``0 .. max_positions - 1``.
        head_width: Width of one head; ``None`` is ``d_model // num_heads``.
        attention_bias: Whether queries, keys and values have a bias (Qwen2, Dream).
        qk_norm: Whether queries and keys are normalised per head before rotation (Qwen3).
        tied_embeddings: Whether the output head is the embedding matrix.
        rope_scaling: How rotary positions are stretched; ``None`` leaves them.
    """

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    d_ff: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    max_positions: int = 512
    head_width: int | None = None
    attention_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = True
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "d_ff", "max_positions"):
            if getattr(self, name) < 1:
                raise OptionError(f"TransformerConfig({name}={getattr(self, name)!r}): allowed is a whole number >= 1")
        if (self.head_width is None and self.d_model % self.num_heads) or self.head_dim < 1 or self.head_dim % 2:
            raise OptionError(
                f"TransformerConfig(d_model={self.d_model}, num_heads={self.num_heads}): "
                "d_model must be an even multiple of num_heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise OptionError(
                f"TransformerConfig(num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}): "
                "num_heads must be a multiple of num_kv_heads"
            )

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.d_model // self.num_heads if self.head_width is None else self.head_width


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and an explicit mask."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.d_model, config.num_heads * config.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.d_model, config.num_kv_heads * config.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.d_model, config.num_kv_heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, config.d_model, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else None

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """Attend. x: [B, L, d_model]; rotary: cos and sin, [B, 1, L, D]; mask: ``_attend``'s."""
        batch, length, _ = x.shape
        q, k, v = self.project(x, rotary)
        if cache is not None:
            k, v = cache.update(layer, k, v)
        out = _attend(q, k, v, mask)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))  # type: ignore[no-any-return]

    def project(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, L, D], keys and values [B, G, L, D] of x [B, L, d_model], rotated to their positions."""
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.num_kv_heads, self.head_dim).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q, *rotary), rotate(k, *rotary), v


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up_proj = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down_proj = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, d_model] to the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm layer: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """x: [B, L, d_model] to the same shape; the other arguments are ``Attention``'s."""
        x = x + self.attention(self.attention_norm(x), rotary, mask, cache, layer)
        return x + self.feed_forward(self.feed_forward_norm(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """RMSNorm, RoPE, grouped-query attention, SwiGLU: the architecture of the Llama family."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.head = None if config.tied_embeddings else nn.Linear(config.d_model, config.vocab_size, bias=False)
        cos, sin = rope_tables(config)
        self.register_buffer("rope_cos", cos, persistent=False)
        self.register_buffer("rope_sin", sin, persistent=False)
        self.rope_cos: Tensor
        self.rope_sin: Tensor

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor,
        cache: Cache | None = None,
        store: int | None = None,
        output: Tensor | slice | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, O, V] for the tokens fed; the arguments are a ``ForwardPass``'s."""
        return self.logits(ForwardPass(tokens, positions, mask, cache, store=store, output=output, added=added))

    def logits(self, given: ForwardPass) -> Tensor:
        """Logits, float [B, O, V]."""
        return self.unembed(self.hidden(given))

    def hidden(self, given: ForwardPass) -> Tensor:
        """The normalised last layer, float [B, O, d_model]."""
        positions, cache, stored = given.positions, given.cache, given.num_stored
        x = self.embedding(given.tokens)
        if given.added is not None:
            x = x + given.added
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        rotary = (
            self.rope_cos[positions].unsqueeze(1).to(dtype),
            self.rope_sin[positions].unsqueeze(1).to(dtype),
        )
        groups = self.config.num_heads // self.config.num_kv_heads
        # What is fed to empty slots sees what is fed before it: attention knows that without being shown.
        is_causal = isinstance(cache, SlotFeed) and cache.begins and not torch.is_grad_enabled()
        shown = None if is_causal else shared_mask(given.mask, groups, dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotary, shown, cache, index)
        if cache is not None:
            cache.advance(stored)
        return self.norm(given.selected(x))  # type: ignore[no-any-return]

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of normalised hidden states [..., d_model]."""
        return F.linear(hidden, self.embedding.weight) if self.head is None else self.head(hidden)

    def make_cache(self, batch_size: int, capacity: int = 64) -> KVCache:
        """An empty cache on this model's device, in its dtype."""
        weight = self.embedding.weight
        return KVCache(self.kv_shape, batch_size, capacity=capacity, device=weight.device, dtype=weight.dtype)

    @property
    def kv_shape(self) -> KVShape:
        """What a token takes in a cache."""
        config = self.config
        return KVShape(
            num_layers=config.num_layers,
            num_heads=config.num_kv_heads,
            key_width=config.head_dim,
            value_width=config.head_dim,
        )

    def num_parameters(self) -> int:
        """Number of trained values; the tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())


def rope_tables(config: TransformerConfig, divisors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of all positions, float32 [max_positions, D] each, on the CPU.

    Args:
        config: The transformer's shape.
        divisors: Float [D / 2], what each frequency is divided by besides; ``None`` leaves them.
    """
    with torch.device("cpu"):
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
        frequencies = config.rope_theta**-exponents
        if config.rope_scaling is not None:
            frequencies = _stretched(frequencies, config.rope_scaling)
        if divisors is not None:
            frequencies = frequencies / divisors.double()
        angles = torch.outer(torch.arange(config.max_positions, dtype=torch.float64), frequencies)
        return torch.cat([angles.cos()] * 2, dim=-1).float(), torch.cat([-angles.sin(), angles.sin()], dim=-1).float()


def _stretched(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    turns = scaling.original_max_positions * frequencies / (2 * torch.pi)  # of each frequency within the old context
    share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share = share.clamp(0, 1)
    return frequencies * (share + (1 - share) / scaling.factor)


def shared_mask(mask: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """``mask`` as every layer's attention takes it, made once for all: [B or 1, 1, groups * L, S].

    The query heads that share a key head are further queries of it, so the mask is repeated for each of them. Where no
    gradient is asked for, it is what is added to the scores, in their type: each layer would turn a bool into that.

    Args:
        mask: bool [B or 1, L, S], True where the query may attend the key.
        groups: Query heads per key head.
        dtype: Of the queries.
    """
    if not torch.is_grad_enabled():
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf)
    return mask.repeat(1, groups, 1).unsqueeze(1) if groups > 1 else mask.unsqueeze(1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of q [B, H, L, D] to k and v [B, G, S, D].

    The mask is ``shared_mask``'s; ``None``, for as many keys as queries, is that of text from left to right.
    """
    if mask is None:
        shared = q.shape[1] // k.shape[1]
        if shared > 1:
            k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    slow_backward = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if slow_backward:
        # The fused CPU kernel's backward is ten times slower in bfloat16 than in float32.
        q, k, v = q.float(), k.float(), v.float()
    # The query heads that share a key head become further queries of it: nothing is copied, and the fused CPU kernel,
    # which knows no grouped heads, sees fewer and larger problems.
    batch, heads, length, width = q.shape
    groups = heads // k.shape[1]
    if groups > 1:
        q = q.reshape(batch, heads // groups, groups * length, width)
    with torch.autocast(q.device.type, enabled=False) if slow_backward else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(batch, heads, length, width)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on x [B, heads, L, D]: halves are paired (i, i + D/2); ``sin`` carries the sign."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([x[..., half:], x[..., :half]], dim=-1) * sin
