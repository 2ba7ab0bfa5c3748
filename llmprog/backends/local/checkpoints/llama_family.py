"""What checkpoints of the Llama family call their tensors and sizes, and the model that is made of them.

LLaDA and Dream, which write by masked diffusion, are of the same architecture: only their masks differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from llmprog.backends.local.checkpoints.recipe import (
    FILLING,
    LanguageNeeds,
    Recipe,
    Tensors,
    mask_of,
    refuse_other_values,
    required,
)
from llmprog.backends.local.faults import FaultyFileError, UnknownHereError
from llmprog.backends.local.networks.transformer import RopeScaling, Transformer, TransformerConfig, rope_tables
from llmprog.backends.local.networks.weights import refuse_impossible
from llmprog.backends.local.options import DecoderName
from llmprog.errors import OptionError

# Ours, GGUF's, Hugging Face's and LLaDA's.
_TENSORS = (
    ("embedding.weight", "token_embd.weight", "model.embed_tokens.weight", "wte.weight"),
    ("norm.weight", "output_norm.weight", "model.norm.weight", "ln_f.weight"),
    ("head.weight", "output.weight", "lm_head.weight", "ff_out.weight"),
    ("attention_norm.weight", "attn_norm.weight", "input_layernorm.weight", "attn_norm.weight"),
    ("feed_forward_norm.weight", "ffn_norm.weight", "post_attention_layernorm.weight", "ff_norm.weight"),
    ("attention.q_proj.weight", "attn_q.weight", "self_attn.q_proj.weight", "q_proj.weight"),
    ("attention.k_proj.weight", "attn_k.weight", "self_attn.k_proj.weight", "k_proj.weight"),
    ("attention.v_proj.weight", "attn_v.weight", "self_attn.v_proj.weight", "v_proj.weight"),
    ("attention.q_proj.bias", "attn_q.bias", "self_attn.q_proj.bias", "q_proj.bias"),
    ("attention.k_proj.bias", "attn_k.bias", "self_attn.k_proj.bias", "k_proj.bias"),
    ("attention.v_proj.bias", "attn_v.bias", "self_attn.v_proj.bias", "v_proj.bias"),
    ("attention.q_norm.weight", "attn_q_norm.weight", "self_attn.q_norm.weight", None),
    ("attention.k_norm.weight", "attn_k_norm.weight", "self_attn.k_norm.weight", None),
    ("attention.o_proj.weight", "attn_output.weight", "self_attn.o_proj.weight", "attn_out.weight"),
    ("feed_forward.gate_proj.weight", "ffn_gate.weight", "mlp.gate_proj.weight", "ff_proj.weight"),
    ("feed_forward.up_proj.weight", "ffn_up.weight", "mlp.up_proj.weight", "up_proj.weight"),
    ("feed_forward.down_proj.weight", "ffn_down.weight", "mlp.down_proj.weight", "ff_out.weight"),
)
_NUM_OUTSIDE = 3  # the first of them belong to no layer
# What stands before the names of the others, and of these three; ``{}`` is the layer.
_LAYER = ("layers.{}.", "blk.{}.", "model.layers.{}.", "model.transformer.blocks.{}.")
_OUTSIDE = ("", "", "", "model.transformer.")
_OURS, _GGUF, _HUGGING_FACE, _LLADA = range(4)

_LARGEST_TABLE = 2**28  # entries of the rotary tables

GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_LLADA_KNOWN = {
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "include_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "multi_query_attention": False,
    "rope": True,
    "scale_logits": False,
}


def gguf_config(metadata: Mapping[str, Any], tensors: Mapping[str, Any]) -> TransformerConfig:
    """The model's shape from GGUF metadata; ``tensors`` tells what is tied and what has a bias.

    Raises:
        FaultyFileError: It is of another architecture, or a size is missing or impossible.
    """
    architecture = metadata.get("general.architecture")
    if architecture not in GGUF_ARCHITECTURES:
        raise FaultyFileError(f"its architecture is {architecture!r}; {', '.join(GGUF_ARCHITECTURES)} can be read")

    def of(name: str, default: Any = None) -> Any:
        value = metadata.get(f"{architecture}.{name}", default)
        if value is None:
            raise FaultyFileError(f"metadata {architecture}.{name} is missing")
        return value

    vocab = metadata.get("tokenizer.ggml.tokens")
    heads = of("attention.head_count")
    return checked_config(
        vocab_size=len(vocab) if isinstance(vocab, list) else of("vocab_size"),
        d_model=of("embedding_length"),
        num_layers=of("block_count"),
        num_heads=heads,
        num_kv_heads=of("attention.head_count_kv", heads),
        d_ff=of("feed_forward_length"),
        rope_theta=_theta(of("rope.freq_base", 10000.0)),
        norm_eps=of("attention.layer_norm_rms_epsilon"),
        max_positions=of("context_length"),
        head_width=metadata.get(f"{architecture}.attention.key_length"),
        attention_bias="blk.0.attn_q.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        tied_embeddings="output.weight" not in tensors,
    )


def causal_recipe(values: Mapping[str, Any]) -> Recipe:
    """Llama, Mistral, Qwen2 and Qwen3, from a ``config.json``.

    Raises:
        FaultyFileError: It asks for what is not known here, or a size is missing or impossible.
    """
    kind = values["model_type"]
    config = _hugging_face_config(values, has_bias=kind == "qwen2", qk_norm=kind == "qwen3")
    cut: Literal["qwen2"] | None = "qwen2" if kind.startswith("qwen") else None
    return _recipe(config, _HUGGING_FACE, ("autoregressive",), cut=cut)


def dream_recipe(values: Mapping[str, Any]) -> Recipe:
    """Dream (arXiv 2508.15487): Qwen2.5 that learned to fill in masks, its logits still shifted by one.

    Raises:
        FaultyFileError: As for ``causal_recipe``, or the mask is no token id.
    """
    config = _hugging_face_config(values, has_bias=True, qk_norm=False)
    mask_id = mask_of(values, config.vocab_size, "mask_token_id")
    return _recipe(config, _HUGGING_FACE, FILLING, shift_logits=True, mask_id=mask_id, cut="qwen2")


def llada_recipe(values: Mapping[str, Any]) -> Recipe:
    """LLaDA (arXiv 2502.09992), from a ``config.json`` with OLMo's names.

    Raises:
        FaultyFileError: As for ``causal_recipe``, or the mask is no token id.
    """
    refuse_other_values(values, _LLADA_KNOWN | {"clip_qkv": None})
    config = checked_config(
        vocab_size=required(values, "embedding_size", "vocab_size"),
        d_model=required(values, "d_model"),
        num_layers=required(values, "n_layers"),
        num_heads=required(values, "n_heads"),
        num_kv_heads=required(values, "n_kv_heads", "n_heads"),
        d_ff=required(values, "mlp_hidden_size"),
        rope_theta=_theta(values.get("rope_theta", 10000.0)),
        norm_eps=values.get("rms_norm_eps", 1e-5),
        max_positions=required(values, "max_sequence_length"),
        attention_bias=bool(values.get("include_qkv_bias", False)),
        tied_embeddings=bool(values.get("weight_tying", True)),
    )
    mask_id = mask_of(values, config.vocab_size, "mask_token_id")
    return _recipe(config, _LLADA, FILLING, mask_id=mask_id)


def _hugging_face_config(values: Mapping[str, Any], *, has_bias: bool, qk_norm: bool) -> TransformerConfig:
    if values.get("hidden_act", "silu") != "silu" or values.get("mlp_bias"):
        raise UnknownHereError(f"hidden_act={values.get('hidden_act')!r}, mlp_bias={values.get('mlp_bias')!r}; "
                                    "allowed are silu, and no bias")  # fmt: skip
    if values.get("use_sliding_window") or (values["model_type"] == "mistral" and values.get("sliding_window")):
        raise UnknownHereError("its attention looks back through a sliding window, which is not known here")
    rope = _object(values, "rope_parameters")
    return checked_config(
        vocab_size=required(values, "vocab_size"),
        d_model=required(values, "hidden_size"),
        num_layers=required(values, "num_hidden_layers"),
        num_heads=required(values, "num_attention_heads"),
        num_kv_heads=values.get("num_key_value_heads") or required(values, "num_attention_heads"),
        d_ff=required(values, "intermediate_size"),
        rope_theta=_theta(rope.get("rope_theta", values.get("rope_theta", 10000.0))),
        norm_eps=required(values, "rms_norm_eps"),
        max_positions=required(values, "max_position_embeddings"),
        head_width=values.get("head_dim"),
        attention_bias=bool(values.get("attention_bias", has_bias)),
        qk_norm=qk_norm,
        tied_embeddings=bool(values.get("tie_word_embeddings", False)),
        rope_scaling=_scaling(_object(values, "rope_scaling") or rope),
    )


def _recipe(
    config: TransformerConfig,
    theirs: int,
    decoders: tuple[DecoderName, ...],
    *,
    shift_logits: bool = False,
    **language: Any,
) -> Recipe:
    names = _names(config, theirs)
    wanted = wanted_shapes(config)

    def made(tensors: Tensors, device: torch.device | str, dtype: torch.dtype) -> Transformer:
        return build(config, ((names[name], tensor) for name, tensor in tensors), device=device, dtype=dtype)

    return Recipe(
        shapes={name: wanted[ours] for name, ours in names.items()},
        build=made,
        language=LanguageNeeds(vocab_size=config.vocab_size, max_positions=config.max_positions, **language),
        decoders=decoders,
        shift_logits=shift_logits,
    )


def _theta(value: Any) -> Any:
    """``value`` as a float where it is a number; what it is otherwise is refused with the other sizes."""
    return float(value) if type(value) in (int, float) and abs(value) < _LARGEST_TABLE else value


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise FaultyFileError(f"{name}={found!r:.100}; allowed is an object")
    return found


def _scaling(values: Mapping[str, Any]) -> RopeScaling | None:
    kind = values.get("rope_type") or values.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise UnknownHereError(f"rope_scaling of type {kind!r}; llama3 is known")
    try:
        return RopeScaling(
            factor=values["factor"],
            low_freq_factor=values["low_freq_factor"],
            high_freq_factor=values["high_freq_factor"],
            original_max_positions=values["original_max_position_embeddings"],
        )
    except KeyError as error:
        raise FaultyFileError(f"rope_scaling has no {error.args[0]}") from error


def checked_config(**sizes: Any) -> TransformerConfig:
    """The shape of a transformer of these sizes.

    Raises:
        FaultyFileError: No model has them.
    """
    try:
        config = TransformerConfig(**sizes)
        refuse_impossible(config)
        if config.max_positions * config.head_dim > _LARGEST_TABLE:
            raise ValueError(f"max_positions={config.max_positions!r} with heads of width {config.head_dim}")
    except (TypeError, ValueError, OptionError) as error:
        raise FaultyFileError(f"its sizes are not possible: {error}") from error
    return config


def gguf_names(config: TransformerConfig) -> dict[str, str]:
    """Our names of the model's tensors, by GGUF's."""
    return _names(config, _GGUF)


def _names(config: TransformerConfig, theirs: int) -> dict[str, str]:
    wanted = wanted_shapes(config)
    found: dict[str, str] = {}
    for place, names in enumerate(_TENSORS):
        is_outside = place < _NUM_OUTSIDE
        before = _OUTSIDE if is_outside else _LAYER
        for layer in range(1 if is_outside else config.num_layers):
            ours = before[_OURS].format(layer) + str(names[_OURS])
            if ours in wanted:
                found[f"{before[theirs].format(layer)}{names[theirs]}"] = ours
    return found


def wanted_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's tensors, by our names."""
    return {name: tuple(tensor.shape) for name, tensor in sketch(config).state_dict().items()}


def sketch(config: TransformerConfig, kind: type[Transformer] = Transformer) -> Transformer:
    """A network without memory: its tensors are on the device ``meta``, its rotary tables are for one position."""
    with torch.device("meta"):
        model = kind(replace(config, max_positions=1))
    model.config = config
    return model


def refuse_other_tensors(shapes: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are missing, unknown or of another shape, before any is read.

    Args:
        shapes: The file's shapes by its names.
        wanted: The model's shapes by the same names.

    Raises:
        FaultyFileError: One is; the message names it.
    """
    for found, problem in ((set(shapes) - set(wanted), "is unknown"), (set(wanted) - set(shapes), "is missing")):
        if found:
            raise FaultyFileError(f"tensor {min(found)!r} {problem} ({len(found)} in all)")
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise FaultyFileError(f"tensor {name!r} has shape {list(shapes[name])}, expected {list(shape)}")


def build(
    config: TransformerConfig,
    tensors: Iterator[tuple[str, Tensor]],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    change: Callable[[str, Tensor], Tensor] | None = None,
    rope_divisors: Tensor | None = None,
) -> Transformer:
    """The model in evaluation mode, its tensors taken one after the other.

    Args:
        config: Its shape.
        tensors: Our names with their tensors, all of them.
        device: Where it is placed.
        dtype: What its weights are converted to.
        change: Applied to each tensor as it was stored, with our name of it.
        rope_divisors: See ``rope_tables``.
    """
    model = sketch(config)
    changed = ((name, tensor if change is None else change(name, tensor)) for name, tensor in tensors)
    state = {name: tensor.to(device=device, dtype=dtype) for name, tensor in changed}
    model.load_state_dict(state, assign=True)
    cos, sin = rope_tables(config, rope_divisors)
    model.rope_cos, model.rope_sin = cos.to(device), sin.to(device)
    return model.requires_grad_(False).eval()


def unpermuted(name: str, tensor: Tensor, config: TransformerConfig) -> Tensor:
    """Queries and keys of GGUF's llama, whose rows are stored in the order of interleaved rotary pairs."""
    heads = {"q_proj.weight": config.num_heads, "k_proj.weight": config.num_kv_heads}
    for ending, count in heads.items():
        if name.endswith(ending):
            width = tensor.shape[0] // count
            return tensor.view(count, width // 2, 2, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
    return tensor
