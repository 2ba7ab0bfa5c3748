"""Left to right with a key/value cache: the output at i - 1 predicts token i.

The samples of one prompt share its prefill, different prompts share the batch, finished rows leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from llmprog.backends.local import attention_masks
from llmprog.backends.local.decoders.base import (
    FINISHED_SHARE,
    Continuation,
    Row,
    Vocabulary,
    Written,
    distinct,
    forbidden_logits,
    left_padding,
    nobody,
    pad_left,
    pad_right,
    written,
)
from llmprog.backends.local.sampling import Sampler, token_logprobs
from llmprog.backends.local.transformer import KVCache, Transformer


class AutoregressiveDecoder:
    """Writes one token per row and step."""

    name = "autoregressive"
    score_is_bound = False

    def __init__(self, model: Transformer, vocabulary: Vocabulary) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._device = model.embedding.weight.device

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row], cancelled: Callable[[], Collection[int]] = nobody) -> list[Written | None]:
        """See ``Decoder``. The log-probabilities leave out a final ``eos_id``."""
        results: list[Written | None] = [None] * len(rows)
        prompts, index = distinct([row.prompt for row in rows], self._device)
        limits = torch.tensor([len(row.canvas) for row in rows], device=self._device)
        longest = int(limits.max())
        cache, logits, lengths, valid = self._prefill(prompts, room=1)
        cache, logits, lengths = cache.expand(index), logits[index], lengths[index]
        valid = torch.cat([valid[index], valid.new_ones(len(rows), longest)], dim=1)

        sampler = Sampler.of([row.params for row in rows], [row.key for row in rows], self._device)
        forbidden = forbidden_logits(self._vocabulary, rows, self._device)
        alive = list(range(len(rows)))  # original index of each row still in the batch
        tokens = torch.full((len(rows), longest), self._vocabulary.mask_id, device=self._device)
        logprobs = torch.zeros(len(rows), longest, device=self._device)
        done = torch.zeros(len(rows), dtype=torch.bool, device=self._device)
        for step in range(longest):
            logits = logits.float() + forbidden
            chosen = sampler.sample(logits, step)
            logprobs[:, step] = token_logprobs(logits, chosen)
            tokens[:, step] = torch.where(done, self._vocabulary.mask_id, chosen)
            done |= (chosen == self._vocabulary.eos_id) | (limits <= step + 1)
            self._mark_stopped(done, rows, alive, tokens, step + 1)
            gone = cancelled()
            if gone:
                done |= torch.tensor([i in gone for i in alive], device=self._device)
            num_done = int(done.sum())
            if num_done >= FINISHED_SHARE * len(alive) and num_done:
                self._collect(results, rows, alive, done, tokens, logprobs, gone)
                keep = (~done).nonzero().squeeze(1)
                if not len(keep):
                    break
                alive = [alive[i] for i in keep.tolist()]
                cache, sampler = cache.expand(keep), sampler.select(keep)
                tokens, logprobs, chosen, done = tokens[keep], logprobs[keep], chosen[keep], done[keep]
                limits, lengths, valid = limits[keep], lengths[keep], valid[keep]
                forbidden = forbidden if forbidden.shape[0] == 1 else forbidden[keep]
            logits = self._model(
                chosen.unsqueeze(1),
                (lengths + step).unsqueeze(1),
                valid[:, None, : cache.length + 1],
                cache,
            )[:, -1]
        return results

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

    def _prefill(self, prompts: Sequence[tuple[int, ...]], room: int = 0) -> tuple[KVCache, Tensor, Tensor, Tensor]:
        """Feed distinct prompts: their cache, last logits [B, V], lengths [B] and valid keys [B, L]."""
        tokens, lengths = pad_left(prompts, self._vocabulary.pad_id, self._device)
        positions, valid = left_padding(lengths, tokens.shape[1])
        cache = self._model.make_cache(len(prompts), tokens.shape[1] + room)
        mask = attention_masks.causal(tokens.shape[1], 0, valid)
        logits = self._model(tokens, positions, mask, cache, output=slice(-1, None))[:, 0]
        return cache, logits, lengths, valid

    def _mark_stopped(self, done: Tensor, rows: Sequence[Row], alive: list[int], tokens: Tensor, count: int) -> None:
        """Set ``done`` where the first ``count`` tokens of a row contain one of its stop texts."""
        checks = [(place, rows[i].has_stopped) for place, i in enumerate(alive)]
        if all(check is None for _, check in checks):
            return
        ended = done.tolist()
        texts = tokens[:, :count].tolist()
        stopped = [place for place, check in checks if check is not None and not ended[place] and check(texts[place])]
        if stopped:
            done[stopped] = True

    def _collect(
        self,
        results: list[Written | None],
        rows: Sequence[Row],
        alive: list[int],
        done: Tensor,
        tokens: Tensor,
        logprobs: Tensor,
        gone: Collection[int],
    ) -> None:
        """Put the results of finished rows in place, except those of the rows that are ``gone``."""
        finished = done.nonzero().squeeze(1)
        texts, values = tokens[finished].tolist(), logprobs[finished].tolist()
        for place, text, scores in zip(finished.tolist(), texts, values, strict=True):
            i = alive[place]
            if i not in gone:
                plain = written(rows[i], text[: len(rows[i].canvas)], self._vocabulary)
                results[i] = Written(
                    tokens=plain.tokens,
                    ended=plain.ended,
                    num_generated=plain.num_generated,
                    logprobs=tuple(scores[: len(plain.tokens)]),
                )
