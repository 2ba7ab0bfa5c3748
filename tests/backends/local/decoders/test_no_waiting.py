"""In the denoising loop the host does not wait for the device: it looks at settled rows every few steps only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from llmprog.backends.local.decoders.base import Decoder, Row, Vocabulary, Written, write_all
from llmprog.backends.local.decoders.cached_diffusion import CacheOptions
from llmprog.backends.local.decoders.canvas_writing import CanvasWriting
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.masked_writing import MaskedWriting
from llmprog.backends.local.decoders.mdlm import MDLMDecoder
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.score_entropy import ScoreEntropyDecoder
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks.transformer import Transformer

WAYS = {
    "quota": (UnmaskOptions(unmask="quota", steps=3), CorrectionOptions()),
    "random": (UnmaskOptions(unmask="random"), CorrectionOptions()),
    "margin": (UnmaskOptions(unmask="margin", steps=3), CorrectionOptions()),
    "entropy": (UnmaskOptions(unmask="entropy", entropy_bound=2.0), CorrectionOptions()),
    "threshold": (UnmaskOptions(threshold=0.3), CorrectionOptions()),
    "leftmost": (UnmaskOptions(threshold=0.3, fallback="leftmost"), CorrectionOptions()),
    "factor": (UnmaskOptions(unmask="factor", factor=2.0), CorrectionOptions()),
    "credit": (UnmaskOptions(unmask="credit", threshold=0.4), CorrectionOptions()),
    "hierarchical": (UnmaskOptions(unmask="hierarchical", low_threshold=0.2), CorrectionOptions()),
    "guided": (UnmaskOptions(unmask="quota", guidance_scale=0.5), CorrectionOptions()),
    "remasked": (UnmaskOptions(unmask="quota", steps=8), CorrectionOptions(remask="conf")),
    "prefix cache": (UnmaskOptions(unmask="quota", steps=2), CorrectionOptions()),
    "dual cache": (UnmaskOptions(unmask="credit", threshold=0.4), CorrectionOptions()),
    "edited": (UnmaskOptions(unmask="quota", steps=2), CorrectionOptions(edit_threshold=0.3)),
}


def rarely_looked_at(decoder: MaskedDiffusionDecoder, every: int) -> MaskedWriting:
    writing = decoder.start()
    assert isinstance(writing, MaskedWriting)
    writing.look_every = every
    return writing


@pytest.mark.parametrize("way", WAYS)
def test_a_step_reads_nothing_back(model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], way: str) -> None:
    # Fake tensors have no values: whatever needs one on the host, or a shape that depends on one, raises.
    with FakeTensorMode(allow_non_fake_inputs=True):
        cache = CacheOptions(kind="dual" if way == "dual cache" else "prefix") if "cache" in way else None
        writing = rarely_looked_at(MaskedDiffusionDecoder(model, vocabulary, *WAYS[way], cache), 4)
        writing.admit(dict(enumerate(mixed_rows)))
        writing._has_joined = False  # joining is looked at once, outside the loop
        for _ in range(3):
            assert writing.step() == {}
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            writing.step()


@pytest.mark.parametrize("kind", [MDLMDecoder, partial(MDLMDecoder, sampler="first_hitting"), ScoreEntropyDecoder])
def test_a_step_of_a_process_in_time_reads_nothing_back(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], kind: Callable[..., Decoder]
) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        writing = kind(model, vocabulary).start()
        assert isinstance(writing, CanvasWriting)
        writing.look_every = 4
        writing.admit(dict(enumerate(mixed_rows)))
        writing._has_joined = False
        for _ in range(3):
            assert writing.step() == {}
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            writing.step()


@pytest.mark.parametrize("way", ["quota", "leftmost", "credit", "remasked", "edited"])
def test_settled_rows_stay_as_they_are_until_they_are_looked_at(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], way: str
) -> None:
    decoder = MaskedDiffusionDecoder(model, vocabulary, *WAYS[way])
    often = write_all(decoder, mixed_rows)
    writing = rarely_looked_at(decoder, 5)
    writing.admit(dict(enumerate(mixed_rows)))
    found: dict[int, Written] = {}
    left = []
    while len(writing):
        left.append(len(writing))
        found |= writing.step()
    assert [found[i] for i in range(len(mixed_rows))] == often
    assert all(left[i] == left[0] for i in range(5))
    assert len(left) % 5 == 0


def test_stop_texts_are_looked_for_in_every_step(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    rows = [make_row(length=9, sample=i, may_end=False, has_stopped=lambda tokens: len(tokens) >= 3) for i in range(4)]
    decoder = MaskedDiffusionDecoder(model, vocabulary, *WAYS["leftmost"])
    writing = rarely_looked_at(decoder, 50)
    writing.admit(dict(enumerate(rows)))
    found: dict[int, Written] = {}
    steps = 0
    while len(writing):
        found |= writing.step()
        steps += 1
    assert steps < 9
    assert [found[i] for i in range(4)] == write_all(decoder, rows)


def test_on_the_cpu_every_step_is_looked_at(model: Transformer, vocabulary: Vocabulary) -> None:
    writing = MaskedDiffusionDecoder(model, vocabulary).start()
    assert isinstance(writing, MaskedWriting)
    assert writing.look_every == 1
    assert torch.device("cpu") == writing.device
