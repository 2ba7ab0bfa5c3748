from __future__ import annotations

import random

import pytest
import torch

from llmprog.backends.local.caches.slot_cache import SlotCache
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer


def fresh_logits(model: Transformer, tokens: list[int]) -> torch.Tensor:
    """Behind the last of ``tokens``, without a cache."""
    with torch.inference_mode():
        return model(
            torch.tensor([tokens]), torch.arange(len(tokens)).unsqueeze(0), attention_masks.causal(len(tokens))
        )[0, -1]


def make_slots(model: Transformer) -> SlotCache:
    return SlotCache(model.kv_shape, device="cpu", dtype=torch.float32)


def feed(model: Transformer, cache: SlotCache, first: int, tokens: list[list[int]]) -> torch.Tensor:
    """Feed equally many tokens to the slots from ``first`` on; the logits behind the last ones."""
    step = cache.feed(first, first + len(tokens), len(tokens[0]))
    return model(torch.tensor(tokens), step.positions, step.mask, step)[:, -1]


@torch.inference_mode()
def test_slots_of_any_length_say_what_a_fresh_pass_says(model: Transformer) -> None:
    rng = random.Random(4)
    cache, texts = make_slots(model), list[list[int]]()
    for turn in range(60):
        action = rng.choice(["add", "fork", "keep", "feed", "feed", "truncate"])
        if action == "add" or not texts:
            run = [rng.randrange(4, 24) for _ in range(rng.randrange(1, 9))]
            cache.add([[]])
            feed(model, cache, len(texts), [run])
            texts.append(run)
        elif action == "fork" and len(texts) < 12:
            parents = [rng.randrange(len(texts)) for _ in range(2)]
            cache.fork(parents)
            texts += [list(texts[i]) for i in parents]
        elif action == "keep":
            kept = rng.sample(range(len(texts)), rng.randrange(1, len(texts) + 1))
            former = cache.keep(kept)
            assert sorted(former) == sorted(kept)
            texts = [texts[i] for i in former]
        elif action == "truncate":
            slot = rng.randrange(len(texts))
            length = rng.randrange(1, len(texts[slot]) + 1)
            cache.truncate(slot, length)
            texts[slot] = texts[slot][:length]
        elif max(map(len, texts)) < 60:
            tokens = [[rng.randrange(4, 24) for _ in range(1 + turn % 3)] for _ in texts]
            logits = feed(model, cache, 0, tokens)
            texts = [text + new for text, new in zip(texts, tokens, strict=True)]
            for line, text in zip(logits, texts, strict=True):
                torch.testing.assert_close(line, fresh_logits(model, text), rtol=0, atol=2e-5)
        assert cache.lengths == [len(text) for text in texts]


@torch.inference_mode()
def test_a_slot_begins_with_segments_of_others(model: Transformer) -> None:
    cache = make_slots(model)
    cache.add([[], []])
    feed(model, cache, 0, [[5, 6, 7, 8], [5, 6, 9, 10]])
    parts = [cache.segment(0, 0, 2), cache.segment(1, 2, 4)]
    assert parts[0].num_bytes == 2 * model.kv_shape.bytes_per_token(torch.float32)
    cache.add([parts])
    assert cache.lengths == [4, 4, 4]
    logits = feed(model, cache, 2, [[11]])[0]
    torch.testing.assert_close(logits, fresh_logits(model, [5, 6, 9, 10, 11]), rtol=0, atol=2e-5)


@torch.inference_mode()
def test_what_is_fed_and_not_counted_is_overwritten(model: Transformer) -> None:
    cache = make_slots(model)
    cache.add([[], []])
    step = cache.feed(0, 2, 4)
    model(torch.tensor([[5, 6, 7, 8], [5, 9, 0, 0]]), step.positions, step.mask, step, store=0)
    step.advance_each([4, 2])
    assert cache.lengths == [4, 2]
    logits = feed(model, cache, 0, [[12], [13]])
    torch.testing.assert_close(logits[0], fresh_logits(model, [5, 6, 7, 8, 12]), rtol=0, atol=2e-5)
    torch.testing.assert_close(logits[1], fresh_logits(model, [5, 9, 13]), rtol=0, atol=2e-5)


def test_a_slot_cannot_be_truncated_to_more_than_it_holds(model: Transformer) -> None:
    cache = make_slots(model)
    cache.add([[]])
    with pytest.raises(ValueError, match="slot of 0 tokens to 3"):
        cache.truncate(0, 3)


def test_memory_is_what_the_slots_need_and_little_more(model: Transformer) -> None:
    cache = make_slots(model)
    cache.reserve(5, 65)
    assert cache.num_bytes == 5 * 128 * model.kv_shape.bytes_per_token(torch.float32)


def test_a_slab_that_would_exceed_its_bound_shrinks_to_what_is_needed(model: Transformer) -> None:
    most = 5 * 128
    cache = SlotCache(model.kv_shape, device="cpu", dtype=torch.float32, most_tokens=most)
    size = model.kv_shape.bytes_per_token(torch.float32)
    cache.add([[] for _ in range(9)])
    cache.reserve(9, 60)
    with torch.inference_mode():
        feed(model, cache, 0, [[4 + slot] * 3 for slot in range(9)])
    cache.keep([1, 8])
    cache.reserve(2, 200)
    assert cache.num_bytes == 2 * 256 * size
    cache.reserve(6, 40)
    assert cache.num_bytes == 6 * 64 * size
    with torch.inference_mode():
        logits = feed(model, cache, 0, [[7], [7]])
    torch.testing.assert_close(logits[0], fresh_logits(model, [12, 12, 12, 7]), rtol=0, atol=2e-5)
    torch.testing.assert_close(logits[1], fresh_logits(model, [5, 5, 5, 7]), rtol=0, atol=2e-5)
    assert cache.fits(10, 64)
    assert not cache.fits(10, 65)
    cache.reserve(11, 64)
    assert cache.num_bytes == 11 * 64 * size, "what is asked for is given"
