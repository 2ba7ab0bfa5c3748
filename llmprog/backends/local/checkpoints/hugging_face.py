"""Models in Hugging Face directories: ``config.json``, ``tokenizer.json``, safetensors in one file or in shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmprog.backends.local.checkpoints.llama_family import refuse_other_tensors
from llmprog.backends.local.checkpoints.recipe import Recipe, Tensors
from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.networks.weights import check_extents, read_header

_LARGEST_JSON = 2**26
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_IGNORED_ENDINGS = (".rotary_emb.inv_freq",)  # old files repeat what the configuration says


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
        FaultyFileError: It is missing or no JSON object.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise FaultyFileError(f"{path.name} has {path.stat().st_size} bytes; at most {_LARGEST_JSON} are read")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FaultyFileError(f"{path.name} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FaultyFileError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise FaultyFileError(f"{path.name} is no JSON object")
    return values


def find_tensors(directory: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, Path]]:
    """The shape of each tensor of a directory and the file it lies in, after all headers were checked.

    Raises:
        FaultyFileError: A file is missing or is not what it should be.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, Path] = {}
    for path in _files(directory):
        try:
            header, data_bytes = read_header(path)
            header.pop("__metadata__", None)
            found = check_extents(header, data_bytes)
        except FaultyFileError as error:
            raise FaultyFileError(f"{path.name}: {error}") from error
        for name, shape in found.items():
            if name in places:
                raise FaultyFileError(f"tensor {name!r} stands in {places[name].name} and in {path.name}")
            shapes[name], places[name] = shape, path
    return shapes, places


def check_model(directory: Path, recipe: Recipe) -> dict[str, Path]:
    """In which file each tensor of the model lies, after all were compared with what it needs.

    Raises:
        FaultyFileError: It is no model that can be read.
    """
    shapes, places = find_tensors(directory)
    ignored = [name for name in shapes if name.endswith(_IGNORED_ENDINGS)]
    if "lm_head.weight" not in recipe.shapes:  # some files repeat a tied embedding as the head
        ignored.append("lm_head.weight")
    for name in ignored:
        shapes.pop(name, None)
    refuse_other_tensors(shapes, recipe.shapes)
    return {name: places[name] for name in recipe.shapes}


def _files(directory: Path) -> list[Path]:
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    if not (directory / _INDEX).is_file():
        raise FaultyFileError(f"it holds neither {_SINGLE} nor {_INDEX}; other formats (.bin, .pt) are not read")
    placed = read_json(directory / _INDEX).get("weight_map")
    if not isinstance(placed, Mapping) or not all(isinstance(name, str) for name in placed.values()):
        raise FaultyFileError(f"{_INDEX} has no weight_map")
    files = []
    for name in sorted(set(placed.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise FaultyFileError(f"{_INDEX} names {name!r}; allowed are .safetensors files beside it")
        if not (directory / name).is_file():
            raise FaultyFileError(f"the shard {name!r} is missing")
        files.append(directory / name)
    return files


def read_tensors(places: Mapping[str, Path]) -> Tensors:
    """The tensors that lie where ``check_model`` says, file after file."""
    from safetensors import safe_open

    for path in dict.fromkeys(places.values()):
        with safe_open(path, framework="pt") as file:
            for name, place in places.items():
                if place == path:
                    yield name, file.get_tensor(name)
