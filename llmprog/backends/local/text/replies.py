"""Replies as text: how their tokens read behind a prefix, and where a stop text ends them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmprog.backends.local.text.growing_text import GrowingText
from llmprog.backends.local.text.language import Language
from llmprog.backends.stop_texts import cut_at_stop
from llmprog.types import Completion, Logprobs, Usage

if TYPE_CHECKING:
    from llmprog.backends.local.decoders.base import Written


class Replies:
    """Reads the replies to one prompt.

    Args:
        language: The model's tokenizer.
        prefix: The tokens that every reply begins with, which are no part of its text.
        is_in_canvas: Whether the decoder's tokens begin with the prefix.
        stop: The texts that end a reply.
    """

    def __init__(
        self, language: Language, prefix: tuple[int, ...], *, is_in_canvas: bool = False, stop: tuple[str, ...] = ()
    ) -> None:
        self._language = language
        self._prefix = prefix
        self._num_given = len(prefix) if is_in_canvas else 0
        self._num_prefix_chars = len(language.decode(prefix)) if prefix else 0
        self._stop = stop

    def text(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens`` as it continues the prefix's."""
        return self._language.decode((*self._prefix, *tokens))[self._num_prefix_chars :]

    def stop_check(self) -> Callable[[Sequence[int]], bool] | None:
        """Tells for one row whether what the decoder wrote holds a stop text; ``None`` where there are none."""
        if not self._stop:
            return None
        read = GrowingText(self.text)

        def has_stopped(tokens: Sequence[int]) -> bool:
            text = read(tokens[self._num_given :])
            return any(end in text for end in self._stop)

        return has_stopped

    def completion(self, result: Written, prompt_tokens: int) -> Completion:
        """What a row has become, without the stop text and what follows it."""
        tokens = result.tokens[self._num_given :]
        text = self.text(tokens)
        cut = len(cut_at_stop(text, self._stop))
        logprobs = None
        if result.logprobs is not None:
            # The tokens of a stop text are no more part of the reply than the text is.
            kept = len(tokens)
            while kept and len(self.text(tokens[:kept])) > cut:
                kept -= 1
            words = tuple(map(self._language.word, tokens[:kept]))
            logprobs = Logprobs(tokens=words, logprobs=result.logprobs[:kept])
        return Completion(
            text=text[:cut],
            finish_reason="stop" if result.ended else "length",
            logprobs=logprobs,
            usage=Usage(
                calls=1,
                prompt_tokens=prompt_tokens,
                completion_tokens=result.num_generated,
                cached_tokens=min(prompt_tokens, result.num_known),
            ),
        )
