"""The language of a text model: a byte-level BPE tokenizer, a chat template, the tokens that end a reply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from llmprog.backends.local.options import LocalOptions
from llmprog.backends.local.text.chat_template import ChatTemplate
from llmprog.backends.local.text.language import EncodedPrompt
from llmprog.types import Prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from llmprog.backends.local.decoders.base import Vocabulary

DEFAULT_BLOCK = 32
_SURROGATE = re.compile("[\ud800-\udfff]")
_STAND_INS = 0xF0000  # private characters that stand for special tokens which a user's text spells out


@dataclass(frozen=True, kw_only=True)
class TextLanguage:
    """Text to tokens and back; implements ``Language``.

    What a user's text spells like a special token stays text: it cannot end a turn or begin another. A prompt without
    messages is no conversation: its prefix is gone on with as it stands.

    Attributes:
        tokenizer: Made with its special tokens; nothing is put before or behind what it encodes.
        chat: How messages are written; ``None`` for a base model, which reads their contents one after the other.
        vocab_size: Token ids of the model, which may be more than those of the tokenizer.
        eos_id: Ends a reply.
        other_end_ids: Further tokens that end one.
        begin: Tokens in front of every prompt of a base model.
        context_length: Tokens that the model has room for.
        mask_id: Stands for what is not written yet in models that know such a token; -1 in others, which are never
            fed it.
        block_length: Tokens of a block where ``options`` do not say.
    """

    tokenizer: Tokenizer
    chat: ChatTemplate | None
    vocab_size: int
    eos_id: int
    other_end_ids: tuple[int, ...] = ()
    begin: tuple[int, ...] = ()
    context_length: int
    mask_id: int = -1
    block_length: int = DEFAULT_BLOCK

    @cached_property
    def vocabulary(self) -> Vocabulary:
        from llmprog.backends.local.decoders.base import Vocabulary

        return Vocabulary(
            size=self.vocab_size,
            mask_id=self.mask_id,
            eos_id=self.eos_id,
            other_end_ids=self.other_end_ids,
            pad_id=self.eos_id,
            never_sampled=tuple(sorted(self._without_text)),
        )

    @cached_property
    def _without_text(self) -> set[int]:
        """The mask, and ids of the model that the tokenizer does not know."""
        unknown = set(range(self.vocab_size)).difference(self.tokenizer.get_vocab().values())
        return unknown | ({self.mask_id} if self.mask_id >= 0 else set())

    def encode(self, prompt: Prompt, options: LocalOptions) -> EncodedPrompt:
        if self.chat is None or options.chat_template == "off" or not prompt.messages:
            text = "\n".join(message.content for message in prompt.messages)
            tokens = [*self.begin, *self.encode_text(text)]
        else:
            messages = [{"role": message.role, "content": self._hidden(message.content)} for message in prompt.messages]
            tokens = self._encode_rendered(self.chat.render(messages))
        return EncodedPrompt(
            tokens=tuple(tokens),
            canvas_length=max(1, self.context_length - len(tokens)),
            block_length=options.block_length or self.block_length,
        )

    def encode_text(self, text: str) -> list[int]:
        return self._encode_rendered(self._hidden(text))

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def word(self, token: int) -> str:
        text: str = self.tokenizer.decode([token], skip_special_tokens=False)
        return text

    @cached_property
    def _special_ids(self) -> Mapping[str, int]:
        found = self.tokenizer.get_added_tokens_decoder()
        return {token.content: number for number, token in found.items() if token.special or number == self.mask_id}

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """The special tokens as they may stand in a text."""
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) if longest_first else "(?!)")

    def _hidden(self, text: str) -> str:
        """``text`` with private characters for the special tokens that it spells out."""
        names = list(self._special_ids)
        return self._special.sub(lambda found: chr(_STAND_INS + names.index(found[0])), text)

    def _encode_rendered(self, text: str) -> list[int]:
        """The tokens of a rendered conversation: specials are the template's, stand-ins the users' text."""
        names = list(self._special_ids)
        tokens: list[int] = []
        for piece in re.split(f"([{chr(_STAND_INS)}-{chr(_STAND_INS + len(names))}])", text):
            if len(piece) == 1 and 0 <= ord(piece) - _STAND_INS < len(names):
                tokens += self._encode_plainly(names[ord(piece) - _STAND_INS])
            elif piece:
                tokens += self._tokens(piece)
        return tokens

    def _encode_plainly(self, special: str) -> list[int]:
        """What spells a special token, as ordinary text: in two parts, neither of which is one."""
        return [*self._tokens(special[:1]), *self._tokens(special[1:])]

    def _tokens(self, text: str) -> list[int]:
        """The tokens of ``text``; a lone surrogate, which no UTF-8 has, is read as U+FFFD."""
        found: list[int] = self.tokenizer.encode(_SURROGATE.sub("\ufffd", text), add_special_tokens=False).ids
        return found
