"""A text model from a path: what kind of checkpoint lies there, its weights, its tokenizer, its chat template."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmprog.backends.local.chat_template import ChatTemplate
from llmprog.backends.local.checkpoints import gguf_model, hugging_face, tokenizers
from llmprog.backends.local.checkpoints.gguf_header import read_header
from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.options import DecoderName, choose_decoder
from llmprog.backends.local.text_language import TextLanguage
from llmprog.backends.local.transformer import Transformer, TransformerConfig
from llmprog.errors import InputError, ModelFileError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What ends a turn in the families that can be read, whatever the checkpoint says of it.
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>")

_FITTING: tuple[DecoderName, ...] = ("autoregressive",)


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
        ModelFileError: There is no model that can be read; the message says what is wrong with it.
        OptionError: ``decoder`` does not fit it. Nothing was allocated.
    """
    choose_decoder(decoder, _FITTING, backend)
    try:
        if path.is_dir() and (path / "config.json").is_file():
            model, language = _from_directory(path, backend, device, dtype)
        else:
            model, language = _from_gguf(_gguf_file(path), backend, device, dtype)
        return LoadedModel(model=model, language=language, decoders=_FITTING)
    except FaultyFileError as error:
        raise ModelFileError(f"checkpoint {path.name!r}: {error}", backend=backend) from error


def _gguf_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise FaultyFileError("there is no such file or directory")
        return path
    found = sorted(path.glob("*.gguf"))
    if len(found) != 1:
        raise FaultyFileError(f"it holds no config.json and {len(found)} GGUF files; name the file")
    return found[0]


def _from_gguf(
    path: Path, backend: str, device: torch.device | str, dtype: torch.dtype
) -> tuple[Transformer, TextLanguage]:
    if importlib.util.find_spec("gguf") is None:
        raise FaultyFileError('GGUF files are read with the package gguf; run: pip install "llmprog[local]"')
    header = read_header(path)
    config = gguf_model.check_model(header)
    metadata = header.metadata
    tokenizer = tokenizers.from_gguf(metadata)
    said = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "eom")}
    ids = {name: number for name, number in said.items() if isinstance(number, int)}
    model = gguf_model.load_model(path, header, config, device=device, dtype=dtype)
    begins = metadata.get("tokenizer.ggml.add_bos_token", False)
    tokens = {f"{name}_token": tokenizer.id_to_token(ids[name]) for name in ("bos", "eos") if name in ids}
    return model, _language(
        tokenizer,
        config,
        ends=[ids.get("eos"), ids.get("eot"), ids.get("eom")],
        begin=ids.get("bos") if begins else None,
        template=metadata.get("tokenizer.chat_template"),
        tokens={name: token for name, token in tokens.items() if token is not None},
        backend=backend,
    )


def _from_directory(
    path: Path, backend: str, device: torch.device | str, dtype: torch.dtype
) -> tuple[Transformer, TextLanguage]:
    config, places = hugging_face.check_model(path)
    tokenizer = tokenizers.from_file(path / "tokenizer.json")
    model = hugging_face.load_model(config, places, device=device, dtype=dtype)
    said = {name: _json_or_empty(path / name) for name in ("tokenizer_config.json", "generation_config.json")}
    about, generation = said["tokenizer_config.json"], said["generation_config.json"]
    tokens = {name: _content(about.get(name)) for name in ("bos_token", "eos_token")}
    ends = generation.get("eos_token_id", hugging_face.read_json(path / "config.json").get("eos_token_id"))
    begin = tokenizer.token_to_id(tokens["bos_token"]) if tokens["bos_token"] else None
    return model, _language(
        tokenizer,
        config,
        ends=[*(ends if isinstance(ends, list) else [ends]), _id_of(tokenizer, tokens["eos_token"])],
        begin=begin if about.get("add_bos_token") else None,
        template=_template(path, about),
        tokens={name: token for name, token in tokens.items() if token is not None},
        backend=backend,
    )


def _json_or_empty(path: Path) -> Mapping[str, Any]:
    return hugging_face.read_json(path) if path.is_file() else {}


def _content(token: Any) -> str | None:
    """A special token's text, which is written plainly or within an object."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _id_of(tokenizer: Tokenizer, token: str | None) -> int | None:
    return None if token is None else tokenizer.token_to_id(token)


def _template(path: Path, about: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = about.get("chat_template")
    if isinstance(found, list):  # several by name
        named = {item.get("name"): item.get("template") for item in found if isinstance(item, Mapping)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _language(
    tokenizer: Tokenizer,
    config: TransformerConfig,
    *,
    ends: list[Any],
    begin: int | None,
    template: Any,
    tokens: Mapping[str, str],
    backend: str,
) -> TextLanguage:
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise FaultyFileError(f"its tokenizer has {tokenizer.get_vocab_size()} tokens, the model {config.vocab_size}")
    known = [tokenizer.token_to_id(token) for token in _ENDS]
    found = list(dict.fromkeys(end for end in (*ends, *known) if end is not None))
    if not found or not all(isinstance(end, int) and 0 <= end < config.vocab_size for end in found):
        raise FaultyFileError(f"the tokens that end a reply are {found!r}; allowed are ids below {config.vocab_size}")
    try:
        chat = ChatTemplate(template, tokens, backend) if isinstance(template, str) else None
    except InputError as error:
        raise FaultyFileError(str(error)) from error
    return TextLanguage(
        tokenizer=tokenizer,
        chat=chat,
        vocab_size=config.vocab_size,
        eos_id=found[0],
        other_end_ids=tuple(found[1:]),
        begin=() if begin is None else (begin,),
        context_length=config.max_positions,
    )
