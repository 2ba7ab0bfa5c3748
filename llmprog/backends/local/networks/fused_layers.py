"""A loaded model's layers in the form that runs fastest, with the same results up to rounding.

A step that feeds one token per row spends as long between matrix products as within them. So after loading, the
projections that read the same input become one (queries, keys and values; gate and up), RMSNorm becomes shorter, and on
a CPU bfloat16 weights are laid out once as oneDNN's kernels read them, which ``F.linear`` does anew in each call.

Letters in shapes: B rows, L tokens fed, K inputs, N outputs of a projection, H query heads, G key/value heads, D head
width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmprog.backends.local.networks.transformer import Attention, FeedForward, Transformer

MakeProjection = Callable[[Tensor, Tensor | None], nn.Module]
"""Makes the module that multiplies by a weight [N, K] and adds a bias [N]."""

FEW_TOKENS = 8
"""Up to this many tokens, the cost of an operation is that of calling it."""

PACKED_FOR_ROWS = 16
"""The number of rows that a packed weight's layout is best for; it serves any."""


def stored_projection(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A projection that multiplies by its weight as it is."""
    outputs, inputs = weight.shape
    with torch.device("meta"):
        linear = nn.Linear(inputs, outputs, bias=bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


class PackedProjection(nn.Module):
    """Multiplies by a bfloat16 weight that is laid out for oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """weight: bfloat16 [N, K] on the CPU; bias: [N]."""
        super().__init__()
        self.bias = bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """x: bfloat16 [..., K] to [..., N]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return product


class FastRMSNorm(nn.Module):
    """RMSNorm that takes four short operations instead of ten where few tokens are fed.

    The variance of the values and their negatives together is the mean square, and their mean is 0: LayerNorm, which
    torch computes in one pass on a CPU, of [x, -x] begins with RMSNorm of x.
    """

    def __init__(self, source: nn.RMSNorm) -> None:
        """The same norm as ``source``."""
        super().__init__()
        self.weight = source.weight
        self._width = source.weight.shape[0]
        self._eps = source.eps
        self.register_buffer("doubled", torch.cat([source.weight, torch.zeros_like(source.weight)]), persistent=False)
        self.doubled: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., K] to the same shape."""
        width = self._width
        if x.numel() > FEW_TOKENS * width or self._eps is None:
            return F.rms_norm(x, (width,), self.weight, self._eps)
        both = F.layer_norm(torch.cat([x, -x], dim=-1), (2 * width,), self.doubled, None, self._eps)
        return both[..., :width].contiguous()


class FusedAttention(Attention):
    """Attention with one projection for queries, keys and values."""

    def __init__(self, source: Attention, make: MakeProjection) -> None:
        """The same attention as ``source``, its projections made by ``make``."""
        nn.Module.__init__(self)
        self.num_heads, self.num_kv_heads, self.head_dim = source.num_heads, source.num_kv_heads, source.head_dim
        parts = (source.q_proj, source.k_proj, source.v_proj)
        biases: list[Tensor] = [part.bias for part in parts if part.bias is not None]
        self.qkv_proj = make(torch.cat([*(part.weight for part in parts)]), torch.cat(biases) if biases else None)
        self.register_module("o_proj", make(source.o_proj.weight, source.o_proj.bias))
        self.q_norm, self.k_norm = source.q_norm, source.k_norm

    def project(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Attention``."""
        batch, length, _ = x.shape
        cos, sin = rotary
        heads = self.num_heads + self.num_kv_heads
        qkv = self.qkv_proj(x).view(batch, length, heads + self.num_kv_heads, self.head_dim).transpose(1, 2)
        qk, v = qkv[:, :heads], qkv[:, heads:]
        if self.q_norm is not None and self.k_norm is not None:
            qk = torch.cat([self.q_norm(qk[:, : self.num_heads]), self.k_norm(qk[:, self.num_heads :])], dim=1)
        swapped = qk.view(*qk.shape[:-1], 2, self.head_dim // 2).flip(-2).flatten(-2)
        qk = torch.addcmul(qk * cos, swapped, sin)
        return qk[:, : self.num_heads], qk[:, self.num_heads :], v


class FusedFeedForward(nn.Module):
    """SwiGLU with one projection for gate and up."""

    def __init__(self, source: FeedForward, make: MakeProjection) -> None:
        """The same layer as ``source``, its projections made by ``make``."""
        super().__init__()
        self.gate_up_proj = make(torch.cat([source.gate_proj.weight, source.up_proj.weight]), None)
        self.down_proj = make(source.down_proj.weight, None)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, L, d_model] to the same shape."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate).mul_(up))  # type: ignore[no-any-return]


def fuse_layers(
    model: Transformer, make: MakeProjection | None = None, make_head: MakeProjection | None = None
) -> Transformer:
    """``model``, changed in place: projections of the same input are one, and all are laid out for the device.

    It is for inference: what has been replaced can be neither trained nor saved any more.

    Args:
        model: A loaded model on its device.
        make: Makes the projections within the layers; ``None`` is the fastest that leaves weights as they are.
        make_head: Makes the output head, likewise.
    """
    as_stored = _as_stored(model.embedding.weight)
    make, make_head = make or as_stored, make_head or as_stored
    with torch.no_grad():
        for block in model.layers:
            _replace_parts(block, make)
        outside = {name: part for name, part in model.named_children() if part is not model.layers}
        replaced = {name: _replacement(part, make_head) for name, part in outside.items()}
        if model.config.tied_embeddings and make_head is not stored_projection:
            replaced["head"] = make_head(model.embedding.weight, None)
        for name, part in replaced.items():
            setattr(model, name, part)
    return model


def _as_stored(weight: Tensor) -> MakeProjection:
    """What makes the fastest projections of weights like this one without changing their values."""
    is_packable = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and has_bfloat16_products()
    return PackedProjection if is_packable else stored_projection


def has_bfloat16_products() -> bool:
    """Whether this processor, and this build of torch, multiply bfloat16 by oneDNN."""
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _replace_parts(module: nn.Module, make: MakeProjection) -> None:
    for name, part in list(module.named_children()):
        replacement = _replacement(part, make)
        module.register_module(name, replacement)
        if replacement is part:
            _replace_parts(part, make)


def _replacement(part: nn.Module, make: MakeProjection) -> nn.Module:
    """The fused form of one module; itself where there is none."""
    if type(part) is Attention:
        return FusedAttention(part, make)
    if type(part) is FeedForward:
        return FusedFeedForward(part, make)
    if type(part) is nn.Linear:
        return make(part.weight, part.bias)
    if type(part) is nn.RMSNorm and part.weight.device.type == "cpu":
        return FastRMSNorm(part)
    return part
