"""What a local model reads and writes: prompts as tokens, tokens as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmprog.backends.local.options import LocalOptions
from llmprog.types import Prompt

if TYPE_CHECKING:
    from llmprog.backends.local.decoders.base import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A prompt as the model sees it.

    Attributes:
        tokens: The prompt's tokens, its prefix not among them.
        canvas_length: Tokens of the longest reply; what a decoder that fills a canvas writes on.
        block_length: Natural block of a reply: one line of it where lines are equal.
    """

    tokens: tuple[int, ...]
    canvas_length: int
    block_length: int


class Language(Protocol):
    """The tokenizer of a local model, and the form of its prompts."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The token ids that decoders have to know."""
        ...

    def encode(self, prompt: Prompt, options: LocalOptions) -> EncodedPrompt:
        """The prompt's messages, without its prefix.

        Raises:
            InputError: The model does not understand them.
        """
        ...

    def encode_text(self, text: str) -> list[int]:
        """A reply's text, or a part of it; what looks like a special token in it is text.

        Raises:
            InputError: The model does not know what it holds.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a reply's tokens."""
        ...

    def word(self, token: int) -> str:
        """The text of one token by itself."""
        ...
