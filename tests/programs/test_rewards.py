"""Rewards by rule: what is right, what has the form, which equations hold."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.errors import OptionError
from llmprog.program import Program
from llmprog.programs.answers import stated_answer
from llmprog.programs.chains import Asking, Chain, answer_of, first_chain, think
from llmprog.programs.rewards import (
    accuracy,
    accuracy_reward,
    equations,
    equations_reward,
    follows_format,
    format_reward,
)
from llmprog.search import BestOfN


@pytest.mark.parametrize(
    ("answer", "gold", "reward"),
    [
        ("1,000 km", "1000", 1),
        ("0.5", "1/2", 1),
        (" Paris", "paris", 1),
        ("Lyon", "Paris", 0),
        (None, "Paris", 0),
        ("", "", 0),
    ],
)
def test_an_answer_is_right_as_votes_compare_it(answer: str | None, gold: str, reward: float) -> None:
    assert accuracy_reward(answer, gold) == reward


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("<think>\n3 * 4 = 12\n</think>\n\nAnswer: 12", 1),
        ("<think></think>12", 0),
        ("<think>3 * 4 = 12</think>", 0),
        ("So <think>3 * 4</think> 12", 0),
        ("12", 0),
    ],
)
def test_a_reply_that_thinks_first_has_the_form(reply: str, reward: float) -> None:
    assert format_reward(reply) == reward


def test_a_form_is_any_pattern_of_the_whole_reply() -> None:
    assert format_reward("<answer>12</answer>\n", r"<answer>\d+</answer>") == 1
    assert format_reward("It is <answer>12</answer>", r"<answer>\d+</answer>") == 0
    with pytest.raises(OptionError, match=r"pattern='\(': not a regular expression"):
        follows_format("(")


def test_a_form_that_takes_for_ever_is_not_kept() -> None:
    begun = time.monotonic()
    assert format_reward("a" * 60 + "!", r"(a|aa)+") == 0
    assert time.monotonic() - begun < 100  # of what would take ages


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("17 + 25 = 42\n42 * 3 = 126", 1),
        ("17 + 25 = 42\n42 * 3 = 125", 0.5),
        ("1. 17 + 25 = 42 apples\n- 1,200 + 300 = 1,500.", 1),
        ("It is x = 2 * 3 = 6, and 8 / 3 = 8/3", 1),
        ("(17 + 25) * 3 = 126", 1),
        ("2 + 2 = 4, 4 + 1 = 6", 0.5),
        ("17 + 25) = 42", 0),  # cannot be read, so it does not hold
        ("2 / 0 = 0", 0),
        ("The year = 1984. 42 = 42. two + two = 4", 0),  # no equation with an operation on numbers
        ("", 0),
    ],
)
def test_equations_are_checked_exactly(reply: str, reward: float) -> None:
    assert equations_reward(reply) == reward


@given(st.text(st.sampled_from("0123456789+-*/=(). \n,x")) | st.text())
def test_no_reply_makes_a_reward_raise(reply: str) -> None:
    assert 0 <= equations_reward(reply) <= 1
    assert format_reward(reply) in (0, 1)


@pytest.mark.parametrize("unit", ["=", "1=", "1+1=", "(", "- 1 ", "1+"])
def test_hostile_replies_are_judged_in_linear_time(unit: str) -> None:
    begun = time.process_time()
    equations_reward(unit * (500_000 // len(unit)))
    assert time.process_time() - begun < 5


def test_as_checkers_they_score_the_chains_of_any_program() -> None:
    asking = Asking(style="chain", read=stated_answer)
    program = Program(
        start=first_chain("sums"),
        generators=[think(asking)],
        checkers=[follows_format(), equations],
        controller=BestOfN(num_samples=3),
        answer=answer_of,
    )
    replies = ["2 + 2 = 5\nAnswer: 5", "<think>2 + 2?</think>\n2 + 2 = 4\nAnswer: 4", "<think>hm</think>Answer: 3"]
    result = program.run("What is 2 + 2?", backend=ScriptedBackend(lambda prompt, i: replies[i]), seed=1)
    assert result.answer == "4"
    assert [thought.score for thought in result.graph][1:] == [0, 2, 1]
    reasons = [[verdict.reason for _, verdict in thought.verdicts] for thought in result.graph]
    assert reasons[1] == ["the reply does not have the form", "0% of its equations hold"]


def test_without_a_right_answer_accuracy_is_not_known() -> None:
    assert accuracy(Chain("q", "Answer: 4", "4")).reason == "no right answer is known"
    assert accuracy(Chain("q", "Answer: 4", "4", gold="4.0")).score == 1
