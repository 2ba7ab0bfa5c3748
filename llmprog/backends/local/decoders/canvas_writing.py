"""Rows of prompt and canvas that are written together without a cache: what decoders of that kind have in common.

Prompts are padded on the left and canvases on the right, so that canvas columns line up. Rows join and leave between
steps; each leaves as soon as its text is settled, that is when everything before the first end token is written. On
CUDA that is looked up every few steps only, because the host has to wait for the device to see it; a settled row is
left as it is in the meantime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from llmprog.backends.local.decoders.base import (
    Row,
    Seen,
    Vocabulary,
    Written,
    first_true,
    forbidden_logits,
    left_padding,
    pad_left,
    pad_right,
    written,
)
from llmprog.backends.local.decoders.watching import PROBABILITY, seen_of, unknown
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.sampling import Sampler

LOOK_EVERY = 8
"""Steps on CUDA after which the host looks which rows are settled; a stop text has to be looked for in every step."""


class CanvasWriting(ABC):
    """A ``Writing`` whose decoder says only what one step does. R rows, W columns: P of prompts, then G of canvases.

    Attributes:
        tokens: int64 [R, W].
        positions: int64 [R, W].
        valid: bool [R, W], False at padding.
        age: int64 [R], steps each row has made.
        block_length: int64 [R].
        state: What the decoder keeps of each row between steps, [R] or [R, G, ...]; see ``_new_state``. Once a row is
            watched, ``watching.PROBABILITY`` is part of it.
        forbidden: float32 [R or 1, V], added to logits.
        sampler: The rows' parameters and random streams.
        look_every: Steps between two looks at which rows are settled.
    """

    tokens: Tensor
    positions: Tensor
    valid: Tensor
    age: Tensor
    block_length: Tensor
    state: dict[str, Tensor]
    forbidden: Tensor
    sampler: Sampler

    def __init__(self, vocabulary: Vocabulary, device: torch.device, max_positions: int) -> None:
        """A writing without rows, for a model that knows ``max_positions`` positions."""
        self.vocabulary = vocabulary
        self.device = device
        self._max_positions = max_positions
        self._rows: dict[int, Row] = {}
        self._kinds: list[int] = []  # equal for rows that differ in nothing but their canvas
        self._has_joined = False
        self.look_every = LOOK_EVERY if device.type == "cuda" else 1
        self._steps_unseen = 0
        self._ends = torch.tensor(vocabulary.end_ids, device=device)

    @abstractmethod
    def _denoise(self) -> None:
        """Make one step for every row: change ``canvas`` in place."""

    def _new_state(self, rows: Sequence[Row], canvas: Tensor) -> dict[str, Tensor]:
        """The ``state`` of rows that join, whose canvases are ``canvas`` [R, G]; G shrinks and grows with the batch."""
        return {}

    def _unfinished(self) -> Tensor | None:
        """Rows whose written tokens may still change, bool [R]; ``None`` where those of no row do."""
        return None

    def _settled(self) -> Tensor:
        """Which rows need no further step, bool [R]: nothing is masked, or only what stands behind an end."""
        masked = self.canvas == self.vocabulary.mask_id
        first_mask = first_true(masked)
        settled = (first_mask == self.width) | (first_true(torch.isin(self.canvas, self._ends)) < first_mask)
        settled = settled | self._stopped(first_mask)
        unfinished = self._unfinished()
        return settled if unfinished is None else settled & ~unfinished

    def _stopped(self, known: Tensor) -> Tensor:
        """Which rows contain a stop text within their first ``known`` tokens [R], bool [R]."""
        checks = [row.has_stopped for row in self._rows.values()]
        if all(check is None for check in checks):
            return torch.zeros(len(self), dtype=torch.bool, device=self.device)
        texts, ends = self.canvas.tolist(), known.tolist()
        found = [check is not None and check(text[:end]) for check, text, end in zip(checks, texts, ends, strict=True)]
        return torch.tensor(found, device=self.device)

    @property
    def width(self) -> int:
        """G, columns of the widest canvas."""
        return max((len(row.canvas) for row in self._rows.values()), default=0)

    @property
    def canvas(self) -> Tensor:
        """The canvas columns of ``tokens``, int64 [R, G] (a view)."""
        return self.tokens[:, self.tokens.shape[1] - self.width :]

    @property
    def rows(self) -> Sequence[Row]:
        """The rows being written, in the order of the batch."""
        return list(self._rows.values())

    def block_columns(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """The canvas columns of each row's ``block`` [R], int64 [R, K], and which of them are in it, bool [R, K].

        K is the longest block; a column beyond the block or the canvas repeats another one.
        """
        width = self.width
        longest = min(max(row.block_length for row in self._rows.values()), width)
        columns = (block * self.block_length).unsqueeze(1) + torch.arange(longest, device=self.device)
        inside = columns < torch.clamp((block + 1) * self.block_length, max=width).unsqueeze(1)
        return columns.clamp(max=width - 1), inside

    def equal_rows(self) -> tuple[Tensor, Tensor] | None:
        """Rows that still read the same, which one computation serves.

        Returns:
            For each distinct reading one row that has it, int64 [D], and for each row its reading, int64 [R]; ``None``
            where all rows differ, and where looking would make the host wait for the device in every step.
        """
        if self.look_every > 1:
            return None
        texts = self.canvas.tolist()
        places: dict[Hashable, int] = {}
        firsts: list[int] = []
        back: list[int] = []
        for i, (kind, text) in enumerate(zip(self._kinds, texts, strict=True)):
            reading = (kind, *text)
            if reading not in places:
                places[reading] = len(firsts)
                firsts.append(i)
            back.append(places[reading])
        if len(firsts) == len(texts):
            return None
        return torch.tensor(firsts, device=self.device), torch.tensor(back, device=self.device)

    def room(self, rows: Sequence[Row]) -> int:
        return len(rows)

    def admit(self, rows: Mapping[int, Row]) -> None:
        if not rows:
            return
        joining = list(rows.values())
        tokens, positions, valid = layout(
            [row.prompt for row in joining],
            [row.canvas for row in joining],
            self.vocabulary.pad_id,
            self.device,
            self._max_positions,
        )
        width = max(len(row.canvas) for row in joining)
        state = self._new_state(joining, tokens[:, -width:])
        if any(row.is_watched for row in joining) or (self._rows and PROBABILITY in self.state):
            state[PROBABILITY] = unknown(tokens[:, -width:])
            if self._rows:
                self.state.setdefault(PROBABILITY, unknown(self.canvas))
        age = torch.zeros(len(joining), dtype=torch.int64, device=self.device)
        if self._rows:
            prompts, width = self.tokens.shape[1] - self.width, max(self.width, width)
            prompts = max(prompts, *(len(row.prompt) for row in joining))
            self._fit(prompts, width)
            (tokens, positions, valid), state = _fitted(
                (tokens, positions, valid), state, joining, prompts, width, self.vocabulary.pad_id
            )
            tokens, positions = torch.cat([self.tokens, tokens]), torch.cat([self.positions, positions])
            valid, age = torch.cat([self.valid, valid]), torch.cat([self.age, age])
            state = {name: torch.cat([self.state[name], new]) for name, new in state.items()}
        self.tokens, self.positions, self.valid, self.age, self.state = tokens, positions, valid, age, state
        self._rows |= rows
        self._has_joined = True
        self._describe_rows()

    def step(self) -> Mapping[int, Written]:
        found = self._leave() if self._has_joined else {}  # what joins may be written throughout
        self._has_joined = False
        if not self._rows:
            return found
        if self.look_every == 1 or any(row.has_stopped is not None for row in self._rows.values()):
            self._denoise()
            self.age += 1
            return found | self._leave()
        settled, before = self._settled(), self.canvas.clone()
        self._denoise()
        self.canvas.copy_(torch.where(settled.unsqueeze(1), before, self.canvas))
        self.age += 1
        self._steps_unseen += 1
        return found | self._leave() if self._steps_unseen >= self.look_every else found

    def drop(self, tickets: Collection[int]) -> None:
        self._keep([i for i, ticket in enumerate(self._rows) if ticket not in tickets])

    def text(self, ticket: int) -> tuple[int, ...]:
        place = list(self._rows).index(ticket)
        return tuple(self.canvas[place].tolist()[: len(self._rows[ticket].canvas)])

    def seen(self, ticket: int) -> Seen | None:
        return self._seen(list(self._rows).index(ticket), self._rows[ticket])

    def _seen(self, place: int, row: Row) -> Seen | None:
        if not row.is_watched:
            return None
        length = len(row.canvas)
        probabilities = self.state[PROBABILITY][place, :length]
        return seen_of(self.canvas[place, :length], probabilities, self.vocabulary.mask_id)

    def __len__(self) -> int:
        return len(self._rows)

    def _leave(self) -> dict[int, Written]:
        """Take out the rows whose text is settled."""
        self._steps_unseen = 0
        settled = self._settled()
        finished = settled.nonzero().squeeze(1).tolist()
        if not finished:
            return {}
        tickets, texts = list(self._rows), self.canvas[settled].tolist()
        found: dict[int, Written] = {}
        for place, text in zip(finished, texts, strict=True):
            row = self._rows[tickets[place]]
            seen = self._seen(place, row)
            found[tickets[place]] = written(row, text[: len(row.canvas)], self.vocabulary, seen=seen)
        self._keep((~settled).nonzero().squeeze(1).tolist())
        return found

    def _keep(self, places: Sequence[int]) -> None:
        if len(places) == len(self._rows):
            return
        items, index = list(self._rows.items()), torch.tensor(places, dtype=torch.int64, device=self.device)
        tokens, positions, valid, age = (
            values[index] for values in (self.tokens, self.positions, self.valid, self.age)
        )
        prompts, width = self.tokens.shape[1] - self.width, self.width
        self._rows = dict(items[place] for place in places)
        self.state = {name: values[index] for name, values in self.state.items()}
        self.tokens, self.positions, self.valid, self.age = tokens, positions, valid, age
        if not self._rows:
            self._kinds = []
            return
        # What only the rows that left needed is cut off.
        cut = prompts - max(len(row.prompt) for row in self._rows.values())
        end = tokens.shape[1] - width + self.width
        self.tokens, self.positions, self.valid = tokens[:, cut:end], positions[:, cut:end], valid[:, cut:end]
        self.state = {
            name: values[:, : self.width] if values.dim() > 1 else values for name, values in self.state.items()
        }
        self._describe_rows()

    def _fit(self, prompts: int, width: int) -> None:
        """Widen the batch to ``prompts`` and ``width`` columns."""
        (self.tokens, self.positions, self.valid), self.state = _fitted(
            (self.tokens, self.positions, self.valid), self.state, self.rows, prompts, width, self.vocabulary.pad_id
        )

    def _describe_rows(self) -> None:
        """Set what follows from the rows themselves."""
        rows = self.rows
        numbers: dict[Hashable, int] = {}
        self._kinds = [
            numbers.setdefault((row.prompt, row.block_length, len(row.canvas)), len(numbers)) for row in rows
        ]
        self.block_length = torch.tensor([row.block_length for row in rows], device=self.device)
        self.forbidden = forbidden_logits(self.vocabulary, rows, self.device)
        self.sampler = Sampler.of([row.params for row in rows], [row.key for row in rows], self.device)


def layout(
    prompts: Sequence[tuple[int, ...]],
    canvases: Sequence[tuple[int, ...]],
    pad_id: int,
    device: torch.device,
    max_positions: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens and positions, int64 [B, W], and validity, bool [B, W]: prompts end and canvases begin in one column."""
    prompt, prompt_lengths = pad_left(prompts, pad_id, device)
    canvas, canvas_lengths = pad_right(canvases, pad_id, device)
    width = canvas.shape[1]
    positions, valid = left_padding(prompt_lengths + width, prompt.shape[1] + width)
    valid[:, -width:] = attention_masks.lengths_to_valid(canvas_lengths, width)
    # Padding may lie past the last position the model knows; nobody sees it.
    return torch.cat([prompt, canvas], dim=1), positions.clamp(max=max_positions - 1), valid


def _fitted(
    columns: tuple[Tensor, Tensor, Tensor],
    state: Mapping[str, Tensor],
    rows: Sequence[Row],
    prompts: int,
    width: int,
    pad_id: int,
) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]:
    """Tokens, positions, validity and state of ``rows`` with columns added for longer prompts and wider canvases."""
    tokens, positions, valid = columns
    right = width - max(len(row.canvas) for row in rows)
    left = prompts - (tokens.shape[1] - (width - right))
    fitted = (
        F.pad(tokens, (left, right), value=pad_id),
        F.pad(positions, (left, right)),
        F.pad(valid, (left, right), value=False),
    )
    grown = {
        name: F.pad(values, (0, 0) * (values.dim() - 2) + (0, right)) if values.dim() > 1 else values
        for name, values in state.items()
    }
    return fitted, grown
