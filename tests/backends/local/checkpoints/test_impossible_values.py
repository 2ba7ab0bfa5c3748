"""Whatever stands in a configuration, it is a model that is possible or a fault that is named; nothing is allocated."""

from __future__ import annotations

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprog.backends.local.checkpoints import languages
from llmprog.backends.local.checkpoints.families import FAMILIES
from llmprog.backends.local.checkpoints.gguf_header import GgufHeader, TensorInfo
from llmprog.backends.local.checkpoints.gguf_model import check_model
from llmprog.backends.local.checkpoints.llama_family import checked_config, gguf_names, wanted_shapes
from llmprog.backends.local.checkpoints.recipe import LanguageNeeds
from llmprog.backends.local.faults import FaultyFileError

QWEN2 = {
    "model_type": "qwen2",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "rope_scaling": None,
    "rope_parameters": None,
    "tie_word_embeddings": True,
    "attention_bias": True,
    "head_dim": 8,
    "hidden_act": "silu",
    "mlp_bias": False,
    "sliding_window": None,
    "use_sliding_window": False,
}
LLADA = {
    "model_type": "llada",
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "mlp_hidden_size": 48,
    "rope_theta": 5e5,
    "rms_norm_eps": 1e-5,
    "max_sequence_length": 96,
    "vocab_size": 64,
    "embedding_size": 64,
    "weight_tying": False,
    "mask_token_id": 60,
    "block_type": "llama",
    "include_qkv_bias": False,
}
MDLM = {
    "model_type": "mdlm",
    "hidden_dim": 32,
    "cond_dim": 16,
    "n_blocks": 2,
    "n_heads": 4,
    "model_length": 64,
    "vocab_size": 33,
    "time_conditioning": False,
    "mask_index": 32,
}
CONFIGS = [QWEN2, QWEN2 | {"model_type": "Dream", "mask_token_id": 60}, LLADA, MDLM, MDLM | {"model_type": "EsoLM"}]

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70),
    st.sampled_from([2**24, 2**40, 2**70, -(2**70)]),
    st.floats(),
    st.sampled_from(["", "x", "llama3", "linear"]),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(
        st.sampled_from(["rope_type", "factor", "rope_theta"]), st.sampled_from(["llama3", 2.0, "x", None])
    ),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_value_in_a_config_is_possible_or_refused(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(CONFIGS))
    names = data.draw(st.lists(st.sampled_from(sorted(set(config) - {"model_type"})), min_size=1, max_size=2))
    changed = config | {name: data.draw(VALUES) for name in names}
    try:
        recipe = FAMILIES[config["model_type"]](changed)
    except FaultyFileError:
        return
    assert recipe.language.max_positions >= 1
    assert all(size >= 1 for shape in recipe.shapes.values() for size in shape)


SHAPE = checked_config(
    vocab_size=32, d_model=64, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=96, max_positions=128, rope_theta=1e4
)
METADATA = {
    "general.architecture": "llama",
    "llama.context_length": 128,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.key_length": 16,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e4,
    "llama.rope.scaling.type": "linear",
    "llama.rope.scaling.factor": 2.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": [*map(chr, range(ord("a"), ord("a") + 31)), "<|endoftext|>"],
    "tokenizer.ggml.token_type": [1] * 31 + [3],
    "tokenizer.ggml.merges": [],
    "tokenizer.ggml.bos_token_id": 31,
    "tokenizer.ggml.eos_token_id": 31,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "x",
}


def described(metadata: dict[str, object]) -> None:
    shapes = wanted_shapes(SHAPE)
    tensors = {
        theirs: TensorInfo(shape=shapes[ours], kind=gguf.GGMLQuantizationType.F32, start=0, size=0)
        for theirs, ours in gguf_names(SHAPE).items()
    }
    config = check_model(GgufHeader(metadata=metadata, tensors=tensors))
    needs = LanguageNeeds(vocab_size=config.vocab_size, max_positions=config.max_positions)
    languages.from_gguf(metadata, needs, "local:x")


def test_the_metadata_that_is_damaged_below_are_those_of_a_model() -> None:
    described(METADATA)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(METADATA)), value=VALUES)
def test_any_value_in_metadata_is_possible_or_refused(name: str, value: object) -> None:
    try:
        described(METADATA | {name: value})
    except FaultyFileError:
        return


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"max_position_embeddings": 2**24, "head_dim": 2**12}, "max_positions=16777216 with heads of width 4096"),
        ({"rope_parameters": [1]}, "rope_parameters="),
        ({"rope_theta": "far"}, "rope_theta='far'"),
    ],
)
def test_what_cannot_be_is_named(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(FaultyFileError, match=complaint):
        FAMILIES["qwen2"](QWEN2 | change)


def test_a_sketch_takes_no_memory() -> None:
    """Sizes of the largest models: their shapes are known at once."""
    config = QWEN2 | {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "head_dim": 128}
    recipe = FAMILIES["qwen2"](config | {"intermediate_size": 29568, "max_position_embeddings": 2**20})
    assert sum(len(shape) for shape in recipe.shapes.values()) > 80
