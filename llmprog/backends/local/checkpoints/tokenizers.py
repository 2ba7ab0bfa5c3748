"""Tokenizers of checkpoints: read from ``tokenizer.json``, or rebuilt from what a GGUF file says of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmprog.backends.local.faults import FaultyFileError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CONTROL, _USER_DEFINED = 3, 4  # types of tokens in GGUF
_LARGEST_FILE = 2**28

# How text is cut before merging, by GGUF's name of the rule; the expressions are those of the models' own tokenizers.
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_EXPRESSIONS = {
    "llama-bpe": "|".join((_LETTERS, r"\p{N}{1,3}", _OTHERS)),
    "qwen2": "|".join((_LETTERS, r"\p{N}", _OTHERS)),
}
_BYTE_LEVEL = ("gpt-2", "default")
_DIGITS = ("smollm",)


def from_file(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json``.

    Raises:
        FaultyFileError: It cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise FaultyFileError(f"{path.name} has {path.stat().st_size} bytes; at most {_LARGEST_FILE} are read")
        return Tokenizer.from_file(str(path))
    except FaultyFileError:
        raise
    except Exception as error:
        raise FaultyFileError(f"{path.name} cannot be read: {error}") from error


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that GGUF metadata describes.

    Raises:
        FaultyFileError: It is none of those that can be rebuilt, or inconsistent.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise FaultyFileError(
            f"its tokenizer is of the kind {kind!r}, and only byte-level BPE ('gpt2') can be rebuilt from a GGUF file; "
            "use the model's Hugging Face directory"
        )
    words = _list(metadata, "tokens", str)
    types = _list(metadata, "token_type", int)
    merges = [tuple(merge.split(" ", 1)) for merge in _list(metadata, "merges", str)]
    if len(types) != len(words) or any(len(merge) != 2 for merge in merges):
        raise FaultyFileError(f"its tokenizer has {len(words)} tokens, {len(types)} types and broken merges")
    vocab = {word: index for index, word in enumerate(words)}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:
        raise FaultyFileError(f"its tokenizer's merges do not fit its tokens: {error}") from error
    tokenizer.pre_tokenizer = _pre_tokenizer(str(metadata.get("tokenizer.ggml.pre", "default")))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False)
                                  for word, kind in zip(words, types, strict=True) if kind == _CONTROL])  # fmt: skip
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False)
                          for word, kind in zip(words, types, strict=True) if kind == _USER_DEFINED])  # fmt: skip
    return tokenizer


def _pre_tokenizer(rule: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if rule in _BYTE_LEVEL:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if rule in _DIGITS:
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if rule in _EXPRESSIONS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_EXPRESSIONS[rule]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    known = ", ".join([*_BYTE_LEVEL, *_DIGITS, *_EXPRESSIONS])
    raise FaultyFileError(
        f"its tokenizer cuts text by the rule {rule!r}; known are {known}; use the model's Hugging Face directory"
    )


def _list(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    found = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list) or not all(isinstance(item, kind) for item in found):
        raise FaultyFileError(f"metadata tokenizer.ggml.{name} is missing or no list")
    return found
