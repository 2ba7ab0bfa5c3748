"""Left to right with a key/value cache: the output at i - 1 predicts token i.

Different prompts share the batch, and finished rows leave it. The samples of one prompt share its prefill, and then
every step for as long as they agree: the cache has a row for each distinct beginning (a branch), not for each sample.
Low temperatures and short verdicts make that much less work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmprog.backends.local import attention_masks
from llmprog.backends.local.decoders.base import (
    FINISHED_SHARE,
    Continuation,
    Row,
    Vocabulary,
    Writing,
    Written,
    distinct,
    forbidden_logits,
    left_padding,
    pad_left,
    pad_right,
    written,
)
from llmprog.backends.local.sampling import Sampler, token_logprobs
from llmprog.backends.local.transformer import KVCache, Transformer


@dataclass(slots=True)
class _Batch:
    """The rows still being written. R rows, T the longest reply, V vocabulary."""

    rows: list[int]  # original index of each row
    branch: Tensor  # int64 [R], the cache row that holds the row's past
    tokens: Tensor  # int64 [R, T], ``mask_id`` where nothing is written
    logprobs: Tensor  # float32 [R, T]
    limits: Tensor  # int64 [R]
    done: Tensor  # bool [R]
    forbidden: Tensor  # float32 [R or 1, V]
    sampler: Sampler

    def select(self, keep: Tensor) -> _Batch:
        return _Batch(
            [self.rows[i] for i in keep.tolist()],
            self.branch[keep],
            self.tokens[keep],
            self.logprobs[keep],
            self.limits[keep],
            self.done[keep],
            self.forbidden if self.forbidden.shape[0] == 1 else self.forbidden[keep],
            self.sampler.select(keep),
        )


class AutoregressiveDecoder:
    """Writes one token per row and step."""

    name = "autoregressive"
    score_is_bound = False

    def __init__(self, model: Transformer, vocabulary: Vocabulary) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._device = model.embedding.weight.device

    def start(self) -> Writing:
        raise NotImplementedError

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row], cancelled: Callable[[], Collection[int]] = tuple) -> list[Written | None]:
        """See ``Decoder``. The log-probabilities leave out a final ``eos_id``."""
        results: list[Written | None] = [None] * len(rows)
        prompts, branch = distinct([row.prompt for row in rows], self._device)
        cache, logits, lengths, valid = self._prefill(prompts)
        batch = self._start(rows, branch)
        longest = batch.tokens.shape[1]
        ends = torch.tensor(self._vocabulary.end_ids, device=self._device)
        valid = torch.cat([valid, valid.new_ones(len(prompts), longest)], dim=1)
        for step in range(longest):
            own = logits.float()[batch.branch] + batch.forbidden
            chosen = batch.sampler.sample(own, step)
            batch.logprobs[:, step] = token_logprobs(own, chosen)
            batch.tokens[:, step] = torch.where(batch.done, self._vocabulary.mask_id, chosen)
            batch.done |= torch.isin(chosen, ends) | (batch.limits <= step + 1)
            gone = cancelled()
            self._mark_done(batch, rows, step + 1, gone)
            batch, chosen = self._drop_done(results, rows, batch, chosen, gone)
            if not batch.rows:
                break
            parents, fed, batch.branch = self._grow(batch, chosen, cache.batch_size)
            if parents is not None:
                cache, lengths, valid = cache.expand(parents), lengths[parents], valid[parents]
            logits = self._model(
                fed.unsqueeze(1), (lengths + step).unsqueeze(1), valid[:, None, : cache.length + 1], cache
            )[:, -1]
        return results

    def _start(self, rows: Sequence[Row], branch: Tensor) -> _Batch:
        device = self._device
        limits = torch.tensor([len(row.canvas) for row in rows], device=device)
        shape = (len(rows), int(limits.max()))
        return _Batch(
            rows=list(range(len(rows))),
            branch=branch,
            tokens=torch.full(shape, self._vocabulary.mask_id, device=device),
            logprobs=torch.zeros(shape, device=device),
            limits=limits,
            done=torch.zeros(len(rows), dtype=torch.bool, device=device),
            forbidden=forbidden_logits(self._vocabulary, rows, device),
            sampler=Sampler.of([row.params for row in rows], [row.key for row in rows], device),
        )

    def _grow(self, batch: _Batch, chosen: Tensor, num_branches: int) -> tuple[Tensor | None, Tensor, Tensor]:
        """The branches of the next step: rows that agree so far stay one.

        Returns:
            For each new branch the one it continues (``None``: they are the same as before), the token each is fed, and
            each row's branch, int64 [R].
        """
        alive = (~batch.done).nonzero().squeeze(1)
        codes = batch.branch[alive] * self._vocabulary.size + chosen[alive]
        grown, place = torch.unique(codes, return_inverse=True)
        parents, fed = grown // self._vocabulary.size, grown % self._vocabulary.size
        is_split = len(torch.unique(parents)) < len(parents)
        if not is_split and len(parents) > (1 - FINISHED_SHARE) * num_branches:
            # Few branches have ended: they stay for now, because moving the cache costs about as much as a step.
            every = torch.full((num_branches,), self._vocabulary.pad_id, device=self._device)
            return None, every.scatter(0, parents, fed), batch.branch
        # Rows that have ended may have lost their branch; any will do for what nobody reads.
        return parents, fed, torch.zeros_like(batch.branch).scatter(0, alive, place)

    @torch.inference_mode()
    def score(self, continuations: Sequence[Continuation]) -> list[tuple[float, ...]]:
        """See ``Decoder``: the exact likelihood that the reply begins with the continuation.

        ``eos_id`` is not part of a continuation and its probability is not part of the score.
        """
        prompts, index = distinct([c.prompt for c in continuations], self._device)
        cache, first, lengths, valid = self._prefill(prompts)
        tokens, counts = pad_right([c.tokens for c in continuations], self._vocabulary.pad_id, self._device)
        logits = first[index].unsqueeze(1)
        if tokens.shape[1] > 1:
            fed = tokens[:, :-1]
            positions = lengths[index].unsqueeze(1) + torch.arange(fed.shape[1], device=self._device)
            keys = torch.cat([valid[index], attention_masks.lengths_to_valid(counts, fed.shape[1])], dim=1)
            mask = attention_masks.causal(fed.shape[1], cache.length, keys)
            # Padding behind a short continuation may lie past the last position the model knows; nobody sees it.
            positions = positions.clamp(max=self._model.config.max_positions - 1)
            logits = torch.cat([logits, self._model(fed, positions, mask, cache.expand(index), store=0)], dim=1)
        logits = logits.float() + forbidden_logits(self._vocabulary, [], self._device)
        scores = token_logprobs(logits, tokens).tolist()
        return [tuple(row[: len(c.tokens)]) for row, c in zip(scores, continuations, strict=True)]

    def _prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[KVCache, Tensor, Tensor, Tensor]:
        """Feed distinct prompts: their cache, last logits [B, V], lengths [B] and valid keys [B, L]."""
        tokens, lengths = pad_left(prompts, self._vocabulary.pad_id, self._device)
        positions, valid = left_padding(lengths, tokens.shape[1])
        cache = self._model.make_cache(len(prompts), tokens.shape[1])
        mask = attention_masks.causal(tokens.shape[1], 0, valid)
        logits = self._model(tokens, positions, mask, cache, output=slice(-1, None))[:, 0]
        return cache, logits, lengths, valid

    def _mark_done(self, batch: _Batch, rows: Sequence[Row], count: int, gone: Collection[int]) -> None:
        """Mark rows whose first ``count`` tokens contain a stop text, and those that are ``gone``."""
        if gone:
            batch.done |= torch.tensor([i in gone for i in batch.rows], device=self._device)
        checks = [rows[i].has_stopped for i in batch.rows]
        if all(check is None for check in checks):
            return
        ended, texts = batch.done.tolist(), batch.tokens[:, :count].tolist()
        batch.done[
            [
                place
                for place, check in enumerate(checks)
                if check is not None and not ended[place] and check(texts[place])
            ]
        ] = True

    def _drop_done(
        self, results: list[Written | None], rows: Sequence[Row], batch: _Batch, chosen: Tensor, gone: Collection[int]
    ) -> tuple[_Batch, Tensor]:
        """Take finished rows out once they are many; ``chosen`` are the last tokens, int64 [R]."""
        num_done = int(batch.done.sum())
        if not num_done or num_done < FINISHED_SHARE * len(batch.rows):
            return batch, chosen
        finished = batch.done.nonzero().squeeze(1)
        texts, values = batch.tokens[finished].tolist(), batch.logprobs[finished].tolist()
        for place, text, scores in zip(finished.tolist(), texts, values, strict=True):
            i = batch.rows[place]
            if i not in gone:
                plain = written(rows[i], text[: len(rows[i].canvas)], self._vocabulary)
                results[i] = replace(plain, logprobs=tuple(scores[: len(plain.tokens)]))
        keep = (~batch.done).nonzero().squeeze(1)
        return batch.select(keep), chosen[keep]
