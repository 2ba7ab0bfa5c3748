"""Prompts fed into slots, each only from where it differs from what was read before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from llmprog.backends.local.caches.prefix_cache import PrefixCache
from llmprog.backends.local.caches.slot_cache import KVSegment, SlotCache
from llmprog.backends.local.decoders.base import pad_right
from llmprog.backends.local.networks.transformer import Transformer

PREFILL_TOKENS = 2048
"""Most tokens of one forward pass, padding included."""
LEAST_SHARED = 16
"""A common beginning of at least this many tokens is fed once, before the prompts that share it."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What became of a prompt.

    Attributes:
        slot: Where it lies in the cache.
        logits: Those behind its last token, float [V].
        num_known: How many of its tokens were known before.
    """

    slot: int
    logits: Tensor
    num_known: int


@dataclass(slots=True)
class PrefillCounts:
    """What prompts held and what of it was fed.

    Attributes:
        tokens: Of all prompts, each counted as often as it was asked.
        fed: Those that went through the network.
    """

    tokens: int = 0
    fed: int = 0

    @property
    def saved(self) -> float:
        """Share of the prompts' tokens that did not have to be computed, in [0, 1]."""
        return 1 - self.fed / self.tokens if self.tokens else 0.0


@runtime_checkable
class RemembersPrompts(Protocol):
    """A decoder that keeps what it has read."""

    @property
    def prefill_counts(self) -> PrefillCounts:
        """What prompts held so far, and what of it was fed."""
        ...


class Prefiller:
    """Feeds prompts and remembers them."""

    def __init__(self, model: Transformer, pad_id: int, memory: PrefixCache) -> None:
        """A prefiller whose prompts are kept in ``memory``."""
        self.counts = PrefillCounts()
        self._model = model
        self._pad_id = pad_id
        self._memory = memory

    def feed(self, cache: SlotCache, prompts: Sequence[tuple[int, ...]]) -> list[Prefilled]:
        """A new slot of ``cache`` for each prompt, in order; prompts must differ from each other and hold a token."""
        found: dict[int, Prefilled] = {}
        self.counts.tokens += sum(map(len, prompts))
        waiting = dict.fromkeys(
            range(len(prompts)), -1
        )  # and how many of their tokens were known when they were put off
        while waiting:
            known = {i: self._memory.longest(prompts[i][:-1]) for i in waiting}
            now = _first_of_their_kind(prompts, {i: _length(segments) for i, segments in known.items()}, waiting)
            for chunk in _chunks({i: (_length(known[i]), len(prompts[i])) for i in now}):
                self._feed(cache, prompts, known, chunk, found)
            waiting = {i: _length(known[i]) for i in waiting if i not in found}
        return [found[i] for i in range(len(prompts))]

    def remember(self, cache: SlotCache, slot: int, tokens: Sequence[int]) -> None:
        """Keep what a slot holds, the keys and values of ``tokens``, if that is worth while."""
        if len(tokens) >= LEAST_SHARED:
            self._memory.insert(tokens, lambda start, end: cache.segment(slot, start, end))

    def _feed(
        self,
        cache: SlotCache,
        prompts: Sequence[tuple[int, ...]],
        known: Mapping[int, Sequence[KVSegment]],
        chunk: Sequence[int],
        found: dict[int, Prefilled],
    ) -> None:
        first = len(cache.lengths)
        cache.add([known[i] for i in chunk])
        rest = [prompts[i][_length(known[i]) :] for i in chunk]
        counts = [len(tokens) for tokens in rest]
        self.counts.fed += sum(counts)
        fed = 0
        last: dict[int, Tensor] = {}
        step = max(1, PREFILL_TOKENS // len(chunk))
        while fed < max(counts):
            # A long prompt goes through in parts; rows that end before a part are fed padding that nobody sees.
            parts = [tokens[fed : fed + step] for tokens in rest]
            tokens, lengths = pad_right(parts, self._pad_id, self._model.embedding.weight.device)
            feed = cache.feed(first, first + len(chunk), tokens.shape[1])
            positions = feed.positions.clamp(max=self._model.config.max_positions - 1)
            ends = (lengths - 1).clamp(min=0).unsqueeze(1)
            logits = self._model(tokens, positions, feed.mask, feed, store=0, output=ends)[:, 0]
            feed.advance_each([len(part) for part in parts])
            last |= {i: logits[row] for row, i in enumerate(chunk) if parts[row]}
            fed += step
        for row, i in enumerate(chunk):
            found[i] = Prefilled(first + row, last[i], len(prompts[i]) - counts[row])
            self.remember(cache, first + row, prompts[i])


def _first_of_their_kind(
    prompts: Sequence[tuple[int, ...]], known: Mapping[int, int], before: Mapping[int, int]
) -> list[int]:
    """The prompts to feed now: the others go on like one of these for a while, which they will then know.

    Args:
        prompts: All of them.
        known: For those that wait, how many of their tokens are known.
        before: How many were known when they were put off, or -1. Who has learnt nothing by waiting waits no more.
    """
    heads: set[tuple[int, ...]] = set()
    now = []
    for i, start in known.items():
        head = prompts[i][: start + LEAST_SHARED]
        if head not in heads or len(head) < start + LEAST_SHARED or before[i] >= start:
            now.append(i)
        heads.add(head)
    return now


def _chunks(spans: Mapping[int, tuple[int, int]]) -> list[list[int]]:
    """Prompts fed together: of similar length, so that little is padding, and not too many.

    Args:
        spans: Where in each prompt feeding begins, and the prompt's length. No padding reaches beyond the longest.
    """
    chunks: list[list[int]] = []
    lengths = {i: end - start for i, (start, end) in spans.items()}
    most = max((end for _, end in spans.values()), default=0)
    for i in sorted(lengths, key=lambda i: -lengths[i]):
        chunk = chunks[-1] if chunks else []
        longest = lengths[chunk[0]] if chunk else 0
        is_similar = 2 * lengths[i] >= longest and spans[i][0] + longest <= most
        if chunk and (len(chunk) + 1) * longest <= PREFILL_TOKENS and is_similar:
            chunk.append(i)
        else:
            chunks.append([i])
    return chunks


def _length(segments: Sequence[KVSegment]) -> int:
    return sum(segment.keys.shape[2] for segment in segments)
