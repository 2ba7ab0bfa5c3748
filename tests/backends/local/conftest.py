"""A tiny, randomly initialised transformer and rows for it: decoders are tested by their rules, not their words."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from llmprog.types import SamplingParams

if TYPE_CHECKING:
    from llmprog.backends.local.decoders.base import Row, Vocabulary
    from llmprog.backends.local.networks.transformer import Transformer

MASK, EOS, PAD, MODE = 0, 1, 2, 3


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    from llmprog.backends.local.decoders.base import Vocabulary

    return Vocabulary(size=24, mask_id=MASK, eos_id=EOS, pad_id=PAD, never_sampled=(MASK, PAD, MODE))


@pytest.fixture(scope="session")
def model() -> Transformer:
    import torch

    from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig

    torch.manual_seed(3)
    config = TransformerConfig(
        vocab_size=24, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, max_positions=64
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        # Random attention of standard size hardly looks at anything; larger weights make every key matter.
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(3)
        model.embedding.weight.mul_(0.4)
    return model


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    from llmprog.backends.local.decoders.base import Row
    from llmprog.backends.local.sampling import stream_key

    def make(
        prompt: tuple[int, ...] = (5, 6, 7),
        length: int = 10,
        *,
        sample: int = 0,
        seed: int = 11,
        canvas: tuple[int, ...] | None = None,
        block_length: int = 4,
        may_end: bool = True,
        has_stopped: Callable[..., bool] | None = None,
        **params: float,
    ) -> Row:
        return Row(
            prompt=(MODE, *prompt),
            canvas=(MASK,) * length if canvas is None else canvas,
            key=stream_key(seed, repr(prompt).encode(), sample),
            block_length=block_length,
            params=SamplingParams(**{"temperature": 1.0, **params}),
            may_end=may_end,
            has_stopped=has_stopped,
        )

    return make


@pytest.fixture
def mixed_rows(make_row: Callable[..., Row]) -> list[Row]:
    """Rows of several prompts, lengths, block lengths and temperatures."""
    prompts: list[tuple[int, ...]] = [(5, 6, 7), (9,), (5, 6, 7), (4, 8, 15, 16, 23, 20, 11), (9,), (12, 13)]
    return [
        make_row(
            prompt,
            length=6 + 3 * (i % 4),
            sample=i,
            block_length=3 + i % 3,
            temperature=(0.0, 0.7, 1.0)[i % 3],
            top_k=(0, 5)[i % 2],
        )
        for i, prompt in enumerate(prompts * 3)
    ]
