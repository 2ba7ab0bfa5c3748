from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends.local.caches.prefix_cache import PrefixCache
from llmprog.backends.local.caches.slot_cache import KVSegment

TOKEN_BYTES = 2 * 4  # one layer, one head, keys and values of width 1


def segment_of(tokens: list[int], start: int, end: int) -> KVSegment:
    """What stands for keys and values: a hash of everything up to each token, which is what they depend on."""
    values = torch.tensor([float(hash(tuple(tokens[: i + 1])) % 10**6) for i in range(start, end)]).view(1, 1, -1, 1)
    return KVSegment(values, -values)


def read(segments: list[KVSegment]) -> list[float]:
    return [value for segment in segments for value in segment.keys.flatten().tolist()]


def insert(cache: PrefixCache, tokens: list[int]) -> None:
    cache.insert(tokens, lambda start, end: segment_of(tokens, start, end))


def num_shared(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


texts = st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=12)


@given(texts, st.lists(st.integers(0, 2), max_size=8))
def test_the_longest_known_beginning_is_found(known: list[list[int]], asked: list[int]) -> None:
    cache = PrefixCache(10**6)
    for tokens in known:
        insert(cache, tokens)
    longest = max((num_shared(tokens, asked) for tokens in known), default=0)
    assert read(cache.longest(asked)) == segment_of(asked, 0, longest).keys.flatten().tolist()
    beginnings = {tuple(tokens[: i + 1]) for tokens in known for i in range(len(tokens))}
    assert cache.num_bytes == len(beginnings) * TOKEN_BYTES, "what is shared is kept once"


@given(texts, st.integers(0, 12))
def test_the_bound_holds_and_what_is_left_is_right(known: list[list[int]], room: int) -> None:
    cache = PrefixCache(room * TOKEN_BYTES)
    for tokens in known:
        insert(cache, tokens)
        assert cache.num_bytes <= room * TOKEN_BYTES
    for tokens in known:
        found = read(cache.longest(tokens))
        assert found == segment_of(tokens, 0, len(found)).keys.flatten().tolist()


def test_what_was_used_longest_ago_is_forgotten_first() -> None:
    cache = PrefixCache(100)  # 12 tokens; forgetting makes room for one more
    old, used, new = [1, 2, 3, 4], [1, 2, 5, 6, 7, 8], [9, 9, 9, 9, 9]
    insert(cache, old)
    insert(cache, used)
    cache.longest(old)
    cache.longest(used)
    insert(cache, new)
    assert len(read(cache.longest(old))) == 2
    assert len(read(cache.longest(used))) == 6
    assert len(read(cache.longest(new))) == 5


def test_without_memory_nothing_is_copied() -> None:
    cache = PrefixCache(0)
    cache.insert([1, 2], lambda start, end: 1 / 0)
    assert cache.longest([1, 2]) == []
