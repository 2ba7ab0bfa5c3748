"""The text of tokens that are written one after the other, without decoding all of them for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_HALF_A_CHARACTER = "\ufffd"


class GrowingText:
    """Reads one reply again and again while it is written; gives what ``read`` gives.

    What a token adds depends on the token before it (a space between words) and on bytes of a character that is not
    complete. So the text is kept up to a token that completes a character, and what follows is decoded behind the
    tokens that were read last. Tokens other than those read before are decoded as a whole.

    Args:
        read: The text of tokens.
    """

    def __init__(self, read: Callable[[Sequence[int]], str]) -> None:
        self._read = read
        self._known: list[int] = []
        self._text = ""  # of the tokens known
        self._begin = self._end = 0
        self._context = ""  # the text of the tokens between

    def __call__(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``."""
        if list(tokens[: self._end]) != self._known:
            self._forget()
        recent = self._read(tokens[self._begin :])
        if not recent.startswith(self._context):
            self._forget()
            recent = self._read(tokens)
        text = self._text + recent[len(self._context) :]
        # A token that adds nothing may have ended the text, or be left out of it: neither is a place to go on from.
        is_whole = len(tokens) > self._end and not text.endswith(_HALF_A_CHARACTER)
        if is_whole and recent != self._read(tokens[self._begin : -1]):
            self._known, self._text = list(tokens), text
            self._context = self._read(tokens[self._end :]) if self._end > self._begin else recent
            self._begin, self._end = self._end, len(tokens)
        return text

    def _forget(self) -> None:
        self._known, self._text = [], ""
        self._begin = self._end = 0
        self._context = ""
