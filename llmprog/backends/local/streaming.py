"""A completion as it is written: what a canvas reads, as pieces of text for whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmprog.backends.local.growing_text import GrowingText
from llmprog.backends.stop_texts import settled_text
from llmprog.types import Delta

MASK_SIGN = "▒"
"""Stands in a piece of text for a token that is not written yet."""


class StreamedCompletion:
    """Tells of one completion while it is written."""

    def __init__(
        self,
        sample: int,
        read: Callable[[Sequence[int]], str],
        on_delta: Callable[[Delta], None],
        *,
        mask_id: int,
        end_ids: Sequence[int],
        stop: tuple[str, ...],
        appends: bool,
        keeps_tokens: bool,
    ) -> None:
        """A completion of which nothing has been told.

        Args:
            sample: Its number in the call.
            read: The text of tokens.
            on_delta: Told the pieces.
            mask_id: Stands for a token that is not written yet.
            end_ids: End the text.
            stop: Texts that end it.
            appends: Whether each piece follows the last: what is not settled is held back. Else each replaces all.
            keeps_tokens: Whether a token once written stays.
        """
        self._sample = sample
        self._read = read
        self._read_begun = GrowingText(read)
        self._on_delta = on_delta
        self._mask_id = mask_id
        self._end_ids = frozenset(end_ids)
        self._stop = stop
        self._appends = appends
        self._keeps_tokens = keeps_tokens
        self._told = ""

    def update(self, canvas: Sequence[int]) -> None:
        """Tell what is new in ``canvas``, which reads ``mask_id`` where nothing is written."""
        end = next((i for i, token in enumerate(canvas) if token in self._end_ids), len(canvas))
        first_mask = next((i for i, token in enumerate(canvas[:end]) if token == self._mask_id), end)
        settled = settled_text(self._read_begun(canvas[:first_mask]), self._stop) if self._keeps_tokens else ""
        if self._appends:
            if len(settled) > len(self._told) and settled.startswith(self._told):
                self._on_delta(Delta(sample=self._sample, text=settled[len(self._told) :]))
                self._told = settled
            return
        text = self._shown(canvas[:end])
        if text != self._told:
            self._told = text
            self._on_delta(Delta(sample=self._sample, text=text, replaces=True, num_settled=len(settled)))

    def finish(self, text: str) -> None:
        """Tell what is left of ``text``, the whole completion."""
        if self._appends and text.startswith(self._told):
            if text != self._told:
                self._on_delta(Delta(sample=self._sample, text=text[len(self._told) :]))
        else:
            self._on_delta(Delta(sample=self._sample, text=text, replaces=True, num_settled=len(text)))
        self._told = text

    def _shown(self, canvas: Sequence[int]) -> str:
        """``canvas`` as text, a sign for each mask; masks at its end are left out."""
        last = max((i for i, token in enumerate(canvas) if token != self._mask_id), default=-1)
        text, run = "", list[int]()
        for token in canvas[: last + 1]:
            if token == self._mask_id:
                text += (self._read(run) if run else "") + MASK_SIGN
                run = []
            else:
                run.append(token)
        return text + (self._read(run) if run else "")
