"""Tokenizers of checkpoints: read from ``tokenizer.json``, or rebuilt from words and merges, wherever these stand."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
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


def from_directory(
    directory: Path, *, cut: str | None, added: Mapping[str, Any], special: Collection[str]
) -> Tokenizer:
    """The tokenizer of a Hugging Face directory.

    Args:
        directory: Holds ``tokenizer.json``, or else ``vocab.json`` and ``merges.txt``.
        cut: The rule by which text is cut before merging, in the latter case; ``None`` where it is not known.
        added: ``added_tokens_decoder`` of ``tokenizer_config.json``, in the latter case.
        special: Words that are special tokens wherever they are tokens, in the latter case.

    Raises:
        FaultyFileError: It is missing or cannot be read.
    """
    from tokenizers import normalizers

    if (directory / "tokenizer.json").exists():
        return _from_file(directory / "tokenizer.json")
    parts = [directory / name for name in ("vocab.json", "merges.txt")]
    if cut is None:
        raise FaultyFileError("its tokenizer is missing: there is no tokenizer.json")
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise FaultyFileError(
            f"its tokenizer is missing: there is no tokenizer.json, and instead of it no {' and no '.join(missing)}"
        )
    try:
        vocab = json.loads(_text(parts[0]))
        merges = [tuple(line.split(" ")) for line in _text(parts[1]).splitlines() if line and line[0] != "#"]
        tokens = sorted((int(number), about["content"], bool(about.get("special"))) for number, about in added.items())
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError) as error:
        raise FaultyFileError(f"its tokenizer cannot be read from vocab.json and merges.txt: {error!r}") from error
    if not isinstance(vocab, dict) or not all(type(number) is int for number in vocab.values()):
        raise FaultyFileError("vocab.json is no object of token ids")
    tokenizer = _byte_level(vocab, merges, cut)
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    _add(tokenizer, [word for word in special if word in vocab], special=True)
    for number, word, is_special in tokens:
        _add(tokenizer, [word], special=is_special)
        if tokenizer.token_to_id(word) != number:
            raise FaultyFileError(f"its token {word!r} is said to be {number}, but would be the next after vocab.json")
    return tokenizer


def _from_file(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise FaultyFileError(f"{path.name} has {path.stat().st_size} bytes; at most {_LARGEST_FILE} are read")
        return Tokenizer.from_file(str(path))
    except FaultyFileError:
        raise
    except Exception as error:
        raise FaultyFileError(f"{path.name} cannot be read: {error}") from error


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_FILE:
        raise FaultyFileError(f"{path.name} has {path.stat().st_size} bytes; at most {_LARGEST_FILE} are read")
    return path.read_text(encoding="utf-8")


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that GGUF metadata describes.

    Raises:
        FaultyFileError: It is none of those that can be rebuilt, or inconsistent.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise FaultyFileError(
            f"its tokenizer is of the kind {kind!r}, and only byte-level BPE ('gpt2') can be rebuilt from a GGUF file; "
            "use the model's Hugging Face directory"
        )
    words = _list(metadata, "tokens", str)
    types = _list(metadata, "token_type", int)
    merges = [tuple(merge.split(" ", 1)) for merge in _list(metadata, "merges", str)]
    if len(types) != len(words):
        raise FaultyFileError(f"its tokenizer has {len(words)} tokens and {len(types)} types")
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = _byte_level(vocab, merges, str(metadata.get("tokenizer.ggml.pre", "default")))
    for kind, is_special in ((_CONTROL, True), (_USER_DEFINED, False)):
        _add(tokenizer, [word for word, type_ in zip(words, types, strict=True) if type_ == kind], special=is_special)
    return tokenizer


def _byte_level(vocab: dict[str, int], merges: Sequence[Sequence[str]], cut: str) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models

    if any(len(merge) != 2 for merge in merges):
        raise FaultyFileError("its tokenizer has broken merges")
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[(merge[0], merge[1]) for merge in merges]))
    except Exception as error:
        raise FaultyFileError(f"its tokenizer's merges do not fit its tokens: {error}") from error
    tokenizer.pre_tokenizer = _pre_tokenizer(cut)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _add(tokenizer: Tokenizer, words: Sequence[str], *, special: bool) -> None:
    from tokenizers import AddedToken

    add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
    add([AddedToken(word, special=special, normalized=False) for word in words])


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
