"""What checkpoints of the Llama family call their tensors and sizes, and the model that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.transformer import RopeScaling, Transformer, TransformerConfig, rope_tables
from llmprog.backends.local.weights import refuse_impossible
from llmprog.errors import OptionError

# Ours, GGUF's and Hugging Face's; ``{}`` is the layer.
_TENSORS = (
    ("embedding.weight", "token_embd.weight", "model.embed_tokens.weight"),
    ("norm.weight", "output_norm.weight", "model.norm.weight"),
    ("head.weight", "output.weight", "lm_head.weight"),
    ("layers.{}.attention_norm.weight", "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    ("layers.{}.feed_forward_norm.weight", "blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    ("layers.{}.attention.q_proj.weight", "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight"),
    ("layers.{}.attention.k_proj.weight", "blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight"),
    ("layers.{}.attention.v_proj.weight", "blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight"),
    ("layers.{}.attention.q_proj.bias", "blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias"),
    ("layers.{}.attention.k_proj.bias", "blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias"),
    ("layers.{}.attention.v_proj.bias", "blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias"),
    ("layers.{}.attention.q_norm.weight", "blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    ("layers.{}.attention.k_norm.weight", "blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    ("layers.{}.attention.o_proj.weight", "blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight"),
    ("layers.{}.feed_forward.gate_proj.weight", "blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight"),
    ("layers.{}.feed_forward.up_proj.weight", "blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight"),
    ("layers.{}.feed_forward.down_proj.weight", "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight"),
)
_OURS, _GGUF, _HUGGING_FACE = range(3)

GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")
HUGGING_FACE_TYPES = ("llama", "mistral", "qwen2", "qwen3")


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

    if metadata.get(f"{architecture}.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in tensors:
        raise FaultyFileError("its rotary positions are stretched, which GGUF files say in ways not read here; "
                                    "use the model's Hugging Face directory")  # fmt: skip
    vocab = metadata.get("tokenizer.ggml.tokens")
    heads = of("attention.head_count")
    return _checked(
        vocab_size=len(vocab) if isinstance(vocab, list) else of("vocab_size"),
        d_model=of("embedding_length"),
        num_layers=of("block_count"),
        num_heads=heads,
        num_kv_heads=of("attention.head_count_kv", heads),
        d_ff=of("feed_forward_length"),
        rope_theta=float(of("rope.freq_base", 10000.0)),
        norm_eps=of("attention.layer_norm_rms_epsilon"),
        max_positions=of("context_length"),
        head_width=metadata.get(f"{architecture}.attention.key_length"),
        attention_bias="blk.0.attn_q.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        tied_embeddings="output.weight" not in tensors,
    )


def hugging_face_config(values: Mapping[str, Any]) -> TransformerConfig:
    """The model's shape from a ``config.json``.

    Raises:
        FaultyFileError: It is of another type, asks for what is not known here, or a size is missing or
            impossible.
    """
    kind = values.get("model_type")
    if kind not in HUGGING_FACE_TYPES:
        raise FaultyFileError(f"model_type is {kind!r}; {', '.join(HUGGING_FACE_TYPES)} can be read")
    if values.get("hidden_act", "silu") != "silu" or values.get("mlp_bias"):
        raise FaultyFileError(f"hidden_act={values.get('hidden_act')!r}, mlp_bias={values.get('mlp_bias')!r}; "
                                    "allowed are silu, and no bias")  # fmt: skip
    if values.get("use_sliding_window") or (kind == "mistral" and values.get("sliding_window")):
        raise FaultyFileError("its attention looks back through a sliding window, which is not known here")

    def of(name: str) -> Any:
        if values.get(name) is None:
            raise FaultyFileError(f"config.json has no {name}")
        return values[name]

    rope = values.get("rope_parameters") or {}
    theta = rope.get("rope_theta", values.get("rope_theta", 10000.0))
    return _checked(
        vocab_size=of("vocab_size"),
        d_model=of("hidden_size"),
        num_layers=of("num_hidden_layers"),
        num_heads=of("num_attention_heads"),
        num_kv_heads=values.get("num_key_value_heads") or of("num_attention_heads"),
        d_ff=of("intermediate_size"),
        rope_theta=float(theta) if isinstance(theta, int | float) else theta,
        norm_eps=of("rms_norm_eps"),
        max_positions=of("max_position_embeddings"),
        head_width=values.get("head_dim"),
        attention_bias=bool(values.get("attention_bias", kind == "qwen2")),
        qk_norm=kind == "qwen3",
        tied_embeddings=bool(values.get("tie_word_embeddings", False)),
        rope_scaling=_scaling(values.get("rope_scaling") or rope),
    )


def _scaling(values: Mapping[str, Any]) -> RopeScaling | None:
    kind = values.get("rope_type") or values.get("type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise FaultyFileError(f"rope_scaling of type {kind!r}; llama3 is known")
    try:
        return RopeScaling(
            factor=values["factor"],
            low_freq_factor=values["low_freq_factor"],
            high_freq_factor=values["high_freq_factor"],
            original_max_positions=values["original_max_position_embeddings"],
        )
    except KeyError as error:
        raise FaultyFileError(f"rope_scaling has no {error.args[0]}") from error


def _checked(**sizes: Any) -> TransformerConfig:
    try:
        config = TransformerConfig(**sizes)
        refuse_impossible(config)
    except (TypeError, ValueError, OptionError) as error:
        raise FaultyFileError(f"its sizes are not possible: {error}") from error
    return config


def gguf_names(config: TransformerConfig) -> dict[str, str]:
    """Our names of the model's tensors, by GGUF's."""
    return _names(config, _GGUF)


def hugging_face_names(config: TransformerConfig) -> dict[str, str]:
    """Our names of the model's tensors, by Hugging Face's."""
    return _names(config, _HUGGING_FACE)


def _names(config: TransformerConfig, theirs: int) -> dict[str, str]:
    wanted = wanted_shapes(config)
    found: dict[str, str] = {}
    for names in _TENSORS:
        layers = range(config.num_layers) if "{}" in names[_OURS] else range(1)
        for layer in layers:
            ours = names[_OURS].format(layer)
            if ours in wanted:
                found[names[theirs].format(layer)] = ours
    return found


def wanted_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the model's tensors, by our names."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Transformer(config).state_dict().items()}


def refuse_other_tensors(names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], wanted: Any) -> None:
    """Refuse tensors that are missing, unknown or of another shape, before any is read.

    Args:
        names: Our names by the file's.
        shapes: The file's shapes by its names.
        wanted: The model's shapes by our names.

    Raises:
        FaultyFileError: One is; the message names it.
    """
    for found, problem in ((set(shapes) - set(names), "is unknown"), (set(names) - set(shapes), "is missing")):
        if found:
            raise FaultyFileError(f"tensor {min(found)!r} {problem} ({len(found)} in all)")
    for theirs, ours in names.items():
        if shapes[theirs] != wanted[ours]:
            raise FaultyFileError(f"tensor {theirs!r} has shape {list(shapes[theirs])}, expected {list(wanted[ours])}")


def build(
    config: TransformerConfig,
    tensors: Iterator[tuple[str, Tensor]],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    change: Callable[[str, Tensor], Tensor] | None = None,
) -> Transformer:
    """The model in evaluation mode, its tensors taken one after the other.

    Args:
        config: Its shape.
        tensors: Our names with their tensors, all of them.
        device: Where it is placed.
        dtype: What its weights are converted to.
        change: Applied to each tensor as it was stored, with our name of it.
    """
    with torch.device("meta"):
        model = Transformer(config)
    changed = ((name, tensor if change is None else change(name, tensor)) for name, tensor in tensors)
    state = {name: tensor.to(device=device, dtype=dtype) for name, tensor in changed}
    model.load_state_dict(state, assign=True)
    cos, sin = rope_tables(config)
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
