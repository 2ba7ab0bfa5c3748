"""MDLM and Eso-LM: what their checkpoints call their tensors, and how the modulation by time is folded away.

The names are those of the models that their authors published for Hugging Face. A block computes (arXiv 2406.07524,
following DiT, arXiv 2212.09748), with six constants of the noise level s = 0 per block::

    x + gate_1 * attention(norm_1(x) * (1 + scale_1) + shift_1)
    x + gate_2 * mlp(norm_2(x) * (1 + scale_2) + shift_2)

A scale is one of the norm's weight, a shift is the norm's bias, and a gate is one of the rows of the last matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmprog.backends.local.checkpoints.llama_family import checked_config, sketch
from llmprog.backends.local.checkpoints.recipe import (
    FILLING,
    LanguageNeeds,
    Recipe,
    Tensors,
    mask_of,
    refuse_other_values,
    required,
)
from llmprog.backends.local.networks.dit import DiT
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig, rope_tables
from llmprog.backends.local.networks.weights import refuse_impossible_size
from llmprog.backends.local.options import DecoderName

_FREQUENCIES = 256  # width of the sinusoidal embedding of the noise level
_NUM_MODULATIONS = 6
_DEFAULT_CONDITION = 128
_DEFAULT_LENGTH = 1024


def mdlm_recipe(values: Mapping[str, Any]) -> Recipe:
    """MDLM (arXiv 2406.07524), from a ``config.json``.

    Raises:
        FaultyFileError: It asks for what is not known here, or a size is missing or impossible.
    """
    refuse_other_values(values, {"time_conditioning": False})
    return _recipe(values, decoders=("mdlm", *(name for name in FILLING if name != "mdlm")))


def esolm_recipe(values: Mapping[str, Any]) -> Recipe:
    """Eso-LM (arXiv 2506.01928), from a ``config.json``, which does not say whether it is variant A or B.

    Raises:
        FaultyFileError: As for ``mdlm_recipe``.
    """
    refuse_other_values(values, {"time_conditioning": False})
    return _recipe(values, decoders=("hybrid",))


def _recipe(values: Mapping[str, Any], *, decoders: tuple[DecoderName, ...]) -> Recipe:
    width = required(values, "hidden_dim", "hidden_size")
    config = checked_config(
        vocab_size=required(values, "vocab_size"),
        d_model=width,
        num_layers=required(values, "n_blocks"),
        num_heads=required(values, "n_heads"),
        num_kv_heads=required(values, "n_heads"),
        d_ff=4 * width if isinstance(width, int) else width,
        max_positions=values.get("model_length", _DEFAULT_LENGTH),
        tied_embeddings=False,
    )
    condition = refuse_impossible_size("cond_dim", values.get("cond_dim", _DEFAULT_CONDITION))

    def made(tensors: Tensors, device: torch.device | str, dtype: torch.dtype) -> Transformer:
        return build(config, dict(tensors), device=device, dtype=dtype)

    return Recipe(
        shapes=shapes(config, condition),
        build=made,
        language=LanguageNeeds(
            vocab_size=config.vocab_size,
            max_positions=config.max_positions,
            mask_id=mask_of(values, config.vocab_size, "mask_index", "mask_token_id", default=config.vocab_size - 1),
            cut="gpt-2",
            begins_with_end=True,
        ),
        decoders=decoders,
    )


def shapes(config: TransformerConfig, condition: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a checkpoint's tensors, by its names.

    Args:
        config: The network's shape.
        condition: Width of the embedded noise level.
    """
    width = config.d_model
    found: dict[str, tuple[int, ...]] = {
        "backbone.vocab_embed.embedding": (config.vocab_size, width),
        "backbone.sigma_map.mlp.0.weight": (condition, _FREQUENCIES),
        "backbone.sigma_map.mlp.0.bias": (condition,),
        "backbone.sigma_map.mlp.2.weight": (condition, condition),
        "backbone.sigma_map.mlp.2.bias": (condition,),
        "backbone.output_layer.norm_final.weight": (width,),
        "backbone.output_layer.linear.weight": (config.vocab_size, width),
        "backbone.output_layer.linear.bias": (config.vocab_size,),
        "backbone.output_layer.adaLN_modulation.weight": (2 * width, condition),
        "backbone.output_layer.adaLN_modulation.bias": (2 * width,),
    }
    for layer in range(config.num_layers):
        block = {
            "norm1.weight": (width,),
            "attn_qkv.weight": (3 * width, width),
            "attn_out.weight": (width, width),
            "norm2.weight": (width,),
            "mlp.0.weight": (config.d_ff, width),
            "mlp.0.bias": (config.d_ff,),
            "mlp.2.weight": (width, config.d_ff),
            "mlp.2.bias": (width,),
            "adaLN_modulation.weight": (_NUM_MODULATIONS * width, condition),
            "adaLN_modulation.bias": (_NUM_MODULATIONS * width,),
        }
        found |= {f"backbone.blocks.{layer}.{name}": shape for name, shape in block.items()}
    return found


def build(
    config: TransformerConfig, tensors: Mapping[str, Tensor], *, device: torch.device | str, dtype: torch.dtype
) -> Transformer:
    """The network in evaluation mode, its modulation folded into its weights.

    Args:
        config: Its shape.
        tensors: All of the checkpoint's, by its names.
        device: Where it is placed.
        dtype: What its weights are converted to; what is folded is computed in float64.
    """
    condition = _condition(tensors)
    state = {"embedding.weight": tensors["backbone.vocab_embed.embedding"]}
    for layer in range(config.num_layers):
        block = _folded_block(tensors, f"backbone.blocks.{layer}.", condition)
        state |= {f"layers.{layer}.{name}": tensor for name, tensor in block.items()}
    output = "backbone.output_layer."
    shift, scale = _modulation(tensors, output, condition).chunk(2)
    state |= {
        "norm.weight": tensors[f"{output}norm_final.weight"].double() * (1 + scale),
        "norm.bias": shift,
        "out.weight": tensors[f"{output}linear.weight"],
        "out.bias": tensors[f"{output}linear.bias"],
    }
    model = sketch(config, DiT)
    model.load_state_dict({name: tensor.to(device=device, dtype=dtype) for name, tensor in state.items()}, assign=True)
    cos, sin = rope_tables(config)
    model.rope_cos, model.rope_sin = cos.to(device), sin.to(device)
    return model.requires_grad_(False).eval()


def _condition(tensors: Mapping[str, Tensor]) -> Tensor:
    """What every modulation sees of the noise level 0, float64 [condition]."""
    zero = torch.cat([torch.ones(_FREQUENCIES // 2), torch.zeros(_FREQUENCIES // 2)]).double()  # cosines, then sines
    first, second = ([tensors[f"backbone.sigma_map.mlp.{i}.{name}"].double() for name in ("weight", "bias")]
                     for i in (0, 2))  # fmt: skip
    return F.silu(F.linear(F.silu(F.linear(zero, *first)), *second))


def _modulation(tensors: Mapping[str, Tensor], place: str, condition: Tensor) -> Tensor:
    weight, bias = (tensors[f"{place}adaLN_modulation.{name}"].double() for name in ("weight", "bias"))
    return F.linear(condition, weight, bias)


def _folded_block(tensors: Mapping[str, Tensor], place: str, condition: Tensor) -> dict[str, Tensor]:
    """One block's weights by our names."""
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = _modulation(tensors, place, condition).chunk(_NUM_MODULATIONS)
    q, k, v = tensors[f"{place}attn_qkv.weight"].chunk(3)
    return {
        "attention_norm.weight": tensors[f"{place}norm1.weight"].double() * (1 + scale_1),
        "attention_norm.bias": shift_1,
        "attention.q_proj.weight": q,
        "attention.k_proj.weight": k,
        "attention.v_proj.weight": v,
        "attention.o_proj.weight": gate_1.unsqueeze(1) * tensors[f"{place}attn_out.weight"].double(),
        "feed_forward_norm.weight": tensors[f"{place}norm2.weight"].double() * (1 + scale_2),
        "feed_forward_norm.bias": shift_2,
        "feed_forward.up_proj.weight": tensors[f"{place}mlp.0.weight"],
        "feed_forward.up_proj.bias": tensors[f"{place}mlp.0.bias"],
        "feed_forward.down_proj.weight": gate_2.unsqueeze(1) * tensors[f"{place}mlp.2.weight"].double(),
        "feed_forward.down_proj.bias": gate_2 * tensors[f"{place}mlp.2.bias"].double(),
    }
