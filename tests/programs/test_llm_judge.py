"""Models as judges: grades and verdicts are read leniently, averages and both orders are exact."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs.judges import grade_of, preference_of, stated_verdict
from llmprog.programs.llm_judge import llm_judge

ONE = {"question": "How many legs has a dog?", "response": "Four."}
TWO = {"question": "How many legs has a dog?", "responses": ["Four.", "Many.", "It has four legs."]}


@pytest.mark.parametrize(
    ("completion", "grade"),
    [
        ("Well.\nScore: 4", 4),
        ("Score: 4/5", 4),
        ("**Score:** 3.5 out of 5", 3.5),
        ("It earns 2 of 5 points.", 2),
        ("Score: 0", 0),
        ("Score: 7", None),
        ("Score: 10/5", None),
        ("Score: 4\n\nThat is all.", None),
        ("", None),
    ],
)
def test_what_grade_a_judgement_gives(completion: str, grade: float | None) -> None:
    assert grade_of(completion) == grade


@pytest.mark.parametrize(
    ("completion", "preference"),
    [
        ("A is short, B is long.\nVerdict: B", 0),
        ("**Verdict: A**", 1),
        ("Verdict: Reply B", 0),
        ("verdict: [tie]", 0.5),
        ("Verdict: A\nNo, wait. Verdict: B.", 0),
        ("I think\nA", 1),
        ("Response B", 0),
        ("B is a better answer than A is", None),
        ("", None),
    ],
)
def test_what_a_comparison_prefers(completion: str, preference: float | None) -> None:
    assert preference_of(completion) == preference


@given(st.text() | st.text(st.sampled_from("verdict: AB tie\nScore 0123456789/.")))
def test_no_judgement_makes_reading_it_raise(completion: str) -> None:
    grade = grade_of(completion)
    assert grade is None or 0 <= grade <= 5
    assert stated_verdict(completion, ("good", "revise")) in (None, "good", "revise")
    assert preference_of(completion) in (None, 0, 0.5, 1)


@pytest.mark.parametrize("given_as", [dict, json.dumps])
def test_the_points_are_the_mean_of_the_samples_that_give_some(given_as: object) -> None:
    said = ["Score: 5", "Score: 4", "hm"]
    backend = ScriptedBackend(lambda prompt, sample: said[sample])
    result = llm_judge().run(given_as(ONE), backend=backend, seed=1)
    assert (result.answer, result.solved) == (4.5, True)
    assert str(result.thought.state) == "4.50 of 5 points (mean of 2 of 3 judgements)"
    (request,) = backend.requests
    assert request.num_samples == 3
    assert "Question: How many legs has a dog?\n\nReply: Four.\n" in request.prompt.text


def test_without_a_grade_it_is_not_solved() -> None:
    result = llm_judge().run(ONE, backend=ScriptedBackend(lambda prompt, sample: "Nice."), seed=1)
    assert (result.answer, result.solved) == (None, False)
    assert "no judgement ended with a line 'Score: …'" in result.explanation


def test_a_judge_who_always_prefers_the_first_prefers_nobody() -> None:
    result = llm_judge(method="pairwise", num_samples=1).run(
        TWO, backend=ScriptedBackend(lambda prompt, sample: "Verdict: A"), seed=1
    )
    assert [thought.score for thought in result.graph][1:] == [2, 2, 2]
    assert result.usage.calls == 6


def test_a_judge_with_a_taste_finds_the_best_whatever_its_place() -> None:
    def judge(prompt: str, sample: int) -> str:
        first = prompt.partition("Reply A: ")[2].partition("\n")[0]
        second = prompt.partition("Reply B: ")[2].partition("\n")[0]
        return "Verdict: " + ("tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B")

    for order in (TWO["responses"], TWO["responses"][::-1]):
        given_in = {"question": "?", "responses": order}
        result = llm_judge(method="pairwise").run(given_in, backend=ScriptedBackend(judge), seed=1)
        assert result.answer == "It has four legs."
        assert sorted(thought.score for thought in result.graph)[1:] == [1, 1, 4]


@pytest.mark.parametrize(
    ("method", "given_as", "complaint"),
    [
        ("rubric", "Four.", "'Four.' is no JSON"),
        ("rubric", {"response": "Four."}, "has no question; allowed is an object such as"),
        ("rubric", {"question": "?"}, r"the replies are \[\]"),
        ("rubric", {"question": "?", "responses": [1]}, r"the replies are \[1\]"),
        ("rubric", TWO, "method=rubric judges one reply, not 3"),
        ("pairwise", ONE, "method=pairwise compares two replies or more"),
    ],
)
def test_bad_input_says_what_is_allowed(method: str, given_as: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        llm_judge(method=method).run(given_as, backend=ScriptedBackend({}))


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(OptionError, match="method='coin'; allowed are rubric, pairwise"):
        llm_judge(method="coin")
