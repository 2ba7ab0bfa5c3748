"""The further training inputs say what the decoders will later ask: replayed step by step through a cache."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig
from llmprog.backends.local.networks.weights import save_weights
from llmprog.backends.local.puzzles.data import ExampleStream
from llmprog.backends.local.puzzles.further_objectives import (
    SelfConditionedInput,
    block_diffusion,
    expected_embedding,
    hybrid_a,
    random_tokens,
    uniform_diffusion,
)
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.puzzles.objectives import Batch, Objective, TrainingInput
from llmprog.backends.local.puzzles.train import collate, continue_from
from llmprog.errors import OptionError

TOKENIZER = PuzzleTokenizer(further_modes=True)


def tiny_model(vocab_size: int) -> Transformer:
    torch.manual_seed(5)
    model = Transformer(
        TransformerConfig(vocab_size=vocab_size, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48)
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(3)
    return model


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model(TOKENIZER.vocab_size)


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Proposals of four lines, some of which end earlier."""
    stream = ExampleStream(3)
    examples = [example for example in (stream.propose(2) for _ in range(80)) if len(example.canvas) == 36][:8]
    assert len(examples) == 8
    return collate(examples)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def block_length_of(inputs: TrainingInput, start: int, batch: Batch) -> int:
    """The block length a doubled input was made with, read off its mask."""
    total = start + batch.canvas.shape[1]
    return int(inputs.mask[0, total, total:].sum())


@pytest.mark.parametrize("objective", [block_diffusion, uniform_diffusion])
def test_training_in_blocks_gives_the_logits_of_denoising_with_a_cache(
    objective: Objective, model: Transformer, batch: Batch
) -> None:
    lengths = set()
    for seed in range(8):
        inputs = objective(batch, TOKENIZER, generator(seed))
        start, width = batch.prompt.shape[1] + 1, batch.canvas.shape[1]
        total = start + width
        length = block_length_of(inputs, start, batch)
        lengths.add(length)
        with torch.no_grad():
            trained = model(inputs.tokens, inputs.positions, inputs.mask, output=inputs.output)
        cache = model.make_cache(1)
        clean, place = inputs.tokens[:1, :start], 0
        for low in range(0, width, length):
            noisy = inputs.tokens[:1, total + low : total + low + length]
            with torch.no_grad():
                model(
                    clean,
                    torch.arange(place, place + clean.shape[1])[None],
                    torch.ones(1, clean.shape[1], cache.length + clean.shape[1], dtype=torch.bool),
                    cache,
                )
                logits = model(
                    noisy,
                    torch.arange(start + low, start + low + length)[None],
                    torch.ones(1, length, cache.length + length, dtype=torch.bool),
                    cache,
                    store=0,
                )
            assert torch.allclose(logits[0], trained[0, low : low + length], atol=2e-4)
            place += clean.shape[1]
            clean = batch.canvas[:1, low : low + length]
    assert lengths == {batch.block_length, batch.canvas.shape[1]}


def test_every_used_block_weighs_the_same_and_what_follows_the_end_nothing(batch: Batch) -> None:
    start, width = batch.prompt.shape[1] + 1, batch.canvas.shape[1]
    for objective in (block_diffusion, uniform_diffusion):
        for seed in range(6):
            inputs = objective(batch, TOKENIZER, generator(seed))
            length = block_length_of(inputs, start, batch)
            by_block = inputs.weights.view(8, width // length, length).sum(2)
            written = (batch.canvas != TOKENIZER.eos_id).sum(1, keepdim=True)
            used = torch.arange(width // length) * length <= written.clamp(max=width - 1)
            assert torch.allclose(by_block, used.float() / used.sum(), atol=1e-6)


def test_block_diffusion_trains_its_masks_only(batch: Batch) -> None:
    inputs = block_diffusion(batch, TOKENIZER, generator())
    total = batch.prompt.shape[1] + 1 + batch.canvas.shape[1]
    noisy = inputs.tokens[:, total:]
    masked = noisy == TOKENIZER.mask_id
    assert torch.equal(noisy[~masked], batch.canvas[~masked])
    assert masked[inputs.weights > 0].all()
    assert inputs.tokens[:, 0].tolist() == [TOKENIZER.mode_id("block")] * 8


def test_uniform_diffusion_has_no_masks_and_all_degrees_of_noise(batch: Batch) -> None:
    total = batch.prompt.shape[1] + 1 + batch.canvas.shape[1]
    shares, conditioned, from_canvas = [], 0, 0
    for seed in range(30):
        inputs = uniform_diffusion(batch, TOKENIZER, generator(seed))
        assert isinstance(inputs, SelfConditionedInput)
        assert not (inputs.tokens == TOKENIZER.mask_id).any()
        noisy = inputs.tokens[:, total:]
        changed = noisy != batch.canvas
        shares += changed.float().mean(1).tolist()
        conditioned += int(inputs.conditioned.sum())
        from_canvas += sum(bool(torch.isin(row, own).all()) for row, own in zip(noisy, batch.canvas, strict=True))
    assert min(shares) < 0.2
    assert max(shares) > 0.9
    assert 90 < conditioned < 150  # half of 240
    assert 35 < from_canvas < 100  # a quarter


def test_self_conditioning_shows_the_expected_embedding_of_a_first_prediction(model: Transformer, batch: Batch) -> None:
    inputs = uniform_diffusion(batch, TOKENIZER, generator(2))
    assert isinstance(inputs, SelfConditionedInput)
    loss = inputs.loss(model).item()
    with torch.no_grad():
        first = model(inputs.tokens, inputs.positions, inputs.mask, output=inputs.output)
        added = torch.zeros(*inputs.tokens.shape, 32)
        added[:, inputs.output] = first.softmax(-1) @ model.embedding.weight * inputs.conditioned[:, None, None]
        assert torch.allclose(expected_embedding(model, first[:1]), first[:1].softmax(-1) @ model.embedding.weight)
        logits = model(inputs.tokens, inputs.positions, inputs.mask, output=inputs.output, added=added)
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs.targets.flatten(), reduction="none")
    assert loss == pytest.approx((each * inputs.weights.flatten()).sum().item(), rel=1e-4)


def test_hybrid_a_masks_see_clean_tokens_and_no_other_mask(model: Transformer, batch: Batch) -> None:
    """Each mask predicts alone what it predicts beside the others; clean tokens see each other in both directions."""
    phases = set()
    for seed in range(12):
        inputs = hybrid_a(batch, TOKENIZER, generator(seed))
        assert inputs.weights.sum().item() == pytest.approx(1, abs=1e-5)
        with torch.no_grad():
            trained = model(inputs.tokens, inputs.positions, inputs.mask, output=inputs.output)
        length = inputs.targets.shape[1]
        first = int(inputs.positions[0, inputs.output.start])
        is_sequential = inputs.output.start > first
        phases.add(is_sequential)
        trained_places = (inputs.weights[0] > 0).nonzero().flatten().tolist()
        context = [i for i in range(length) if i not in trained_places]
        for i in trained_places:
            # A written-out reference: bidirectional context, then (sequential) what stands before, then one mask.
            bidirectional = [*range(first), *(first + j for j in context)]
            before = [first + j for j in trained_places if j < i] if is_sequential else []
            places = [*bidirectional, *before, first + i]
            canvas = inputs.targets[0]
            tokens = [int(inputs.tokens[0, p]) if p < first else int(canvas[p - first]) for p in places]
            tokens[-1] = TOKENIZER.mask_id
            count = len(bidirectional)
            mask = torch.ones(len(places), len(places)).tril().bool()
            mask[:count, :count] = True
            with torch.no_grad():
                logits = model(torch.tensor([tokens]), torch.tensor([places]), mask[None], output=slice(-1, None))
            assert torch.allclose(logits[0, 0], trained[0, i], atol=2e-4)
    assert phases == {True, False}


def test_the_blocks_of_block_causal_see_earlier_ones_and_themselves() -> None:
    block = torch.tensor([[-1, -1, 0, 0, 1]])
    valid = torch.tensor([[False, True, True, True, True]])
    seen = [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 1]]
    assert attention_masks.block_causal(block, valid)[0].int().tolist() == seen
    doubled = attention_masks.block_training(block)[0].int()
    assert doubled[3].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert doubled[5 + 3].tolist() == [1, 1, 0, 0, 0, 0, 0, 1, 1, 0]
    padded = attention_masks.block_training(block, valid)[0]
    assert padded.diagonal().all()
    assert not padded[1:5, 0].any()


def test_random_tokens_are_uniform_over_what_may_be_written() -> None:
    drawn = random_tokens(TOKENIZER, (300, 300), generator()).flatten()
    counts = torch.bincount(drawn, minlength=TOKENIZER.vocab_size)
    assert not counts[list(TOKENIZER.never_sampled)].any()
    allowed = TOKENIZER.vocab_size - len(TOKENIZER.never_sampled)
    expected = 90000 / allowed
    statistic = float(((counts.double() - expected) ** 2 / expected).sum()) - expected * len(TOKENIZER.never_sampled)
    assert abs(statistic - allowed) < 4 * math.sqrt(2 * allowed)


def test_new_modes_come_last_and_start_as_the_mode_most_like_them(tmp_path: Path) -> None:
    old = PuzzleTokenizer()
    assert TOKENIZER.words[: old.vocab_size] == old.words
    assert TOKENIZER.never_sampled == (*old.never_sampled, 236, 237, 238)
    with pytest.raises(OptionError, match="not trained on the mode 'uniform'"):
        old.mode_id("uniform")
    first = tiny_model(old.vocab_size)
    save_weights(first, tmp_path / "first.safetensors", dtype=torch.float32)
    second = tiny_model(TOKENIZER.vocab_size)
    continue_from(tmp_path / "first.safetensors", second)
    rows = second.embedding.weight
    assert torch.equal(rows[: old.vocab_size], first.embedding.weight)
    for mode, like in (("uniform", "diffusion"), ("block", "diffusion"), ("hybrid_a", "hybrid")):
        assert torch.equal(rows[TOKENIZER.mode_id(mode)], rows[TOKENIZER.mode_id(like)])
