from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary, write_all
from llmprog.backends.local.decoders.hybrid import HybridDecoder, _HybridWriting, draw_schedule
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler, stream_key

CPU = torch.device("cpu")


def keys(rows: int) -> torch.Tensor:
    return torch.tensor([stream_key(5, b"", i) for i in range(rows)])


def rank_logits(
    model: Transformer, vocabulary: Vocabulary, clean: list[tuple[int, int]], masks: list[int]
) -> torch.Tensor:
    """Logits at the masks' positions after (position, token) pairs in sigma order, in one pass without a cache."""
    tokens = [t for _, t in clean] + [vocabulary.mask_id] * len(masks)
    positions = [p for p, _ in clean] + masks
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), torch.tensor([positions]), attention_masks.causal(len(tokens)))[0]
    logits = logits[len(clean) :]
    logits[:, list(vocabulary.never_sampled)] = -math.inf
    return logits


def slowly(model: Transformer, vocabulary: Vocabulary, row: Row, alpha0: float, steps: int) -> tuple[int, ...]:
    """One row, without batch or cache."""
    sampler = Sampler.of([row.params], [row.key], CPU)
    canvas = list(row.canvas)
    blank = torch.tensor([[t == vocabulary.mask_id for t in canvas]])
    schedule = draw_schedule(blank, torch.tensor([row.block_length]), torch.tensor([row.key]), alpha0, steps)
    offset = len(row.prompt)
    clean = list(enumerate(row.prompt))
    clean += [(offset + i, t) for i, t in enumerate(canvas) if t != vocabulary.mask_id]
    for step in range(schedule.size.shape[1]):
        start, size = int(schedule.start[0, step]), int(schedule.size[0, step])
        places = schedule.sigma[0, start : start + size].tolist()
        if not places:
            break
        logits = rank_logits(model, vocabulary, clean, [offset + i for i in places])
        if not row.may_end:
            logits[:, vocabulary.eos_id] = -math.inf
        for i, line in zip(places, logits, strict=True):
            canvas[i] = int(sampler.sample(line.unsqueeze(0), i)[0])
            clean.append((offset + i, canvas[i]))
        eos = canvas.index(vocabulary.eos_id) if vocabulary.eos_id in canvas else len(canvas)
        if vocabulary.mask_id not in canvas[:eos]:
            return tuple(canvas[:eos])
    return tuple(canvas)


@pytest.mark.parametrize("alpha0", [0.0, 0.25, 0.6, 1.0])
def test_a_mixed_batch_with_a_cache_writes_what_single_rows_write_without(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], alpha0: float
) -> None:
    results = write_all(HybridDecoder(model, vocabulary, alpha0=alpha0, steps=5), mixed_rows)
    for row, result in zip(mixed_rows, results, strict=True):
        assert result is not None
        assert result.tokens == slowly(model, vocabulary, row, alpha0, 5)
        assert result.ended == (len(result.tokens) < len(row.canvas))


@pytest.mark.parametrize("alpha0", [0.0, 0.5, 1.0])
def test_cached_equals_uncached_in_tokens_and_logits(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], alpha0: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits: list[torch.Tensor] = []
    predict = _HybridWriting._predict

    def recording(*args: object) -> torch.Tensor:
        logits.append(predict(*args))
        return logits[-1]

    monkeypatch.setattr(_HybridWriting, "_predict", recording)
    cached = write_all(HybridDecoder(model, vocabulary, alpha0=alpha0, steps=4), mixed_rows)
    with_cache, logits = logits, []
    uncached = write_all(HybridDecoder(model, vocabulary, alpha0=alpha0, steps=4, use_cache=False), mixed_rows)
    assert [r and r.tokens for r in cached] == [r and r.tokens for r in uncached]
    assert len(with_cache) == len(logits) > 2
    for a, b in zip(with_cache, logits, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_each_row_feeds_written_tokens_once(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    fed: list[tuple[int, ...]] = []
    hook = model.embedding.register_forward_pre_hook(lambda _, args: fed.append(tuple(args[0].shape)))
    try:
        decoder = HybridDecoder(model, vocabulary, alpha0=0.0)
        write_all(decoder, [make_row((5, 6), 4, sample=i, may_end=False) for i in range(3)])
    finally:
        hook.remove()
    assert fed == [(1, 3), (3, 1), (3, 2), (3, 2), (3, 2)]


def test_given_tokens_stay_and_rows_are_independent_of_their_batch(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    mask, eos = vocabulary.mask_id, vocabulary.eos_id
    canvases = [
        (9, mask, mask, 10, 11, mask, 12, mask, mask, mask, eos),
        (mask, mask, 7, mask, eos),
        (mask, 8, 8, 8, 8, mask),
    ]
    rows = [make_row(canvas=canvases[i % 3], sample=i, may_end=False, block_length=3) for i in range(12)]
    decoder = HybridDecoder(model, vocabulary, alpha0=0.5)
    for row, result in zip(rows, write_all(decoder, rows), strict=True):
        assert result is not None
        assert len(result.tokens) == len(row.canvas) - (row.canvas[-1] == eos)
        assert all(given in (t, mask) for t, given in zip(result.tokens, row.canvas, strict=False))
        assert result.num_generated == row.canvas.count(mask)
        assert result.tokens == slowly(model, vocabulary, row, 0.5, 16)
        alone = write_all(decoder, [row])[0]
        assert alone is not None
        assert len(alone.tokens) == len(result.tokens)


def test_stop_checks_end_their_rows(model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]) -> None:
    decoder = HybridDecoder(model, vocabulary)

    def rows(check: Callable[..., bool] | None) -> list[Row]:
        return [make_row(length=9, sample=i, may_end=False, has_stopped=check if i < 3 else None) for i in range(6)]

    free = write_all(decoder, rows(None))
    checked = write_all(decoder, rows(lambda tokens: len(tokens) >= 4))
    for i in range(6):
        before, after = free[i], checked[i]
        assert before is not None
        assert after is not None
        assert after.tokens == before.tokens[: len(after.tokens)]
        assert after.ended == (i < 3)
        assert (4 <= len(after.tokens) < 9) if i < 3 else len(after.tokens) == 9


def test_score_is_the_exact_chain_rule_in_sequential_order(model: Transformer, vocabulary: Vocabulary) -> None:
    continuations = [Continuation((3, 5, 6), (9, 10, 7, 8)), Continuation((3, 8), (4,)), Continuation((3, 8), (4, 11))]
    for continuation, score in zip(continuations, HybridDecoder(model, vocabulary).score(continuations), strict=True):
        clean = list(enumerate(continuation.prompt))
        expected = []
        for token in continuation.tokens:
            logits = rank_logits(model, vocabulary, clean, [len(clean)])[0]
            expected.append(float(logits.log_softmax(0)[token]))
            clean.append((len(clean), token))
        assert score == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("alpha0", [0.0, 0.25, 1.0])
def test_a_schedule_writes_every_blank_once_diffused_ones_first_within_each_block(alpha0: float) -> None:
    torch.manual_seed(0)
    blank = torch.rand(200, 14) < 0.8
    blank[0] = False
    schedule = draw_schedule(blank, torch.tensor([5, 14] * 100), keys(200), alpha0, 4)
    assert int(schedule.size.amax(0).min()) > 0, "a step in which no row writes"
    begins: dict[tuple[int, int], set[int]] = {}
    for row in range(200):
        order = schedule.sigma[row].tolist()
        assert sorted(order) == list(range(14))
        count = int(blank[row].sum())
        assert {i for i in range(14) if blank[row, i]} == set(order[:count])
        sizes = schedule.size[row].tolist()
        assert sum(sizes) == count
        steps = [size for size in sizes if size]
        blocks = [i // (5, 14)[row % 2] for i in order[:count]]
        assert blocks == sorted(blocks)
        for block in set(blocks):
            inside = [i for i in order[:count] if i // (5, 14)[row % 2] == block]
            first = order.index(inside[0])
            begun = next(j for j, start in enumerate(schedule.start[row].tolist()) if start == first and sizes[j])
            begins.setdefault((row % 2, block), set()).add(begun)
        if alpha0 == 0:
            assert order[:count] == sorted(order[:count])
            assert steps == [1] * count
    assert all(len(steps) == 1 for steps in begins.values()), "rows begin a block together"


def test_the_number_revealed_per_step_follows_the_papers_binomials() -> None:
    rows, width, steps, alpha0 = 20_000, 6, 3, 0.4
    schedule = draw_schedule(
        torch.ones(rows, width, dtype=torch.bool), torch.full((rows,), width), keys(rows), alpha0, steps
    )

    # Written out: the probability of each tuple of counts, by the sampler of the paper.
    def alpha(t: float) -> float:
        return alpha0 * (1 - (1 - 1e-3) * t)

    probabilities: dict[tuple[int, ...], float] = {(): 1.0}
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        p = (alpha(s) - alpha(t)) / (1 - alpha(t))
        probabilities = {
            (*counts, k): q * math.comb(left, k) * p**k * (1 - p) ** (left - k)
            for counts, q in probabilities.items()
            for left in [width - sum(counts)]
            for k in range(left + 1)
        }
    expected: dict[tuple[int, ...], float] = {}
    for counts, q in probabilities.items():
        sizes = tuple(k for k in counts if k) + (1,) * (width - sum(counts))
        expected[sizes] = expected.get(sizes, 0.0) + q
    seen: dict[tuple[int, ...], int] = {}
    for line in schedule.size.tolist():
        sizes = tuple(k for k in line if k)
        seen[sizes] = seen.get(sizes, 0) + 1
    for sizes, q in expected.items():
        assert seen.get(sizes, 0) / rows == pytest.approx(q, abs=0.012)
    first = torch.bincount(schedule.sigma[:, 0], minlength=width) / rows
    diffused_first = sum(q for counts, q in probabilities.items() if sum(counts))
    assert first[1:].tolist() == pytest.approx([diffused_first / width] * (width - 1), abs=0.012)
