"""Creative writing: exact endings, plans and passages by vote, blanks that keep what is given, grades."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.errors import CapabilityError, InputError, OptionError
from llmprog.exports.formats import export
from llmprog.programs.creative_writing import creative_writing, fault_of, parse_endings
from llmprog.runs.store import MemoryStore
from llmprog.types import Blank, Completion, SamplingParams, Template, Usage

ENDINGS = ("The door was open.", "Nobody had seen the cat.", '"Run," she said.', "It began to snow.")
INPUT = "\n".join(ENDINGS)


def passage(endings: Sequence[str] = ENDINGS, body: str = "One thing led to another.") -> str:
    return "\n\n".join(f"{body} {ending}" for ending in endings)


class Filling(ScriptedBackend):
    """A scripted model that fills blanks too, with as many words as they have tokens."""

    def __init__(self, script: object) -> None:
        super().__init__(script)
        self.capabilities = replace(self.capabilities, infill=True)

        self.templates: list[Template] = []

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        self.templates.append(template)
        filled = (part if isinstance(part, str) else " ".join(["w"] * part.num_tokens) for part in template.parts)
        return [Completion(text="".join(filled), usage=Usage(calls=1))]


# ------------------------------------------------------------------------------------------------- the endings


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (passage(), ""),
        (passage().replace('"Run," she', "“Run,” she").upper(), ""),
        (passage().replace("open.", "open"), ""),
        (passage().replace("\n\n", "\n \n\n"), ""),
        (passage(ENDINGS[:3]), "3 paragraphs, not 4"),
        (passage().replace("snow", "rain"), "paragraph 4 does not end with 'It began to snow.'"),
        (passage() + " And then?", "paragraph 4 does not end with 'It began to snow.'"),
        (passage(("The door was open.", *ENDINGS[2:0:-1], ENDINGS[3])), "paragraph 2 does not end with"),
        (passage().replace("It began", "Hebit began"), "paragraph 4"),
        ("", "0 paragraphs, not 4"),
    ],
)
def test_whether_paragraphs_end_as_they_must_is_exact(text: str, fault: str) -> None:
    found = fault_of(text, ENDINGS)
    assert found.startswith(fault) if fault else not found


@pytest.mark.parametrize(
    "given_as",
    [INPUT, list(ENDINGS), " ".join(ENDINGS), "1. " + "\n\n2. ".join(ENDINGS).replace("\n\n2. It", "\n4) It")],
)
def test_four_sentences_are_read(given_as: str | list[str]) -> None:
    assert parse_endings(given_as) == ENDINGS


@pytest.mark.parametrize("given_as", ["", "One.\nTwo.\nThree.", ["a", "b", "c", ""], "\n".join(["x" * 501] * 4)])
def test_other_input_is_refused(given_as: str | list[str]) -> None:
    with pytest.raises(InputError, match=r"creative_writing: .* allowed are 4, each on a line"):
        parse_endings(given_as)


@given(st.text())
def test_no_text_makes_looking_at_it_raise(text: str) -> None:
    assert fault_of(text, ENDINGS)


# ------------------------------------------------------------------------------------------------- text


def writer(prompt: str, sample: int) -> str:
    if "best choice" in prompt:
        return f"The best choice is {3 if 'plans' in prompt else 2}"
    if "Grade the coherency" in prompt:
        return ["Score: 6", "7/10", "I cannot say", "Score: 8", "Score: 99"][sample]
    if "Make a plan for it" in prompt:
        return f"plan {sample}"
    if "line Passage:" in prompt:
        return f"Plan:\n1. a door\n\nPassage:\n{passage()}"
    followed = prompt.partition("Follow this plan:\n")[2].partition("\n")[0] or "no plan"
    return passage(body=f"By {followed}, sample {sample}.")


def test_plans_are_voted_on_then_passages_and_the_best_is_graded() -> None:
    backend = ScriptedBackend(writer)
    result = creative_writing().run(INPUT, backend=backend, seed=1)
    assert result.solved
    assert result.answer == passage(body="By plan 2, sample 1.")
    assert (result.thought.state.grade, str(result.thought.state)) == (
        7,
        "coherency 7.0 of 10 (mean of 3 of 5 judgements)",
    )
    assert result.usage.calls == 5 + 5 + 5 + 5 + 5
    votes = [request.prompt.text for request in backend.requests if "best choice" in request.prompt.text]
    assert "Choice 5:\nplan 4" in votes[0]
    assert "Choice 1:\nBy plan 2, sample 0." in votes[1]


def test_settings_say_how_many() -> None:
    result = creative_writing(num_samples=2, num_votes=1, num_evaluations=0).run(
        INPUT, backend=ScriptedBackend(writer), seed=1
    )
    assert result.usage.calls == 2 + 1 + 2 + 1
    assert result.thought.state.judged == ""


@pytest.mark.parametrize(("method", "plan"), [("io", ""), ("cot", "Plan:\n1. a door")])
def test_one_reply_is_the_passage_or_has_it_below_its_plan(method: str, plan: str) -> None:
    result = creative_writing(method=method, num_evaluations=0).run(INPUT, backend=ScriptedBackend(writer), seed=1)
    assert result.solved
    assert (result.thought.state.plan, result.usage.calls) == (plan, 1)


def test_a_passage_that_ends_otherwise_is_the_answer_but_no_solution() -> None:
    backend = ScriptedBackend(lambda prompt, sample: "Once upon a time.")
    result = creative_writing(method="io").run(INPUT, backend=backend, seed=1)
    assert (result.answer, result.solved) == ("Once upon a time.", False)
    assert "no passage has four paragraphs" in result.explanation
    assert str(result.thought.state) == "no grade (none of 5 judgements gives a grade)"


def test_a_budget_leaves_the_best_passage_so_far() -> None:
    result = creative_writing().run(INPUT, backend=ScriptedBackend(writer), seed=1, budget="calls=16")
    assert result.stopped == "budget"
    assert "By plan 2" in result.answer


# ------------------------------------------------------------------------------------------------- blanks


def test_filled_blanks_end_as_they_must_by_construction() -> None:
    backend = Filling(writer)
    result = creative_writing(method="infill", paragraph_tokens=3).run(INPUT, backend=backend, seed=1)
    assert result.solved
    assert result.answer == passage(body="w w w")
    assert result.usage.calls == 1 + 5
    (template,) = backend.templates
    assert template.parts[:2] == (Blank(3), " The door was open.\n\n")


def test_an_edit_joins_the_paragraphs_of_a_draft_anew_and_puts_their_endings_right() -> None:
    draft = (
        'A start. Some more. The door was shut.\n\nThen this. And that.\n\n"Run," she said.\n\nLast. It began to snow.'
    )
    backend = Filling(lambda prompt, sample: draft)
    result = creative_writing(method="edit", num_evaluations=0, paragraph_tokens=6).run(INPUT, backend=backend, seed=1)
    assert result.solved
    assert result.answer.split("\n\n") == [
        "A start. Some more. The door was shut. The door was open.",
        "w w w w And that. Nobody had seen the cat.",
        'w w w w w w "Run," she said.',
        "w w It began to snow.",
    ]


def test_of_a_draft_that_is_not_four_paragraphs_nothing_is_kept() -> None:
    backend = Filling(lambda prompt, sample: "One paragraph.")
    result = creative_writing(method="edit", num_evaluations=0, paragraph_tokens=2).run(INPUT, backend=backend, seed=1)
    assert result.answer == passage(body="w w")


def test_a_model_that_fills_no_blanks_is_refused() -> None:
    with pytest.raises(CapabilityError, match="blanks"):
        creative_writing(method="infill").run(INPUT, backend="local:puzzles", seed=1)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"method": "poem"}, "method='poem'; allowed are io, cot, tot, infill, edit"),
        ({"method": "io", "num_votes": 3}, "num_votes=3 has no effect with method=io"),
        ({"paragraph_tokens": 9}, "paragraph_tokens=9 has no effect with method=tot"),
        ({"method": "infill", "paragraph_tokens": 0}, "paragraph_tokens=0; allowed are"),
        ({"num_evaluations": -1}, "num_evaluations=-1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        creative_writing(**settings)


def test_the_way_to_a_passage_becomes_training_data() -> None:
    store = MemoryStore()
    run(creative_writing(), INPUT, backend=ScriptedBackend(writer), seed=1, store=store)
    opened = store.open(store.list()[0].id)
    found = [json.loads(piece) for piece in export(opened, "sft")]
    assert found[0]["messages"][-1]["content"] == "plan 2"
    pairs = [json.loads(piece) for piece in export(opened, "preferences")]
    assert {pair["chosen"][0]["content"] for pair in pairs if pair["node"] == "plan"} == {"plan 2"}
