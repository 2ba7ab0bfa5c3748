"""What is seen of a canvas, against the model itself asked about each canvas as it was before the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from llmprog.backends.local.decoders.base import Decoder, Row, Seen, Vocabulary, Writing, forbidden_logits
from llmprog.backends.local.decoders.block_diffusion import BlockDiffusionDecoder
from llmprog.backends.local.decoders.fused_step import FusedStep
from llmprog.backends.local.decoders.masked_diffusion import MaskedDiffusionDecoder
from llmprog.backends.local.decoders.mdlm import MDLMDecoder
from llmprog.backends.local.decoders.remasking import CorrectionOptions
from llmprog.backends.local.decoders.score_entropy import ScoreEntropyDecoder
from llmprog.backends.local.decoders.uniform_diffusion import UniformDiffusionDecoder
from llmprog.backends.local.decoders.unmask import UnmaskOptions
from llmprog.backends.local.decoders.watching import PROBABILITY
from llmprog.backends.local.networks import attention_masks
from llmprog.backends.local.networks.transformer import Transformer

MaskedMaker = Callable[[Transformer, Vocabulary], Decoder]

SEEING_ALL: dict[str, MaskedMaker] = {
    "quota": lambda m, v: MaskedDiffusionDecoder(m, v, UnmaskOptions(unmask="quota", steps=3)),
    "credit": lambda m, v: MaskedDiffusionDecoder(m, v, UnmaskOptions(unmask="credit", threshold=0.3)),
    "remasked": lambda m, v: MaskedDiffusionDecoder(
        m, v, UnmaskOptions(unmask="random", steps=8), CorrectionOptions(remask="cap", remask_eta=0.5)
    ),
    "edited": lambda m, v: MaskedDiffusionDecoder(
        m, v, UnmaskOptions(unmask="quota"), CorrectionOptions(edit_threshold=0.2)
    ),
    "mdlm": lambda m, v: MDLMDecoder(m, v, steps=6),
    "score entropy": lambda m, v: ScoreEntropyDecoder(m, v, steps=6),
}


def said_of(model: Transformer, vocabulary: Vocabulary, row: Row, canvas: tuple[int, ...]) -> torch.Tensor:
    """Probabilities [G, V] of tokens on a canvas whose every place sees all of it."""
    tokens = torch.tensor([[*row.prompt, *canvas]])
    with torch.inference_mode():
        logits = model(
            tokens,
            torch.arange(tokens.shape[1]).unsqueeze(0),
            attention_masks.bidirectional(torch.ones_like(tokens, dtype=torch.bool)),
            output=slice(len(row.prompt), None),
        )
    return (logits.float() + forbidden_logits(vocabulary, [row], tokens.device).unsqueeze(1)).softmax(-1)[0]


def steps_of(writing: Writing, ticket: int, first: Seen) -> list[tuple[Seen, Seen]]:
    """What is seen of a row before and after each of its steps, up to the last but one."""
    found, before = [], first
    while ticket not in writing.step():
        after = writing.seen(ticket)
        assert after is not None
        found.append((before, after))
        before = after
    return found


@pytest.mark.parametrize("make", SEEING_ALL.values(), ids=SEEING_ALL)
def test_a_token_is_as_likely_as_the_model_said_when_it_was_written(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], make: MaskedMaker
) -> None:
    row = replace(make_row(length=12, block_length=6, may_end=False), is_watched=True)
    writing = make(model, vocabulary).start()
    # A row that nobody watches is longer, has begun before and is begun again behind it.
    writing.admit({0: make_row((9, 4, 4, 8, 11), length=15, may_end=False)})
    assert writing.step() == {}
    writing.admit({1: row, 2: make_row(length=9, sample=2)})
    compared = 0
    nothing = Seen(row.canvas, (None,) * 12)
    for before, after in steps_of(writing, 1, nothing):
        said = said_of(model, vocabulary, row, before.tokens)
        for place, token in enumerate(after.tokens):
            if token == vocabulary.mask_id:
                assert after.probabilities[place] is None
            elif token == before.tokens[place]:
                assert after.probabilities[place] == before.probabilities[place]
            else:
                assert after.probabilities[place] == pytest.approx(said[place, token].item(), abs=2e-4)
                compared += 1
    assert compared >= 5


@pytest.mark.parametrize("make", [MaskedDiffusionDecoder, BlockDiffusionDecoder, UniformDiffusionDecoder])
def test_of_rows_that_nobody_watches_nothing_is_kept(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], make: MaskedMaker
) -> None:
    writing = make(model, vocabulary).start()
    writing.admit({0: make_row(may_end=False), 1: make_row((9,), length=12, may_end=False)})
    assert writing.step() == {}
    assert writing.seen(0) is None
    assert PROBABILITY not in writing.state
    finished = {}
    while len(writing):
        finished |= writing.step()
    assert [row.seen for row in finished.values()] == [None, None]


def test_of_uniform_diffusion_the_guesses_are_seen_of_blocks_that_are_begun(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    row = replace(make_row(length=8, block_length=4, may_end=False), is_watched=True)
    writing = UniformDiffusionDecoder(model, vocabulary).start()
    writing.admit({0: row})
    assert writing.step() == {}
    seen, mask_id = writing.seen(0), vocabulary.mask_id
    assert seen is not None
    assert writing.text(0) == (mask_id,) * 8
    assert mask_id not in seen.tokens[:4]
    assert seen.tokens[4:] == (mask_id,) * 4
    assert [probability is None for probability in seen.probabilities] == [False] * 4 + [True] * 4
    guesses = {seen.tokens[:4]}
    while not (finished := writing.step()):
        guesses.add(writing.seen(0).tokens[:4])
    assert len(guesses) > 1
    assert finished[0].seen.tokens == finished[0].tokens


def test_a_step_by_kernels_says_as_much(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = UnmaskOptions(unmask="quota", steps=3)
    rows = {i: replace(make_row(length=12, sample=i, may_end=False), is_watched=True) for i in range(2)}
    found = []
    for fused in (None, FusedStep(options)):
        writing = MaskedDiffusionDecoder(model, vocabulary, options).start()
        monkeypatch.setattr(writing, "_fused", fused)
        writing.admit(rows)
        found.append([])
        while not (finished := writing.step()):
            found[-1].append([writing.seen(i) for i in rows])
        found[-1].append([finished[i].seen for i in rows])
    assert [[seen.tokens for seen in looks] for looks in found[0]] == [
        [seen.tokens for seen in looks] for looks in found[1]
    ]
    for plain, fast in zip(*found, strict=True):
        for one, other in zip(plain, fast, strict=True):
            known = [value is not None for value in one.probabilities]
            assert known == [value is not None for value in other.probabilities]
            assert [p or 0.0 for p in one.probabilities] == pytest.approx(
                [p or 0.0 for p in other.probabilities], abs=2e-4
            )
