"""Weight-only quantisation: int8 and int4 weights, activations as they are.

int8: one scale per output, codes round(w / scale) in -127..127. int4: asymmetric, a scale and an offset per group of 32
inputs, which is what GGUF's Q4_0 and Q4_1 store, so such a checkpoint loses almost nothing. The output head is int8 in
both: it is what int4 harms most. Activations stay bfloat16: with 8-bit ones, rounded per token, the divergence from
the unquantised model was ten times as large.

On a CPU the products are torch's own kernels, which are made for few rows; for more, a bfloat16 copy of the same
quantised values is kept in oneDNN's layout. So these weights buy speed for a single stream, not memory. On CUDA they
are torchao's, and save memory.

Letters in shapes: N outputs, K inputs, Q = K / 32 groups of one projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmprog.backends.local.networks.fused_layers import (
    PackedProjection,
    fuse_layers,
    has_bfloat16_products,
    stored_projection,
)
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.options import StoredWeights
from llmprog.errors import MissingExtraError, OptionError

GROUP = 32
"""Inputs that share a scale in int4. Groups of 64 made SmolLM2's divergence ten times as large."""
FEW_ROWS = 4
"""Up to this many rows, the kernels that read quantised weights are the fastest."""
_ALIGNED = 16


class Int8Projection(nn.Module):
    """Multiplies by int8 codes with one scale per output."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise a weight, bfloat16 [N, K] on the CPU; bias: [N]."""
        super().__init__()
        codes, scale = quantize_int8(weight)
        self.codes = nn.Buffer(codes, persistent=False)
        self.scale = nn.Buffer(scale, persistent=False)
        self.bias = bias
        # Whole numbers up to 127 are exact in bfloat16: both products are the same function of the input.
        self.many = PackedProjection(codes.to(torch.bfloat16), None)

    def forward(self, x: Tensor) -> Tensor:
        """x: bfloat16 [..., K] to [..., N]."""
        rows = x.numel() // x.shape[-1]
        if rows <= FEW_ROWS:
            product: Tensor = torch.ops.aten._weight_int8pack_mm(x.reshape(rows, -1), self.codes, self.scale)
            product = product.view(*x.shape[:-1], -1)
        else:
            product = self.many(x).mul_(self.scale)
        return product if self.bias is None else product.add_(self.bias)


class Int4Projection(nn.Module):
    """Multiplies by int4 codes with a scale and an offset per group of inputs."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantise a weight, bfloat16 [N, K] on the CPU, K a multiple of 32 and N of 16; bias: [N]."""
        super().__init__()
        codes, scale, offset = quantize_int4(weight)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)
        self.codes = nn.Buffer(packed, persistent=False)
        # As the kernel takes them, [Q, N, 2].
        self.scales = nn.Buffer(torch.stack([scale.t(), offset.t()], dim=-1).contiguous(), persistent=False)
        self.bias = bias
        self.many = PackedProjection(dequantize_int4(codes, scale, offset), bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: bfloat16 [..., K] to [..., N]."""
        rows = x.numel() // x.shape[-1]
        if rows > FEW_ROWS:
            return self.many(x)  # type: ignore[no-any-return]
        flat = x.reshape(rows, -1)
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self.codes, GROUP, self.scales)
        product = product.view(*x.shape[:-1], -1)
        return product if self.bias is None else product.add_(self.bias)


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [N, K] and scales bfloat16 [N] of a weight [N, K]."""
    # Codes are taken by the scale as it is stored, so that its rounding is no error of the whole row.
    scale = (weight.float().abs().amax(1) / 127).clamp(min=1e-30).to(torch.bfloat16)
    codes = (weight.float() / scale.float().unsqueeze(1)).round_().clamp_(-127, 127)
    return codes.to(torch.int8), scale


def quantize_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes int32 [N, K] in 0..15, scales and offsets bfloat16 [N, Q], of a weight [N, K].

    A value is (code - 8) * scale + offset.
    """
    groups = weight.float().view(weight.shape[0], -1, GROUP)
    low, high = groups.aminmax(dim=-1)
    scale = ((high - low) / 15).clamp(min=1e-30).to(torch.bfloat16)
    offset = (low + 8 * scale.float()).to(torch.bfloat16)
    codes = ((groups - offset.float().unsqueeze(-1)) / scale.float().unsqueeze(-1)).round_().add_(8).clamp_(0, 15)
    return codes.flatten(1).int(), scale, offset


def dequantize_int4(codes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """The values bfloat16 [N, K] that codes, scales and offsets stand for."""
    groups = codes.view(codes.shape[0], -1, GROUP).float() - 8
    values = groups * scale.float().unsqueeze(-1) + offset.float().unsqueeze(-1)
    return values.flatten(1).to(torch.bfloat16)


def quantize(model: Transformer, weights: StoredWeights) -> Transformer:
    """``model``, changed in place: its layers fused, its projections and output head quantised, its embedding kept.

    Args:
        model: A loaded model on its device, in bfloat16.
        weights: ``int8`` or ``int4``.

    Raises:
        OptionError: The model is not in bfloat16, or this torch cannot do it.
        MissingExtraError: torchao is not installed, and the model is on a CUDA device.
    """
    weight = model.embedding.weight
    if weight.dtype != torch.bfloat16:
        raise OptionError(
            f"weights={weights!r}: its kernels multiply bfloat16, the model is in "
            f"{str(weight.dtype).removeprefix('torch.')}; add dtype=bfloat16"
        )
    if weight.device.type == "cuda":
        return quantize_with_torchao(model, weights)
    if not has_bfloat16_products():
        raise OptionError(f"weights={weights!r}: this processor or torch build has no bfloat16 products; leave it out")
    return fuse_layers(model, Int8Projection if weights == "int8" else _int4_or_int8, Int8Projection)


def _int4_or_int8(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """int4, or int8 where the shape is not one that int4 is stored in."""
    fits = weight.shape[1] % GROUP == 0 and weight.shape[0] % _ALIGNED == 0
    return Int4Projection(weight, bias) if fits else Int8Projection(weight, bias)


def quantize_with_torchao(model: Transformer, weights: StoredWeights) -> Transformer:
    """``model`` with torchao's weights, its int4 ones (CUDA only) in the layout whose kernel is torch's own."""
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
        from torchao.quantization.quantize_.workflows import Int4PackingFormat
    except ImportError as error:
        raise MissingExtraError(f"weights={weights} on CUDA", error.name or "torchao", "cuda") from error
    fuse_layers(model, stored_projection, _separate_head)
    int8, int4 = (
        Int8WeightOnlyConfig(),
        Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format=Int4PackingFormat.TILE_PACKED_TO_4D),
    )
    quantize_(model.layers, int8 if weights == "int8" else int4)
    quantize_(model, int8, lambda part, name: type(part) is nn.Linear and not name.startswith("layers."))
    return model


def _separate_head(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """The output head beside a tied embedding, which stays as it is."""
    return stored_projection(weight, bias)
