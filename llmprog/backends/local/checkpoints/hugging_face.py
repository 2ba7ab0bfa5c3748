"""Models in Hugging Face directories: ``config.json``, ``tokenizer.json``, safetensors in one file or in shards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmprog.backends.local.checkpoints.llama_family import (
    build,
    hugging_face_config,
    hugging_face_names,
    refuse_other_tensors,
    wanted_shapes,
)
from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.transformer import Transformer, TransformerConfig
from llmprog.backends.local.weights import check_extents, read_header

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


def check_model(directory: Path) -> tuple[TransformerConfig, dict[str, Path]]:
    """The model's shape, and in which file each of its tensors lies, after all headers were compared with it.

    Raises:
        FaultyFileError: It is no model that can be read.
    """
    config = hugging_face_config(read_json(directory / "config.json"))
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
            if not name.endswith(_IGNORED_ENDINGS):
                shapes[name], places[name] = shape, path
    names = hugging_face_names(config)
    if config.tied_embeddings:  # some files repeat the embedding as the head
        shapes.pop("lm_head.weight", None)
    refuse_other_tensors(names, shapes, wanted_shapes(config))
    return config, {name: places[name] for name in names}


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


def load_model(
    config: TransformerConfig, places: Mapping[str, Path], *, device: torch.device | str, dtype: torch.dtype
) -> Transformer:
    """The model whose tensors lie where ``check_model`` says."""
    return build(config, _tensors(hugging_face_names(config), places), device=device, dtype=dtype)


def _tensors(names: Mapping[str, str], places: Mapping[str, Path]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for path in dict.fromkeys(places.values()):
        with safe_open(path, framework="pt") as file:
            for theirs, ours in names.items():
                if places[theirs] == path:
                    yield ours, file.get_tensor(theirs)
