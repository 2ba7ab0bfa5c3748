"""Drafters: they guess a row's next tokens, by a small model, by diffusion, or from the text; ``speculative`` checks.

A drafter that draws its tokens with the row's own noise guesses what the row will say more often than one that draws
freely: both models perturb their logits alike.

Letters in shapes: R rows, K tokens drafted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llmprog.backends.local.caches.prefix_cache import PrefixCache
from llmprog.backends.local.caches.slot_cache import SlotCache
from llmprog.backends.local.decoders.base import Vocabulary, left_padding, pad_left, pad_right
from llmprog.backends.local.decoders.prefill import Prefiller
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """Rows whose next tokens are to be guessed.

    Attributes:
        texts: By ticket, prompt and reply so far; at least one token each.
        room: By ticket, how many tokens the reply may still have.
        counters: int64 [R], the draw that each row's next token takes.
        sampler: Of the rows, in the order of ``texts``.
        forbidden: float32 [R or 1, V], added to logits.
    """

    texts: Mapping[int, Sequence[int]]
    room: Mapping[int, int]
    counters: Tensor
    sampler: Sampler
    forbidden: Tensor


class Drafter(Protocol):
    """Guesses tokens; used by one thread for the rows of one writing.

    Attributes:
        count: Most tokens it guesses for a row.
    """

    count: int

    def propose(self, request: DraftRequest) -> list[list[int]]:
        """For each row its guesses, none or several, no more than it has room for."""
        ...


class LookupDrafter:
    """Goes on as the text went on where its last tokens stood before (prompt lookup decoding).

    It needs no model, and pays where replies repeat the prompt: summaries, revisions, quotations.
    """

    def __init__(self, count: int, longest_match: int = 3) -> None:
        """A drafter of ``count`` tokens that looks for the last ``longest_match`` tokens, or fewer."""
        self.count = count
        self._longest_match = longest_match

    def propose(self, request: DraftRequest) -> list[list[int]]:
        return [
            self._after_match(list(text))[: min(self.count, request.room[ticket])]
            for ticket, text in request.texts.items()
        ]

    def _after_match(self, text: list[int]) -> list[int]:
        """What followed the latest earlier place where the end of ``text`` stood; the longest end that did."""
        for size in range(min(self._longest_match, len(text) - 1), 0, -1):
            ending = text[-size:]
            for start in range(len(text) - size - 1, -1, -1):
                if text[start : start + size] == ending:
                    return text[start + size : start + size + self.count]
        return []


class ModelDrafter:
    """A smaller model of the same vocabulary that writes ahead, with a cache of its own."""

    def __init__(self, model: Transformer, vocabulary: Vocabulary, count: int) -> None:
        """A drafter of ``count`` tokens."""
        self._model = model
        self._vocabulary = vocabulary
        self.count = count
        self._device = model.embedding.weight.device
        self._prefiller = Prefiller(model, vocabulary.pad_id, PrefixCache(0))
        self._cache = SlotCache(model.kv_shape, device=self._device, dtype=model.embedding.weight.dtype)
        self._tickets: list[int] = []  # of each slot
        self._fed: list[list[int]] = []  # what each slot holds

    def propose(self, request: DraftRequest) -> list[list[int]]:
        self._follow(request)
        order = [list(request.texts).index(ticket) for ticket in self._tickets]
        index = torch.tensor(order, device=self._device)
        sampler, counters = request.sampler.select(index), request.counters[index]
        forbidden = request.forbidden if request.forbidden.shape[0] == 1 else request.forbidden[index]
        room = [request.room[ticket] for ticket in self._tickets]
        drafted: list[list[int]] = [[] for _ in self._tickets]
        fed = [
            list(request.texts[ticket])[len(known) :] for ticket, known in zip(self._tickets, self._fed, strict=True)
        ]
        for step in range(min(self.count, max(room))):
            logits = self._feed(fed).float() + forbidden
            tokens = sampler.sample(logits, counters + step).tolist()
            for draft, token in zip(drafted, tokens, strict=True):
                draft.append(token)
            fed = [[token] for token in tokens]
        found: list[list[int]] = [[] for _ in order]
        for place, draft, most in zip(order, drafted, room, strict=True):
            found[place] = draft[:most]
        return found

    def _follow(self, request: DraftRequest) -> None:
        """Let the slots hold the beginnings of the rows' texts, all but one token of each at most."""
        kept = [slot for slot, ticket in enumerate(self._tickets) if ticket in request.texts]
        former = self._cache.keep(kept)
        self._tickets = [self._tickets[slot] for slot in former]
        self._fed = [self._fed[slot] for slot in former]
        for slot, ticket in enumerate(self._tickets):
            text, known = request.texts[ticket], self._fed[slot]
            same = 0
            while same < min(len(known), len(text) - 1) and known[same] == text[same]:
                same += 1
            self._cache.truncate(slot, same)
            self._fed[slot] = known[:same]
        joining = [ticket for ticket in request.texts if ticket not in self._tickets]
        if not joining:
            return
        starts = {ticket: tuple(request.texts[ticket][:-1]) for ticket in joining}
        distinct = list(dict.fromkeys(start for start in starts.values() if start))
        slots = {
            start: found.slot
            for start, found in zip(distinct, self._prefiller.feed(self._cache, distinct), strict=True)
        }
        by_slot = {slot: start for start, slot in slots.items()}
        first_free = len(self._tickets)
        taken: set[int] = set()
        copies: list[int] = []
        owners: dict[int, int] = {}
        for ticket, start in starts.items():
            slot = slots[start] if start else -1
            if slot in taken or slot < 0:
                copies.append(ticket)
            else:
                taken.add(slot)
                owners[slot] = ticket
        self._tickets += [owners[slot] for slot in range(first_free, first_free + len(owners))]
        self._fed += [list(by_slot[slot]) for slot in range(first_free, first_free + len(owners))]
        for ticket in copies:
            if starts[ticket]:
                self._cache.fork([slots[starts[ticket]]])
            else:
                self._cache.add([[]])
            self._tickets.append(ticket)
            self._fed.append(list(starts[ticket]))

    def _feed(self, fed: list[list[int]]) -> Tensor:
        """Feed tokens to every slot, one or more to each; the logits behind the last ones, [R, V]."""
        tokens, counts = pad_right(fed, self._vocabulary.pad_id, self._device)
        feed = self._cache.feed(0, len(fed), tokens.shape[1])
        positions = feed.positions.clamp(max=self._model.config.max_positions - 1)
        logits = self._model(tokens, positions, feed.mask, feed, store=0, output=(counts - 1).unsqueeze(1))
        feed.advance_each(counts.tolist())
        self._fed = [known + new for known, new in zip(self._fed, fed, strict=True)]
        behind: Tensor = logits[:, 0]
        return behind


class DiffusionDrafter:
    """The same weights read as a masked diffusion model: all tokens of a draft from one forward pass.

    The tokens are guessed independently of each other, so long drafts of facts that hang together rarely hold.
    """

    def __init__(self, model: Transformer, vocabulary: Vocabulary, count: int, mode_id: int) -> None:
        """A drafter of ``count`` tokens, for a model whose first token ``mode_id`` announces diffusion."""
        self._model = model
        self._vocabulary = vocabulary
        self.count = count
        self._mode_id = mode_id
        self._device = model.embedding.weight.device

    def propose(self, request: DraftRequest) -> list[list[int]]:
        mask_id, room = self._vocabulary.mask_id, request.room
        # Behind the draft stands what the model expects there: masks up to the end of the reply.
        canvases = [
            [self._mode_id, *text[1:], *[mask_id] * max(1, room[ticket])] for ticket, text in request.texts.items()
        ]
        tokens, lengths = pad_left(canvases, self._vocabulary.pad_id, self._device)
        positions, valid = left_padding(lengths, tokens.shape[1])
        starts = torch.tensor([len(text) for text in request.texts.values()], device=self._device)
        first = tokens.shape[1] - lengths + starts
        offsets = torch.arange(self.count, device=self._device)
        columns = (first.unsqueeze(1) + offsets).clamp(max=tokens.shape[1] - 1)
        logits = self._model(tokens, positions, attention_masks.bidirectional(valid), output=columns).float()
        logits = logits + request.forbidden.unsqueeze(1)
        drafted = request.sampler.sample(logits, request.counters.unsqueeze(1) + offsets).tolist()
        return [draft[: room[ticket]] for ticket, draft in zip(request.texts, drafted, strict=True)]
