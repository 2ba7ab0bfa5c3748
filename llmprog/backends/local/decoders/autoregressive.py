"""Left to right with a key/value cache: the output at i - 1 predicts token i.

Rows join and leave between steps, and each is as long as it is. The samples of one prompt share its prefill, and then
every step for as long as they agree: the cache has a slot for each distinct text, not for each sample. Low temperatures
and short verdicts make that much less work. Prompts are fed only from where they differ from what was read before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmprog.backends.local.caches.prefix_cache import PrefixCache
from llmprog.backends.local.caches.slot_cache import SlotCache, rounded_length
from llmprog.backends.local.decoders.base import (
    Continuation,
    Row,
    Seen,
    Vocabulary,
    Writing,
    Written,
    distinct,
    forbidden_logits,
    pad_right,
    written,
)
from llmprog.backends.local.decoders.prefill import PrefillCounts, Prefiller
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler, token_logprobs
from llmprog.errors import InputError

MEBIBYTE = 2**20
DEFAULT_MEMORY = 2048
"""Mebibytes of keys and values of the rows being written."""
DEFAULT_PREFIX_MEMORY = 512
"""Mebibytes of keys and values of texts read before."""


class AutoregressiveDecoder:
    """Writes one token per row and step."""

    name = "autoregressive"
    score_is_bound = False
    keeps_tokens = True
    takes_joiners = True

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        *,
        kv_memory: int = DEFAULT_MEMORY,
        prefix_memory: int = DEFAULT_PREFIX_MEMORY,
    ) -> None:
        """A decoder.

        Args:
            model: Its output at i predicts token i + 1.
            vocabulary: The model's.
            kv_memory: Most MiB of keys and values of the rows being written; what does not fit waits.
            prefix_memory: Most MiB of keys and values kept of texts read before; 0 keeps none.
        """
        self._model = model
        self._vocabulary = vocabulary
        self._device = model.embedding.weight.device
        dtype = model.embedding.weight.dtype
        self._most_tokens = kv_memory * MEBIBYTE // model.kv_shape.bytes_per_token(dtype)
        self._prefiller = Prefiller(model, vocabulary.pad_id, PrefixCache(prefix_memory * MEBIBYTE))

    @property
    def prefill_counts(self) -> PrefillCounts:
        """See ``RemembersPrompts``."""
        return self._prefiller.counts

    def start(self) -> Writing:
        return AutoregressiveWriting(self._model, self._vocabulary, self._prefiller, self._most_tokens)

    @torch.inference_mode()
    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """See ``Decoder``: the exact likelihood that the reply begins with the continuation.

        ``eos_id`` is not part of a continuation and its probability is not part of the score.
        """
        scores: list[tuple[float, ...]] = []
        left = list(continuations)
        while left:
            longest = max(len(c.prompt) + len(c.tokens) for c in left)
            # The prompts' slots are copied: one for each continuation.
            count = max(1, min(len(left), self._most_tokens // longest // 2))
            scores += self._score(left[:count])
            left = left[count:]
        return scores

    def _score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        prompts, index = distinct([c.prompt for c in continuations], self._device)
        cache = SlotCache(self._model.kv_shape, device=self._device, dtype=self._model.embedding.weight.dtype)
        prefilled = self._prefiller.feed(cache, prompts)
        tokens, _ = pad_right([c.tokens for c in continuations], self._vocabulary.pad_id, self._device)
        logits = torch.stack([prompt.logits for prompt in prefilled])[index].unsqueeze(1)
        if tokens.shape[1] > 1:
            first = len(prompts)
            cache.fork([prefilled[place].slot for place in index.tolist()])
            feed = cache.feed(first, first + len(continuations), tokens.shape[1] - 1)
            # Padding behind a short continuation may lie past the last position the model knows; nobody sees it.
            positions = feed.positions.clamp(max=self._model.config.max_positions - 1)
            logits = torch.cat([logits, self._model(tokens[:, :-1], positions, feed.mask, feed)], dim=1)
        logits = logits.float() + forbidden_logits(self._vocabulary, [], self._device)
        values = token_logprobs(logits, tokens).tolist()
        return [tuple(row[: len(c.tokens)]) for row, c in zip(values, continuations, strict=True)]


@dataclass(slots=True)
class Line:
    """A row being written: its slot, how much of its prompt was known before, what it says so far."""

    row: Row
    slot: int
    num_known: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class AutoregressiveWriting:
    """Rows in the course of being written."""

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        prefiller: Prefiller,
        most_tokens: int,
        num_ahead: int = 0,
    ) -> None:
        """A writing without rows, whose slots together have room for ``most_tokens`` tokens.

        A step may feed ``num_ahead`` tokens behind a row's last one.
        """
        weight = model.embedding.weight
        self._num_ahead = num_ahead
        self._model = model
        self._vocabulary = vocabulary
        self._prefiller = prefiller
        self._most_tokens = most_tokens
        self._device = weight.device
        self._cache = SlotCache(model.kv_shape, device=weight.device, dtype=weight.dtype, most_tokens=most_tokens)
        self._lines: dict[int, Line] = {}
        self._texts: list[list[int]] = []  # the tokens of each slot
        self._logits = torch.zeros(0, vocabulary.size, device=weight.device)  # behind them, [N, V]
        self._sampler: Sampler | None = None
        self._forbidden: Tensor | None = None

    def room(self, rows: Sequence[Row]) -> int:
        if rows and self._needed(rows[0]) > self._most_tokens:
            raise self._too_long(rows[0])
        longest = max((self._needed(line.row) for line in self._lines.values()), default=0)
        for count, row in enumerate(rows):
            longest = max(longest, self._needed(row))
            if (len(self) + count + 1) * longest > self._most_tokens:
                return count
        return len(rows)

    @torch.inference_mode()
    def admit(self, rows: Mapping[int, Row]) -> None:
        if not rows:
            return
        # Slots that nobody uses any more would count as needed.
        self._tidy()
        # Every row may come to need a slot of its own.
        self._cache.reserve(len(self._lines) + len(rows), max(len(row.prompt) for row in rows.values()) + 1)
        prompts = list(dict.fromkeys(row.prompt for row in rows.values()))
        prefilled = dict(zip(prompts, self._prefiller.feed(self._cache, prompts), strict=True))
        told: set[tuple[int, ...]] = set()
        for ticket, row in rows.items():
            prompt = prefilled[row.prompt]
            known = len(row.prompt) if row.prompt in told else prompt.num_known
            told.add(row.prompt)
            self._lines[ticket] = Line(row, prompt.slot, known)
        by_slot = sorted(prefilled.items(), key=lambda item: item[1].slot)
        self._texts += [list(tokens) for tokens, _ in by_slot]
        self._logits = torch.cat([self._logits, torch.stack([prompt.logits for _, prompt in by_slot]).float()])
        self._describe_rows()

    @torch.inference_mode()
    def step(self) -> Mapping[int, Written]:
        if not self._lines or self._sampler is None or self._forbidden is None:
            return {}
        lines = list(self._lines.values())
        slots = torch.tensor([line.slot for line in lines], device=self._device)
        logits = self._logits[slots] + self._forbidden
        chosen = self._sampler.sample(logits, torch.tensor([len(line.tokens) for line in lines], device=self._device))
        logprobs = token_logprobs(logits, chosen)
        for line, token, logprob in zip(lines, chosen.tolist(), logprobs.tolist(), strict=True):
            line.tokens.append(token)
            line.logprobs.append(logprob)
        found = self._leave()
        self._feed()
        return found

    @torch.inference_mode()
    def drop(self, tickets: Collection[int]) -> None:
        self._remove(tickets)
        self._tidy()

    def seen(self, ticket: int) -> Seen | None:
        return None  # its tokens follow each other: there is no canvas to look at

    def text(self, ticket: int) -> tuple[int, ...]:
        line = self._lines[ticket]
        return (*line.tokens, *line.row.canvas[len(line.tokens) :])

    def __len__(self) -> int:
        return len(self._lines)

    def _leave(self) -> dict[int, Written]:
        """Let finished rows go; their slots stay until the next step."""
        finished = {ticket: line for ticket, line in self._lines.items() if self._is_finished(line)}
        for line in finished.values():
            self._prefiller.remember(self._cache, line.slot, self._texts[line.slot])
        self._remove(finished)
        return {ticket: self._written(line) for ticket, line in finished.items()}

    def _is_finished(self, line: Line) -> bool:
        if line.tokens[-1] in self._vocabulary.end_ids or len(line.tokens) == len(line.row.canvas):
            return True
        return line.row.has_stopped is not None and line.row.has_stopped(line.tokens)

    def _written(self, line: Line) -> Written:
        """The result; the log-probabilities leave out what ended it."""
        return written(line.row, line.tokens, self._vocabulary, logprobs=line.logprobs, num_known=line.num_known)

    def _remove(self, tickets: Collection[int]) -> None:
        left = {ticket: line for ticket, line in self._lines.items() if ticket not in tickets}
        if len(left) < len(self._lines):
            self._lines = left
            self._describe_rows()

    def _describe_rows(self) -> None:
        """Set what follows from the rows themselves."""
        rows = [line.row for line in self._lines.values()]
        self._forbidden = forbidden_logits(self._vocabulary, rows, self._device)
        self._sampler = Sampler.of([row.params for row in rows], [row.key for row in rows], self._device)

    def _feed(self) -> None:
        """Feed every row's last token; rows that still say the same share a slot."""
        self._settle_slots()
        branches: dict[tuple[int, int], list[Line]] = {}
        for line in self._lines.values():
            branches.setdefault((line.slot, line.tokens[-1]), []).append(line)
        num_slots = len(self._cache.lengths)
        fed: dict[int, int] = {}  # of each slot, the token it is fed
        parents: list[int] = []
        for (slot, token), lines in branches.items():
            place = slot
            if slot in fed:
                place = num_slots + len(parents)
                parents.append(slot)
                for line in lines:
                    line.slot = place
            fed[place] = token
        if not fed:
            self._logits = self._logits[:0]
            return
        # Rows that share a slot may part later; a slab that grows for them at once is copied once.
        self._cache.reserve(len(self._lines), max(self._cache.lengths) + 1)
        self._cache.fork(parents)
        self._texts += [list(self._texts[slot]) for slot in parents]
        tokens = [fed[slot] for slot in range(len(fed))]
        feed = self._cache.feed(0, len(tokens), 1)
        ids = torch.tensor(tokens, device=self._device).unsqueeze(1)
        self._logits = self._model(ids, feed.positions, feed.mask, feed)[:, 0].float()
        for text, token in zip(self._texts, tokens, strict=True):
            text.append(token)

    def _tidy(self) -> None:
        """Let go of the slots that no row uses, and of the logits behind them."""
        if len(former := self._settle_slots()) < len(self._logits):
            self._logits = self._logits[torch.tensor(former, dtype=torch.int64, device=self._device)]

    def _settle_slots(self) -> list[int]:
        """Let go of the slots that no row uses; the former numbers of those that are left."""
        used = {line.slot for line in self._lines.values()}
        if len(used) == len(self._cache.lengths):
            return list(range(len(used)))
        former = self._cache.keep(list(used))
        new = {slot: place for place, slot in enumerate(former)}
        for line in self._lines.values():
            line.slot = new[line.slot]
        self._texts = [self._texts[slot] for slot in former]
        return former

    def _needed(self, row: Row) -> int:
        """Columns of a slot that holds the row to its end, and of what may be fed behind it."""
        return rounded_length(len(row.prompt) + len(row.canvas) + self._num_ahead)

    def _too_long(self, row: Row) -> InputError:
        return InputError(
            f"prompt and reply take up to {self._needed(row)} tokens, kv_memory has room for {self._most_tokens}; "
            "shorten them, ask for fewer max_tokens, or raise kv_memory"
        )
