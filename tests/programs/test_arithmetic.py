"""The arithmetic program: reading questions, parsing chains, voting."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import InputError, OptionError
from llmprog.programs import arithmetic
from llmprog.programs.arithmetic import Chain, parse_question, think


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("(17 + 25)*3 - 40", "What is (17 + 25) * 3 - 40?"),
        ("17 + 25 =", "What is 17 + 25?"),
        ("What is  3 + 4?", "What is 3 + 4?"),
        ("How many legs have 3 dogs?", "How many legs have 3 dogs?"),
    ],
)
def test_a_question_is_words_or_an_expression(text: str, question: str) -> None:
    assert parse_question(text) == Chain(question)


@pytest.mark.parametrize("text", ["", "   ", "x" * 3000])
def test_an_unusable_question_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="arithmetic: a question of"):
        parse_question(text)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("17 + 25 = 42\nAnswer: 42", Fraction(42)),
        ("The answer is 1,234.", Fraction(1234)),
        ("Answer: 3\nwait\nAnswer: 8/3", Fraction(8, 3)),
        ("17 + 25 = 42", None),
        ("Answer: forty", None),
    ],
)
def test_the_last_stated_answer_counts(completion: str, answer: Fraction | None) -> None:
    (chain,) = think(Chain("q"), completion)
    assert chain.answer == answer


@given(st.text(max_size=200))
def test_the_parser_never_raises(text: str) -> None:
    list(think(Chain("q"), text))


def test_the_majority_wins_and_chains_without_an_answer_do_not_vote() -> None:
    replies = ["Answer: 42", "Answer: 41", "no idea", "Answer: 42.0", "Answer: 41", "answer: $42"]
    result = arithmetic(num_samples=6).run("17 + 25", backend=ScriptedBackend(lambda p, i: replies[i]), seed=1)
    assert result.answer == 42
    assert result.votes is not None
    assert result.votes.histogram == ((42, 3), (41, 2))
    assert (result.votes.num_valid, result.votes.num_samples) == (5, 6)


@pytest.mark.parametrize(("stopping", "most"), [("beta", 4), ("window", 5)])
def test_a_stopping_rule_saves_calls(stopping: str, most: int) -> None:
    backend = ScriptedBackend(lambda p, i: "Answer: 42")
    result = arithmetic(num_samples=40, stopping=stopping).run("17 + 25", backend=backend, seed=1)
    assert result.answer == 42
    assert result.stopped == "confident"
    assert len(backend.requests) == most
    assert result.votes is not None
    assert result.votes.num_allowed == 40


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"confidence": 0.9}, "has no effect with stopping=none"),
        ({"stopping": "beta", "window": 4}, "belongs to stopping=window"),
        ({"stopping": "beta", "confidence": 1.5}, "between 0.5 and 1"),
        ({"stopping": "never"}, "stopping='never'; allowed are"),
    ],
)
def test_a_parameter_is_obeyed_or_refused(parameters: dict[str, object], complaint: str) -> None:
    with pytest.raises(OptionError) as caught:
        arithmetic(**parameters)
    assert complaint in str(caught.value)
