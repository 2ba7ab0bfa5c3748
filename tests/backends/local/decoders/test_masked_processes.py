"""MDLM and score entropy: the texts they write are distributed as their rules say, summed over all that can happen."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
import torch

from llmprog.backends.local.decoders.base import Continuation, Decoder, Row, Vocabulary, write_all
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.mdlm import MDLMDecoder
from llmprog.backends.local.decoders.score_entropy import (
    ScoreEntropyDecoder,
    ratios,
    sigma,
    tempered,
    times,
    transition,
)
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig
from llmprog.backends.local.sampling import Sampler, stream_key
from llmprog.types import SamplingParams

Text = tuple[int, ...]

VOCABULARY = Vocabulary(size=6, mask_id=0, eos_id=1, pad_id=2, never_sampled=(0, 1, 2))
"""Three tokens can be written: 3, 4, 5."""
LENGTH = 3
PROMPT = (4, 5)


@pytest.fixture(scope="module")
def small() -> Transformer:
    torch.manual_seed(8)
    model = Transformer(
        TransformerConfig(vocab_size=6, d_model=16, num_layers=2, num_heads=2, num_kv_heads=1, d_ff=24)
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(4)
    return model


@torch.inference_mode()
def predictions(model: Transformer, text: Text) -> list[dict[int, float]]:
    """For each position of the canvas the probability of each token."""
    tokens = torch.tensor([[*PROMPT, *text]])
    mask = torch.ones(1, tokens.shape[1], tokens.shape[1], dtype=torch.bool)
    logits = model(tokens, torch.arange(tokens.shape[1])[None], mask)[0, len(PROMPT) :]
    logits[:, list(VOCABULARY.never_sampled)] = -math.inf
    return [{token: float(p[token]) for token in (3, 4, 5)} for p in logits.softmax(-1)]


def by_steps(model: Transformer, reveal: list[float]) -> dict[Text, float]:
    """The law of texts when a mask is revealed in step k with probability ``reveal[k]``, each by itself."""
    law: dict[Text, float] = {(0,) * LENGTH: 1.0}
    for share in reveal:
        after: dict[Text, float] = defaultdict(float)
        for text, weight in law.items():
            known = predictions(model, text)
            choices = [
                [(0, 1 - share), *((t, share * p) for t, p in known[i].items())] if token == 0 else [(token, 1.0)]
                for i, token in enumerate(text)
            ]
            for picked in itertools.product(*choices):
                after[tuple(t for t, _ in picked)] += weight * math.prod(p for _, p in picked)
        law = after
    return {text: weight for text, weight in law.items() if weight > 0}


def in_random_order(model: Transformer) -> dict[Text, float]:
    """The law of texts when one token after the other is revealed, in every order alike."""
    law: dict[Text, float] = defaultdict(float)
    for order in itertools.permutations(range(LENGTH)):
        grown: dict[Text, float] = {(0,) * LENGTH: 1 / math.factorial(LENGTH)}
        for place in order:
            after: dict[Text, float] = defaultdict(float)
            for text, weight in grown.items():
                for token, p in predictions(model, text)[place].items():
                    after[(*text[:place], token, *text[place + 1 :])] += weight * p
            grown = after
        for text, weight in grown.items():
            law[text] += weight
    return law


def alpha(time: float) -> float:
    return 1 - (1 - 1e-3) * time


def analytic_shares(steps: int) -> list[float]:
    points = [1 - k * (1 - 1e-5) / (steps - 1) for k in range(steps)] if steps > 1 else [1.0]
    pairs = itertools.pairwise(points)
    return [*((alpha(s) - alpha(t)) / (1 - alpha(t)) for t, s in pairs), 1.0]


def euler_shares(steps: int) -> list[float]:
    points = [1 - k * (1 - 1e-5) / (steps - 1) for k in range(steps)]
    rates = [alpha(t) / (1 - alpha(t)) * (1 - 1e-3) / alpha(t) * (t - s) for t, s in itertools.pairwise(points)]
    return [*(min(1.0, rate) for rate in rates), 1.0]


def geometric_shares(steps: int, *, euler: bool) -> list[float]:
    def total(time: float) -> float:
        return 1e-4 ** (1 - time) * 20.0**time

    points = [1 - k * (1 - 1e-5) / (steps - 1) for k in range(steps)]
    shares = []
    for t, s in itertools.pairwise(points):
        ratio = math.exp(-total(t)) / (1 - math.exp(-total(t)))
        change = total(t) * math.log(20 / 1e-4) * (t - s) if euler else math.exp(total(t) - total(s)) - 1
        shares.append(min(1.0, ratio * change))
    return [*shares, 1.0]


def sampled(decoder: Decoder, count: int) -> Counter[Text]:
    rows = [
        Row(
            prompt=PROMPT,
            canvas=(0,) * LENGTH,
            key=stream_key(5, b"", i),
            block_length=LENGTH,
            params=SamplingParams(temperature=1.0),
        )
        for i in range(count)
    ]
    return Counter(result.tokens for result in write_all(decoder, rows))


Case = tuple[Callable[[Transformer], Decoder], Callable[[Transformer], dict[Text, float]]]
CASES: dict[str, Case] = {
    "ancestral in 2": (
        lambda model: MDLMDecoder(model, VOCABULARY, steps=2),
        lambda model: by_steps(model, [1 / 2, 1]),
    ),
    "ancestral in 4": (
        lambda model: MDLMDecoder(model, VOCABULARY, steps=4),
        lambda model: by_steps(model, [1 / 4, 1 / 3, 1 / 2, 1]),
    ),
    "first hitting": (lambda model: MDLMDecoder(model, VOCABULARY, sampler="first_hitting"), in_random_order),
    "analytic in 1": (
        lambda model: ScoreEntropyDecoder(model, VOCABULARY, steps=1),
        lambda model: by_steps(model, [1]),
    ),
    "analytic in 4": (
        lambda model: ScoreEntropyDecoder(model, VOCABULARY, steps=4),
        lambda model: by_steps(model, analytic_shares(4)),
    ),
    "geometric, analytic": (
        lambda model: ScoreEntropyDecoder(model, VOCABULARY, steps=12, noise="geometric"),
        lambda model: by_steps(model, geometric_shares(12, euler=False)),
    ),
    "geometric, euler": (
        lambda model: ScoreEntropyDecoder(model, VOCABULARY, steps=12, noise="geometric", predictor="euler"),
        lambda model: by_steps(model, geometric_shares(12, euler=True)),
    ),
    "euler in 5": (
        lambda model: ScoreEntropyDecoder(model, VOCABULARY, steps=5, predictor="euler"),
        lambda model: by_steps(model, euler_shares(5)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_texts_have_the_distribution_of_the_rule(name: str, small: Transformer) -> None:
    make, law_of = CASES[name]
    count = 6000
    law = law_of(small)
    assert sum(law.values()) == pytest.approx(1)
    assert len(law) == 27
    found = sampled(make(small), count)
    statistic = sum((found[text] - count * p) ** 2 / (count * p) for text, p in law.items())
    assert statistic < 54.1  # chi-squared with 26 degrees of freedom: exceeded once in a thousand
    assert found.total() == count


def test_the_laws_of_few_and_of_many_steps_can_be_told_apart(small: Transformer) -> None:
    """Otherwise the test above would pass whatever the number of steps."""
    one, exact = by_steps(small, [1]), in_random_order(small)
    assert sum((one[text] - p) ** 2 / p for text, p in exact.items()) * 6000 > 200


def test_only_steps_that_reveal_something_cost_a_pass(small: Transformer) -> None:
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    row = Row(prompt=PROMPT, canvas=(0,) * 12, key=7, block_length=12, params=SamplingParams(temperature=1.0))
    used = {}
    for name, decoder in (
        ("first hitting", MDLMDecoder(small, VOCABULARY, sampler="first_hitting")),
        ("thousand steps", MDLMDecoder(small, VOCABULARY, steps=1000)),
        ("three steps", MDLMDecoder(small, VOCABULARY, steps=3)),
        ("score entropy", ScoreEntropyDecoder(small, VOCABULARY, steps=5)),
    ):
        handle = small.register_forward_hook(count)
        passes = 0
        write_all(decoder, [row])
        handle.remove()
        used[name] = passes
    assert used["first hitting"] == 12
    assert 10 <= used["thousand steps"] <= 12
    assert used["three steps"] == 3
    assert used["score entropy"] <= 5


def test_blocks_follow_each_other_and_given_text_stays(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    mask = vocabulary.mask_id
    row = make_row(canvas=(7, mask, mask, 9, mask, mask, mask, 8), block_length=4, may_end=False)
    for decoder in (
        MDLMDecoder(model, vocabulary, steps=3),
        ScoreEntropyDecoder(model, vocabulary, steps=3, predictor="euler"),
    ):
        writing = decoder.start()
        writing.admit({0: row})
        text = row.canvas
        found = {}
        while not found:
            found = dict(writing.step())
            text = writing.text(0) if len(writing) else found[0].tokens
            assert (text[0], text[3], text[7]) == (7, 9, 8)
            assert mask not in text[:4] or text[4:7] == (mask,) * 3
        assert found[0].num_generated == 5


def test_ratios_are_those_of_the_noised_text(small: Transformer) -> None:
    """The ratio at a mask by its definition: the probability of the noised text with a token over that with the mask.

    A text of one token: it is y with probability p(y), and masked at time t with probability 1 - alpha_t.
    """
    p = predictions(small, (0, 3, 5))[0]
    log_probs = torch.full((1, 1, 6), -torch.inf)
    log_probs[0, 0, [3, 4, 5]] = torch.tensor([p[3], p[4], p[5]]).log()
    for time in (0.05, 0.5, 0.9):
        found = ratios(log_probs, torch.tensor([time], dtype=torch.float64)).exp()[0, 0]
        for token in (3, 4, 5):
            assert float(found[token]) == pytest.approx(p[token] * alpha(time) / (1 - alpha(time)), rel=1e-4)
        assert float(sigma(torch.tensor(time))) == pytest.approx(-math.log(alpha(time)), rel=1e-5)


def test_the_staggered_score_times_the_transition_written_out() -> None:
    """The analytic predictor as SEDD has it, with the mask's column, against the form that is computed."""
    log_probs = torch.tensor([[[0.2, 0.5, 0.3]]]).log()
    before, after = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    d = float(sigma(before) - sigma(after))
    score = [*(float(s) for s in ratios(log_probs, before).exp()[0, 0]), 1.0]
    staggered = [s * math.exp(d) for s in score]
    staggered[-1] += (1 - math.exp(d)) * sum(score)
    moves = [1 - math.exp(-d)] * 3 + [1.0]
    expected = [s * m for s, m in zip(staggered, moves, strict=True)]
    assert transition(log_probs, before, after, "analytic").exp()[0, 0].tolist() == pytest.approx(expected, rel=1e-4)
    assert sum(expected) == pytest.approx(1)


def test_with_even_noise_both_predictors_agree() -> None:
    log_probs = torch.tensor([[[0.2, 0.5, 0.3]]]).log()
    before, after = torch.tensor([0.7], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    found = [transition(log_probs, before, after, predictor).exp() for predictor in ("analytic", "euler")]
    assert torch.allclose(*found, atol=1e-5)


def test_times_go_from_one_to_zero() -> None:
    pairs = [tuple(float(t) for t in times(4, torch.tensor([k]))) for k in range(4)]
    assert pairs[0][0] == 1
    assert pairs[-1] == (pytest.approx(1e-5), 0.0)
    assert all(earlier[1] == pytest.approx(later[0]) for earlier, later in itertools.pairwise(pairs))


def test_temperature_and_filters_shape_the_tokens() -> None:
    params = [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.5, top_k=2),
        SamplingParams(temperature=1.0, top_p=0.5),
    ]
    sampler = Sampler.of(params, [1, 2, 3], torch.device("cpu"))
    logits = torch.tensor([0.1, 1.0, 0.5, -1.0]).expand(3, 1, 4)
    found = tempered(sampler, logits).exp()[:, 0]
    two = torch.tensor([math.exp(2.0), math.exp(1.0)]) / (math.exp(2.0) + math.exp(1.0))
    assert found[0].tolist() == [0, 1, 0, 0]
    assert found[1].tolist() == pytest.approx([0, float(two[0]), float(two[1]), 0])
    assert found[2].count_nonzero() == 2


def test_scores_are_the_bound_of_masked_diffusion(model: Transformer, vocabulary: Vocabulary) -> None:
    asked = [Continuation((3, 5, 6), (7, 8, 9)), Continuation((3, 9), (4,))]
    expected = MaskedDiffusionDecoder(model, vocabulary, score_samples=16, score_seed=2).score(asked)
    for make in (MDLMDecoder, ScoreEntropyDecoder):
        decoder = make(model, vocabulary, score_samples=16, score_seed=2)
        assert decoder.score_is_bound
        assert decoder.score(asked) == expected


def test_shifted_logits_are_read_from_the_token_before(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    """Greedy, one token at a time: what the output at the place before says."""
    row = make_row((5, 9), length=4, block_length=4, temperature=0.0, may_end=False)
    (found,) = write_all(MDLMDecoder(model, vocabulary, sampler="first_hitting", shift_logits=True), [row])
    writing = MDLMDecoder(model, vocabulary, sampler="first_hitting", shift_logits=True).start()
    writing.admit({0: row})
    before = row.canvas
    start = len(row.prompt)
    never = [*vocabulary.never_sampled, vocabulary.eos_id]
    while len(writing):
        result = writing.step()
        after = result[0].tokens if result else writing.text(0)
        (place,) = [i for i in range(4) if before[i] != after[i]]
        tokens = torch.tensor([[*row.prompt, *before]])
        with torch.no_grad():
            logits = model(tokens, torch.arange(start + 4)[None], attention_masks.bidirectional(tokens >= 0))[0]
        logits[:, never] = -math.inf
        assert after[place] == int(logits[start + place - 1].argmax())
        before = after
    assert before == found.tokens
