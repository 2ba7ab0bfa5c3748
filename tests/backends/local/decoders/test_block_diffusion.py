from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations

import pytest
import torch

from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary, write_all
from llmprog.backends.local.decoders.block_diffusion import BlockDiffusionDecoder
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler
from llmprog.errors import OptionError

RULES = {
    "quota": UnmaskOptions(unmask="quota", steps=2),
    "threshold": UnmaskOptions(threshold=0.3, fallback="leftmost"),
    "credit": UnmaskOptions(unmask="credit", threshold=0.4, credit_weight=2.0),
}


def predict(
    model: Transformer, vocabulary: Vocabulary, prompt: tuple[int, ...], canvas: list[int], block_length: int
) -> torch.Tensor:
    """Logits of the canvas's last block, nothing behind it being fed."""
    tokens = torch.tensor([[*prompt, *canvas]])
    block = torch.tensor([[-1] * len(prompt) + [i // block_length for i in range(len(canvas))]])
    mask = attention_masks.block_causal(block)
    with torch.no_grad():
        logits = model(tokens, torch.arange(tokens.shape[1]).unsqueeze(0), mask)[0, len(prompt) :]
    logits[:, list(vocabulary.never_sampled)] = -math.inf
    return logits


def slowly(model: Transformer, vocabulary: Vocabulary, row: Row, steps: int) -> list[int]:
    """Block after block, ``steps`` steps each, the most confident first; written out for one row."""
    sampler = Sampler.of([row.params], [row.key], torch.device("cpu"))
    canvas, mask_id, draw, length = list(row.canvas), vocabulary.mask_id, 0, row.block_length
    for start in range(0, len(canvas), length):
        block = range(start, min(start + length, len(canvas)))
        total = sum(canvas[i] == mask_id for i in block)
        for step in range(steps):
            masked = [i for i in block if canvas[i] == mask_id]
            ended = vocabulary.eos_id in canvas and mask_id not in canvas[: canvas.index(vocabulary.eos_id)]
            if not masked or ended:
                break
            logits = predict(model, vocabulary, row.prompt, canvas[: block.stop], length)
            proposals = {}
            for i in masked:
                column = len(row.prompt) + i
                token = int(sampler.sample(logits[i].unsqueeze(0), (draw << 20) + column)[0])
                proposals[i] = (-float(logits[i].softmax(0)[token]), i, token)
            for _, i, token in sorted(proposals.values())[: total // steps + (step < total % steps)]:
                canvas[i] = token
            draw += 1
    return canvas


def test_blocks_are_written_from_left_to_right_and_see_nothing_behind_them(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row]
) -> None:
    results = write_all(BlockDiffusionDecoder(model, vocabulary, RULES["quota"]), mixed_rows)
    for row, result in zip(mixed_rows, results, strict=True):
        text = slowly(model, vocabulary, row, 2)
        assert result.tokens == tuple(text[: text.index(vocabulary.eos_id)] if vocabulary.eos_id in text else text)
    assert 0 < sum(result.ended for result in results) < len(results)


@pytest.mark.parametrize("rule", RULES)
def test_the_cache_is_exact(model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], rule: str) -> None:
    cached = write_all(BlockDiffusionDecoder(model, vocabulary, RULES[rule]), mixed_rows)
    uncached = write_all(BlockDiffusionDecoder(model, vocabulary, RULES[rule], use_cache=False), mixed_rows)
    assert cached == uncached


def test_given_text_stays_and_blanks_keep_their_length(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    mask, eos = vocabulary.mask_id, vocabulary.eos_id
    canvas = (9, 4, 5, mask, mask, 10, 11, mask, 12, mask, mask, mask, eos)
    rows = [make_row(canvas=canvas, sample=i, may_end=False, block_length=3) for i in range(20)]
    results = write_all(BlockDiffusionDecoder(model, vocabulary), rows)
    for result in results:
        assert len(result.tokens) == 12
        assert all(given in (token, mask) for given, token in zip(canvas, result.tokens, strict=False))
    assert len({result.tokens for result in results}) > 10


def hidden_sets(size: int) -> Iterator[tuple[set[int], float]]:
    """All sets of masked tokens of a block, and what each contributes to the expectation: n/l over their number."""
    for count in range(1, size + 1):
        for hidden in combinations(range(size), count):
            yield set(hidden), 1 / count / math.comb(size, count)


def expected_bound(model: Transformer, vocabulary: Vocabulary, continuation: Continuation) -> float:
    """The sum over blocks of the mean over all numbers and all sets of masked tokens."""
    text, length = [*continuation.tokens, vocabulary.eos_id], continuation.block_length
    total = 0.0
    for start in range(0, len(continuation.tokens), length):
        size = min(length, len(continuation.tokens) - start)
        for hidden, weight in hidden_sets(size):
            canvas = text[: min(start + length, len(text))]
            for i in hidden:
                canvas[start + i] = vocabulary.mask_id
            logprobs = predict(model, vocabulary, continuation.prompt, canvas, length).log_softmax(-1)
            total += weight * sum(float(logprobs[start + i, text[start + i]]) for i in hidden)
    return total


def test_the_score_estimates_the_bound_of_the_paper(model: Transformer, vocabulary: Vocabulary) -> None:
    continuations = [
        Continuation((3, 5, 6), (9, 10, 7, 8, 4), block_length=3),
        Continuation((3, 8), (4,), block_length=3),
        Continuation((3, 8, 5, 5), (4, 11, 6), block_length=2),
    ]
    decoder = BlockDiffusionDecoder(model, vocabulary, score_samples=12000)
    for continuation, score in zip(continuations, decoder.score(continuations), strict=True):
        assert len(score) == len(continuation.tokens)
        assert sum(score) == pytest.approx(expected_bound(model, vocabulary, continuation), abs=0.2)
    assert decoder.score_is_bound


def test_one_token_a_block_is_the_exact_likelihood_from_left_to_right(
    model: Transformer, vocabulary: Vocabulary
) -> None:
    tokens = (9, 10, 7)
    (score,) = BlockDiffusionDecoder(model, vocabulary, score_samples=2).score([Continuation((3, 5, 6), tokens)])
    for i, value in enumerate(score):
        canvas = [*tokens[:i], vocabulary.mask_id]
        logprobs = predict(model, vocabulary, (3, 5, 6), canvas, 1).log_softmax(-1)
        assert value == pytest.approx(float(logprobs[i, tokens[i]]), abs=1e-4)


def test_each_token_can_be_judged_by_the_rest_of_its_block(model: Transformer, vocabulary: Vocabulary) -> None:
    tokens = (9, 10, 7, 8)
    asked = Continuation((3, 5, 6), tokens, block_length=2, each_alone=True)
    (score,) = BlockDiffusionDecoder(model, vocabulary).score([asked])
    for i, value in enumerate(score):
        canvas = [vocabulary.mask_id if i == j else token for j, token in enumerate(tokens[: i // 2 * 2 + 2])]
        logprobs = predict(model, vocabulary, (3, 5, 6), canvas, 2).log_softmax(-1)
        assert value == pytest.approx(float(logprobs[i, tokens[i]]), abs=1e-4)


def test_guidance_is_refused(model: Transformer, vocabulary: Vocabulary) -> None:
    with pytest.raises(OptionError, match="use decoder='masked_diffusion'"):
        BlockDiffusionDecoder(model, vocabulary, UnmaskOptions(guidance_scale=0.5))
