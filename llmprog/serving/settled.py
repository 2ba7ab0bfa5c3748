"""What of a reply under way can be sent to a client that only appends: text that nothing will change any more."""

from __future__ import annotations

from collections.abc import Sequence

from llmprog.backends.stop_texts import settled_text
from llmprog.serving.faults import RequestError
from llmprog.types import Delta


class SettledText:
    """Takes in the pieces of one completion, and hands out what is settled of it.

    Text is settled up to where a stop text may have begun or a character is incomplete. Of a text that replaces what
    came before (diffusion), as much is settled as its piece says.

    Args:
        stops: The texts that end the completion.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = stops
        self._text = ""
        self._sent = ""

    def add(self, delta: Delta) -> str:
        """Take in a piece of the reply; returns what to send now, which may be nothing."""
        self._text = delta.text[: delta.num_settled] if delta.replaces else self._text + delta.text
        settled = settled_text(self._text, self._stops)
        if len(settled) <= len(self._sent) or not settled.startswith(self._sent):
            return ""
        piece = settled[len(self._sent) :]
        self._sent = settled
        return piece

    def finish(self, text: str) -> str:
        """What is left to send, now that the whole text is known.

        Raises:
            RequestError: The text begins otherwise than what was sent.
        """
        if not text.startswith(self._sent):
            raise RequestError(
                "the reply was begun anew after a part of it had been sent; ask again, without stream",
                status=502,
                code="reply_changed",
            )
        piece = text[len(self._sent) :]
        self._sent = text
        return piece
