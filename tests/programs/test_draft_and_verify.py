"""Drafts by one model, verified and corrected by another: on scripted likelihoods, and on the embedded model's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import CapabilityError, OptionError
from llmprog.programs.draft_and_verify import certain_lines, draft_and_verify
from llmprog.types import Logprobs, Prompt

DIFFUSION = "local:puzzles?decoder=masked_diffusion"


def tokens_of(text: str, doubted: Sequence[str] = ()) -> Logprobs:
    """Each word and line break as a token; those doubted have a probability of 1 %, others of 90 %."""
    words = text.replace("\n", " \n ").split(" ")
    return Logprobs(tokens=tuple(words), logprobs=tuple(math.log(0.01 if word in doubted else 0.9) for word in words))


class Verifying(ScriptedBackend):
    """A scripted model that finds some words unlikely."""

    def __init__(self, script: object, doubted: Sequence[str]) -> None:
        super().__init__(script)
        self.capabilities = replace(self.capabilities, score=True)
        self.doubted = doubted
        self.num_scored = 0

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        self.num_scored += len(continuations)
        return [tokens_of(text, self.doubted) for text in continuations]


DRAFTS = ["2 + 2 = 5\nAnswer: 5", "2 + 2 = 4\nso 4 + 1 = 6\nAnswer: 6", "9 9 = 5\n5 5 = 5\n5"]


def both(verifier: Verifying) -> dict[str, ScriptedBackend]:
    return {"draft": ScriptedBackend(lambda prompt, sample: DRAFTS[sample % 3]), "default": verifier}


def test_the_likeliest_draft_is_selected() -> None:
    verifier = Verifying({}, doubted=["5", "9"])
    result = draft_and_verify(num_samples=3, method="select").run("Sum?", backend=both(verifier), seed=1)
    assert result.answer == "6"
    assert verifier.num_scored == 3
    assert not verifier.requests


def test_what_follows_the_first_doubted_line_is_written_anew() -> None:
    verifier = Verifying(lambda prompt, sample: "so 4 + 1 = 5\nAnswer: 5", doubted=["6"])
    result = draft_and_verify(num_samples=1, method="correct", threshold=0.05).run(
        "Sum?", backend={"draft": ScriptedBackend(lambda p, i: DRAFTS[1]), "default": verifier}, seed=1
    )
    assert result.thought.state.reasoning == "2 + 2 = 4\nso 4 + 1 = 5\nAnswer: 5"
    assert result.answer == "5"
    (request,) = verifier.requests
    assert request.prompt.prefix == "2 + 2 = 4\n"
    assert request.params.temperature == 0


def test_a_draft_that_is_not_doubted_stays() -> None:
    verifier = Verifying({}, doubted=[])
    result = draft_and_verify(num_samples=1, method="correct").run("Sum?", backend=both(verifier), seed=1)
    assert result.thought.state.reasoning == DRAFTS[0]
    assert not verifier.requests


def test_a_verifier_without_likelihoods_is_refused() -> None:
    backend = {"draft": ScriptedBackend(lambda p, i: "Answer: 1"), "default": ScriptedBackend({})}
    with pytest.raises(CapabilityError, match="likelihoods"):
        draft_and_verify().run("Sum?", backend=backend, seed=1)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"threshold": 0.5}, "threshold=0.5 has no effect with method=select"),
        ({"method": "correct", "threshold": 1.5}, r"threshold=1.5; allowed is a probability in \[0, 1\]"),
        ({"method": "guess"}, "method='guess'; allowed are select, correct"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        draft_and_verify(**settings)


@given(st.lists(st.sampled_from(["1", "+", "22", "=", "\n", "\n\n", "x"])), st.sets(st.sampled_from(["1", "22", "\n"])))
def test_kept_lines_are_whole_lines_before_the_first_doubt(words: list[str], doubted: set[str]) -> None:
    text = " ".join(words)
    kept = certain_lines(text, tokens_of(text, list(doubted)), threshold=0.1)
    assert text.startswith(kept)
    assert kept == text or not kept or kept.endswith("\n")
    if not doubted & set(text.replace("\n", " \n ").split(" ")):
        assert kept == text
    assert certain_lines(text, tokens_of(text, list(doubted)), threshold=0) == text


def test_the_embedded_model_verifies_what_diffusion_drafts() -> None:
    backend = {"draft": DIFFUSION, "default": "local:puzzles"}
    result = draft_and_verify(method="correct").run("(17 + 25) * 3 - 40", backend=backend, seed=1)
    assert (result.answer, result.solved) == ("86", True)
    assert all(thought.score < 0 for thought in result.graph if thought.depth)
