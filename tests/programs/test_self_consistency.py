"""The voting program: how each kind of question is asked, and what of a reply votes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.programs.answers import stated_choice, stated_number
from llmprog.programs.chains import as_expression
from llmprog.programs.self_consistency import self_consistency
from llmprog.types import Completion, Logprobs


def test_a_free_question_is_put_to_the_vote():
    replies = ["Paris it is.\nAnswer: Paris", "Answer: paris.", "I think so.\nAnswer: **Lyon**", "no idea"]
    backend = ScriptedBackend(lambda prompt, sample: replies[sample % 4])
    result = run(self_consistency(num_samples=8, system="Be brief."), "What is the capital?", backend=backend, seed=1)
    assert result.answer == "Paris"
    assert [n for _, n in result.votes.histogram] == [4, 2]
    assert (result.votes.num_samples, result.votes.num_valid) == (8, 6)
    prompt = backend.requests[0].prompt
    assert prompt.messages[0].content == "Be brief."
    assert prompt.text.endswith("Question: What is the capital?")


def test_a_bare_expression_is_asked_with_a_worked_example():
    backend = ScriptedBackend(lambda prompt, sample: "17 + 25 = 42\nAnswer: 42")
    result = run(self_consistency(num_samples=3), "17 + 25 =", backend=backend, seed=1)
    assert result.answer == "42"
    assert backend.requests[0].prompt.text.endswith("Question: What is 17 + 25?\nReasoning:\n")


@pytest.mark.parametrize(
    ("question", "expression"),
    [
        ("3 * (4 + 5)", "3 * (4 + 5)"),
        ("What is 6 × 7?", "6 * 7"),
        ("compute: 8 / 2 =", "8 / 2"),
        ("1984", None),
        ("Is 3 - 2 odd?", None),
        ("What is the capital of France?", None),
        ("2 +", None),
        ("?", None),
    ],
)
def test_which_questions_are_expressions(question, expression):
    assert as_expression(question) == expression


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("Answer: 12", "12"),
        ("Answer: $1,234.50 in total", "$1,234.50 in total"),
        ("Answer: 3 bags of 4 make 12 apples", "12"),
        ("3 * 4 = 12", "12"),
        ("Answer: -8/3", "-8/3"),
        ("Answer: twelve", None),
        ("", None),
    ],
)
def test_what_number_votes(reply, number):
    assert stated_number(reply) == number


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Answer: B", "B"),
        ("Answer: (b)", "B"),
        ("Answer: **C. Paris**", "C"),
        ("Answer: D) none of them", "D"),
        ("Answer: A man", None),
        ("Answer: Paris", None),
        ("B", None),
    ],
)
def test_what_choice_votes(reply, letter):
    assert stated_choice(reply) == letter


@given(st.text())
def test_no_reply_makes_reading_it_raise(reply):
    stated_number(reply)
    stated_choice(reply)
    as_expression(reply)


def test_an_early_stop_saves_samples():
    backend = ScriptedBackend(lambda prompt, sample: "Answer: 1")
    result = run(
        self_consistency(num_samples=40, stopping="beta", confidence=0.9), "How many?", backend=backend, seed=1
    )
    assert result.stopped == "confident"
    assert len(backend.requests) < 10


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"answer": "colour"}, "answer='colour'; allowed are text, number, choice, regex, json"),
        ({"stopping": "soon"}, "stopping='soon'"),
        ({"window": 3}, "window=3 has no effect with stopping=none"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, complaint):
    with pytest.raises(OptionError, match=complaint):
        self_consistency(**settings)


def test_a_weighted_vote_counts_how_likely_chains_are():
    def reply(prompt, sample):
        text, logprob = [("Answer: 1", -0.1), ("Answer: 2", -3.0), ("Answer: 2", -3.0)][sample]
        return Completion(text=text, logprobs=Logprobs(tokens=(text,), logprobs=(logprob,)))

    backend = ScriptedBackend(reply)
    backend.capabilities = replace(backend.capabilities, logprobs=True)
    majority = self_consistency(num_samples=3).run("How many?", backend=backend, seed=1)
    weighted = self_consistency(num_samples=3, vote="weighted").run("How many?", backend=backend, seed=1)
    assert (majority.answer, weighted.answer) == ("2", "1")
    assert [request.params.logprobs for request in backend.requests] == [False] * 3 + [True] * 3


def test_a_universal_vote_asks_the_model_which_chain_is_most_consistent():
    def reply(prompt, sample):
        if "most consistent" in prompt:
            assert "question: Where?" in prompt
            return "The most consistent response is Response 2"
        return ["Here.\nAnswer: at home", "There.\nAnswer: in the garden", "Outside.\nAnswer: among flowers"][sample]

    result = self_consistency(num_samples=3, vote="universal").run("Where?", backend=ScriptedBackend(reply), seed=1)
    assert result.answer == "in the garden"
    assert result.usage.calls == 4


def test_a_stopping_rule_belongs_to_the_majority():
    with pytest.raises(OptionError, match="stopping='beta' has no effect with vote=weighted"):
        self_consistency(vote="weighted", stopping="beta")
