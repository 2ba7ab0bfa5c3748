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
from llmprog.backends.local.options import DecoderName
from llmprog.backends.local.transformer import Transformer, TransformerConfig

DECODERS: tuple[DecoderName, ...] = ("autoregressive",)


def check_model(header: GgufHeader) -> TransformerConfig:
    """The shape of the model that a header describes, after all its tensors were compared with it.

    Raises:
        FaultyFileError: It is no model that can be read.
    """
    config = gguf_config(header.metadata, header.tensors)
    shapes = {name: info.shape for name, info in header.tensors.items()}
    wanted = wanted_shapes(config)
    refuse_other_tensors(shapes, {theirs: wanted[ours] for theirs, ours in gguf_names(config).items()})
    return config


def load_model(
    path: Path, header: GgufHeader, config: TransformerConfig, *, device: torch.device | str, dtype: torch.dtype
) -> Transformer:
    """The model at ``path``; quantised weights are expanded to ``dtype``."""
    is_permuted = header.metadata["general.architecture"] == "llama"
    with path.open("rb") as file:
        data = np.memmap(file, dtype=np.uint8, mode="r")
    return build(
        config,
        _tensors(data, header, gguf_names(config)),
        device=device,
        dtype=dtype,
        change=partial(unpermuted, config=config) if is_permuted else None,
    )


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
