"""Best of n by each reward, on scripted and on real replies, and the training data that comes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmprog import run
from llmprog.arithmetic import evaluate
from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.exports.formats import export
from llmprog.jobs.job import map as map_rows
from llmprog.programs.best_of_n import best_of_n
from llmprog.runs.store import MemoryStore

REPLIES = ["2 + 2 = 5\nAnswer: 5", "no idea", "2 + 2 = 4\nAnswer: 4", "2 + 2 = 4, 4 + 1 = 6\nAnswer: 6"]
POINTS = {"Answer: 5": "1/5", "Answer: 4": "Score: 5", "Answer: 6": "2 out of 5"}


def model(prompt: str, sample: int) -> str:
    if prompt.startswith("Judge the reply"):
        return next(points for text, points in POINTS.items() if text in prompt)
    return REPLIES[sample % 4]


def lines(store: MemoryStore, form: str, **options: Any) -> list[dict[str, Any]]:
    (found,) = store.list()
    return [json.loads(piece) for piece in export(store.open(found.id), form, **options)]


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({"reward": "judge"}, "4"),
        ({"reward": "accuracy", "gold": "6.0"}, "6"),
        ({"reward": "equations"}, "4"),
        ({"reward": "format", "form": r"2 \+ 2 = 5.*"}, "5"),
    ],
)
def test_each_reward_finds_its_best(settings: dict[str, Any], answer: str) -> None:
    result = best_of_n(num_samples=4, **settings).run("What is 2 + 2?", backend=ScriptedBackend(model), seed=1)
    assert (result.answer, result.solved) == (answer, True)


def test_the_points_of_a_judge_are_averaged_over_its_samples() -> None:
    def judge(prompt: str, sample: int) -> str:
        return ["Score: 4", "I would say 3", "none"][sample] if prompt.startswith("Judge") else "Answer: 1"

    result = best_of_n(num_samples=1).run("What?", backend=ScriptedBackend(judge), seed=1)
    ((name, verdict),) = result.thought.verdicts
    assert (name, verdict.score, verdict.reason) == ("judge", 3.5, "mean of 2 of 3 judgements")
    assert result.usage.calls == 4


def test_without_a_right_chain_the_best_is_the_answer_and_it_says_so() -> None:
    replies = ["2 + 2 = 5, 5 + 1 = 6\nAnswer: 6", "2 + 2 = 4, 4 + 1 = 6\nAnswer: 7"]
    backend = ScriptedBackend(lambda prompt, sample: replies[sample])
    result = best_of_n(num_samples=2, reward="equations").run("2?", backend=backend, seed=1)
    assert (result.answer, result.solved) == ("6", False)
    assert "no chain earned all of the reward" in result.explanation


def test_a_right_answer_may_come_with_each_row() -> None:
    rows = [
        {"input": {"question": "2 + 2?", "gold": 4}},
        {"input": {"question": "2 + 3?", "gold": "6"}},
        {"input": "?"},
    ]
    results = map_rows(best_of_n(num_samples=4, reward="accuracy"), rows, backend=ScriptedBackend(model), seed=1)
    assert [(result.answer, result.solved) for result in results[:2]] == [("4", True), ("6", True)]
    assert "needs the right answer" in str(results[2].error)
    with pytest.raises(InputError, match="best_of_n: a question of 0 characters"):
        best_of_n().run({"gold": 4}, backend=ScriptedBackend(model))


def test_no_model_is_shown_the_right_answer() -> None:
    backend = ScriptedBackend(model)
    best_of_n(reward="accuracy", gold="gold-4711").run("What?", backend=backend, seed=1)
    assert not any("4711" in request.prompt.text for request in backend.requests)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"reward": "luck"}, "reward='luck'; allowed are judge, accuracy, format, equations"),
        ({"gold": "4"}, "gold='4' has no effect with reward=judge"),
        ({"reward": "equations", "num_evaluations": 2}, "num_evaluations=2 has no effect with reward=equations"),
        ({"stop_on_goal": False}, "stop_on_goal=False has no effect with reward=judge"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        best_of_n(**settings)


def test_verified_chains_become_training_data() -> None:
    store = MemoryStore()
    program = best_of_n(num_samples=4, reward="equations", stop_on_goal=False)
    run(program, "What is 2 + 2?", backend=ScriptedBackend(model), seed=1, store=store)
    assert [line["messages"][-1]["content"] for line in lines(store, "sft")] == [REPLIES[2]]
    pairs = lines(store, "preferences")
    assert {pair["chosen"][0]["content"] for pair in pairs} == {REPLIES[2]}
    assert {pair["rejected"][0]["content"] for pair in pairs} == set(REPLIES) - {REPLIES[2]}
    (group,) = lines(store, "grpo")
    assert (group["rewards"], group["basis"]) == ([0, 0, 1, 0], "goal")


def test_judged_chains_become_pairs_and_groups_by_their_points() -> None:
    store = MemoryStore()
    run(best_of_n(num_samples=4), "What is 2 + 2?", backend=ScriptedBackend(model), seed=1, store=store)
    (group,) = lines(store, "grpo")
    assert (group["rewards"], group["basis"]) == ([1, 0, 5, 2], "score")  # a chain without an answer earns nothing
    best = lines(store, "preferences", max_pairs=1)[0]
    assert (best["chosen"][0]["content"], best["rejected"][0]["content"]) == (REPLIES[2], REPLIES[0])
    with pytest.raises(OptionError, match="nothing says which of its results are right"):
        lines(store, "sft")


def test_on_a_real_model_equations_that_hold_lead_to_right_answers() -> None:
    question = "(17 + 25) * 3 - 40"
    result = best_of_n(reward="equations", answer="number").run(question, backend="local:puzzles", seed=1)
    assert result.solved
    assert evaluate(result.answer) == evaluate(question)


def test_a_chain_without_an_answer_is_never_the_best() -> None:
    def judge(prompt: str, sample: int) -> str:
        if prompt.startswith("Judge the reply"):
            return "Score: 5" if "no idea" in prompt else "Score: 1"
        return ["I have no idea.", "Answer: 4"][sample]

    result = best_of_n(num_samples=2).run("What?", backend=ScriptedBackend(judge), seed=1)
    assert (result.answer, result.usage.calls) == ("4", 5)
