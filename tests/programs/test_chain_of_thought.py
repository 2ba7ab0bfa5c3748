"""The chain-of-thought program: what counts as a stated answer, and what becomes of a reply without one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends import ScriptedBackend
from llmprog.compile import compile_program
from llmprog.errors import InputError, OptionError
from llmprog.programs.answers import stated_answer
from llmprog.programs.chain_of_thought import chain_of_thought
from llmprog.programs.chains import Chain, parse_question
from llmprog.types import Completion


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("3 dogs have 4 legs each.\nAnswer: 12", "12"),
        ("Answer: 3\nWait, four each.\nAnswer: 12.", "12"),
        ("**Answer:** 12", "12"),
        ("**Answer: 12**", "12"),
        ("**Answer**: **12**", "12"),
        ("### Final Answer: `12`", "12"),
        ("- *Answer:* 12", "12"),
        ("> The answer: 12 legs.", "12 legs"),
        ("answer： 十二", "十二"),
        ("Answer:\n\n12", "12"),
        ("Answer:\n$$\n\\boxed{12}\n$$", "12"),
        (r"Answer: $\boxed{12}$", "12"),
        (r"Answer: \(\boxed{\frac{1}{2}}\).", r"\frac{1}{2}"),
        (r"So it is $\boxed{\text{twelve}}$", "twelve"),
        (r"First \boxed{3}, no: \boxed{12}", "12"),
        ("We add them up. The answer is 12.", "12"),
        ("The answer to this question is Paris.", "Paris"),
        ("So the final answer is: twelve legs", "twelve legs"),
        ("Answer: $1,234.50", "$1,234.50"),
        ("Answer: e.g. 3.5", "e.g. 3.5"),
        ("Answer: yes, 2 * 3 * 4", "yes, 2 * 3 * 4"),
        ("Answer: 'a' or \"b\"", "'a' or \"b\""),
        ("Answer: snake_case", "snake_case"),
        ("Answer: wait...", "wait..."),
        ("Answer: -5", "-5"),
        ("", None),
        ("Twelve, I should think.", None),
        ("The answer is near.\nBut I do not see it.", None),
        ("Answer:", None),
        ("Answer: ...", None),
        ("Answer: …", None),
        ("Answer: <the answer alone>", None),
        ("Answer: **", None),
        (r"Answer: \boxed{}", None),
        (r"\boxed{12", None),
    ],
)
def test_what_counts_as_a_stated_answer(reply: str, answer: str | None) -> None:
    assert stated_answer(reply) == answer


@given(st.text(st.sampled_from("Answer: is\\boxed{}*_$`.\n 12")) | st.text())
def test_the_parser_never_raises_and_drops_nothing_but_marks(text: str) -> None:
    found = stated_answer("Answer: " + text.replace("\n", " ") + "x")
    assert found is None or found.strip() == found != ""
    stated_answer(text)


@pytest.mark.parametrize(
    "unit",
    ["\\boxed{", "*", "Answer: ", "$", "answer is ", "\n", "answer\n", "}{", "_ *", "<answer ", "\\text{\\boxed{"],
)
def test_hostile_replies_are_read_in_linear_time(unit: str) -> None:
    begun = time.process_time()
    stated_answer(unit * (200_000 // len(unit)))
    stated_answer("Answer: " + unit * (200_000 // len(unit)))
    assert time.process_time() - begun < 5


def test_one_chain_is_asked_for_and_answered() -> None:
    backend = ScriptedBackend(lambda prompt, sample: "3 * 4 = 12\nAnswer: 12")
    program = chain_of_thought(system="Be brief.", temperature=0.2, max_tokens=77)
    result = program.run(" How many legs have three dogs? ", backend=backend, seed=1)
    assert (result.answer, result.solved, result.votes) == ("12", True, None)
    (request,) = backend.requests
    assert [m.role for m in request.prompt.messages] == ["system", "user"]
    assert request.prompt.messages[0].content == "Be brief."
    assert request.prompt.messages[1].content.endswith("Question: How many legs have three dogs?")
    assert (request.params.temperature, request.params.max_tokens) == (0.2, 77)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_reply_without_an_answer_is_unsolved_and_kept(num_samples: int) -> None:
    backend = ScriptedBackend(lambda prompt, sample: f"Dogs are nice. {sample}")
    result = chain_of_thought(num_samples=num_samples).run("Legs?", backend=backend, seed=1)
    assert (result.answer, result.solved) == (None, False)
    assert "no chain ended with a line 'Answer: …'" in result.explanation
    kept = [state.reasoning for state in result.graph.states[1:]]
    assert kept == [f"Dogs are nice. {i}" for i in range(num_samples)]


def test_a_chain_that_was_cut_has_no_answer() -> None:
    backend = ScriptedBackend(lambda prompt, sample: Completion(text="Answer: 1", finish_reason="length"))
    result = chain_of_thought().run("Legs?", backend=backend, seed=1)
    assert not result.solved
    assert result.graph.states[1].reasoning == "Answer: 1"


def test_several_chains_vote() -> None:
    replies = ["Answer: 12", "Answer: eleven", "Hm.", "**Answer:** 12.0", "Answer: **Eleven**.", "Answer: 12 legs"]
    result = chain_of_thought(num_samples=6).run("Legs?", backend=ScriptedBackend(lambda p, i: replies[i]), seed=1)
    assert result.answer == "12"
    assert result.votes.histogram == (("12", 3), ("eleven", 2))


@pytest.mark.parametrize("text", ["", " \n", "x" * 100_001])
def test_an_unusable_question_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="chain_of_thought: a question of"):
        parse_question(text)


def test_a_question_keeps_its_lines() -> None:
    assert parse_question("What does this print?\n\n  x = 1\n") == Chain("What does this print?\n\n  x = 1")


@pytest.mark.parametrize("parameters", [{"num_samples": 0}, {"temperature": -1}, {"max_tokens": 0}])
def test_bad_parameters_are_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(parameters))):
        chain_of_thought(**parameters)


def test_equal_parameters_make_equal_programs() -> None:
    def hashed(**parameters: str) -> str:
        return compile_program(chain_of_thought(**parameters)).hash

    assert hashed() == hashed()
    assert hashed(system="a") != hashed(system="b")
