"""A loaded model's fast form says the same as the model: fused projections, the short RMSNorm, packed weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.fused_layers import (
    FastRMSNorm,
    FusedAttention,
    FusedFeedForward,
    PackedProjection,
    fuse_layers,
    has_bfloat16_products,
    stored_projection,
)
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig

CONFIG = TransformerConfig(
    vocab_size=48, d_model=64, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=96, max_positions=64
)

needs_bfloat16 = pytest.mark.skipif(not has_bfloat16_products(), reason="no bfloat16 products on this processor")


def make_model(config: TransformerConfig = CONFIG) -> Transformer:
    torch.manual_seed(5)
    model = Transformer(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:
            weight.uniform_(-1, 1)
        elif "proj" in name:
            weight.mul_(2)
    return model


@torch.inference_mode()
def logits_of(model: Transformer, rows: int) -> torch.Tensor:
    """The logits of a prompt fed at once, then of a token fed on the cache, both left-padded by row."""
    tokens = torch.arange(rows * 9).view(rows, 9) * 7 % 48
    valid = torch.arange(9) >= (torch.arange(rows) % 3).unsqueeze(1)
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    cache = model.make_cache(rows, 4)
    first = model(tokens[:, :8], positions[:, :8], attention_masks.causal(8, 0, valid[:, :8]), cache)
    last = model(tokens[:, 8:], positions[:, 8:], valid[:, None, :], cache)
    return torch.cat([first, last], dim=1).float().masked_fill(~valid.unsqueeze(-1), 0)


@pytest.mark.parametrize(
    "changes", [{}, {"attention_bias": True}, {"qk_norm": True}, {"tied_embeddings": False}, {"head_width": 24}]
)
@pytest.mark.parametrize("rows", [1, 5])
def test_fused_layers_say_the_same(changes, rows):
    model = make_model(replace(CONFIG, **changes))
    fused = fuse_layers(copy.deepcopy(model))
    torch.testing.assert_close(logits_of(fused, rows), logits_of(model, rows), rtol=1e-4, atol=1e-5)


@needs_bfloat16
@pytest.mark.parametrize("rows", [1, 5])
def test_packed_weights_say_the_same_up_to_the_rounding_of_bfloat16(rows):
    exact = make_model()
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    fused = fuse_layers(copy.deepcopy(rounded))
    truth, plain, packed = (logits_of(model, rows) for model in (exact, rounded, fused))
    assert (packed - truth).abs().mean() < 1.3 * (plain - truth).abs().mean()
    assert fused.layers[0].attention.qkv_proj.__class__ is PackedProjection


def test_every_projection_and_norm_within_the_layers_is_replaced():
    fused = fuse_layers(make_model(replace(CONFIG, qk_norm=True)))
    for block in fused.layers:
        assert type(block.attention) is FusedAttention
        assert type(block.feed_forward) is FusedFeedForward
        assert type(block.attention_norm) is type(block.feed_forward_norm) is FastRMSNorm
    assert not any(type(part) is nn.RMSNorm for name, part in fused.named_modules() if "attention." not in name)


def test_a_tied_float32_head_stays_the_embedding():
    fused = fuse_layers(make_model())
    assert fused.head is None


@needs_bfloat16
def test_a_tied_bfloat16_head_is_laid_out_beside_the_embedding():
    model = make_model().to(torch.bfloat16)
    embedding = model.embedding.weight.clone()
    fused = fuse_layers(model)
    assert type(fused.head) is PackedProjection
    assert torch.equal(fused.embedding.weight, embedding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 8, 9, 40])
def test_the_short_norm_is_rms_norm(dtype, rows):
    torch.manual_seed(rows)
    norm = nn.RMSNorm(32, eps=1e-5, dtype=dtype)
    nn.init.uniform_(norm.weight, 0.5, 2)
    x = torch.randn(rows, 1, 32).to(dtype) * 3 + 2
    with torch.inference_mode():
        torch.testing.assert_close(
            FastRMSNorm(norm)(x), norm(x), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0
        )


def test_the_short_norm_of_zeros_is_zero():
    assert not FastRMSNorm(nn.RMSNorm(8, eps=1e-5))(torch.zeros(1, 8)).any()


def test_a_stored_projection_shares_its_weight():
    weight, bias = torch.randn(6, 4), torch.randn(6)
    linear = stored_projection(weight, bias)
    assert linear.weight.data_ptr() == weight.data_ptr()
    torch.testing.assert_close(linear(torch.ones(2, 4)), weight.sum(1).expand(2, 6) + bias)
