"""The families of models that are read natively from Hugging Face directories, by the ``model_type`` of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmprog.backends.local.checkpoints.dit_family import esolm_recipe, mdlm_recipe
from llmprog.backends.local.checkpoints.llama_family import causal_recipe, dream_recipe, llada_recipe
from llmprog.backends.local.checkpoints.recipe import Recipe

FAMILIES: Mapping[str, Callable[[Mapping[str, Any]], Recipe]] = {
    "llama": causal_recipe,
    "mistral": causal_recipe,
    "qwen2": causal_recipe,
    "qwen3": causal_recipe,
    "llada": llada_recipe,
    "Dream": dream_recipe,
    "mdlm": mdlm_recipe,
    "EsoLM": esolm_recipe,
}
