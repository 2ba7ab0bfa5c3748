"""The language of a checkpoint: its tokenizer, its chat template and the tokens that end a reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmprog.backends.local.checkpoints import tokenizers
from llmprog.backends.local.checkpoints.hugging_face import read_json
from llmprog.backends.local.checkpoints.recipe import LanguageNeeds
from llmprog.backends.local.faults import FaultyFileError
from llmprog.backends.local.text.chat_template import ChatTemplate
from llmprog.backends.local.text.text_language import DEFAULT_BLOCK, TextLanguage
from llmprog.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_END_OF_TEXT = "<|endoftext|>"
# What ends a turn in the families that can be read, whatever the checkpoint says of it.
_ENDS = ("<|im_end|>", _END_OF_TEXT, "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>")


def from_gguf(metadata: Mapping[str, Any], needs: LanguageNeeds, backend: str) -> TextLanguage:
    """The language that GGUF metadata describes.

    Raises:
        FaultyFileError: It cannot be rebuilt.
    """
    tokenizer = tokenizers.from_gguf(metadata)
    said = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "eot", "eom")}
    ids = {name: number for name, number in said.items() if isinstance(number, int)}
    words = {
        f"{name}_token": tokenizer.id_to_token(ids[name])
        for name in ("bos", "eos")
        if 0 <= ids.get(name, -1) < needs.vocab_size
    }
    return _language(
        tokenizer,
        needs,
        ends=[ids.get("eos"), ids.get("eot"), ids.get("eom")],
        begin=ids.get("bos") if metadata.get("tokenizer.ggml.add_bos_token", False) else None,
        template=metadata.get("tokenizer.chat_template"),
        words={name: word for name, word in words.items() if word is not None},
        backend=backend,
    )


def from_directory(directory: Path, needs: LanguageNeeds, backend: str) -> TextLanguage:
    """The language of a Hugging Face directory.

    Raises:
        FaultyFileError: A file of it is missing or cannot be read.
    """
    about, generation = (
        read_json(directory / name) if (directory / name).is_file() else {}
        for name in ("tokenizer_config.json", "generation_config.json")
    )
    added = about.get("added_tokens_decoder")
    tokenizer = tokenizers.from_directory(
        directory, cut=needs.cut, added=added if isinstance(added, Mapping) else {}, special=(_END_OF_TEXT,)
    )
    words = {name: _content(about.get(name)) for name in ("bos_token", "eos_token")}
    config = read_json(directory / "config.json")
    inner = config.get("text_config")  # of models that read pictures as well
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    if ends is None and isinstance(inner, Mapping):
        ends = inner.get("eos_token_id")
    ends = [*(ends if isinstance(ends, list) else [ends]), _id_of(tokenizer, words["eos_token"])]
    return _language(
        tokenizer,
        needs,
        ends=ends,
        begin=_id_of(tokenizer, words["bos_token"]) if about.get("add_bos_token") else None,
        template=_template(directory, about),
        words={name: word for name, word in words.items() if word is not None},
        backend=backend,
    )


def _content(token: Any) -> str | None:
    """A special token's text, which is written plainly or within an object."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _id_of(tokenizer: Tokenizer, token: str | None) -> int | None:
    return None if token is None else tokenizer.token_to_id(token)


def _template(directory: Path, about: Mapping[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FaultyFileError(f"{file.name} cannot be read: {error}") from error
    found = about.get("chat_template")
    if isinstance(found, list):  # several by name
        named = {item.get("name"): item.get("template") for item in found if isinstance(item, Mapping)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _language(
    tokenizer: Tokenizer,
    needs: LanguageNeeds,
    *,
    ends: Sequence[Any],
    begin: int | None,
    template: Any,
    words: Mapping[str, str],
    backend: str,
) -> TextLanguage:
    size = needs.vocab_size
    if max(tokenizer.get_vocab().values(), default=0) >= size:
        raise FaultyFileError(f"its tokenizer has {tokenizer.get_vocab_size()} tokens, the model {size}")
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    known = [added.get(token) for token in _ENDS]  # a word of the plain vocabulary may be spelt like one
    found = [end for end in (*ends, *known) if end is not None]
    if not found or not all(type(end) is int and 0 <= end < size for end in found):
        raise FaultyFileError(f"the tokens that end a reply are {found!r:.200}; allowed are ids below {size}")
    found = list(dict.fromkeys(found))
    if begin is not None and not 0 <= begin < size:
        raise FaultyFileError(f"the token that begins a text is {begin!r}; allowed is an id below {size}")
    if begin is None and needs.begins_with_end:
        begin = found[0]
    try:
        chat = ChatTemplate(template, words, backend) if isinstance(template, str) else None
    except InputError as error:
        raise FaultyFileError(str(error)) from error
    return TextLanguage(
        tokenizer=tokenizer,
        chat=chat,
        vocab_size=size,
        eos_id=found[0],
        other_end_ids=tuple(found[1:]),
        begin=() if begin is None else (begin,),
        context_length=needs.max_positions,
        mask_id=-1 if needs.mask_id is None else needs.mask_id,
        block_length=needs.block_length or DEFAULT_BLOCK,
    )
