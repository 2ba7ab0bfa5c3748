"""The transformer against itself: caches, orders of feeding and batches never change a logit."""

from __future__ import annotations

import math

import pytest
import torch

from llmprog.backends.local.caches.kv_cache import KVCache
from llmprog.backends.local.networks import attention_masks as masks
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig, rotate
from llmprog.errors import OptionError

CONFIG = TransformerConfig(vocab_size=31, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48)


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    torch.manual_seed(7)
    model = Transformer(CONFIG).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if "proj" in name:
            weight.mul_(3)
    return model


def sample(rows: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 31, (rows, length), generator=torch.Generator().manual_seed(seed))
    return tokens, torch.arange(length).expand(rows, -1)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4)


def test_a_written_out_forward_gives_the_same_logits(transformer: Transformer) -> None:
    """One token at a time, head by head, with plain sums."""
    tokens, positions = sample(1, 6)
    x = transformer.embedding(tokens[0])

    def norm(v: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return v / (v.pow(2).mean() + 1e-5).sqrt() * weight

    def turn(v: torch.Tensor, position: int) -> torch.Tensor:
        out = v.clone()
        for i in range(4):
            angle = position * 10000 ** (-2 * i / 8)
            out[i] = v[i] * math.cos(angle) - v[i + 4] * math.sin(angle)
            out[i + 4] = v[i + 4] * math.cos(angle) + v[i] * math.sin(angle)
        return out

    for layer in transformer.layers:
        attention, feed = layer.attention, layer.feed_forward
        normed = torch.stack([norm(v, layer.attention_norm.weight) for v in x])
        heads = []
        for head in range(4):
            q = [turn(v, i) for i, v in enumerate((normed @ attention.q_proj.weight.T)[:, head * 8 : head * 8 + 8])]
            group = head // 2
            part = slice(group * 8, group * 8 + 8)
            k = [turn(v, i) for i, v in enumerate((normed @ attention.k_proj.weight.T)[:, part])]
            v = (normed @ attention.v_proj.weight.T)[:, part]
            rows = []
            for i in range(6):
                weights = torch.softmax(torch.stack([q[i] @ k[j] / math.sqrt(8) for j in range(i + 1)]), 0)
                rows.append(weights @ v[: i + 1])
            heads.append(torch.stack(rows))
        x = x + torch.cat(heads, 1) @ attention.o_proj.weight.T
        normed = torch.stack([norm(v, layer.feed_forward_norm.weight) for v in x])
        gate = normed @ feed.gate_proj.weight.T
        x = x + (gate * torch.sigmoid(gate) * (normed @ feed.up_proj.weight.T)) @ feed.down_proj.weight.T
    expected = torch.stack([norm(v, transformer.norm.weight) for v in x]) @ transformer.embedding.weight.T
    assert close(transformer(tokens, positions, masks.causal(6))[0], expected)


def test_cached_equals_uncached_in_pieces_of_any_size(transformer: Transformer) -> None:
    tokens, positions = sample(3, 17)
    whole = transformer(tokens, positions, masks.causal(17))
    cache = transformer.make_cache(3, capacity=2)
    parts, start = [], 0
    for size in (1, 5, 2, 9):
        piece = slice(start, start + size)
        parts.append(transformer(tokens[:, piece], positions[:, piece], masks.causal(size, start), cache))
        start += size
        assert cache.length == start
    assert close(torch.cat(parts, 1), whole)


def test_only_the_stored_tokens_are_seen_later(transformer: Transformer) -> None:
    tokens, positions = sample(2, 8)
    cache = transformer.make_cache(2)
    transformer(tokens[:, :6], positions[:, :6], masks.causal(6), cache, store=4)
    assert cache.length == 4
    later = transformer(tokens[:, 6:], positions[:, 6:], masks.causal(2, 4), cache, store=0)
    assert cache.length == 4
    keep = [0, 1, 2, 3, 6, 7]
    assert close(later, transformer(tokens[:, keep], positions[:, keep], masks.causal(6))[:, 4:])
    with pytest.raises(ValueError, match="store=9"):
        transformer(tokens, positions, masks.causal(8, 4), cache, store=9)


def test_expand_shares_a_prefill_and_truncate_forgets(transformer: Transformer) -> None:
    tokens, positions = sample(2, 9)
    cache = transformer.make_cache(2)
    transformer(tokens[:, :7], positions[:, :7], masks.causal(7), cache)
    rows = torch.tensor([1, 1, 0])
    wide = cache.expand(rows)
    got = transformer(tokens[rows, 7:], positions[rows, 7:], masks.causal(2, 7), wide)
    assert close(got, transformer(tokens, positions, masks.causal(9))[rows, 7:])
    assert (cache.length, wide.length, wide.batch_size) == (7, 9, 3)
    wide.truncate(5)
    again = transformer(tokens[rows, 5:], positions[rows, 5:], masks.causal(4, 5), wide)
    assert close(again, transformer(tokens, positions, masks.causal(9))[rows, 5:])
    with pytest.raises(ValueError, match="cannot truncate"):
        wide.truncate(100)


def test_order_of_feeding_does_not_matter_when_positions_and_mask_move_along(transformer: Transformer) -> None:
    tokens, positions = sample(2, 10)
    rank = torch.stack([torch.randperm(10, generator=torch.Generator().manual_seed(s)) for s in (1, 2)])
    natural = transformer(tokens, positions, rank.unsqueeze(1) <= rank.unsqueeze(2))
    sigma = rank.argsort(1)
    fed = transformer(tokens.gather(1, sigma), sigma, masks.causal(10))
    assert close(fed.gather(1, rank[..., None].expand(-1, -1, 31)), natural)


def test_padding_and_other_rows_change_nothing(transformer: Transformer) -> None:
    tokens, positions = sample(3, 12)
    lengths = torch.tensor([12, 7, 3])
    valid = masks.lengths_to_valid(lengths, 12)
    both = transformer(tokens, positions, masks.bidirectional(valid))
    for row, length in enumerate(lengths.tolist()):
        alone = torch.ones(1, length, dtype=torch.bool)
        one = slice(row, row + 1)
        expected = transformer(tokens[one, :length], positions[one, :length], masks.bidirectional(alone))
        assert close(both[one, :length], expected)
    # Left padding, masked out, with positions shifted accordingly.
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), tokens[:1]], 1)
    valid = torch.arange(16)[None] >= 4
    shifted = (torch.arange(16) - 4).clamp(min=0)[None]
    left = transformer(padded, shifted, masks.causal(16, valid=valid))
    assert close(left[:, 4:], transformer(tokens[:1], positions[:1], masks.causal(12)))


def test_output_selects_positions(transformer: Transformer) -> None:
    tokens, positions = sample(2, 6)
    whole = transformer(tokens, positions, masks.causal(6))
    assert close(transformer(tokens, positions, masks.causal(6), output=slice(-2, None)), whole[:, -2:])
    assert close(transformer(tokens, positions, masks.causal(6), output=torch.tensor([4, 0])), whole[:, [4, 0]])
    per_row = torch.tensor([[1, 2], [5, 0]])
    picked = transformer(tokens, positions, masks.causal(6), output=per_row)
    assert close(picked, torch.stack([whole[0, [1, 2]], whole[1, [5, 0]]]))


def test_rotation_depends_on_the_distance_only(transformer: Transformer) -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(1))

    def score(i: int, j: int) -> float:
        cos, sin = transformer.rope_cos, transformer.rope_sin
        return float((rotate(q, cos[i], sin[i]) * rotate(k, cos[j], sin[j])).sum())

    assert score(3, 1) == pytest.approx(score(102, 100), abs=1e-4)
    assert score(3, 1) != pytest.approx(score(1, 3), abs=1e-3)


def slow_mask(rank: list[int], context: list[int]) -> torch.Tensor:
    """The double-length Eso-LM rule, one cell at a time."""
    n = len(rank)
    mask = torch.zeros(2 * n, 2 * n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            mask[i, j] = rank[j] <= rank[i]
            mask[n + i, j] = rank[j] < context[i]
            mask[n + i, n + j] = context[i] <= rank[j] <= rank[i]
    return mask


def test_masks_equal_their_rules_cell_by_cell() -> None:
    rank, context = [0, 1, 4, 2, 3], [0, 1, 2, 2, 3]
    got = masks.esolm_training(torch.tensor([rank]), torch.tensor([context]))[0]
    assert torch.equal(got, slow_mask(rank, context))
    sequential = masks.esolm_sequential(torch.tensor([rank]))[0]
    assert torch.equal(sequential, slow_mask(rank, rank))
    causal = masks.causal(3, 2)
    assert causal[0].tolist() == [[j <= i + 2 for j in range(5)] for i in range(3)]
    valid = torch.tensor([[True, False, True, True, False]])
    got = masks.causal(3, 2, valid)[0]
    assert got.tolist() == [[(j <= i + 2 and bool(valid[0, j])) or j == i + 2 for j in range(5)] for i in range(3)]
    both = masks.bidirectional(valid, 3)[0]
    assert both.tolist() == [[bool(valid[0, j]) or j == i + 2 for j in range(5)] for i in range(3)]


def test_padding_in_the_training_mask_is_seen_by_itself_alone() -> None:
    rank = torch.arange(4)[None]
    valid = torch.tensor([[True, True, True, False]])
    mask = masks.esolm_sequential(rank, valid)[0]
    assert mask[:, 3].tolist() == [False, False, False, True] + [False] * 4
    assert mask[:, 7].tolist() == [False] * 7 + [True]
    assert mask.any(1).all()


@pytest.mark.parametrize(
    "change", [{"d_model": 30}, {"num_kv_heads": 3}, {"vocab_size": 0}, {"num_layers": -1}, {"d_model": 4}]
)
def test_impossible_shapes_are_refused(change: dict[str, int]) -> None:
    values = {"vocab_size": 31, "d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_ff": 48}
    with pytest.raises(OptionError, match=next(iter(change))):
        TransformerConfig(**{**values, **change})


def test_cache_reports_its_memory() -> None:
    cache = KVCache(Transformer(CONFIG).kv_shape, 3, capacity=10)
    assert cache.num_bytes == 2 * 2 * 3 * 2 * 10 * 8 * 4
