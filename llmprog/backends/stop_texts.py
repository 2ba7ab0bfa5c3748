"""Where stop texts end a reply, and how much of one under way neither they nor a character's other half can change."""

from __future__ import annotations

from collections.abc import Sequence

_HALF_A_CHARACTER = "\ufffd"  # how the first bytes of a character read until the rest have come


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """``text`` up to where the first of the stop texts in it begins."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def settled_text(text: str, stops: Sequence[str]) -> str:
    """The beginning of ``text`` that what follows cannot change: no stop text may begin in it.

    A character that is incomplete may turn out to be the next one of a stop text, so what stands before it is held
    back, too.
    """
    text = cut_at_stop(text, stops).rstrip(_HALF_A_CHARACTER)
    held = (count for stop in stops for count in range(1, len(stop)) if text.endswith(stop[:count]))
    return text[: len(text) - max(held, default=0)]
