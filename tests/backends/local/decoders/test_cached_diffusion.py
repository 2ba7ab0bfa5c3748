from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from llmprog.backends.local.decoders.base import Row, Vocabulary, Written, write_all
from llmprog.backends.local.decoders.cached_diffusion import CachedWriting, CacheOptions
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.sampling import Sampler
from llmprog.errors import OptionError

STEPS = 3
QUOTA = UnmaskOptions(unmask="quota", steps=STEPS)
CACHES = [
    CacheOptions(kind="prefix", refresh_every=1000),
    CacheOptions(kind="dual"),
    CacheOptions(kind="prefix", refresh_every=2),
    CacheOptions(kind="dual", refresh_every=2),
]


class Overriding:
    """A ``Cache`` that is fed everything and puts the keys and values of some columns back to what they were."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.fresh: slice = slice(None)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.kept:
            old_keys, old_values = self.kept[layer]
            old_keys[:, :, self.fresh], old_values[:, :, self.fresh] = keys[:, :, self.fresh], values[:, :, self.fresh]
            return old_keys, old_values
        self.kept[layer] = keys.clone(), values.clone()
        return keys, values

    def advance(self, count: int) -> None:
        pass


def slowly(
    model: Transformer, vocabulary: Vocabulary, row: Row, cache: CacheOptions, *, shift: bool = False
) -> list[int]:
    """LLaDA's quota for one row; all of it is fed in every step, and what is cached is put back."""
    sampler = Sampler.of([row.params], [row.key], torch.device("cpu"))
    canvas, mask_id, draw, start = list(row.canvas), vocabulary.mask_id, 0, len(row.prompt)
    for low in range(0, len(canvas), row.block_length):
        block = range(low, min(low + row.block_length, len(canvas)))
        total = sum(canvas[i] == mask_id for i in block)
        for step in range(STEPS):
            masked = [i for i in block if canvas[i] == mask_id]
            ended = vocabulary.eos_id in canvas and mask_id not in canvas[: canvas.index(vocabulary.eos_id)]
            if not masked or ended:
                break
            if step % cache.refresh_every == 0:
                kept = Overriding()
            end = start + block.stop if cache.kind == "dual" else None
            kept.fresh = slice(start + low - shift, end)
            tokens = torch.tensor([[*row.prompt, *canvas]])
            mask = attention_masks.bidirectional(torch.ones_like(tokens, dtype=torch.bool))
            with torch.no_grad():
                logits = model(tokens, torch.arange(tokens.shape[1]).unsqueeze(0), mask, kept)[0]
            logits = logits[start - shift : start - shift + len(canvas)]
            logits[:, list(vocabulary.never_sampled)] = -math.inf
            proposals = []
            for i in masked:
                token = int(sampler.sample(logits[i].unsqueeze(0), (draw << 20) + i)[0])
                proposals.append((-float(logits[i].softmax(0)[token]), i, token))
            for _, i, token in sorted(proposals)[: total // STEPS + (step < total % STEPS)]:
                canvas[i] = token
            draw += 1
    return canvas


def text_of(canvas: list[int], vocabulary: Vocabulary) -> tuple[int, ...]:
    return tuple(canvas[: canvas.index(vocabulary.eos_id)] if vocabulary.eos_id in canvas else canvas)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_what_is_not_fed_has_the_keys_and_values_of_the_last_refresh(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], cache: CacheOptions, shift: bool
) -> None:
    decoder = MaskedDiffusionDecoder(model, vocabulary, QUOTA, cache=cache, shift_logits=shift)
    for row, result in zip(mixed_rows, write_all(decoder, mixed_rows), strict=True):
        assert result.tokens == text_of(slowly(model, vocabulary, row, cache, shift=shift), vocabulary)


@pytest.mark.parametrize("kind", ["prefix", "dual"])
@pytest.mark.parametrize("correction", [CorrectionOptions(), CorrectionOptions(remask="cap", remask_eta=0.3)], ids=str)
def test_refreshing_in_every_step_is_exact(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], kind: Any, correction: CorrectionOptions
) -> None:
    exact = write_all(MaskedDiffusionDecoder(model, vocabulary, QUOTA, correction), mixed_rows)
    cache = CacheOptions(kind=kind, refresh_every=1)
    assert write_all(MaskedDiffusionDecoder(model, vocabulary, QUOTA, correction, cache), mixed_rows) == exact
    approximate = MaskedDiffusionDecoder(model, vocabulary, QUOTA, correction, CacheOptions(kind=kind))
    assert write_all(approximate, mixed_rows) != exact


@pytest.mark.parametrize(("kind", "fed"), [("prefix", [17, 8, 8, 17, 4, 4]), ("dual", [17, 4, 4, 17, 4, 4])])
def test_only_a_part_is_fed_between_refreshes(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], kind: Any, fed: list[int]
) -> None:
    widths: list[int] = []
    hook = model.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    try:
        options = UnmaskOptions(unmask="quota", steps=3)
        decoder = MaskedDiffusionDecoder(model, vocabulary, options, cache=CacheOptions(kind=kind))
        write_all(decoder, [make_row((5,) * 8, 8, sample=i, block_length=4, may_end=False) for i in range(3)])
    finally:
        hook.remove()
    assert widths == fed


def test_rows_join_and_leave_with_their_keys_and_values(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row]
) -> None:
    decoder = MaskedDiffusionDecoder(model, vocabulary, QUOTA, cache=CacheOptions(kind="dual"))
    alone = [write_all(decoder, [row])[0] for row in mixed_rows]
    writing = decoder.start()
    found: dict[int, Written] = {}
    waiting = dict(enumerate(mixed_rows))
    while waiting or len(writing):
        writing.admit({ticket: waiting.pop(ticket) for ticket in list(waiting)[:2]})
        found |= writing.step()
    assert [found[i] for i in range(len(mixed_rows))] == alone


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("way", ["prefix", "dual", "remasked"])
def test_rows_that_rest_until_all_are_refreshed_write_the_same(
    model: Transformer, vocabulary: Vocabulary, mixed_rows: list[Row], way: str, shift: bool
) -> None:
    correction = CorrectionOptions(remask="cap", remask_eta=0.4) if way == "remasked" else CorrectionOptions()
    cache = CacheOptions(kind="prefix" if way == "prefix" else "dual", refresh_every=2)
    decoder = MaskedDiffusionDecoder(model, vocabulary, QUOTA, correction, cache, shift_logits=shift)
    writing = decoder.start()
    assert isinstance(writing, CachedWriting)
    writing.look_every = 3
    found: dict[int, Written] = {}
    waiting = dict(enumerate(mixed_rows))
    while waiting or len(writing):
        writing.admit({ticket: waiting.pop(ticket) for ticket in list(waiting)[:5]})
        found |= writing.step()
    assert [found[i] for i in range(len(mixed_rows))] == write_all(decoder, mixed_rows)


def test_guidance_is_refused(model: Transformer, vocabulary: Vocabulary) -> None:
    with pytest.raises(OptionError, match=r"guidance_scale=0\.5 with cache='dual'"):
        MaskedDiffusionDecoder(model, vocabulary, UnmaskOptions(guidance_scale=0.5), cache=CacheOptions(kind="dual"))
