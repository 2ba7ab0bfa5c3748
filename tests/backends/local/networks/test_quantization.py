"""Weight-only int8 and int4: codes and scales by their definition, kernels against them, a real model's divergence."""

from __future__ import annotations

import asyncio
import copy
import re
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from llmprog.backends.local.backend import LocalBackend, LocalOptions
from llmprog.backends.local.models import NO_SMOLLM2, SMOLLM2_PACKAGE, path_of
from llmprog.backends.local.networks.fused_layers import has_bfloat16_products
from llmprog.backends.local.networks.quantization import (
    FEW_ROWS,
    GROUP,
    Int4Projection,
    Int8Projection,
    dequantize_int4,
    quantize,
    quantize_int4,
    quantize_int8,
    quantize_with_torchao,
)
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig
from llmprog.errors import OptionError
from llmprog.types import Prompt, Request, SamplingParams

CONFIG = TransformerConfig(
    vocab_size=50, d_model=64, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=96, max_positions=64
)

needs_bfloat16 = pytest.mark.skipif(not has_bfloat16_products(), reason="no bfloat16 products on this processor")
ROWS = [1, 3, FEW_ROWS, FEW_ROWS + 1, 40]


def random_weight(outputs: int, inputs: int) -> torch.Tensor:
    torch.manual_seed(outputs + inputs)
    return (torch.randn(outputs, inputs) * torch.rand(outputs, 1) * 0.1).to(torch.bfloat16)


def test_int8_codes_are_the_nearest_to_the_weight():
    weight = random_weight(24, 64)
    codes, scale = quantize_int8(weight)
    assert codes.dtype == torch.int8
    assert codes.abs().max() == 127
    error = (codes.float() * scale.float().unsqueeze(1) - weight.float()).abs()
    # Half a step, or where the stored scale was rounded down, what the largest weight lies beyond 127 steps.
    assert (error <= scale.float().unsqueeze(1) * 0.5 + weight.float().abs() * 2**-8).all()


def test_int4_codes_are_the_nearest_to_the_weight():
    weight = random_weight(32, 96)
    codes, scale, offset = quantize_int4(weight)
    assert scale.shape == offset.shape == (32, 3)
    assert codes.min() == 0
    assert codes.max() == 15
    groups = weight.float().view(32, 3, GROUP)
    spread = groups.amax(-1) - groups.amin(-1)
    error = (dequantize_int4(codes, scale, offset).float() - weight.float()).view(32, 3, GROUP).abs().amax(-1)
    assert (error <= spread / 30 + groups.abs().amax(-1) * 0.03).all()


def test_weights_on_a_grid_of_sixteen_values_are_kept_exactly():
    torch.manual_seed(0)
    step = 2.0 ** torch.randint(-8, -3, (16, 2, 1))
    levels = torch.randint(0, 16, (16, 2, GROUP))
    levels[..., 0], levels[..., 1] = 0, 15
    weight = ((levels - 8) * step).flatten(1).to(torch.bfloat16)
    assert torch.equal(dequantize_int4(*quantize_int4(weight)), weight)


def test_a_constant_or_empty_weight_is_quantised_without_dividing_by_zero():
    for weight in (torch.zeros(16, 32), torch.full((16, 32), 0.5)):
        codes, scale, offset = quantize_int4(weight.to(torch.bfloat16))
        torch.testing.assert_close(dequantize_int4(codes, scale, offset).float(), weight)
    codes, scale = quantize_int8(torch.zeros(4, 8, dtype=torch.bfloat16))
    assert not codes.any()
    assert scale.isfinite().all()


@needs_bfloat16
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_int8_products_are_those_of_the_codes(rows, has_bias):
    weight = random_weight(48, 64)
    bias = torch.randn(48, dtype=torch.bfloat16) if has_bias else None
    codes, scale = quantize_int8(weight)
    x = torch.randn(rows, 1, 64, dtype=torch.bfloat16)
    truth = linear(x.double(), codes.double() * scale.double().unsqueeze(1))
    truth = truth if bias is None else truth + bias.double()
    got = Int8Projection(weight, bias)(x)
    assert got.shape == (rows, 1, 48)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), truth, rtol=2**-6, atol=2**-6)


@needs_bfloat16
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_int4_products_are_those_of_the_codes(rows, has_bias):
    weight = random_weight(48, 64)
    bias = torch.randn(48, dtype=torch.bfloat16) if has_bias else None
    codes, scale, offset = quantize_int4(weight)
    values = (codes.view(48, -1, GROUP).double() - 8) * scale.double().unsqueeze(-1) + offset.double().unsqueeze(-1)
    x = torch.randn(rows, 1, 64, dtype=torch.bfloat16)
    truth = linear(x.double(), values.flatten(1))
    truth = truth if bias is None else truth + bias.double()
    got = Int4Projection(weight, bias)(x)
    assert got.shape == (rows, 1, 48)
    torch.testing.assert_close(got.double(), truth, rtol=2**-6, atol=2**-6)


@needs_bfloat16
def test_the_head_is_int8_and_shapes_that_int4_cannot_store_too():
    torch.manual_seed(1)
    # 88 inputs of the last projection are no multiple of a group.
    model = quantize(Transformer(replace(CONFIG, d_ff=88)).to(torch.bfloat16), "int4")
    assert type(model.head) is Int8Projection
    for block in model.layers:
        assert type(block.attention.qkv_proj) is type(block.attention.o_proj) is Int4Projection
        assert type(block.feed_forward.gate_up_proj) is Int4Projection
        assert type(block.feed_forward.down_proj) is Int8Projection


def test_float32_is_refused():
    with pytest.raises(OptionError, match=re.escape("weights='int8': its kernels multiply bfloat16")):
        quantize(Transformer(CONFIG), "int8")


def test_torchao_quantises_projections_and_head_and_keeps_the_embedding():
    pytest.importorskip("torchao", reason='torchao is not installed; run: pip install "llmprog[cuda]"')
    torch.manual_seed(2)
    model = Transformer(CONFIG).to(torch.bfloat16).requires_grad_(False).eval()
    quantized = quantize_with_torchao(copy.deepcopy(model), "int8")
    tokens, positions = torch.arange(12).view(1, 12), torch.arange(12).view(1, 12)
    mask = torch.ones(1, 12, 12, dtype=torch.bool).tril()
    with torch.inference_mode():
        said, truth = (m(tokens, positions, mask).float().softmax(-1) for m in (quantized, model))
    assert 0 < (said - truth).abs().max() < 0.02
    assert type(quantized.embedding.weight) is nn.Parameter
    for part in (quantized.head, quantized.layers[0].attention.qkv_proj, quantized.layers[1].feed_forward.down_proj):
        assert "Int8" in type(part.weight).__name__


TEXT = (
    "The committee met on Tuesday to discuss the new library. Several members asked how it would be paid for, and "
    "whether the old one, which was built in 1923, could be repaired instead. The architect answered that repairs "
    "would cost almost as much as a new building and would have to be done again in twenty years."
)


@needs_bfloat16
@pytest.mark.skipif(find_spec(SMOLLM2_PACKAGE) is None, reason=NO_SMOLLM2)
@pytest.mark.parametrize(("weights", "most"), [("int8", 0.012), ("int4", 0.012)])
def test_a_real_model_hardly_notices(weights, most):
    from llmprog.backends.local.checkpoints.loading import load_text_model

    loaded = load_text_model(path_of("smollm2", ""), backend="", device="cpu", dtype=torch.bfloat16)
    tokens = torch.tensor([loaded.language.encode_text(TEXT)])
    positions = torch.arange(tokens.shape[1]).unsqueeze(0)
    mask = torch.ones(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    with torch.inference_mode():
        truth = loaded.model(tokens, positions, mask).float().log_softmax(-1)
        said = quantize(loaded.model, weights)(tokens, positions, mask).float().log_softmax(-1)
    divergence = (truth.exp() * (truth - said)).sum(-1).mean()
    assert divergence < most
    assert (truth.argmax(-1) == said.argmax(-1)).float().mean() > 0.88


def test_an_id_asks_for_quantised_weights():
    with pytest.raises(OptionError, match=re.escape("weights='int4' with dtype='float32'")):
        LocalOptions(weights="int4", dtype="float32")
    with pytest.raises(OptionError, match=re.escape("allowed is int8 | int4")):
        LocalOptions(weights="int2", dtype="bfloat16")


@needs_bfloat16
def test_a_quantised_puzzle_model_still_reaches_24():
    backend = LocalBackend.open(LocalOptions(weights="int4", device="cpu"))
    prompt = Prompt.from_text("Input: 4 9 10 13\nPossible next 8 steps:")
    request = Request(prompt=prompt, params=SamplingParams(temperature=0.0))
    reply = asyncio.run(backend.generate(request))[0].text
    asyncio.run(backend.aclose())
    steps = [line.split(" (")[0] for line in reply.splitlines()]
    assert steps
    assert all(re.fullmatch(r"\d+ [-+*/] \d+ = \d+", step) for step in steps)
