"""The training inputs say what the decoders will later ask: masks and weights against written-out references."""

from __future__ import annotations

import pytest
import torch

from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig
from llmprog.backends.local.puzzles.data import ExampleStream
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.puzzles.objectives import Batch, autoregressive, hybrid, masked_diffusion
from llmprog.backends.local.puzzles.train import collate

TOKENIZER = PuzzleTokenizer()


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(5)
    config = TransformerConfig(
        vocab_size=TOKENIZER.vocab_size, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(3)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    stream = ExampleStream(3)
    examples = [example for example in (stream.propose(3) for _ in range(60)) if len(example.canvas) == 40][:8]
    assert len(examples) == 8
    return collate(examples)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_autoregressive_trains_the_completion_up_to_its_first_end() -> None:
    eos = TOKENIZER.eos_id
    batch = Batch(torch.tensor([[6, 40], [6, 41]]), torch.tensor([[50, 51, eos, eos], [50, eos, eos, eos]]), 4)
    inputs = autoregressive(batch, TOKENIZER, generator())
    assert inputs.tokens[:, 0].tolist() == [TOKENIZER.ar_id] * 2
    assert (inputs.weights > 0).tolist() == [[True, True, True, False], [True, True, False, False]]
    assert inputs.weights.sum().item() == pytest.approx(1)
    # The logits at the position before a token predict it.
    assert inputs.output == slice(2, 6)


def test_masked_diffusion_masks_a_range_and_all_after_it(batch: Batch) -> None:
    for seed in range(20):
        inputs = masked_diffusion(batch, TOKENIZER, generator(seed))
        start = batch.prompt.shape[1] + 1
        assert torch.equal(inputs.tokens[:, 1:start], batch.prompt)
        assert inputs.weights.sum().item() == pytest.approx(1, abs=1e-5)
        for row, canvas, weights in zip(inputs.tokens[:, start:], batch.canvas, inputs.weights, strict=True):
            masked = row == TOKENIZER.mask_id
            assert torch.equal(row[~masked], canvas[~masked])
            trained = weights > 0
            assert trained.any()
            assert masked[trained].all()
            assert weights[trained].unique().numel() == 1
            assert weights[trained][0].item() == pytest.approx(1 / (8 * int(trained.sum())))
            # Masks that are not trained are those of later blocks, whole.
            untrained = (masked & ~trained).nonzero().flatten()
            if untrained.numel():
                first = int(untrained[0])
                assert first % batch.block_length == 0
                assert masked[first:].all()


def test_hybrid_training_gives_the_logits_of_step_by_step_sampling(model: Transformer, batch: Batch) -> None:
    """Replays every row through a cache: clean tokens in sigma order, then the masks of one denoising step."""
    for seed in range(6):
        inputs = hybrid(batch, TOKENIZER, generator(seed))
        start = batch.prompt.shape[1] + 1
        length = batch.canvas.shape[1]
        total = start + length
        with torch.no_grad():
            trained = model(inputs.tokens, inputs.positions, inputs.mask, output=inputs.output)
        for row in range(2):
            mask = inputs.mask[row]
            sigma = mask[start:total, start:total].sum(1).argsort()  # a clean token sees as many as its rank
            seen = mask[total:, start:total].sum(1)  # clean canvas tokens each mask copy sees
            cache = model.make_cache(1)
            clean, positions = inputs.tokens[row : row + 1, :start], torch.arange(start)[None]
            done = 0
            while done < length:
                step = [int(p) for p in sigma[done:] if seen[p] == done]
                assert step
                assert step == sigma[done : done + len(step)].tolist()
                places = start + torch.tensor([step])
                fed = torch.cat([clean, torch.full_like(places, TOKENIZER.mask_id)], 1)
                with torch.no_grad():
                    logits = model(
                        fed,
                        torch.cat([positions, places], 1),
                        attention_masks.causal(fed.shape[1], cache.length),
                        cache,
                        store=clean.shape[1],
                        output=slice(clean.shape[1], None),
                    )
                assert torch.allclose(logits[0], trained[row, step], atol=2e-4)
                clean, positions = batch.canvas[row : row + 1, step], places
                done += len(step)


def test_hybrid_reveals_blocks_from_left_to_right(batch: Batch) -> None:
    natural = 0
    for seed in range(10):
        inputs = hybrid(batch, TOKENIZER, generator(seed))
        start = batch.prompt.shape[1] + 1
        total = start + batch.canvas.shape[1]
        rank = inputs.mask[:, start:total, start:total].sum(2) - 1
        blocks = torch.arange(batch.canvas.shape[1]) // batch.block_length
        natural += bool((rank // batch.block_length == blocks).all())
    assert natural >= 5


def test_alpha_zero_rows_are_plain_left_to_right(batch: Batch) -> None:
    found = 0
    for seed in range(10):
        mask = hybrid(batch, TOKENIZER, generator(seed)).mask
        total = batch.prompt.shape[1] + 1 + batch.canvas.shape[1]
        ascending = torch.ones(total, total, dtype=torch.bool).tril()
        found += sum(bool(torch.equal(row[:total, :total], ascending)) for row in mask)
    assert 3 <= found <= 30
