"""A text model from a path: what kind of checkpoint lies there, and what becomes of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmprog.backends.local.checkpoints import gguf_model, hugging_face, languages
from llmprog.backends.local.checkpoints.families import CAUSAL, FAMILIES
from llmprog.backends.local.checkpoints.gguf_header import read_header
from llmprog.backends.local.checkpoints.recipe import LanguageNeeds
from llmprog.backends.local.faults import FaultyFileError, UnknownHereError
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.options import DecoderName, choose_decoder
from llmprog.backends.local.text.text_language import TextLanguage
from llmprog.errors import MissingExtraError, ModelFileError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model of text and how its weights may be decoded.

    Attributes:
        model: The network.
        language: Its tokenizer and chat template.
        decoders: Those that fit its weights, its own first.
        shift_logits: Whether its output at i predicts token i + 1 even where it writes by diffusion.
    """

    model: Transformer
    language: TextLanguage
    decoders: tuple[DecoderName, ...]
    shift_logits: bool = False


def load_text_model(
    path: Path,
    *,
    backend: str,
    device: torch.device | str,
    dtype: torch.dtype,
    decoder: DecoderName | None = None,
) -> LoadedModel:
    """The model at ``path``: a Hugging Face directory, a GGUF file, or a directory with one GGUF file.

    Args:
        path: Of the directory or file.
        backend: Id named in errors.
        device: Where the weights are placed.
        dtype: What they are converted to.
        decoder: One that has to fit; ``None`` takes any model.

    Raises:
        MissingExtraError: The network is one of transformers', which is not installed.
        ModelFileError: There is no model that can be read; the message says what is wrong with it.
        OptionError: ``decoder`` does not fit it. Nothing was allocated.
    """
    wanted = _Wanted(backend=backend, device=device, dtype=dtype, decoder=decoder)
    try:
        if path.is_dir() and (path / "config.json").is_file():
            return _from_directory(path, wanted)
        return _from_gguf(_gguf_file(path), wanted)
    except FaultyFileError as error:
        raise ModelFileError(f"checkpoint {path.name!r}: {error}", backend=backend) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the caller asked for."""

    backend: str
    device: torch.device | str
    dtype: torch.dtype
    decoder: DecoderName | None


def _gguf_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise FaultyFileError("there is no such file or directory")
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        raise FaultyFileError(f"it holds no config.json and {len(found)} GGUF files; name the file")
    return found[0]


def _from_gguf(path: Path, wanted: _Wanted) -> LoadedModel:
    if importlib.util.find_spec("gguf") is None:
        raise FaultyFileError('GGUF files are read with the package gguf; run: pip install "llmprog[local]"')
    choose_decoder(wanted.decoder, gguf_model.DECODERS, wanted.backend)
    header = read_header(path)
    config = gguf_model.check_model(header)
    needs = LanguageNeeds(vocab_size=config.vocab_size, max_positions=config.max_positions)
    language = languages.from_gguf(header.metadata, needs, wanted.backend)
    model = gguf_model.load_model(path, header, config, device=wanted.device, dtype=wanted.dtype)
    return LoadedModel(model=model, language=language, decoders=gguf_model.DECODERS)


def _from_directory(path: Path, wanted: _Wanted) -> LoadedModel:
    values = hugging_face.read_json(path / "config.json")
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        return _hosted(path, values, wanted, f"model_type {kind!r} is none of {', '.join(FAMILIES)}")
    try:
        recipe = FAMILIES[kind](values)
    except UnknownHereError as reason:
        if kind not in CAUSAL:
            raise
        return _hosted(path, values, wanted, str(reason))
    choose_decoder(wanted.decoder, recipe.decoders, wanted.backend)
    places = hugging_face.check_model(path, recipe)
    language = languages.from_directory(path, recipe.language, wanted.backend)
    return LoadedModel(
        model=recipe.build(hugging_face.read_tensors(places), wanted.device, wanted.dtype),
        language=language,
        decoders=recipe.decoders,
        shift_logits=recipe.shift_logits,
    )


def _hosted(path: Path, values: Mapping[str, Any], wanted: _Wanted, why: str) -> LoadedModel:
    """A model whose network is the ``transformers`` library's, which our own is not, because of ``why``."""
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(f"checkpoint {path.name!r} ({why})", "transformers", "hf")
    from llmprog.backends.local.checkpoints import hosted

    checkpoint = hosted.HostedCheckpoint(path, values)
    choose_decoder(wanted.decoder, checkpoint.decoders, wanted.backend)
    language = languages.from_directory(path, checkpoint.language, wanted.backend)
    model = checkpoint.load(wanted.device, wanted.dtype)
    return LoadedModel(model=model, language=language, decoders=checkpoint.decoders)
