"""Eso-LM A (arXiv 2506.01928): a share alpha0 of each block by diffusion, the rest left to right.

When a token is written is drawn as for variant B (``hybrid``). What differs is attention. Masks see the clean tokens
and not each other, so only those scheduled in a step are fed. What is diffused, the prompt and the blocks before see
each other in both directions: with every token that diffusion writes all of them change, so nothing is cached between
its steps. In the sequential phase they are complete and their keys and values are kept; each further token sees them
and those before it, and is kept too: an exact cache until the block ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmprog.backends.local.caches.kv_cache import KVCache
from llmprog.backends.local.decoders.base import (
    Continuation,
    Row,
    Vocabulary,
    Writing,
    distinct,
    forbidden_logits,
    pad_right,
)
from llmprog.backends.local.decoders.block_writing import JoiningWriting
from llmprog.backends.local.decoders.hybrid import HybridDecoder, draw_phases
from llmprog.backends.local.decoders.watching import note_written
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import token_logprobs


class HybridADecoder(HybridDecoder):
    """Writes a few random tokens of each block in parallel, seen from both sides, then the rest of it one by one."""

    takes_joiners = True

    def start(self) -> Writing:
        return _HybridAWriting(self._model, self._vocabulary, self._alpha0, self._steps, use_cache=self._use_cache)

    @torch.inference_mode()
    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """See ``Decoder``: the exact likelihood in sequential order in one block (alpha0 = 0).

        ``eos_id`` is not part of a continuation, nor its probability of the score.
        """
        heads, index = distinct([c.prompt for c in continuations], self._device)
        prompts, lengths = pad_right(heads, self._vocabulary.pad_id, self._device)
        tokens, counts = pad_right([c.tokens for c in continuations], self._vocabulary.pad_id, self._device)
        prompts, lengths = prompts[index], lengths[index].unsqueeze(1)
        before, width = prompts.shape[1], tokens.shape[1]
        place = torch.arange(width, device=self._device)
        column = torch.arange(before, device=self._device).expand_as(prompts)
        positions = torch.cat([column, lengths + place], dim=1).clamp(max=self._model.config.max_positions - 1)
        rank = torch.cat([torch.zeros_like(column), (1 + place).expand_as(tokens)], dim=1)
        valid = torch.cat([column < lengths, attention_masks.lengths_to_valid(counts, width)], dim=1)
        total = before + width
        keep = torch.cat([torch.arange(total), torch.arange(total + before, 2 * total)]).to(self._device)
        logits = self._model(
            torch.cat([prompts, tokens, torch.full_like(tokens, self._vocabulary.mask_id)], dim=1),
            torch.cat([positions, positions[:, before:]], dim=1),
            attention_masks.esolm_sequential(rank, valid)[:, keep][:, :, keep],
            output=slice(total, None),
        )
        logits = logits.float() + forbidden_logits(self._vocabulary, [], self._device)
        scores = token_logprobs(logits, tokens).tolist()
        return [tuple(row[: len(c.tokens)]) for row, c in zip(scores, continuations, strict=True)]


class _HybridAWriting(JoiningWriting):
    """Rows each of which is in either phase of its block."""

    def __init__(
        self, model: Transformer, vocabulary: Vocabulary, alpha0: float, steps: int, *, use_cache: bool
    ) -> None:
        super().__init__(model, vocabulary)
        self._alpha0 = alpha0
        self._steps = steps
        self._use_cache = use_cache

    def _begin(self, rows: Sequence[Row], tokens: Tensor, begin: Tensor) -> tuple[KVCache | None, Tensor]:
        """Nothing is cached before a sequential phase."""
        cached = torch.zeros(len(rows), 0, dtype=torch.bool, device=self.device)
        return (self.model.make_cache(len(rows), 1) if self._use_cache else None), cached

    def _new_state(self, rows: Sequence[Row], tokens: Tensor) -> dict[str, Tensor]:
        """When each column is written, the one written last, what this block's sequential phase wrote, what is cached.

        ``is_cached`` says whether the cache holds all that a row's next token sees but the token before it.
        """
        device, width = self.device, tokens.shape[1]
        keys = torch.tensor([row.key for row in rows], device=device)
        start = torch.tensor([len(row.prompt) for row in rows], device=device).unsqueeze(1)
        phases = draw_phases(keys, width, self._alpha0, self._steps)
        column = torch.arange(width, device=device) - start
        nothing = torch.zeros(len(rows), dtype=torch.bool, device=device)
        return {
            "when": phases.gather(1, column.clamp(min=0)),
            "is_cached": nothing,
            "last": nothing.long(),
            "follows": torch.zeros_like(tokens, dtype=torch.bool),
        }

    def _write(self) -> None:
        state, vocabulary = self.state, self.vocabulary
        begin = self.start + self.block * self.block_length
        column = torch.arange(self.tokens.shape[1], device=self.device)
        here = column < (begin + self.block_length).minimum(self.end).unsqueeze(1)
        masked = (self.tokens == vocabulary.mask_id) & (column >= self.start.unsqueeze(1)) & here
        never = torch.iinfo(torch.int64).max
        when = state["when"].masked_fill(~masked, never)
        due = when.amin(1, keepdim=True)
        scheduled = masked & (when == due)
        follows = due.squeeze(1) >= self._steps
        clean = here & ~masked
        last = column == state["last"].unsqueeze(1)
        fed = torch.where(state["is_cached"].unsqueeze(1), last, clean)
        places, logits = self._predict(fed, scheduled, follows)
        logits = logits + self.forbidden.unsqueeze(1)
        tokens = self.sampler.sample(logits, places - self.start.unsqueeze(1))
        chosen = scheduled.gather(1, places) & _first_columns(scheduled, places.shape[1])
        note_written(state, places, chosen, tokens, logits)
        self.tokens.scatter_add_(1, places, torch.where(chosen, tokens - vocabulary.mask_id, 0))
        state["last"] = places[:, 0]
        state["follows"] |= scheduled & follows.unsqueeze(1)
        finished = (masked.sum(1) == scheduled.sum(1)) & masked.any(1)
        state["is_cached"] = follows & ~finished & (self.cache is not None)
        state["follows"] &= ~finished.unsqueeze(1)
        self.cached = self.cached & ~finished.unsqueeze(1)

    def _predict(self, fed: Tensor, scheduled: Tensor, follows: Tensor) -> tuple[Tensor, Tensor]:
        """Columns [R, K] of the scheduled masks and their logits, float32 [R, K, V].

        Args:
            fed: bool [R, W], clean tokens to feed.
            scheduled: bool [R, W], masks to predict; rows with fewer than K repeat others.
            follows: bool [R], whose clean tokens are kept in the cache.
        """
        past, places = _columns(fed), _columns(scheduled)
        count, width = past.shape[1], places.shape[1]
        is_past, is_place = _first_columns(fed, count), _first_columns(scheduled, width)
        among = self._among(past, is_past, count + width)
        keys = torch.cat([is_past, torch.zeros_like(is_place)], dim=1)
        mask = attention_masks.bidirectional(torch.cat([self.cached, keys], dim=1), count + width)
        mask[:, :, self.cached.shape[1] :] &= among
        keeps = self.cache is not None and bool(follows.any())
        logits: Tensor = self.model(
            torch.cat([self.tokens.gather(1, past), torch.full_like(places, self.vocabulary.mask_id)], dim=1),
            torch.cat([past, places], dim=1),
            mask,
            self.cache,
            store=None if self.cache is None else count * keeps,
            output=slice(count, None),
        )
        if keeps:
            self.cached = torch.cat([self.cached, is_past & follows.unsqueeze(1)], dim=1)
            self._compact()
        return places, logits.float()

    def _among(self, past: Tensor, is_past: Tensor, length: int) -> Tensor:
        """Which of the tokens fed may see which others, bool [R, L, L], beside what is padding.

        Clean tokens see each other in both directions, but nothing sees a token of the sequential phase that comes
        later: it matters where the whole past is fed, without a cache.
        """
        follows = self.state["follows"].gather(1, past)
        rank = torch.where(follows, 1 + past, 0)
        among = torch.ones(len(past), length, length, dtype=torch.bool, device=self.device)
        count = past.shape[1]
        among[:, :count, :count] = rank.unsqueeze(1) <= rank.unsqueeze(2)
        return among


def _columns(flags: Tensor) -> Tensor:
    """The columns that are True in each row, ascending, int64 [R, K]; shorter rows are filled up with others."""
    order = flags.int().argsort(dim=1, descending=True, stable=True)
    return order[:, : int(flags.sum(1).max())]


def _first_columns(flags: Tensor, width: int) -> Tensor:
    """bool [R, K]: which of the first ``width`` of ``_columns`` are the row's own."""
    return attention_masks.lengths_to_valid(flags.sum(1), width)
