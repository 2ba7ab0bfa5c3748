"""Hugging Face directories that are not read natively: the network is the ``transformers`` library's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from llmprog.backends.local.checkpoints.hugging_face import find_tensors
from llmprog.backends.local.checkpoints.llama_family import checked_config
from llmprog.backends.local.checkpoints.recipe import LanguageNeeds
from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.networks.hosted_model import DIFFUSION, HostedModel, refuse_other_networks
from llmprog.backends.local.networks.transformer import TransformerConfig
from llmprog.backends.local.options import DecoderName

_MOST_LAYERS = 512
_LONGEST_REASON = 200  # of what the library says, which may list all its models


class HostedCheckpoint:
    """A directory that the library can read, its headers checked; nothing is allocated yet.

    Attributes:
        language: What its tokenizer has to fit.
        decoders: Those that fit its weights.
    """

    language: LanguageNeeds
    decoders: tuple[DecoderName, ...]

    def __init__(self, directory: Path, values: Mapping[str, Any]) -> None:
        """The checkpoint in ``directory``, whose ``config.json`` holds ``values``.

        Raises:
            FaultyFileError: It is none that can be run here.
        """
        self._directory = directory
        _refuse_depths(values)
        shapes, _ = find_tensors(directory)
        try:
            self._library_config: PreTrainedConfig = AutoConfig.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
            with torch.device("meta"):
                sketch = _sketch(self._library_config)
        except Exception as error:
            raise _unreadable(values, error) from error
        refuse_other_networks(sketch)
        needed = sum(parameter.numel() for parameter in sketch.parameters())
        found = sum(torch.Size(shape).numel() for shape in shapes.values())
        if needed > found:
            raise FaultyFileError(f"its files hold {found} numbers, and its config.json asks for {needed}")
        self._config = sizes(sketch)
        self._is_diffusion = self._library_config.model_type == DIFFUSION
        self.decoders = ("uniform_diffusion",) if self._is_diffusion else ("autoregressive",)
        self.language = LanguageNeeds(
            vocab_size=self._config.vocab_size,
            max_positions=self._config.max_positions,
            mask_id=_unwritten(self._library_config) if self._is_diffusion else None,
            block_length=self._library_config.canvas_length if self._is_diffusion else None,
        )

    def load(self, device: torch.device | str, dtype: torch.dtype) -> HostedModel:
        """The network.

        Raises:
            FaultyFileError: A tensor is missing, unknown or of another shape, or decoders here cannot call it.
        """
        try:
            model, said = _library_class(self._library_config).from_pretrained(
                self._directory,
                config=self._library_config,
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                dtype=dtype,
                output_loading_info=True,
            )
        except Exception as error:
            raise FaultyFileError(f"transformers cannot load it: {error}") from error
        for kind, problem in (("missing_keys", "is missing"), ("unexpected_keys", "is unknown")):
            if said[kind]:
                raise FaultyFileError(f"tensor {min(said[kind])!r} {problem} ({len(said[kind])} in all)")
        if said["mismatched_keys"]:
            raise FaultyFileError(f"tensor {min(said['mismatched_keys'])[0]!r} has another shape than config.json says")
        model = model.to(device).eval().requires_grad_(False)
        if self._is_diffusion:
            from llmprog.backends.local.networks.hosted_diffusion import HostedDiffusion

            return HostedDiffusion(model, self._config)
        return HostedModel(model, self._config)


def _library_class(config: PreTrainedConfig) -> Any:
    if config.model_type == DIFFUSION:
        from transformers import DiffusionGemmaForBlockDiffusion

        return DiffusionGemmaForBlockDiffusion
    return AutoModelForCausalLM


def _sketch(config: PreTrainedConfig) -> PreTrainedModel:
    """The network on whatever device is torch's default."""
    kind = _library_class(config)
    found: PreTrainedModel = kind(config) if config.model_type == DIFFUSION else kind.from_config(config)
    return found


def _unwritten(config: PreTrainedConfig) -> int:
    """A token that no text has, to stand for what is not written yet; the network is never shown it."""
    pad = config.get_text_config().pad_token_id
    return pad if isinstance(pad, int) and pad >= 0 else 0


def _refuse_depths(values: Mapping[str, Any]) -> None:
    """Refuse numbers of layers that no model has, at any depth: to lay such a model out would take for ever."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            _refuse_depths(value)
        elif name.endswith(("layers", "n_layer", "experts")) and isinstance(value, int) and value > _MOST_LAYERS:
            raise FaultyFileError(f"its sizes are not possible: {name}={value!r}")


def _unreadable(values: Mapping[str, Any], error: Exception) -> FaultyFileError:
    kind, reason = values.get("model_type"), str(error).partition("\n")[0][:_LONGEST_REASON]
    return FaultyFileError(
        f"model_type is {kind!r}, which transformers cannot run as a causal language model: {reason}"
    )


def sizes(model: PreTrainedModel) -> TransformerConfig:
    """What others ask about a network's shape: its vocabulary, its context, how many layers have a cache.

    Raises:
        FaultyFileError: They are not possible.
    """
    text = model.config.get_text_config()
    embedding: Any = model.get_input_embeddings()
    return checked_config(
        vocab_size=text.vocab_size,
        d_model=embedding.embedding_dim,
        num_layers=text.num_hidden_layers,
        num_heads=1,  # heads and widths may differ from layer to layer; the network itself knows them
        num_kv_heads=1,
        d_ff=embedding.embedding_dim,
        max_positions=getattr(text, "max_position_embeddings", None),
        head_width=2,
        tied_embeddings=bool(getattr(text, "tie_word_embeddings", False)),
    )
