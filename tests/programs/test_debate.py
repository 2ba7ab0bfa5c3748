"""Debates: who hears whom, who decides, and what comes of it as training data."""

from __future__ import annotations

import json

import pytest

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.exports.formats import export
from llmprog.jobs.job import map as map_rows
from llmprog.programs.debate import debate
from llmprog.runs.store import MemoryStore
from llmprog.types import Completion


def debaters(*answers: tuple[str, ...], judge: str = "Answer: J") -> dict[str, ScriptedBackend]:
    """A backend for each debater, with its reply in each round, and one for the judge."""

    def speaker(said: tuple[str, ...]) -> ScriptedBackend:
        return ScriptedBackend(lambda prompt, sample: said[prompt.count("other debaters")])

    speakers = {f"debater_{number}": speaker(said) for number, said in enumerate(answers, 1)}
    return speakers | {"judge": ScriptedBackend(lambda prompt, sample: judge)}


SIDES = debaters(
    ("I say\nAnswer: A", "I keep to it.\nAnswer: A"),
    ("I say\nAnswer: B", "Convinced.\nAnswer: a"),
    ("I say\nAnswer: B", "No.\nAnswer: B"),
)


def without_judge(backend: dict[str, ScriptedBackend]) -> dict[str, ScriptedBackend]:
    return {name: model for name, model in backend.items() if name != "judge"}


def test_the_majority_of_the_last_round_answers() -> None:
    result = debate().run("A or B?", backend=without_judge(SIDES), seed=1)
    assert (result.answer, result.solved, result.usage.calls) == ("A", True, 6)
    assert result.thought.state.text == "votes: A: 2, B: 1"
    first = debate(num_rounds=1).run("A or B?", backend=without_judge(SIDES), seed=1)
    assert (first.answer, first.usage.calls) == ("B", 3)


def test_each_debater_hears_the_others_and_remembers_itself() -> None:
    backend = without_judge(debaters(*[(f"first of {n}", f"second of {n}", "Answer: A") for n in (1, 2, 3)]))
    debate(num_rounds=3).run("A or B?", backend=backend, seed=1)
    last = backend["debater_2"].requests[-1].prompt
    assert [message.role for message in last.messages] == ["user", "assistant", "user", "assistant", "user"]
    texts = [message.content for message in last.messages]
    assert texts[0].endswith("Question: A or B?")
    assert (texts[1], texts[3]) == ("first of 2", "second of 2")
    assert "Debater 1:\nfirst of 1\n\nDebater 3:\nfirst of 3\n" in texts[2]
    assert "second of 1" in texts[4]
    assert "of 2" not in texts[2] + texts[4]


def test_a_judge_hears_the_last_round_and_decides() -> None:
    result = debate(decide="judge").run("A or B?", backend=SIDES, seed=1)
    assert (result.answer, result.usage.calls) == ("J", 7)
    (request,) = SIDES["judge"].requests
    assert "Question: A or B?" in request.prompt.text
    assert "Debater 2:\nConvinced.\nAnswer: a" in request.prompt.text
    assert "I say" not in request.prompt.text


def test_debaters_of_one_model_draw_samples_of_their_own() -> None:
    backend = ScriptedBackend(lambda prompt, sample: "Answer: A")
    debate(num_rounds=1).run("A or B?", backend=backend, seed=1)
    assert len({request.params.seed for request in backend.requests}) == 3


def test_without_an_answer_there_is_no_decision() -> None:
    result = debate().run("A or B?", backend=ScriptedBackend(lambda prompt, sample: "Hm."), seed=1)
    assert (result.answer, result.solved) == (None, False)
    assert "no decision" in result.explanation
    assert result.thought.state.text == "votes: none"


def test_a_reply_that_was_cut_has_no_vote() -> None:
    def model(prompt: str, sample: int) -> Completion:
        return Completion(text="Answer: A", finish_reason="length" if "other debaters" in prompt else "stop")

    result = debate().run("A or B?", backend=ScriptedBackend(model), seed=1)
    assert (result.answer, result.thought.state.text) == (None, "votes: none")


def test_a_budget_leaves_what_was_said_until_then() -> None:
    result = debate().run("A or B?", backend=ScriptedBackend(lambda p, i: "Answer: A"), seed=1, budget="calls=4")
    assert (result.answer, result.stopped) == ("A", "budget")


@pytest.mark.parametrize("settings", [{"num_debaters": 1}, {"num_debaters": 21}, {"num_rounds": 0}])
def test_it_takes_two_and_a_round(settings: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="allowed are 2 to 20 debaters and at least one round"):
        debate(**settings)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="debate: a question of 0 characters"):
        debate().run("", backend=ScriptedBackend({}))


def test_what_led_to_the_right_answer_becomes_training_data() -> None:
    backend = without_judge(debaters(("One: 5.\nAnswer: 5", "Answer: 4"), ("Two: 3.\nAnswer: 3", "Yes.\nAnswer: 4")))
    store = MemoryStore()
    rows = [{"question": "How much is two and two?", "right": 4}]
    map_rows(debate(num_debaters=2), rows, gold="right", backend=backend, seed=1, store=store)
    found = [json.loads(piece) for piece in export(store.open(store.list()[0].id), "sft")]
    # The first replies were wrong, but the right ones were made in the light of them.
    assert [(line["node"], line["messages"][-1]["content"]) for line in found] == [
        ("debater_1", "One: 5.\nAnswer: 5"),
        ("debater_2", "Two: 3.\nAnswer: 3"),
        ("debater_1", "Answer: 4"),
        ("debater_2", "Yes.\nAnswer: 4"),
    ]
    assert {line["basis"] for line in found} == {"gold"}
