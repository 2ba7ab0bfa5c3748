"""Models in GGUF files: their shape, their tensors, quantised or not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llmprog.backends.local.checkpoints.gguf_header import GgufHeader, TensorInfo
from llmprog.backends.local.checkpoints.llama_family import (
    build,
    gguf_config,
    gguf_names,
    refuse_other_tensors,
    unpermuted,
    wanted_shapes,
)
from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig
from llmprog.backends.local.options import DecoderName

_ROPE_DIVISORS = "rope_freqs.weight"
_LARGEST_STRETCH = 2**20

DECODERS: tuple[DecoderName, ...] = ("autoregressive",)


def check_model(header: GgufHeader) -> TransformerConfig:
    """The shape of the model that a header describes, after all its tensors were compared with it.

    Raises:
        FaultyFileError: It is no model that can be read.
    """
    config = gguf_config(header.metadata, header.tensors)
    shapes = {name: info.shape for name, info in header.tensors.items()}
    wanted = wanted_shapes(config)
    by_theirs = {theirs: wanted[ours] for theirs, ours in gguf_names(config).items()}
    if _ROPE_DIVISORS in shapes:
        by_theirs[_ROPE_DIVISORS] = (config.head_dim // 2,)
    refuse_other_tensors(shapes, by_theirs)
    _stretch(header)
    return config


def load_model(
    path: Path, header: GgufHeader, config: TransformerConfig, *, device: torch.device | str, dtype: torch.dtype
) -> Transformer:
    """The model at ``path``; quantised weights are expanded to ``dtype``.

    Raises:
        FaultyFileError: Its rotary positions are stretched in a way that is not possible.
    """
    is_permuted = header.metadata["general.architecture"] == "llama"
    with path.open("rb") as file:
        data = np.memmap(file, dtype=np.uint8, mode="r")
    return build(
        config,
        _tensors(data, header, gguf_names(config)),
        device=device,
        dtype=dtype,
        change=partial(unpermuted, config=config) if is_permuted else None,
        rope_divisors=_rope_divisors(data, header, config),
    )


def _stretch(header: GgufHeader) -> float:
    """What all rotary frequencies are divided by.

    Raises:
        FaultyFileError: They are stretched otherwise, or not by a number of at least 1.
    """
    place = f"{header.metadata['general.architecture']}.rope.scaling."
    kind = header.metadata.get(f"{place}type", "none")
    if kind == "none":
        return 1.0
    factor = header.metadata.get(f"{place}factor", 1.0)
    if kind != "linear":
        raise FaultyFileError(f"{place}type is {kind!r}; known are none and linear, and the tensor {_ROPE_DIVISORS}")
    if not isinstance(factor, int | float) or not 1 <= factor < _LARGEST_STRETCH:
        raise FaultyFileError(f"{place}factor={factor!r}; allowed is a number in [1, {_LARGEST_STRETCH})")
    return float(factor)


def _rope_divisors(data: np.ndarray, header: GgufHeader, config: TransformerConfig) -> Tensor | None:
    """What each rotary frequency is divided by: Llama 3's stretching comes as a tensor of these numbers."""
    divisors = torch.full((config.head_dim // 2,), _stretch(header))
    if _ROPE_DIVISORS in header.tensors:
        divisors = divisors * _expanded(data, header.tensors[_ROPE_DIVISORS])
        if not bool(((divisors > 0) & divisors.isfinite()).all()):
            raise FaultyFileError(f"tensor {_ROPE_DIVISORS!r} holds numbers that are not above 0")
    return None if bool((divisors == 1).all()) else divisors


def _tensors(data: np.ndarray, header: GgufHeader, names: dict[str, str]) -> Iterator[tuple[str, Tensor]]:
    for theirs, ours in names.items():
        yield ours, _expanded(data, header.tensors[theirs])


def _expanded(data: np.ndarray, info: TensorInfo) -> Tensor:
    """A tensor as float32, of its shape."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    raw = data[info.start : info.start + info.size]
    rows = raw.reshape(-1, info.size // max(1, int(np.prod(info.shape[:-1]))))
    return torch.from_numpy(np.array(dequantize(rows, GGMLQuantizationType(info.kind)))).view(info.shape)
