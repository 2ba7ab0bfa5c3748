"""Eso-LM A against its rules written out row by row: attention both ways while diffusing, an exact cache afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary, write_all
from llmprog.backends.local.decoders.hybrid import HybridDecoder, draw_phases
from llmprog.backends.local.decoders.hybrid_a import HybridADecoder
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler

STEPS = 4


@torch.inference_mode()
def slowly(model: Transformer, vocabulary: Vocabulary, row: Row, alpha0: float) -> list[int]:
    """One row by the rules, with the whole past fed for every mask alone."""
    sampler = Sampler.of([row.params], [row.key], torch.device("cpu"))
    text, start = list(row.canvas), len(row.prompt)
    phases = draw_phases(torch.tensor([row.key]), len(text), alpha0, STEPS)[0].tolist()
    never = torch.zeros(vocabulary.size)
    never[list(vocabulary.never_sampled)] = -math.inf
    if not row.may_end:
        never[vocabulary.eos_id] = -math.inf

    def predict(both_ways: list[int], one_way: list[int], place: int) -> int:
        places = [*both_ways, *one_way, place]
        tokens = [*row.prompt, *text]
        fed = [tokens[p] for p in places[:-1]] + [vocabulary.mask_id]
        mask = torch.ones(len(places), len(places), dtype=torch.bool).tril()
        mask[: len(both_ways), : len(both_ways)] = True
        logits = model(torch.tensor([fed]), torch.tensor([places]), mask[None], output=slice(-1, None))[0, 0]
        return int(sampler.sample((logits + never)[None], torch.tensor([place - start])))

    for low in range(0, len(text), row.block_length):
        if vocabulary.eos_id in text[:low]:
            break
        high = min(low + row.block_length, len(text))
        blanks = [i for i in range(low, high) if text[i] == vocabulary.mask_id]
        for step in range(STEPS):
            clean = [p for p in range(start + high) if p < start or text[p - start] != vocabulary.mask_id]
            found = {i: predict(clean, [], start + i) for i in blanks if phases[i] == step}
            for i, token in found.items():
                text[i] = token
        clean = [p for p in range(start + high) if p < start or text[p - start] != vocabulary.mask_id]
        written: list[int] = []
        for i in blanks:
            if phases[i] >= STEPS:
                text[i] = predict(clean, written, start + i)
                written.append(start + i)
    return text


@pytest.fixture
def infilling(make_row: Callable[..., Row], vocabulary: Vocabulary) -> Row:
    mask = vocabulary.mask_id
    return make_row((9, 8), canvas=(7, 8, 9, 10, mask, mask, 11, mask, 12, 13, 14, 15, mask, 16), may_end=False)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("alpha0", [0.0, 0.4, 1.0])
def test_rows_are_written_by_the_rules(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], infilling: Row, alpha0: float, use_cache: bool
) -> None:
    rows = [*mixed_rows, infilling]
    decoder = HybridADecoder(model, vocabulary, alpha0=alpha0, steps=STEPS, use_cache=use_cache)
    for row, result in zip(rows, write_all(decoder, rows), strict=True):
        text = slowly(model, vocabulary, row, alpha0)
        end = text.index(vocabulary.eos_id) if vocabulary.eos_id in text else len(text)
        assert list(result.tokens) == text[:end]


def test_both_variants_write_the_same_positions_by_diffusion_and_other_tokens(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    rows = [make_row(length=8, block_length=8, sample=i, may_end=False) for i in range(6)]
    a = write_all(HybridADecoder(model, vocabulary, alpha0=0.5, steps=STEPS), rows)
    b = write_all(HybridDecoder(model, vocabulary, alpha0=0.5, steps=STEPS), rows)
    assert a != b


def test_the_sequential_phase_feeds_one_token_and_one_mask(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    row = make_row((5, 6, 7, 8, 9), length=8, block_length=8, may_end=False)
    widths: list[int] = []
    handle = model.embedding.register_forward_pre_hook(lambda _module, inputs: widths.append(inputs[0].shape[1]))
    write_all(HybridADecoder(model, vocabulary, alpha0=0.0, steps=STEPS), [row])
    handle.remove()
    assert widths == [len(row.prompt) + 1] + [2] * 7


def test_scores_are_the_products_of_sequential_predictions(model: Transformer, vocabulary: Vocabulary) -> None:
    asked = [Continuation((3, 5, 6), (7, 8, 9, 10)), Continuation((3, 9), (4,)), Continuation((3, 5, 6), (8, 8))]
    decoder = HybridADecoder(model, vocabulary)
    assert not decoder.score_is_bound
    never = list(vocabulary.never_sampled)
    for continuation, scores in zip(asked, decoder.score(asked), strict=True):
        prompt, tokens = continuation.prompt, continuation.tokens
        for i, token in enumerate(tokens):
            fed = torch.tensor([[*prompt, *tokens[:i], vocabulary.mask_id]])
            mask = torch.ones(1, fed.shape[1], fed.shape[1], dtype=torch.bool).tril()
            mask[:, : len(prompt), : len(prompt)] = True
            with torch.no_grad():
                logits = model(fed, torch.arange(fed.shape[1])[None], mask)[0, -1]
            logits[never] = -math.inf
            assert scores[i] == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-4)
