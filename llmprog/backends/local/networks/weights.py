"""Reading and writing model weights: safetensors only, checked in full before any tensor is allocated."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.networks.transformer import RopeScaling, Transformer, TransformerConfig, rope_tables
from llmprog.errors import LLMProgError, ModelFileError

_CONFIG_KEY = "llmprog.transformer"
_LARGEST_HEADER = 16 * 2**20
_LARGEST_VALUE = 2**24
_MOST_LAYERS = 512
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def save_weights(
    model: Transformer, path: Path, *, dtype: torch.dtype = torch.float16, metadata: dict[str, str] | None = None
) -> None:
    """Write ``model`` with its configuration in the file's metadata; the file appears whole or not at all."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    header = {**(metadata or {}), _CONFIG_KEY: json.dumps(asdict(model.config), sort_keys=True)}
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, metadata=header)
    partial.replace(path)


def load_weights(
    path: Path,
    *,
    backend: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """The model stored at ``path``, in evaluation mode.

    Args:
        path: A file written by ``save_weights``.
        backend: Id named in errors.
        device: Where the model is placed.
        dtype: Type the weights are converted to.

    Raises:
        ModelFileError: The file is missing, truncated, of another kind, or a tensor in it is missing, unknown or of
            the wrong shape; the message names the tensor.
    """
    config = check_weights(path, backend=backend)
    try:
        tensors = load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"weights {path.name!r} cannot be read: {error}", backend=backend) from error
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
    cos, sin = rope_tables(config)
    model.rope_cos, model.rope_sin = cos.to(device), sin.to(device)
    return model.requires_grad_(False).eval()


def check_weights(path: Path, *, backend: str) -> TransformerConfig:
    """The configuration of the model stored at ``path``, after checking every tensor's name, type, shape and extent.

    Raises:
        ModelFileError: As in ``load_weights``.
    """
    try:
        header, data_bytes = read_header(path)
        config = _read_config(header.pop("__metadata__", None))
        with torch.device("meta"):
            wanted = {name: list(tensor.shape) for name, tensor in Transformer(config).state_dict().items()}
        _check_tensors(header, wanted, data_bytes)
    except FaultyFileError as error:
        raise ModelFileError(f"weights {path.name!r}: {error}", backend=backend) from error
    return config


def _check_tensors(header: dict[str, Any], wanted: dict[str, list[int]], data_bytes: int) -> None:
    """Names, shapes, types and extents of all tensors; ``wanted`` maps names to shapes."""
    for names, problem in ((set(header) - set(wanted), "is unknown"), (set(wanted) - set(header), "is missing")):
        if names:
            raise FaultyFileError(f"tensor {min(names)!r} {problem} ({len(names)} in all)")
    for name, shape in check_extents(header, data_bytes).items():
        if list(shape) != wanted[name]:
            raise FaultyFileError(f"tensor {name!r} has shape {list(shape)}, expected {wanted[name]}")


def check_extents(header: Mapping[str, Any], data_bytes: int) -> dict[str, tuple[int, ...]]:
    """The tensors' shapes, after their types, sizes and places in the file were checked.

    Raises:
        FaultyFileError: One is of an unknown type or does not lie where it should.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    extents = []
    for name, entry in header.items():
        shapes[name], low, high = _check_entry(name, entry)
        extents.append((low, high, name))
    extents.sort()
    end = 0
    for low, high, name in extents:
        if high > data_bytes:
            raise FaultyFileError(f"tensor {name!r} ends at byte {high} of {data_bytes}: the file is truncated")
        if low != end:
            raise FaultyFileError(
                f"tensor {name!r} starts at byte {low}, expected {end}: tensors overlap or leave a gap"
            )
        end = high
    if end != data_bytes:
        raise FaultyFileError(f"{data_bytes - end} bytes follow the last tensor")
    return shapes


def _check_entry(name: str, entry: Any) -> tuple[tuple[int, ...], int, int]:
    """The shape of one tensor, and where it begins and ends."""
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= _LARGEST_VALUE for size in shape):
        raise FaultyFileError(f"tensor {name!r} has shape {shape!r:.100}, expected a list of sizes")
    item = _ITEM_BYTES.get(str(entry.get("dtype")))
    if item is None:
        raise FaultyFileError(f"tensor {name!r} has type {entry.get('dtype')!r}, allowed are {', '.join(_ITEM_BYTES)}")
    offsets = entry.get("data_offsets")
    size = item * math.prod(shape)
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
        raise FaultyFileError(f"tensor {name!r} has offsets {offsets}, expected two whole numbers")
    low, high = offsets
    if not 0 <= low <= high or high - low != size:
        raise FaultyFileError(f"tensor {name!r} has offsets {offsets}, expected {size} bytes")
    return tuple(shape), low, high


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and the number of bytes behind it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise FaultyFileError(
                    f"header of {length} bytes in a file of {size}: the file is truncated or not safetensors"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise FaultyFileError(f"cannot be opened: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FaultyFileError(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise FaultyFileError("its header is not a JSON object")
    return header, size - 8 - length


def _read_config(metadata: Any) -> TransformerConfig:
    """The configuration in a file's metadata."""
    stored = metadata.get(_CONFIG_KEY) if isinstance(metadata, dict) else None
    if not isinstance(stored, str):
        raise FaultyFileError(f"no configuration under {_CONFIG_KEY!r} in its metadata; it was not written by llmprog")
    try:
        values = json.loads(stored)
        if values.get("rope_scaling") is not None:
            values["rope_scaling"] = RopeScaling(**values["rope_scaling"])
        config = TransformerConfig(**values)
        refuse_impossible(config)
    except (ValueError, TypeError, AttributeError, RecursionError, LLMProgError) as error:
        raise FaultyFileError(f"its configuration {stored[:200]!r} is not valid: {error}") from error
    return config


def refuse_impossible(config: TransformerConfig) -> None:
    """Refuse sizes that no model has, before anything is allocated by them.

    Raises:
        ValueError: A value is of the wrong type or out of range; the message is ``name=value``.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in ("attention_bias", "qk_norm", "tied_embeddings"):
            is_possible = isinstance(value, bool)
        elif field.name == "rope_scaling":
            is_possible = value is None or all(
                _is_size(getattr(value, part.name), is_whole=False) for part in fields(value)
            )
        elif field.name == "head_width" and value is None:
            is_possible = True
        else:
            is_possible = _is_size(value, is_whole=field.name not in ("rope_theta", "norm_eps"))
        if not is_possible:
            raise ValueError(f"{field.name}={value!r}")
    if config.num_layers > _MOST_LAYERS:
        raise ValueError(f"num_layers={config.num_layers!r}")


def refuse_impossible_size(name: str, value: Any) -> int:
    """``value``, a size that models have.

    Raises:
        FaultyFileError: It is of the wrong type or out of range.
    """
    if not _is_size(value, is_whole=True):
        raise FaultyFileError(f"its sizes are not possible: {name}={value!r}")
    return int(value)


def _is_size(value: Any, *, is_whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float):
        return False
    return 0 < value <= _LARGEST_VALUE
