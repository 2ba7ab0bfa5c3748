from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from llmprog.backends.local.backend import LocalBackend
from llmprog.backends.local.decoders.autoregressive import AutoregressiveDecoder
from llmprog.backends.local.decoders.base import Row, Vocabulary, Written, write_all
from llmprog.backends.local.decoders.drafters import Drafter, DraftRequest, LookupDrafter, ModelDrafter
from llmprog.backends.local.decoders.speculative import SpeculativeDecoder
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.options import LocalOptions
from llmprog.errors import OptionError
from llmprog.types import Prompt, Request, SamplingParams


class Reckless:
    """Guesses anything, and any number of tokens."""

    count = 6

    def __init__(self) -> None:
        self.rng = random.Random(3)

    def propose(self, request: DraftRequest) -> list[list[int]]:
        return [
            [self.rng.randrange(24) for _ in range(self.rng.randrange(min(self.count, request.room[ticket]) + 1))]
            for ticket in request.texts
        ]


class Clairvoyant:
    """Knows what each row will say."""

    count = 4

    def __init__(self, texts: Sequence[tuple[int, ...]], rows: Sequence[Row], ends: int) -> None:
        self.futures = {i: (*rows[i].prompt, *text, ends) for i, text in enumerate(texts)}

    def propose(self, request: DraftRequest) -> list[list[int]]:
        return [
            list(self.futures[ticket][len(text) : len(text) + min(self.count, request.room[ticket])])
            for ticket, text in request.texts.items()
        ]


def make(model: Transformer, vocabulary: Vocabulary, drafter: Callable[[], Drafter]) -> SpeculativeDecoder:
    return SpeculativeDecoder(model, vocabulary, drafter, kv_memory=64, prefix_memory=8)


def same(found: Sequence[Written], expected: Sequence[Written]) -> None:
    assert [result.tokens for result in found] == [result.tokens for result in expected]
    assert [result.ended for result in found] == [result.ended for result in expected]
    assert [result.num_generated for result in found] == [result.num_generated for result in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


@pytest.fixture
def rows(mixed_rows: list[Row], make_row: Callable[..., Row]) -> list[Row]:
    stopping = [make_row((9, i), 15, sample=i, has_stopped=lambda tokens: tokens[-1] in (8, 15)) for i in range(6)]
    return [*mixed_rows, *stopping, make_row((4,), 1), make_row((4,), 30, may_end=False, temperature=0)]


def other_model(model: Transformer) -> Transformer:
    torch.manual_seed(8)
    other = Transformer(model.config).eval()
    # Half of what the model thinks, so that some of its guesses hold.
    state = {
        name: (a + b) / 2 for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True)
    }
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("kind", ["reckless", "lookup", "itself", "another model"])
def test_whatever_is_drafted_the_text_is_the_models_own(
    model: Transformer, vocabulary: Vocabulary, rows: list[Row], kind: str
) -> None:
    other = other_model(model)
    drafters: dict[str, Callable[[], Drafter]] = {
        "reckless": Reckless,
        "lookup": lambda: LookupDrafter(4, longest_match=1),
        "itself": lambda: ModelDrafter(model, vocabulary, 4),
        "another model": lambda: ModelDrafter(other, vocabulary, 3),
    }
    decoder = make(model, vocabulary, drafters[kind])
    same(write_all(decoder, rows), write_all(AutoregressiveDecoder(model, vocabulary), rows))
    assert decoder.draft_counts.drafted > 50
    if kind == "itself":
        assert decoder.draft_counts.share > 0.9  # what stands behind an end is lost
    else:
        assert 0 < decoder.draft_counts.share < 0.9


def test_a_drafter_that_is_right_saves_steps(
    model: Transformer, vocabulary: Vocabulary, make_row: Callable[..., Row]
) -> None:
    rows = [make_row((5, i), 20, sample=i, may_end=False) for i in range(3)]
    plain = write_all(AutoregressiveDecoder(model, vocabulary), rows)
    decoder = make(model, vocabulary, lambda: Clairvoyant([r.tokens for r in plain], rows, vocabulary.eos_id))
    steps = 0
    writing = decoder.start()
    writing.admit(dict(enumerate(rows)))
    found: dict[int, Written] = {}
    while len(writing):
        found |= writing.step()
        steps += 1
    same([found[i] for i in range(3)], plain)
    assert steps == 4  # 1 + 4 tokens in each


@pytest.mark.parametrize("draft", ["lookup", "diffusion"])
async def test_drafts_change_no_reply_of_the_embedded_model(draft: str) -> None:
    plain, drafted = LocalBackend.open(), LocalBackend.open(LocalOptions(draft=draft))
    prompts = ("Input: 4 9 10 13\nPossible next steps:", "Question: What is (17 + 25) * 3 - 40?\nReasoning:")
    try:
        for text in prompts:
            request = Request(
                prompt=Prompt.from_text(text), params=SamplingParams(temperature=0.7, seed=3), num_samples=6
            )
            expected, found = await plain.generate(request), await drafted.generate(request)
            assert [completion.text for completion in found] == [completion.text for completion in expected]
        assert plain.statistics.draft_accepted is None
        assert drafted.statistics.drafted_tokens
        assert (drafted.statistics.draft_accepted or 0) > (0.3 if draft == "diffusion" else 0.02)
        assert drafted.statistics.steps < plain.statistics.steps
    finally:
        await plain.aclose()
        await drafted.aclose()


async def test_a_text_model_checks_what_another_guesses() -> None:
    request = Request(
        prompt=Prompt.from_text("Repeat: the quick brown fox jumps over the lazy dog."),
        params=SamplingParams(temperature=0.5, seed=2, max_tokens=24),
        num_samples=2,
    )
    texts = []
    for draft in (None, "smollm2"):
        backend = LocalBackend.open(LocalOptions(draft=draft), model="smollm2", backend_id="local:smollm2")
        texts.append([completion.text for completion in await backend.generate(request)])
        statistics = backend.statistics
        await backend.aclose()
    assert texts[0] == texts[1]
    assert (statistics.draft_accepted or 0) > 0.9


@pytest.mark.parametrize(
    ("options", "model", "complaint"),
    [
        (LocalOptions(draft="diffusion"), "smollm2", "do not denoise"),
        (LocalOptions(draft="smollm2"), "puzzles", "is no model of text"),
    ],
)
def test_a_drafter_that_speaks_another_language_is_refused(options: LocalOptions, model: str, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        LocalBackend.open(options, model=model, backend_id=f"local:{model}")


def test_lookup_goes_on_as_the_text_did_before() -> None:
    def proposed(text: list[int], room: int = 9) -> list[int]:
        request = DraftRequest({7: text}, {7: room}, None, None, None)
        return LookupDrafter(3).propose(request)[0]

    assert proposed([1, 2, 3, 4, 5, 6, 1, 2, 3]) == [4, 5, 6]
    assert proposed([1, 2, 3, 4, 9, 2, 3]) == [4, 9, 2]
    assert proposed([2, 3, 5, 9, 2, 3, 6, 7, 7, 2, 3]) == [6, 7, 7], "the latest place"
    assert proposed([2, 3, 5, 9, 2, 3, 6, 7, 7, 2, 3], room=1) == [6]
    assert proposed([1, 2, 3]) == []
    assert proposed([1]) == []
