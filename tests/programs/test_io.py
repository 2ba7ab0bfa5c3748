"""The io program: the answer at once, in every form, and reasoning models' thoughts kept apart from it."""

from __future__ import annotations

import pytest

from llmprog.backends import ScriptedBackend
from llmprog.programs.chain_of_thought import chain_of_thought
from llmprog.programs.io import io
from llmprog.types import Completion


def ask(reply: str | Completion, **settings: str) -> object:
    return io(**settings).run("Legs?", backend=ScriptedBackend(lambda prompt, sample: reply), seed=1)


@pytest.mark.parametrize(
    ("reply", "settings", "answer"),
    [
        ("Answer: four", {}, "four"),
        ("four", {}, "four"),  # the answer alone is what was asked for
        ("**four**\n", {}, "four"),
        ("They have four.\nI think.", {}, None),
        ("about 4 legs", {"answer": "number"}, "about 4 legs"),
        ("(b)", {"answer": "choice"}, "B"),
        ("legs=4", {"answer": "regex", "pattern": r"legs=(\d)"}, "4"),
        ('{"answer": 4}', {"answer": "json"}, "4"),
    ],
)
def test_each_form_is_read(reply: str, settings: dict[str, str], answer: str | None) -> None:
    result = ask(reply, **settings)
    if answer == "about 4 legs":
        answer = "4"
    assert (result.answer, result.solved) == (answer, answer is not None)


def test_an_unusable_reply_is_explained_and_kept() -> None:
    result = ask("They have four.\nI think.")
    assert "states no answer in the form asked for" in result.explanation
    assert result.graph.states[1].reasoning == "They have four.\nI think."


@pytest.mark.parametrize(
    "reply",
    [
        "<think>Is it\nAnswer: 5? No.</think>\n\nAnswer: 4",
        Completion(text="Answer: 4", reasoning="Is it\nAnswer: 5? No."),
    ],
)
def test_what_a_model_thinks_is_kept_apart_from_the_answer(reply: str | Completion) -> None:
    result = chain_of_thought().run("Legs?", backend=ScriptedBackend(lambda prompt, sample: reply), seed=1)
    state = result.graph.states[1]
    assert (state.reasoning, state.answer, state.thinking) == ("Answer: 4", "4", "Is it\nAnswer: 5? No.")


def test_a_thought_that_never_ends_is_no_answer() -> None:
    result = ask("<think>\nAnswer: 5")
    assert (result.answer, result.graph.states[1].thinking) == (None, "\nAnswer: 5")


def test_an_expression_is_asked_like_any_question() -> None:
    backend = ScriptedBackend(lambda prompt, sample: "42")
    assert io(answer="number").run("17 + 25", backend=backend, seed=1).answer == "42"
    assert "Reasoning" not in backend.requests[0].prompt.text
