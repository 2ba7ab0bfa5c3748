"""Uniform diffusion against its rules written out row by row; what its cache and its neighbours must not change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import Continuation, Row, Vocabulary, draw_counter, write_all
from llmprog.backends.local.decoders.uniform_diffusion import UniformDiffusionDecoder, UniformOptions, accept
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler, uniform
from llmprog.errors import CapabilityError

OPTIONS = UniformOptions(steps=6, entropy_bound=2.0, stop_entropy=0.5)


def slowly(model: Transformer, vocabulary: Vocabulary, row: Row, options: UniformOptions) -> tuple[list[int], int]:
    """One row by the rules, token by token and without a cache: its canvas, and how many passes it took."""
    allowed = [token for token in range(vocabulary.size) if token not in vocabulary.never_sampled]
    sampler = Sampler.of([row.params], [row.key], torch.device("cpu"))
    start, size = len(row.prompt), len(row.canvas)
    text = list(row.canvas)
    never = torch.zeros(vocabulary.size)
    never[
        [t for t in range(vocabulary.size) if t not in allowed or (t == vocabulary.eos_id and not row.may_end)]
    ] = -math.inf

    def noise(step: int, column: int) -> int:
        counter = draw_counter(step, torch.tensor(column)) + (1 << 19)
        return allowed[int(float(uniform(torch.tensor(row.key), counter, 1)) * len(allowed))]

    def block_of(column: int) -> int:
        return -1 if column < start else (column - start) // row.block_length

    guess = [noise(-1, i) if token == vocabulary.mask_id else token for i, token in enumerate(text)]
    if row.draft:
        guess = [d if token == vocabulary.mask_id else token for token, d in zip(text, row.draft, strict=True)]
    age = 0
    while vocabulary.mask_id in text:
        first_mask = text.index(vocabulary.mask_id)
        if vocabulary.eos_id in text[:first_mask]:
            break
        low = first_mask // row.block_length * row.block_length
        high = min(low + row.block_length, size)
        blanks = [i for i in range(low, high) if text[i] == vocabulary.mask_id]
        shown = torch.zeros(high - low, model.config.d_model)
        before: list[int] = []
        for step in range(options.steps):
            tokens = torch.tensor([[*row.prompt, *text[:low], *guess[low:high]]])
            blocks = torch.tensor([[block_of(c) for c in range(start + high)]])
            added = torch.zeros(1, start + high, model.config.d_model)
            added[0, start + low :] = shown
            positions = torch.arange(start + high)[None]
            mask = attention_masks.block_causal(blocks)
            logits = model(tokens, positions, mask, output=slice(start + low, None), added=added)[0] + never
            temperature = options.t_min + (options.t_max - options.t_min) * (options.steps - step) / options.steps
            probs = (logits / temperature).softmax(-1)
            entropy = [-sum(p * math.log(p) for p in row_probs.tolist() if p > 0) for row_probs in probs]
            spent = 0.0
            likeliest = [int(probs[i - low].argmax()) for i in blanks]
            for i in sorted(blanks, key=lambda i: entropy[i - low]):
                if spent <= options.entropy_bound:
                    counters = draw_counter(age, torch.tensor([i]))
                    guess[i] = int(sampler.sample((logits / temperature)[None, i - low], counters))
                else:
                    guess[i] = noise(age, i)
                spent += entropy[i - low]
            mean = sum(entropy[i - low] for i in blanks) / len(blanks)
            if options.self_condition:
                shown = probs @ model.embedding.weight
            age += 1
            if (likeliest == before and mean < options.stop_entropy) or step + 1 == options.steps:
                break
            before = likeliest
        for i, token in zip(blanks, likeliest, strict=True):
            text[i] = guess[i] = token
    return text, age


@pytest.fixture
def infilling(make_row: Callable[..., Row], vocabulary: Vocabulary) -> Row:
    mask = vocabulary.mask_id
    return make_row((9, 8), canvas=(7, 8, 9, 10, mask, mask, 11, mask, 12, 13, 14, 15, mask, 16), may_end=False)


@pytest.mark.parametrize("self_condition", [True, False])
@torch.inference_mode()
def test_rows_are_written_by_the_rules(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], infilling: Row, self_condition: bool
) -> None:
    options = replace(OPTIONS, self_condition=self_condition)
    rows = [*mixed_rows[:9], infilling]
    results = write_all(UniformDiffusionDecoder(model, vocabulary, options), rows)
    fewest = math.inf
    for row, result in zip(rows, results, strict=True):
        text, passes = slowly(model, vocabulary, row, options)
        end = min([i for i, t in enumerate(text) if t in (vocabulary.eos_id, vocabulary.mask_id)], default=len(text))
        assert list(result.tokens) == text[:end]
        fewest = min(fewest, passes / math.ceil(max(1, end) / row.block_length))
    assert fewest < options.steps  # some block was stable and sure before its last step


def test_the_cache_changes_nothing(model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row]) -> None:
    cached = write_all(UniformDiffusionDecoder(model, vocabulary, OPTIONS), mixed_rows)
    assert cached == write_all(UniformDiffusionDecoder(model, vocabulary, OPTIONS, use_cache=False), mixed_rows)


def test_given_text_stays(model: Transformer, vocabulary: Vocabulary, infilling: Row) -> None:
    (result,) = write_all(UniformDiffusionDecoder(model, vocabulary, OPTIONS), [infilling])
    assert len(result.tokens) == len(infilling.canvas)
    for token, given in zip(result.tokens, infilling.canvas, strict=True):
        assert given in (vocabulary.mask_id, token)
    assert result.num_generated == 4


@torch.inference_mode()
def test_a_draft_stands_where_noise_would(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    """With one step the argmax given the draft is the result, so the draft alone decides."""
    options = UniformOptions(steps=1)
    row = make_row(length=8, block_length=8, may_end=False)
    texts = {
        write_all(UniformDiffusionDecoder(model, vocabulary, options), [replace(row, draft=draft, key=key)])[0].tokens
        for draft in ((9,) * 8,)
        for key in range(5)
    }
    assert len(texts) == 1
    assert texts == {tuple(slowly(model, vocabulary, replace(row, draft=(9,) * 8), options)[0])}
    other = write_all(UniformDiffusionDecoder(model, vocabulary, options), [replace(row, draft=(4, 5) * 4)])
    assert other[0].tokens not in texts


def test_tokens_are_accepted_in_ascending_entropy_up_to_the_bound() -> None:
    inf = math.inf
    entropy = torch.tensor([[0.3, 0.02, inf, 0.05, 0.06], [5.0, 4.0, inf, inf, 6.0], [0.0, 0.0, 0.0, 0.0, 0.2]])
    expected = torch.tensor(
        [
            [False, True, False, True, True],  # before them: 0, .02, .07, and .13 for the last
            [False, True, False, False, False],  # the least one always
            [True, True, True, True, True],
        ]
    )
    assert torch.equal(accept(entropy, 0.1), expected)


def test_the_first_canvas_is_uniform_noise(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    decoder = UniformDiffusionDecoder(model, vocabulary)
    fed: list[Tensor] = []
    hook = model.embedding.register_forward_pre_hook(lambda _module, inputs: fed.append(inputs[0]))
    try:
        writing = decoder.start()
        writing.admit({i: make_row(length=16, sample=i, block_length=16) for i in range(250)})
        writing.step()
    finally:
        hook.remove()
    counts = torch.bincount(fed[-1].flatten(), minlength=vocabulary.size)
    allowed = [t for t in range(vocabulary.size) if t not in vocabulary.never_sampled]
    assert int(counts.sum()) == int(counts[allowed].sum()) == 250 * 16
    expected = 250 * 16 / len(allowed)
    assert float(((counts[allowed] - expected) ** 2 / expected).sum()) < 45  # chi-squared, 20 degrees: p = 0.001


def test_it_has_no_likelihood(model: Transformer, vocabulary: Vocabulary) -> None:
    with pytest.raises(CapabilityError, match="decoder=masked_diffusion for a lower bound"):
        UniformDiffusionDecoder(model, vocabulary).score([Continuation((3, 5), (6,))])
