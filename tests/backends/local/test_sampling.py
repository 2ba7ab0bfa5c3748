from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends.local.sampling import (
    Sampler,
    filter_logits,
    log_exponential,
    stream_key,
    token_logprobs,
    uniform,
)
from llmprog.types import SamplingParams

CPU = torch.device("cpu")
WORD = (1 << 64) - 1


def splitmix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & WORD
    return x ^ (x >> 31)


@given(key=st.integers(-(1 << 63), (1 << 63) - 1), counter=st.integers(-5, 1 << 40))
def test_uniform_is_splitmix64(key: int, counter: int) -> None:
    gamma = 0x9E3779B97F4A7C15
    state = splitmix((key + (counter + 1) * gamma) & WORD)
    expected = [((splitmix((state + i * gamma) & WORD) >> 33) + 0.5) * 2.0**-31 for i in (1, 2, 3)]
    drawn = uniform(torch.tensor([key]), torch.tensor([counter]), 3)[0]
    assert drawn.tolist() == pytest.approx(expected, rel=1e-6)
    assert float(drawn.min()) > 0
    assert float(drawn.max()) < 1


def test_uniform_fills_the_unit_interval_evenly_along_every_axis() -> None:
    keys = torch.tensor([stream_key(1, b"prompt", i) for i in range(64)])
    draws = uniform(keys.unsqueeze(1), torch.arange(64), 16)
    for view in (draws.flatten(), draws[0].flatten(), draws[:, 0].flatten(), draws[:, :, 0].flatten()):
        counts = torch.histc(view, bins=16, min=0, max=1)
        expected = view.numel() / 16
        assert float(((counts - expected) ** 2 / expected).sum()) < 45  # chi-square, 15 degrees, p ~ 1e-4
    a, b = draws[:, :-1].flatten() - 0.5, draws[:, 1:].flatten() - 0.5
    assert abs(float((a * b).mean()) * 12) < 0.02


def test_streams_differ_by_seed_prompt_and_sample() -> None:
    keys = {stream_key(s, p, i) for s in (0, 1, -1) for p in (b"a", b"b") for i in range(10)}
    assert len(keys) == 60
    assert stream_key(0, b"a", 0) == stream_key(0, b"a", 0)
    assert stream_key(None, b"a", 0) != stream_key(None, b"a", 0)


def test_log_exponential_is_finite_and_exponential() -> None:
    drawn = log_exponential(torch.arange(2000).unsqueeze(1), torch.arange(10), 10).exp()
    assert bool(torch.isfinite(drawn.log()).all())
    assert float(drawn.mean()) == pytest.approx(1, abs=0.02)
    assert float(drawn.var()) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_tempered_distribution(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -math.inf, 3.0])
    rows = 40_000
    params = SamplingParams(temperature=temperature)
    sampler = Sampler.of([params] * rows, list(range(rows)), CPU)
    tokens = sampler.sample(logits.expand(rows, -1), 7)
    shares = torch.bincount(tokens, minlength=6) / rows
    assert shares.tolist() == pytest.approx((logits / temperature).softmax(0).tolist(), abs=0.012)


def test_greedy_rows_take_the_argmax_also_among_others_and_behind_filters() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 9, 30)
    cold = SamplingParams(temperature=0, top_k=3, top_p=0.1)
    warm = SamplingParams(temperature=5.0)
    alone = Sampler.of([cold] * 6, list(range(6)), CPU).sample(logits, 0)
    mixed = Sampler.of([cold, warm] * 3, list(range(6)), CPU).sample(logits, torch.arange(9).expand(6, -1))
    assert torch.equal(alone, logits.argmax(-1))
    assert torch.equal(mixed[::2], logits[::2].argmax(-1))
    assert not torch.equal(mixed[1::2], logits[1::2].argmax(-1))


def test_a_row_draws_the_same_alone_and_in_a_selection() -> None:
    torch.manual_seed(0)
    logits = torch.randn(8, 3, 40)
    params = [SamplingParams(temperature=0.5 + i / 8, top_p=0.9, min_p=0.01) for i in range(8)]
    sampler = Sampler.of(params, list(range(100, 108)), CPU)
    together = sampler.sample(logits, torch.arange(3).expand(8, -1))
    part = torch.tensor([6, 1])
    assert torch.equal(sampler.select(part).sample(logits[part], torch.arange(3).expand(2, -1)), together[part])
    alone = Sampler.of(params[4:5], [104], CPU).sample(logits[4:5], torch.arange(3).unsqueeze(0))
    assert torch.equal(alone[0], together[4])


def definition(logits: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """The kept token ids, one filter after the other, written out."""
    kept = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if top_k:
        kept = kept[:top_k]
    if top_p < 1:
        weights = [math.exp(logits[i]) for i in kept]
        mass, nucleus = 0.0, []
        for i, weight in zip(kept, weights, strict=True):
            nucleus.append(i)
            mass += weight / sum(weights)
            if mass >= top_p - 1e-6:
                break
        kept = nucleus
    best = math.exp(max(logits))
    return {i for i in kept if math.exp(logits[i]) >= min_p * best * (1 - 1e-6)}


@given(
    logits=st.lists(st.integers(-40, 40), min_size=1, max_size=12).map(lambda xs: [x / 7 for x in xs]),
    top_k=st.integers(0, 13),
    top_p=st.sampled_from([0.05, 0.3, 0.51, 0.77, 0.93, 1.0]),
    min_p=st.sampled_from([0.0, 0.013, 0.21, 0.83]),
)
def test_filters_keep_what_their_definitions_say(logits: list[float], top_k: int, top_p: float, min_p: float) -> None:
    kept = filter_logits(torch.tensor([logits]), torch.tensor([top_k]), torch.tensor([top_p]), torch.tensor([min_p]))[0]
    assert {i for i, value in enumerate(kept.tolist()) if value > -math.inf} == definition(logits, top_k, top_p, min_p)
    assert int(kept.argmax()) == int(torch.tensor(logits).argmax())


def test_filtered_tokens_are_never_drawn() -> None:
    logits = torch.tensor([0.0, 0.1, 0.2, 0.3]).expand(500, -1)
    params = SamplingParams(temperature=3.0, top_k=2)
    tokens = Sampler.of([params] * 500, list(range(500)), CPU).sample(logits, 0)
    assert set(tokens.tolist()) == {2, 3}


def test_token_logprobs_are_normalised() -> None:
    logits = torch.randn(2, 3, 5)
    every = torch.stack([token_logprobs(logits, torch.full((2, 3), t)) for t in range(5)])
    assert torch.allclose(every.exp().sum(0), torch.ones(2, 3))


def test_no_temperature_is_so_high_that_a_forbidden_token_is_drawn() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 5.0, -torch.inf]]).expand(200, -1)
    sampler = Sampler.of([SamplingParams(temperature=1e308)] * 200, [*range(200)], torch.device("cpu"))
    tokens = sampler.sample(logits, 0)
    assert set(tokens.tolist()) == {0, 2}


def test_a_top_k_beyond_every_vocabulary_keeps_all() -> None:
    logits = torch.randn(50, 7)
    every, most = (
        Sampler.of([SamplingParams(temperature=1.0, top_k=top_k)] * 50, [*range(50)], CPU) for top_k in (0, 10**30)
    )
    assert torch.equal(most.sample(logits, 0), every.sample(logits, 0))
