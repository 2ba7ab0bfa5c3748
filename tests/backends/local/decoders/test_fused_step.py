"""The fused step writes what the rules write."""

from __future__ import annotations

import copy

import pytest
import torch

from llmprog.backends.local.decoders.base import write_all
from llmprog.backends.local.decoders.fused_step import FusedStep
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.unmask import Step, UnmaskOptions, make_rule
from llmprog.backends.local.sampling import Sampler, stream_key
from llmprog.types import SamplingParams

MASK = 0
RULES = [
    UnmaskOptions(unmask="quota"),
    UnmaskOptions(unmask="quota", steps=2),
    UnmaskOptions(unmask="margin", steps=3),
    UnmaskOptions(unmask="entropy", steps=3),
    UnmaskOptions(unmask="threshold", threshold=0.4),
    UnmaskOptions(unmask="threshold", threshold=0.4, fallback="leftmost"),
    UnmaskOptions(unmask="threshold", threshold=1.0),
]


def made_up(seed, rows=4, columns=6, size=20, **params):
    torch.manual_seed(seed)
    canvas = torch.where(torch.rand(rows, columns + 2) < 0.6, MASK, torch.randint(1, size, (rows, columns + 2)))
    places = torch.arange(1, columns + 1).expand(rows, -1)
    sampler = Sampler.of(
        [SamplingParams(temperature=(0.0, 0.8)[i % 2], **params) for i in range(rows)],
        [stream_key(seed, b"", i) for i in range(rows)],
        torch.device("cpu"),
    )
    eligible = canvas.gather(1, places) == MASK
    step = Step(
        eligible=eligible,
        columns=places,
        number=torch.randint(0, 2, (rows,)),
        masks=eligible.sum(1) + 1,
        keys=sampler.keys,
        counters=torch.randint(0, 1000, (rows, columns)),
        state={},
    )
    forbidden = torch.zeros(1, size)
    forbidden[:, MASK] = -torch.inf
    return canvas, torch.randn(rows, columns, size) * 3, forbidden, sampler, step


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("options", RULES)
@pytest.mark.parametrize("min_p", [0.0, 0.2])
def test_it_writes_what_the_rule_writes(seed, options, min_p):
    canvas, logits, forbidden, sampler, step = made_up(seed, min_p=min_p)
    expected, rule = canvas.clone(), make_rule(options)
    judged = logits + forbidden
    tokens = sampler.sample(judged, step.counters)
    revealed = rule.choose(judged, tokens, step)
    expected.scatter_add_(1, step.columns, torch.where(revealed, tokens - MASK, 0))
    FusedStep(options)(canvas, logits, forbidden, sampler, step)
    assert torch.equal(canvas, expected)


def test_rows_that_need_sorted_logits_take_the_other_way():
    step = FusedStep(UnmaskOptions())
    assert step.fits(made_up(0)[3], 32)
    assert step.fits(made_up(0, min_p=0.1)[3], 32)
    assert not step.fits(made_up(0, top_k=5)[3], 32)
    assert not step.fits(made_up(0, top_p=0.5)[3], 32)
    assert not step.fits(made_up(0)[3], 5000)


def test_there_is_none_on_a_cpu():
    assert FusedStep.of(UnmaskOptions(), CorrectionOptions(), torch.device("cpu")) is None


@pytest.mark.gpu
@pytest.mark.parametrize("options", RULES)
def test_a_decoder_on_a_gpu_writes_what_it_writes_on_a_cpu(model, vocabulary, mixed_rows, options):
    assert FusedStep.of(options, CorrectionOptions(), torch.device("cuda")) is not None
    on_gpu = copy.deepcopy(model).cuda().requires_grad_(False)
    truth, said = (write_all(MaskedDiffusionDecoder(m, vocabulary, options), mixed_rows) for m in (model, on_gpu))
    same = sum(a.tokens == b.tokens for a, b in zip(truth, said, strict=True))
    assert same >= len(truth) - 2  # rounding decides between two tokens now and then
