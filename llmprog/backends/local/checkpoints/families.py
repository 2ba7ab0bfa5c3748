"""The families of models that are read natively from Hugging Face directories, by the ``model_type`` of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmprog.backends.local.checkpoints.dit_family import esolm_recipe, mdlm_recipe
from llmprog.backends.local.checkpoints.llama_family import causal_recipe, dream_recipe, llada_recipe
from llmprog.backends.local.checkpoints.recipe import Recipe

CAUSAL = ("llama", "mistral", "qwen2", "qwen3")
"""Those that the ``transformers`` library computes where our own network cannot: with sliding windows, for example."""

FAMILIES: Mapping[str, Callable[[Mapping[str, Any]], Recipe]] = {
    **dict.fromkeys(CAUSAL, causal_recipe),
    "llada": llada_recipe,
    "Dream": dream_recipe,
    "mdlm": mdlm_recipe,
    "EsoLM": esolm_recipe,
}
