"""The keys and values of rows from left to right stay within their memory, whatever joins and leaves."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from llmprog.backends.local.caches.prefix_cache import PrefixCache
from llmprog.backends.local.decoders.autoregressive import AutoregressiveWriting
from llmprog.backends.local.decoders.base import Row, Vocabulary
from llmprog.backends.local.decoders.drafters import DraftRequest
from llmprog.backends.local.decoders.prefill import Prefiller
from llmprog.backends.local.decoders.speculative import DraftCounts, _SpeculativeWriting
from llmprog.backends.local.networks.cuda_graphs import GraphedTransformer
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig

MOST = 2000
"""Tokens that there is memory for."""


class Guesses:
    """Drafts any tokens, as many as it may."""

    count = 7

    def propose(self, request: DraftRequest) -> list[list[int]]:
        return [[5] * min(self.count, request.room[ticket]) for ticket in request.texts]


@pytest.fixture(scope="module")
def long_model() -> Transformer:
    torch.manual_seed(2)
    config = TransformerConfig(
        vocab_size=24, d_model=16, num_layers=1, num_heads=2, num_kv_heads=1, d_ff=16, max_positions=600
    )
    return Transformer(config).eval().requires_grad_(False)


def graphed(model: Transformer) -> GraphedTransformer:
    def capture(run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        run()
        return run

    return GraphedTransformer(model, is_required=True, capture=capture)


def plain(model: Transformer, vocabulary: Vocabulary) -> AutoregressiveWriting:
    return AutoregressiveWriting(model, vocabulary, Prefiller(model, vocabulary.pad_id, PrefixCache(2**20)), MOST)


def drafting(model: Transformer, vocabulary: Vocabulary) -> AutoregressiveWriting:
    prefiller = Prefiller(model, vocabulary.pad_id, PrefixCache(2**20))
    return _SpeculativeWriting(model, vocabulary, prefiller, MOST, Guesses(), DraftCounts())


WAYS: Mapping[str, Callable[[Transformer, Vocabulary], AutoregressiveWriting]] = {
    "plain": plain,
    "drafting": drafting,
    "recorded": lambda model, vocabulary: plain(graphed(model), vocabulary),
}


def admit(writing: AutoregressiveWriting, rows: Sequence[Row], first_ticket: int) -> int:
    count = writing.room(rows)
    writing.admit({first_ticket + i: row for i, row in enumerate(rows[:count])})
    return count


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_the_slab_stays_within_its_memory(
    long_model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], way: str, seed: int
) -> None:
    rng = random.Random(seed)
    writing = WAYS[way](long_model, vocabulary)
    most = MOST * long_model.kv_shape.bytes_per_token(torch.float32)
    tickets: set[int] = set()
    beginning = tuple(rng.randrange(4, 24) for _ in range(300))
    next_ticket, fullest = 0, 0.0
    for turn in range(60):
        rows = []
        for _ in range(rng.choice([1, 3, 40])):
            length = rng.choice([3, 10, 60, 180, 400])
            head = beginning[: rng.choice([0, 0, length * 3 // 4])]
            prompt = (*head, *(rng.randrange(4, 24) for _ in range(length - len(head))))
            rows += [make_row(prompt, rng.choice([1, 20, 130]), sample=sample) for sample in range(rng.choice([1, 4]))]
        joined = admit(writing, rows, next_ticket)
        tickets |= set(range(next_ticket, next_ticket + joined))
        next_ticket += joined
        for _ in range(rng.randrange(6)):
            tickets -= set(writing.step())
        if turn % 4 == 0 and tickets:
            gone = rng.sample(sorted(tickets), rng.randrange(1, len(tickets) + 1))
            writing.drop(gone)
            tickets -= set(gone)
        assert writing._cache.num_bytes <= most
        fullest = max(fullest, writing._cache.num_bytes / most)
    assert fullest > 0.8


def test_a_long_row_after_many_short_ones_takes_no_more_than_there_is(
    long_model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    writing = plain(long_model, vocabulary)
    assert admit(writing, [make_row((5, i % 20), 8, sample=i, may_end=False) for i in range(90)], 0) == MOST // 64
    writing.step()
    writing.drop(range(1, 90))
    assert admit(writing, [make_row((6,) * 255, 9, may_end=False)], 100) == 1
    while len(writing):
        writing.step()
        assert writing._cache.num_bytes <= MOST * long_model.kv_shape.bytes_per_token(torch.float32)
