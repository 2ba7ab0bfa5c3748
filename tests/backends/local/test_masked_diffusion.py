from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import pytest
import torch

from llmprog.backends.local import attention_masks
from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary, write_all
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder, UnmaskOptions
from llmprog.backends.local.sampling import Sampler, uniform
from llmprog.backends.local.transformer import Transformer

CPU = torch.device("cpu")
RULES = {
    "quota, a token a step": UnmaskOptions(unmask="quota"),
    "quota, 3 steps": UnmaskOptions(unmask="quota", steps=3),
    "random, 2 steps": UnmaskOptions(unmask="random", steps=2),
    "threshold, confident": UnmaskOptions(unmask="threshold", threshold=0.25),
    "threshold, leftmost": UnmaskOptions(unmask="threshold", threshold=0.25, fallback="leftmost"),
    "guided": UnmaskOptions(unmask="quota", steps=2, guidance_scale=0.8),
}


def predict(model: Transformer, vocabulary: Vocabulary, tokens: list[int]) -> torch.Tensor:
    length = len(tokens)
    with torch.no_grad():
        mask = attention_masks.bidirectional(torch.ones(1, length, dtype=torch.bool))
        return model(torch.tensor([tokens]), torch.arange(length).unsqueeze(0), mask)[0]


def reveal(options: UnmaskOptions, proposals: dict[int, tuple[float, int]], total: int, step: int) -> set[int]:
    """Which of the proposals, position -> (confidence, token), stay."""
    ranked = sorted(proposals, key=lambda i: (-proposals[i][0], i))
    if options.unmask != "threshold":
        steps = options.steps or total
        return set(ranked[: total // steps + (step < total % steps)])
    chosen = {i for i in proposals if proposals[i][0] >= options.threshold}
    if options.fallback == "leftmost":
        chosen.add(min(proposals))
    return chosen or {ranked[0]}


def slowly(model: Transformer, vocabulary: Vocabulary, options: UnmaskOptions, row: Row) -> list[int]:
    """LLaDA's generate() for one row, written out."""
    sampler = Sampler.of([row.params], [row.key], CPU)
    key = torch.tensor([row.key])
    prompt, canvas = list(row.prompt), list(row.canvas)
    mask_id, draw = vocabulary.mask_id, 0
    for start in range(0, len(canvas), row.block_length):
        block = range(start, min(start + row.block_length, len(canvas)))
        total = sum(canvas[i] == mask_id for i in block)
        step = 0
        while any(canvas[i] == mask_id for i in block):
            if vocabulary.eos_id in canvas and mask_id not in canvas[: canvas.index(vocabulary.eos_id)]:
                return canvas
            logits = predict(model, vocabulary, prompt + canvas)[len(prompt) :]
            if options.guidance_scale:
                blind = [prompt[0]] + [mask_id] * (len(prompt) - 1)
                unseeing = predict(model, vocabulary, blind + canvas)[len(prompt) :]
                logits = unseeing + (options.guidance_scale + 1) * (logits - unseeing)
            logits[:, list(vocabulary.never_sampled)] = -math.inf
            if not row.may_end:
                logits[:, vocabulary.eos_id] = -math.inf
            proposals: dict[int, tuple[float, int]] = {}
            for i in block:
                if canvas[i] == mask_id:
                    counter = (draw << 20) + i
                    token = int(sampler.sample(logits[i].unsqueeze(0), counter)[0])
                    if options.unmask == "random":
                        confidence = float(uniform(key, counter + (1 << 19), 1))
                    else:
                        confidence = float(logits[i].softmax(0)[token])
                    proposals[i] = (confidence, token)
            chosen = reveal(options, proposals, total, step)
            for i in chosen:
                canvas[i] = proposals[i][1]
            step += 1
            draw += 1
    return canvas


def text_of(canvas: list[int], vocabulary: Vocabulary) -> tuple[int, ...]:
    return tuple(canvas[: canvas.index(vocabulary.eos_id)] if vocabulary.eos_id in canvas else canvas)


@pytest.mark.parametrize("rule", RULES)
def test_a_mixed_batch_follows_lladas_rules_row_by_row(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], rule: str
) -> None:
    results = write_all(MaskedDiffusionDecoder(model, vocabulary, RULES[rule]), mixed_rows)
    ended = 0
    for row, result in zip(mixed_rows, results, strict=True):
        assert result is not None
        assert result.tokens == text_of(slowly(model, vocabulary, RULES[rule], row), vocabulary)
        assert result.logprobs is None
        ended += result.ended
    assert ended < len(mixed_rows)
    assert ended or rule == "guided"


@pytest.mark.parametrize("rule", RULES)
def test_a_row_says_the_same_alone(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], rule: str
) -> None:
    decoder = MaskedDiffusionDecoder(model, vocabulary, RULES[rule])
    together = write_all(decoder, mixed_rows)
    for row, result in zip(mixed_rows, together, strict=True):
        alone = write_all(decoder, [row])[0]
        assert alone is not None
        assert result is not None
        assert alone.tokens == result.tokens


def test_equal_canvases_are_computed_once(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    fed: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, args: fed.append(args[0].shape[0]))
    try:
        decoder = MaskedDiffusionDecoder(model, vocabulary, UnmaskOptions(unmask="quota"))
        write_all(decoder, [make_row((5, i % 2), 4, sample=i, may_end=False) for i in range(6)])
        warm, fed = fed, []
        write_all(decoder, [make_row((5, i % 2), 4, sample=i, may_end=False, temperature=0) for i in range(6)])
    finally:
        hook.remove()
    assert warm[0] == 2
    assert warm[-1] == 6
    assert fed == [2, 2, 2, 2]


def test_given_text_stays_and_blanks_keep_their_length(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    mask, eos = vocabulary.mask_id, vocabulary.eos_id
    canvas = (9, mask, mask, 10, 11, mask, 12, mask, mask, mask, eos)
    rows = [make_row(canvas=canvas, sample=i, may_end=False, block_length=3) for i in range(20)]
    texts = set()
    for result in write_all(MaskedDiffusionDecoder(model, vocabulary), rows):
        assert result is not None
        assert len(result.tokens) == 10
        assert result.ended
        assert result.num_generated == 6
        for given, token in zip(canvas, result.tokens, strict=False):
            assert given in (token, mask)
            assert token not in (*vocabulary.never_sampled, eos)
        texts.add(result.tokens)
    assert len(texts) > 10


def test_only_masked_blocks_get_an_output_head(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    whole = model.unembed
    monkeypatch.setattr(model, "unembed", lambda hidden: shapes.append(tuple(hidden.shape[:2])) or whole(hidden))
    rows = [make_row(length=8, sample=i, may_end=False, block_length=4) for i in range(3)]
    write_all(MaskedDiffusionDecoder(model, vocabulary, UnmaskOptions(unmask="quota", steps=2)), rows)
    assert {width for _, width in shapes} == {4}
    assert len(shapes) == 4


def test_stop_checks_end_their_rows(model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]) -> None:
    decoder = MaskedDiffusionDecoder(model, vocabulary)

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


def expected_bound(model: Transformer, vocabulary: Vocabulary, continuation: Continuation) -> float:
    """The mean over all numbers and all sets of masked tokens."""
    tokens, mask = list(continuation.tokens), vocabulary.mask_id
    length = len(tokens)
    total = 0.0
    for count in range(1, length + 1):
        sets = list(combinations(range(length), count))
        for hidden in sets:
            canvas = [mask if i in hidden else t for i, t in enumerate(tokens)] + [vocabulary.eos_id]
            logits = predict(model, vocabulary, list(continuation.prompt) + canvas)[len(continuation.prompt) :]
            logits[:, list(vocabulary.never_sampled)] = -math.inf
            logprobs = logits.log_softmax(-1)
            value = sum(float(logprobs[i, tokens[i]]) for i in hidden)
            total += length / count * value / len(sets) / length
    return total


def test_the_score_estimates_lladas_bound(model: Transformer, vocabulary: Vocabulary) -> None:
    continuations = [Continuation((3, 5, 6), (9, 10, 7, 8)), Continuation((3, 8), (4,)), Continuation((3, 8), (4, 11))]
    decoder = MaskedDiffusionDecoder(model, vocabulary, score_samples=3000)
    scores = decoder.score(continuations)
    for continuation, score in zip(continuations, scores, strict=True):
        assert len(score) == len(continuation.tokens)
        assert sum(score) == pytest.approx(expected_bound(model, vocabulary, continuation), abs=0.15)
    assert decoder.score_is_bound


def test_the_score_is_fixed_by_its_seed_and_not_by_its_batch(model: Transformer, vocabulary: Vocabulary) -> None:
    first, second = Continuation((3, 5, 6), (9, 10, 7, 8)), Continuation((3, 8), (4, 20, 9, 9, 6, 7))
    few = MaskedDiffusionDecoder(model, vocabulary, score_samples=8)
    both = few.score([first, second])
    assert few.score([second])[0] == pytest.approx(both[1], abs=1e-4)
    other = MaskedDiffusionDecoder(model, vocabulary, score_samples=8, score_seed=1)
    assert sum(other.score([first])[0]) != pytest.approx(sum(both[0]), abs=1e-3)
