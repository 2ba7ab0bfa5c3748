"""Speculative decoding: a drafter guesses some tokens, the model reads them all at once and keeps those it would say.

The usual rule accepts a draft by comparing probabilities (arXiv 2211.17192, 2302.01318), so that the text depends on
the drafter. Here the model draws each token with the row's own noise, as it does without a drafter, and a draft is
kept as long as it is what is drawn (a coupling by shared Gumbel noise, arXiv 2408.07978). So every sample is, token for
token, the one that the autoregressive decoder gives for the same seed, whatever is drafted; float rounding aside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder, AutoregressiveWriting, Line
from llmprog.backends.local.decoders.base import Vocabulary, Writing, Written, pad_right
from llmprog.backends.local.decoders.drafters import Drafter, DraftRequest
from llmprog.backends.local.decoders.prefill import Prefiller
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import token_logprobs


@dataclass(slots=True)
class DraftCounts:
    """What became of drafts: tokens drafted and those that were kept."""

    drafted: int = 0
    accepted: int = 0

    @property
    def share(self) -> float:
        """Share of drafted tokens that were kept, in [0, 1]."""
        return self.accepted / self.drafted if self.drafted else 0.0


class SpeculativeDecoder(AutoregressiveDecoder):
    """Writes what ``AutoregressiveDecoder`` writes, in fewer steps."""

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        make_drafter: Callable[[], Drafter],
        *,
        kv_memory: int,
        prefix_memory: int,
    ) -> None:
        """A decoder; ``make_drafter`` gives each writing its own, the others are ``AutoregressiveDecoder``'s."""
        super().__init__(model, vocabulary, kv_memory=kv_memory, prefix_memory=prefix_memory)
        self.draft_counts = DraftCounts()
        self._make_drafter = make_drafter

    def start(self) -> Writing:
        return _SpeculativeWriting(
            self._model,
            self._vocabulary,
            self._prefiller,
            self._most_tokens,
            self._make_drafter(),
            self.draft_counts,
        )


class _SpeculativeWriting(AutoregressiveWriting):
    """Rows each of which gets one token from the step before, and those of its draft that hold."""

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        prefiller: Prefiller,
        most_tokens: int,
        drafter: Drafter,
        counts: DraftCounts,
    ) -> None:
        super().__init__(model, vocabulary, prefiller, most_tokens, drafter.count)
        self._drafter = drafter
        self._counts = counts

    @torch.inference_mode()
    def step(self) -> Mapping[int, Written]:
        found = super().step()
        return {**found, **self._leave()}  # what drafts have ended leaves in the same step

    def _feed(self) -> None:
        """Feed every row's last token and its draft; keep what the row says itself."""
        self._settle_slots()
        self._part_rows()
        if not self._lines or self._sampler is None or self._forbidden is None:
            self._logits = self._logits[:0]
            return
        by_slot = dict(sorted(self._lines.items(), key=lambda item: item[1].slot))
        lines = list(by_slot.values())
        place = {ticket: i for i, ticket in enumerate(self._lines)}
        index = torch.tensor([place[ticket] for ticket in by_slot], device=self._device)
        sampler = self._sampler.select(index)
        forbidden = self._forbidden if self._forbidden.shape[0] == 1 else self._forbidden[index]
        counters = torch.tensor([len(line.tokens) for line in lines], device=self._device)
        for line in lines:
            self._texts[line.slot].append(line.tokens[-1])
        drafts = self._drafter.propose(
            DraftRequest(
                texts={ticket: self._texts[line.slot] for ticket, line in by_slot.items()},
                room={ticket: len(line.row.canvas) - len(line.tokens) for ticket, line in by_slot.items()},
                counters=counters,
                sampler=sampler,
                forbidden=forbidden,
            )
        )
        fed = [[line.tokens[-1], *draft] for line, draft in zip(lines, drafts, strict=True)]
        tokens, _ = pad_right(fed, self._vocabulary.pad_id, self._device)
        feed = self._cache.feed(0, len(lines), tokens.shape[1])
        # Padding behind a short draft may lie past the last position the model knows; nobody sees it.
        positions = feed.positions.clamp(max=self._model.config.max_positions - 1)
        logits = self._model(tokens, positions, feed.mask, feed, store=0).float()
        accepted = [0] * len(lines)
        if tokens.shape[1] > 1:
            allowed = logits[:, :-1] + forbidden.unsqueeze(1)
            steps = torch.arange(tokens.shape[1] - 1, device=self._device)
            said = sampler.sample(allowed, counters.unsqueeze(1) + steps)
            logprobs = token_logprobs(allowed, said).tolist()
            for i, (line, draft, own) in enumerate(zip(lines, drafts, said.tolist(), strict=True)):
                accepted[i] = self._accept(line, draft, own, logprobs[i])
        feed.advance_each([1 + count for count in accepted])
        self._logits = logits[
            torch.arange(len(lines), device=self._device), torch.tensor(accepted, device=self._device)
        ]
        for line, draft, count in zip(lines, drafts, accepted, strict=True):
            self._texts[line.slot] += draft[:count]
            self._counts.drafted += len(draft)
            self._counts.accepted += count

    def _part_rows(self) -> None:
        """Give each row a slot of its own: drafts are kept in different lengths."""
        num_slots = len(self._cache.lengths)
        taken: set[int] = set()
        parents: list[int] = []
        for line in self._lines.values():
            if line.slot in taken:
                parents.append(line.slot)
                line.slot = num_slots + len(parents) - 1
            taken.add(line.slot)
        self._cache.fork(parents)
        self._texts += [list(self._texts[slot]) for slot in parents]

    def _accept(self, line: Line, draft: Sequence[int], said: Sequence[int], logprobs: Sequence[float]) -> int:
        """Let ``line`` go on with its draft as long as it says the same itself; how many tokens that are."""
        for count, (guess, token) in enumerate(zip(draft, said, strict=False)):
            if guess != token:
                return count
            line.tokens.append(token)
            line.logprobs.append(logprobs[count])
            if self._is_finished(line):
                return count + 1
        return len(draft)
