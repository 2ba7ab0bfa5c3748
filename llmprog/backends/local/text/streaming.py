"""A completion as it is written: what a canvas reads, as pieces of text and token by token, for whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmprog.backends.local.text.growing_text import GrowingText
from llmprog.backends.local.text.language import Language
from llmprog.backends.stop_texts import settled_text
from llmprog.types import CanvasToken, Delta

if TYPE_CHECKING:
    from llmprog.backends.local.decoders.base import Seen

MASK_SIGN = "▒"
"""Stands in a piece of text for a token that is not written yet."""

_MASK = CanvasToken(None)


class TokenTexts:
    """What each token of a language adds to a text; the same wherever it stands, as a picture of a canvas needs it.

    A token that begins a word brings the space before it along, also where nothing stands before it.
    """

    def __init__(self, language: Language) -> None:
        """The texts of a language; a token is read when it is first asked for."""
        self._language = language
        self._before: tuple[int, ...] | None = None
        self._known: dict[int, str] = {}

    def __call__(self, token: int) -> str:
        """The text of ``token``."""
        found = self._known.get(token)
        if found is None:
            if self._before is None:
                self._before = tuple(self._language.encode_text("1")[-1:])
            before = self._language.decode(self._before)
            text = self._language.decode((*self._before, token))
            found = text.removeprefix(before) if text.startswith(before) else self._language.word(token)
            self._known[token] = found
        return found


class StreamedCompletion:
    """Tells of one completion while it is written."""

    def __init__(
        self,
        sample: int,
        read: Callable[[Sequence[int]], str],
        token_text: Callable[[int], str],
        on_delta: Callable[[Delta], None],
        *,
        mask_id: int,
        end_ids: Sequence[int],
        stop: tuple[str, ...],
        appends: bool,
        keeps_tokens: bool,
        num_given: int = 0,
    ) -> None:
        """A completion of which nothing has been told.

        Args:
            sample: Its number in the call.
            read: The text of tokens.
            token_text: The text of one token on a canvas.
            on_delta: Told the pieces.
            mask_id: Stands for a token that is not written yet.
            end_ids: End the text.
            stop: Texts that end it.
            appends: Whether each piece follows the last: what is not settled is held back. Else each replaces all.
            keeps_tokens: Whether a token once written stays.
            num_given: The canvas's first tokens that are no part of the completion.
        """
        self._sample = sample
        self._read = read
        self._read_begun = GrowingText(read)
        self._token_text = token_text
        self._on_delta = on_delta
        self._mask_id = mask_id
        self._end_ids = frozenset(end_ids)
        self._stop = stop
        self._appends = appends
        self._keeps_tokens = keeps_tokens
        self._num_given = num_given
        self._told = ""
        self._seen: list[tuple[int, float | None]] = []  # what was told of the canvas, and as what
        self._canvas: tuple[CanvasToken, ...] | None = None

    def begin(self, canvas: Sequence[int]) -> None:
        """Tell of the canvas before anything is written; of pieces that follow each other there is none."""
        if not self._appends:
            self._tell(canvas, canvas, (None,) * len(canvas))

    def update(self, canvas: Sequence[int], seen: Seen | None = None) -> None:
        """Tell what is new.

        Args:
            canvas: Its tokens; ``mask_id`` where nothing is written.
            seen: What a watcher sees of it; ``None`` tells text only.
        """
        if seen is None:
            self._tell(canvas, (), None)
        else:
            self._tell(canvas, seen.tokens, seen.probabilities)

    def _tell(self, canvas: Sequence[int], seen: Sequence[int], probabilities: Sequence[float | None] | None) -> None:
        canvas = canvas[self._num_given :]
        end = self._end_of(canvas)
        first_mask = next((i for i, token in enumerate(canvas[:end]) if token == self._mask_id), end)
        settled = settled_text(self._read_begun(canvas[:first_mask]), self._stop) if self._keeps_tokens else ""
        if self._appends:
            if len(settled) > len(self._told) and settled.startswith(self._told):
                self._on_delta(Delta(sample=self._sample, text=settled[len(self._told) :]))
                self._told = settled
            return
        text, has_changed = self._shown(canvas[:end]), self._look(seen, probabilities)
        if text != self._told or has_changed:
            self._told = text
            self._replace(text, len(settled))

    def finish(self, text: str, seen: Seen | None = None) -> None:
        """Tell what is left of ``text``, the whole completion, and how its canvas ended."""
        if self._appends and text.startswith(self._told):
            if text != self._told:
                self._on_delta(Delta(sample=self._sample, text=text[len(self._told) :]))
        else:
            if seen is not None:
                self._look(seen.tokens, seen.probabilities)
            self._replace(text, len(text))
        self._told = text

    def _replace(self, text: str, num_settled: int) -> None:
        self._on_delta(
            Delta(sample=self._sample, text=text, replaces=True, num_settled=num_settled, canvas=self._canvas)
        )

    def _end_of(self, canvas: Sequence[int]) -> int:
        return next((i for i, token in enumerate(canvas) if token in self._end_ids), len(canvas))

    def _look(self, tokens: Sequence[int], probabilities: Sequence[float | None] | None) -> bool:
        """Whether the canvas shows anything that was not told of it."""
        if probabilities is None:
            return False
        end = self._num_given + self._end_of(tokens[self._num_given :])
        now = list(zip(tokens[self._num_given : end], probabilities[self._num_given : end], strict=True))
        before = self._seen
        if self._canvas is not None and now == before:
            return False
        canvas = list(self._canvas or ())[: len(now)]
        for place in [i for i, (old, new) in enumerate(zip(before, now, strict=False)) if old != new]:
            canvas[place] = self._token(*now[place])
        canvas += [self._token(*new) for new in now[len(canvas) :]]
        self._seen, self._canvas = now, tuple(canvas)
        return True

    def _token(self, token: int, probability: float | None) -> CanvasToken:
        if token == self._mask_id:
            return _MASK
        return CanvasToken(self._token_text(token), None if probability is None else round(min(probability, 1.0), 4))

    def _shown(self, canvas: Sequence[int]) -> str:
        """``canvas`` as text, a sign for each mask; masks at its end are left out."""
        last = next((i for i in reversed(range(len(canvas))) if canvas[i] != self._mask_id), -1)
        text, run = "", list[int]()
        for token in canvas[: last + 1]:
            if token == self._mask_id:
                text += (self._read(run) if run else "") + MASK_SIGN
                run = []
            else:
                run.append(token)
        return text + (self._read(run) if run else "")
