"""Eso-LM B (arXiv 2506.01928): a share alpha0 of the tokens by diffusion, the rest left to right, with an exact cache.

Which positions are diffused, and in which step, does not depend on the tokens, so a row's whole schedule is drawn
first. The sampler reveals Binomial(remaining, (alpha_s - alpha_t) / (1 - alpha_t)) random tokens between the times t
and s, with alpha_t = alpha0 (1 - (1 - 1e-3) t). So each token draws the time of its own reveal, independently:
P(revealed by s) = (alpha_s - alpha_1) / (1 - alpha_1), because the factors 1 - (alpha_s - alpha_t) / (1 - alpha_t)
telescope. One uniform draw per position gives the same distribution as the binomials, and empty steps never appear.

Attention is causal in sigma order (the order of reveal), so keys and values of written tokens never change: each step
feeds only the tokens written by the step before and the masks scheduled now, at their original positions. Blocks from
left to right, each with its own two phases, are our generalisation; one block over the whole canvas is the original.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmprog.backends.local.caches.kv_cache import KVCache
from llmprog.backends.local.decoders.base import (
    FINISHED_SHARE,
    Continuation,
    Row,
    Seen,
    Vocabulary,
    Writing,
    Written,
    distinct,
    first_true,
    forbidden_logits,
    left_padding,
    pad_left,
    pad_right,
    written,
)
from llmprog.backends.local.decoders.watching import PROBABILITY, note_written, seen_of, unknown
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.forward_pass import ForwardPass
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler, token_logprobs, uniform

SMALLEST_TIME_STEP = 1e-3
"""alpha_t starts at alpha0 times this, not at 0 (the paper's noise schedule)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each position of a canvas is written. R rows, G canvas positions, J steps.

    Attributes:
        sigma: int64 [R, G], positions in the order of writing; given positions come last and are never scheduled.
        start: int64 [R, J], where in ``sigma`` a step begins.
        size: int64 [R, J], how many positions it writes; 0 where the row waits for others, or has ended.
    """

    sigma: Tensor
    start: Tensor
    size: Tensor

    def select(self, rows: Tensor) -> Schedule:
        """The schedules of the given rows."""
        return Schedule(self.sigma[rows], self.start[rows], self.size[rows])


def draw_phases(keys: Tensor, width: int, alpha0: float, steps: int) -> Tensor:
    """When each of ``width`` positions is written, int64 [R, G]: a diffusion step, or ``steps`` + its own number.

    Token draws count from 0, so negative counters are free. The draws of a position do not depend on the width.
    """
    times = uniform(keys, torch.full_like(keys, -1), width)
    time = 1 - torch.arange(1, steps + 1, device=keys.device) / steps
    alpha = alpha0 * (1 - (1 - SMALLEST_TIME_STEP) * time)
    first = alpha0 * SMALLEST_TIME_STEP
    reached = (alpha - first) / (1 - first)
    if alpha0 == 1:
        reached[-1] = 1.0  # nothing is left for a second phase, rounding or not
    step = torch.searchsorted(reached, times, right=True)
    return torch.where(step < steps, step, steps + torch.arange(width, device=keys.device))


def draw_schedule(blank: Tensor, block_length: Tensor, keys: Tensor, alpha0: float, steps: int) -> Schedule:
    """A schedule for every row.

    Args:
        blank: bool [R, G], the positions to write.
        block_length: int64 [R].
        keys: int64 [R], stream keys.
        alpha0: Share of the tokens written by diffusion.
        steps: Diffusion steps per block; those that reveal nothing are skipped.

    Rows begin each of their blocks together. The last steps of a block are one token wide, the first ones are wider,
    and rows that are out of step would make every step as wide as the widest.
    """
    rows, width = blank.shape
    position = torch.arange(width, device=blank.device)
    phase = draw_phases(keys, width, alpha0, steps)
    places = uniform(keys, torch.full_like(keys, -2), width)
    block = position // block_length.unsqueeze(1)
    group = torch.where(blank, block * (steps + width) + phase, torch.iinfo(torch.int64).max)
    shuffled = places.argsort(dim=1)
    sigma = shuffled.gather(1, group.gather(1, shuffled).argsort(dim=1, stable=True))

    ordered, block, blank = group.gather(1, sigma), block.gather(1, sigma), blank.gather(1, sigma)
    begins = blank.clone()
    begins[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    num_steps = torch.zeros(rows, width, dtype=torch.int64, device=blank.device)
    num_steps.scatter_add_(1, block, begins.long())  # of each row and block
    first_step = num_steps.amax(0).cumsum(0) - num_steps.amax(0)  # of each block
    before = (num_steps.cumsum(1) - num_steps).gather(1, block)
    index = (first_step[block] + begins.long().cumsum(1) - 1 - before).clamp(min=0)
    size = torch.zeros(rows, max(1, int(num_steps.amax(0).sum())), dtype=torch.int64, device=blank.device)
    size.scatter_add_(1, index.clamp(max=size.shape[1] - 1), blank.long())
    return Schedule(sigma, size.cumsum(1) - size, size)


@dataclass(slots=True)
class _Batch:
    """The rows still being written. C tokens fed by the next step's cache update, G canvas positions."""

    tickets: list[int]
    canvas: Tensor  # int64 [R, G]
    offset: Tensor  # int64 [R, 1], position of the first canvas token
    valid: Tensor  # bool [R, S], which cached tokens are no padding
    fresh: Tensor  # int64 [R, C], tokens written by the step before
    fresh_positions: Tensor
    fresh_valid: Tensor
    schedule: Schedule
    done: Tensor  # bool [R]
    forbidden: Tensor  # float32 [R or 1, V]
    sampler: Sampler
    cache: KVCache
    watched: dict[str, Tensor]  # see ``watching``; empty where nobody watches

    def select(self, keep: Tensor) -> _Batch:
        return replace(
            self,
            tickets=[self.tickets[i] for i in keep.tolist()],
            canvas=self.canvas[keep],
            offset=self.offset[keep],
            valid=self.valid[keep],
            fresh=self.fresh[keep],
            fresh_positions=self.fresh_positions[keep],
            fresh_valid=self.fresh_valid[keep],
            schedule=self.schedule.select(keep),
            done=self.done[keep],
            forbidden=self.forbidden if self.forbidden.shape[0] == 1 else self.forbidden[keep],
            sampler=self.sampler.select(keep),
            cache=self.cache.expand(keep),
            watched={name: values[keep] for name, values in self.watched.items()},
        )


class HybridDecoder:
    """Writes a few random tokens of each block in parallel, then the rest of it one by one."""

    name = "hybrid"
    score_is_bound = False
    keeps_tokens = True
    takes_joiners = False

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        *,
        alpha0: float = 0.1,
        steps: int = 16,
        use_cache: bool = True,
    ) -> None:
        """A decoder.

        Args:
            model: Fed a mask, it predicts the token at the mask's position.
            vocabulary: The model's.
            alpha0: Expected share of the tokens written by diffusion: 0 is left to right, 1 is diffusion only.
            steps: Diffusion steps per block.
            use_cache: False feeds the whole past in every step; the result is the same. It is there for comparison.
        """
        self._model = model
        self._vocabulary = vocabulary
        self._alpha0 = alpha0
        self._steps = steps
        self._use_cache = use_cache
        self._device = model.embedding.weight.device

    def start(self) -> Writing:
        return _HybridWriting(self._model, self._vocabulary, self._alpha0, self._steps, use_cache=self._use_cache)

    @torch.inference_mode()
    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """See ``Decoder``: the exact likelihood in sequential order (alpha0 = 0).

        That is what this decoder with alpha0 = 0 writes by; other values of alpha0 mix over orders, and the sum over
        those is out of reach. ``eos_id`` is not part of a continuation, nor its probability of the score.
        """
        prompts, index = distinct([(c.prompt, ()) for c in continuations], self._device)
        cache, _, _, valid = _prefill(self._model, self._vocabulary, prompts)
        tokens, counts = pad_right([c.tokens for c in continuations], self._vocabulary.pad_id, self._device)
        width = tokens.shape[1]
        lengths = torch.tensor([len(c.prompt) for c in continuations], device=self._device)
        positions = lengths.unsqueeze(1) + torch.arange(width, device=self._device)
        positions = positions.clamp(max=self._model.config.max_positions - 1)
        rank = torch.arange(width, device=self._device).expand_as(tokens)
        inside = attention_masks.lengths_to_valid(counts, width)
        among = attention_masks.esolm_sequential(rank, inside)
        prompt = valid[index].unsqueeze(1).expand(-1, 2 * width, -1)
        logits = self._model(
            torch.cat([tokens, torch.full_like(tokens, self._vocabulary.mask_id)], dim=1),
            torch.cat([positions, positions], dim=1),
            torch.cat([prompt, among], dim=2),
            cache.expand(index),
            store=0,
            output=slice(width, None),
        )
        logits = logits.float() + forbidden_logits(self._vocabulary, [], self._device)
        scores = token_logprobs(logits, tokens).tolist()
        return [tuple(row[: len(c.tokens)]) for row, c in zip(scores, continuations, strict=True)]


class _HybridWriting:
    """Rows that follow their schedules together; others cannot join them."""

    def __init__(
        self, model: Transformer, vocabulary: Vocabulary, alpha0: float, steps: int, *, use_cache: bool
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._alpha0 = alpha0
        self._steps = steps
        self._use_cache = use_cache
        self._device = model.embedding.weight.device
        self._ends = torch.tensor(vocabulary.end_ids, device=self._device)
        self._rows: dict[int, Row] = {}  # those still being written
        self._batch: _Batch | None = None
        self._next_step = 0
        self._sizes: list[int] = []  # of each step, the most positions a row has scheduled

    def room(self, rows: Sequence[Row]) -> int:
        return len(rows) if self._batch is None else 0

    @torch.inference_mode()
    def admit(self, rows: Mapping[int, Row]) -> None:
        if not rows:
            return
        self._rows = dict(rows)
        self._batch = self._start(rows.keys(), list(rows.values()))
        self._sizes = self._batch.schedule.size.amax(0).tolist()

    @torch.inference_mode()
    def step(self) -> Mapping[int, Written]:
        if not self._rows or self._batch is None:
            return {}
        while self._next_step < len(self._sizes) and not self._sizes[self._next_step]:
            self._next_step += 1  # the rows that would have written here have left
        if self._next_step < len(self._sizes):
            self._write(self._batch, self._next_step, self._sizes[self._next_step])
            self._mark_done(self._batch)
            self._next_step += 1
        else:
            self._batch.done.fill_(True)
        found = self._leave(self._batch)
        self._shrink()
        return found

    def drop(self, tickets: Collection[int]) -> None:
        for ticket in tickets:
            self._rows.pop(ticket, None)
        self._shrink()

    def text(self, ticket: int) -> tuple[int, ...]:
        if self._batch is None:
            raise KeyError(ticket)
        text = self._batch.canvas[self._batch.tickets.index(ticket)].tolist()
        return tuple(text[: len(self._rows[ticket].canvas)])

    def seen(self, ticket: int) -> Seen | None:
        if self._batch is None:
            raise KeyError(ticket)
        return self._seen(self._batch, self._batch.tickets.index(ticket), self._rows[ticket])

    def _seen(self, batch: _Batch, place: int, row: Row) -> Seen | None:
        if not row.is_watched:
            return None
        length = len(row.canvas)
        probabilities = batch.watched[PROBABILITY][place, :length]
        return seen_of(batch.canvas[place, :length], probabilities, self._vocabulary.mask_id)

    def __len__(self) -> int:
        return len(self._rows)

    def _leave(self, batch: _Batch) -> dict[int, Written]:
        """Give back the rows that are done; their place in the batch stays until it shrinks."""
        found: dict[int, Written] = {}
        finished = batch.done.nonzero().squeeze(1)
        for place, text in zip(finished.tolist(), batch.canvas[finished].tolist(), strict=True):
            ticket = batch.tickets[place]
            row = self._rows.pop(ticket, None)
            if row is not None:
                seen = self._seen(batch, place, row)
                found[ticket] = written(row, text[: len(row.canvas)], self._vocabulary, seen=seen)
        return found

    def _shrink(self) -> None:
        """Take the rows that have left out of the batch once they are many."""
        batch = self._batch
        if batch is None or len(batch.tickets) - len(self._rows) < max(1, FINISHED_SHARE * len(batch.tickets)):
            return
        places = [place for place, ticket in enumerate(batch.tickets) if ticket in self._rows]
        self._batch = batch.select(torch.tensor(places, dtype=torch.int64, device=self._device))
        if places:
            self._sizes = self._batch.schedule.size.amax(0).tolist()

    def _start(self, tickets: Collection[int], rows: Sequence[Row]) -> _Batch:
        """Prompts and given canvas tokens are clean from the start and come first in sigma."""
        device, vocabulary = self._device, self._vocabulary
        canvas, _ = pad_right([row.canvas for row in rows], vocabulary.pad_id, device)
        sampler = Sampler.of([row.params for row in rows], [row.key for row in rows], device)
        blocks = torch.tensor([row.block_length for row in rows], device=device)
        schedule = draw_schedule(canvas == vocabulary.mask_id, blocks, sampler.keys, self._alpha0, self._steps)
        starts, index = distinct([(row.prompt, row.canvas) for row in rows], device)
        cache, positions, tokens, valid = _prefill(self._model, vocabulary, starts, use_cache=self._use_cache)
        fresh = slice(0, 0) if self._use_cache else slice(None)
        kept = slice(None) if self._use_cache else slice(0, 0)
        return _Batch(
            tickets=list(tickets),
            canvas=canvas,
            offset=torch.tensor([len(row.prompt) for row in rows], device=device).unsqueeze(1),
            valid=valid[index][:, kept],
            fresh=tokens[index][:, fresh],
            fresh_positions=positions[index][:, fresh],
            fresh_valid=valid[index][:, fresh],
            schedule=schedule,
            done=(canvas != vocabulary.mask_id).all(1),
            forbidden=forbidden_logits(vocabulary, rows, device),
            sampler=sampler,
            cache=cache.expand(index),
            watched={PROBABILITY: unknown(canvas)} if any(row.is_watched for row in rows) else {},
        )

    def _write(self, batch: _Batch, step: int, size: int) -> None:
        """One step: write the ``size`` (or fewer) positions each row has scheduled."""
        schedule, width = batch.schedule, batch.canvas.shape[1]
        column = torch.arange(size, device=self._device)
        scheduled = column < schedule.size[:, step : step + 1]
        place = schedule.sigma.gather(1, (schedule.start[:, step : step + 1] + column).clamp(max=width - 1))
        logits = self._predict(batch, place + batch.offset, scheduled) + batch.forbidden.unsqueeze(1)
        tokens = batch.sampler.sample(logits, place)  # a position is drawn once, whenever that is
        note_written(batch.watched, place, scheduled, tokens, logits)
        # Columns a row has not scheduled may repeat a position; adding 0 leaves it as it is.
        batch.canvas.scatter_add_(1, place, torch.where(scheduled, tokens - self._vocabulary.mask_id, 0))
        fresh = (tokens, place + batch.offset, scheduled)
        if self._use_cache:
            batch.valid = torch.cat([batch.valid, batch.fresh_valid], dim=1)
        else:
            before = (batch.fresh, batch.fresh_positions, batch.fresh_valid)
            fresh = tuple(torch.cat(pair, dim=1) for pair in zip(before, fresh, strict=True))  # type: ignore[assignment]
        batch.fresh, batch.fresh_positions, batch.fresh_valid = fresh

    def _predict(self, batch: _Batch, positions: Tensor, scheduled: Tensor) -> Tensor:
        """Logits float32 [R, K, V] of the masks at ``positions`` [R, K]; caches the fresh tokens on the way."""
        # Unscheduled columns may lie past the last position the model knows; nobody sees them.
        positions = positions.clamp(max=self._model.config.max_positions - 1)
        fresh = batch.fresh.shape[1]
        mask = attention_masks.causal(
            fresh + positions.shape[1],
            batch.valid.shape[1],
            torch.cat([batch.valid, batch.fresh_valid, scheduled], dim=1),
        )
        logits: Tensor = self._model(
            torch.cat([batch.fresh, torch.full_like(positions, self._vocabulary.mask_id)], dim=1),
            torch.cat([batch.fresh_positions, positions], dim=1),
            mask,
            batch.cache if self._use_cache else None,
            store=fresh if self._use_cache else None,
            output=slice(fresh, None),
        )
        return logits.float()

    def _mark_done(self, batch: _Batch) -> None:
        """Mark the rows whose text is settled: written up to an ``eos_id`` or a stop text, or throughout."""
        masked = batch.canvas == self._vocabulary.mask_id
        first_mask = first_true(masked)
        batch.done |= first_true(torch.isin(batch.canvas, self._ends)) < first_mask
        batch.done |= first_mask == batch.canvas.shape[1]
        checks = [self._rows[ticket].has_stopped if ticket in self._rows else None for ticket in batch.tickets]
        if any(check is not None for check in checks):
            texts, ends = batch.canvas.tolist(), first_mask.tolist()
            stopped = [
                place for place, check in enumerate(checks) if check is not None and check(texts[place][: ends[place]])
            ]
            batch.done[stopped] = True


def _prefill(
    model: Transformer,
    vocabulary: Vocabulary,
    starts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    *,
    use_cache: bool = True,
) -> tuple[KVCache, Tensor, Tensor, Tensor]:
    """Feed distinct (prompt, canvas) pairs: their cache, and positions, tokens and validity, each [B, L]."""
    mask_id = vocabulary.mask_id
    given = [[(i, token) for i, token in enumerate(canvas) if token != mask_id] for _, canvas in starts]
    clean = [(*prompt, *(t for _, t in known)) for (prompt, _), known in zip(starts, given, strict=True)]
    places = [
        (*range(len(prompt)), *(len(prompt) + i for i, _ in known))
        for (prompt, _), known in zip(starts, given, strict=True)
    ]
    tokens, lengths = pad_left(clean, vocabulary.pad_id, model.embedding.weight.device)
    positions, _ = pad_left(places, 0, model.embedding.weight.device)
    valid = left_padding(lengths, tokens.shape[1])[1]
    cache = model.make_cache(len(starts), tokens.shape[1])
    if use_cache:
        mask = attention_masks.causal(tokens.shape[1], 0, valid)
        model.hidden(ForwardPass(tokens, positions, mask, cache, output=slice(0, 0)))
    return cache, positions, tokens, valid
