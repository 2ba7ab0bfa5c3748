"""How a network is made of a checkpoint's tensors: what a family of models has to say of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.options import DecoderName

Tensors = Iterator[tuple[str, Tensor]]
"""A checkpoint's tensors with its names of them, read one after the other."""

FILLING: tuple[DecoderName, ...] = ("masked_diffusion", "mdlm", "score_entropy")
"""Decoders for networks that predict masked tokens from all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageNeeds:
    """What a checkpoint's language has to know of its network.

    Attributes:
        vocab_size: Token ids of the network.
        max_positions: Tokens that it has room for.
        mask_id: Stands for a token that is not written yet, if the network knows one.
        cut: The rule by which a tokenizer that comes as ``vocab.json`` and ``merges.txt`` cuts text before merging.
        block_length: Tokens that it was trained to write together; ``None`` is the default.
        begins_with_end: Whether it was trained on texts with the token that ends a text in front of each.
    """

    vocab_size: int
    max_positions: int
    mask_id: int | None = None
    cut: Literal["gpt-2", "qwen2"] | None = None
    block_length: int | None = None
    begins_with_end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is to be found in a checkpoint, and what becomes of it.

    Attributes:
        shapes: Of the tensors, by the checkpoint's names.
        build: The network of the tensors, on a device, in a type.
        language: What its tokenizer has to fit.
        decoders: Those that fit its weights, its own first.
        shift_logits: Whether its output at i predicts token i + 1 even where it writes by diffusion.
    """

    shapes: Mapping[str, tuple[int, ...]]
    build: Callable[[Tensors, torch.device | str, torch.dtype], Transformer]
    language: LanguageNeeds
    decoders: tuple[DecoderName, ...]
    shift_logits: bool = False


def required(values: Mapping[str, Any], *names: str) -> Any:
    """The value of the first of these keys that a ``config.json`` has.

    Raises:
        FaultyFileError: It has none.
    """
    found = next((values[name] for name in names if values.get(name) is not None), None)
    if found is None:
        raise FaultyFileError(f"config.json has no {names[0]}")
    return found


def mask_of(values: Mapping[str, Any], vocab_size: int, *names: str, default: int | None = None) -> int:
    """The mask token's id.

    Args:
        values: Of a ``config.json``.
        vocab_size: The id lies below it.
        names: Keys under which it may stand.
        default: Where it does not.

    Raises:
        FaultyFileError: It is missing or no token id.
    """
    found = next((values[name] for name in names if values.get(name) is not None), default)
    if type(found) is not int or not 0 <= found < vocab_size:
        raise FaultyFileError(f"{names[0]}={found!r}; allowed is a token id below {vocab_size}")
    return found


def refuse_other_values(values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse a ``config.json`` that asks for what is not known here.

    Args:
        values: Its values.
        known: Per key the one value that is known; it may be missing.

    Raises:
        FaultyFileError: It has another value.
    """
    for name, value in known.items():
        if values.get(name) not in (None, value):
            raise FaultyFileError(f"{name}={values[name]!r} is not known here; allowed is {value!r}")
