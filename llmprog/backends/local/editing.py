"""Editing a draft: its least likely tokens are masked and written anew, as long as that makes the text likelier.

How likely a token is, the decoder says: models of masks by predicting it from all others, the hybrid from those before
it. Uniform diffusion has no likelihoods, but takes the draft in place of its first noise, and keeps of it what it would
write itself ("instant edit").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llmprog.backends.base import Edit, EditedSpan
from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary
from llmprog.backends.local.engine import Engine
from llmprog.backends.local.options import DecoderName
from llmprog.errors import OptionError
from llmprog.types import Usage

_PART_OF_A_CHARACTER = "\ufffd"

DEFAULT_ROUNDS = 4
DEFAULT_SHARE = 0.2
"""Of a draft's tokens, written anew in a round unless it is said how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditOptions:
    """How a draft is edited; see ``EditingBackend.edit``.

    Raises:
        OptionError: A value is not allowed, or both numbers are given.
    """

    num_tokens: int | None = None
    share: float | None = None
    max_rounds: int | None = None

    def __post_init__(self) -> None:
        if self.num_tokens is not None and self.share is not None:
            raise OptionError(f"edit(num_tokens={self.num_tokens!r}, share={self.share!r}): give one of the two")
        for name in ("num_tokens", "max_rounds"):
            value = getattr(self, name)
            if value is not None and not (_is_a((int,), value) and value >= 1):
                raise OptionError(f"edit({name}={value!r}): allowed is a whole number >= 1")
        if self.share is not None and not (_is_a((int, float), self.share) and 0 < self.share <= 1):
            raise OptionError(f"edit(share={self.share!r}): allowed is a number in (0, 1]")

    def count(self, length: int) -> int:
        """How many of ``length`` tokens are written anew in a round."""
        if self.num_tokens is not None:
            return min(self.num_tokens, length)
        return math.ceil((DEFAULT_SHARE if self.share is None else self.share) * length)


def _is_a(kinds: tuple[type, ...], value: object) -> bool:
    """Whether a value is of one of these kinds; a truth value is no number."""
    return isinstance(value, kinds) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Revised:
    """What became of a draft: its tokens, the rounds it took, the tokens written in them."""

    tokens: tuple[int, ...]
    rounds: int
    num_generated: int


class Reviser:
    """Edits drafts of replies to one prompt."""

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        decoder: DecoderName,
        *,
        make_row: Callable[[tuple[int, ...], int], Row],
        read: Callable[[Sequence[int]], str],
    ) -> None:
        """A reviser.

        Args:
            engine: Writes and scores.
            vocabulary: The model's.
            decoder: The engine's.
            make_row: A row for a canvas in a round.
            read: The text of a reply's tokens.
        """
        self._engine = engine
        self._vocabulary = vocabulary
        self._decoder = decoder
        self._make_row = make_row
        self._read = read

    async def edit(self, prefix: tuple[int, ...], draft: tuple[int, ...], text: str, options: EditOptions) -> Edit:
        """``draft``, the tokens of ``text`` behind ``prefix``, edited.

        Raises:
            OptionError: An option that uniform diffusion would ignore.
        """
        if not draft:
            return Edit(text=text, spans=(), rounds=0, usage=Usage())
        if self._decoder == "uniform_diffusion":
            if options != EditOptions():
                raise OptionError(f"{options!r} has no effect with decoder={self._decoder!r}, which decides by itself")
            revised = await self._from_draft(prefix, draft)
        else:
            revised = await self._by_likelihood(prefix, draft, options)
        spans = edited_spans(draft, revised.tokens, self._read)
        usage = Usage(
            calls=revised.rounds,
            prompt_tokens=len(self._make_row((), 0).prompt) + len(prefix) + len(draft),
            completion_tokens=revised.num_generated,
        )
        # A tokenizer may lose spaces: a draft in which nothing was replaced is given back as it was written.
        edited = self._read(revised.tokens) if spans else text
        return Edit(text=edited, spans=spans, rounds=revised.rounds, usage=usage)

    async def _by_likelihood(self, prefix: tuple[int, ...], draft: tuple[int, ...], options: EditOptions) -> Revised:
        """``draft``, which follows ``prefix``, with its least likely tokens written anew, round by round."""
        tokens, generated = draft, 0
        max_rounds = options.max_rounds or DEFAULT_ROUNDS
        likelihoods = await self._likelihoods(prefix, tokens)
        for number in range(max_rounds):
            doubtful = sorted(range(len(tokens)), key=lambda i: (likelihoods[i], i))[: options.count(len(tokens))]
            canvas = [*prefix, *tokens, self._vocabulary.eos_id]
            for place in doubtful:
                canvas[len(prefix) + place] = self._vocabulary.mask_id
            (written,) = await self._engine.decode([self._make_row(tuple(canvas), number)])
            generated += written.num_generated
            proposed = written.tokens[len(prefix) :]
            if proposed == tokens:
                return Revised(tokens, number + 1, generated)
            found = await self._likelihoods(prefix, proposed)
            if math.fsum(found) <= math.fsum(likelihoods):
                return Revised(tokens, number + 1, generated)
            tokens, likelihoods = proposed, found
        return Revised(tokens, max_rounds, generated)

    async def _from_draft(self, prefix: tuple[int, ...], draft: tuple[int, ...]) -> Revised:
        """``draft`` denoised: what a decoder makes of it that starts from it instead of from noise."""
        canvas = (*prefix, *(self._vocabulary.mask_id for _ in draft), self._vocabulary.eos_id)
        row = replace(self._make_row(canvas, 0), draft=(*prefix, *draft, self._vocabulary.eos_id))
        (written,) = await self._engine.decode([row])
        return Revised(written.tokens[len(prefix) :], 1, written.num_generated)

    async def _likelihoods(self, prefix: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[float, ...]:
        row = self._make_row((), 0)
        asked = Continuation((*row.prompt, *prefix), tokens, row.block_length, each_alone=self._decoder != "hybrid")
        (likelihoods,) = await self._engine.score([asked])
        return likelihoods


def edited_spans(
    old: Sequence[int], new: Sequence[int], read: Callable[[Sequence[int]], str]
) -> tuple[EditedSpan, ...]:
    """The runs of tokens in which ``new`` differs from ``old``, which is as long; ``read`` gives tokens' text.

    A run is made longer where it would begin or end within a character: a token may be a part of one.
    """

    def is_whole(place: int) -> bool:
        return not any(read(tokens[:place]).endswith(_PART_OF_A_CHARACTER) for tokens in (old, new))

    spans: list[EditedSpan] = []
    place = 0
    while place < len(old):
        if old[place] == new[place]:
            place += 1
            continue
        begin, end = place, place + 1
        while not is_whole(begin):
            begin -= 1
        while end < len(old) and (old[end] != new[end] or not is_whole(end)):
            end += 1
        before = len(read(new[:begin]))
        was, now = read(old[:end])[len(read(old[:begin])) :], read(new[:end])[before:]
        space = len(now) - len(now.lstrip(" "))
        spans.append(EditedSpan(before + space, was.removeprefix(" "), now[space:]))
        place = end
    return tuple(spans)
