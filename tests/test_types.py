from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import Blank, Completion, Message, Prompt, SamplingParams, Template, Usage
from llmprog.errors import OptionError
from llmprog.types import Logprobs, Request, total_usage


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "warm"},
        {"temperature": True},
        {"max_tokens": 0},
        {"max_tokens": 2.5},
        {"max_tokens": None},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"top_k": 1.0},
        {"min_p": 1.0},
        {"min_p": -0.1},
        {"stop": "END"},
        {"stop": ("END", "")},
        {"stop": ["END"]},
        {"seed": "seven"},
        {"seed": 1.5},
    ],
    ids=str,
)
def test_sampling_parameters_say_which_value_is_wrong_and_what_is_allowed(bad):
    ((name, value),) = bad.items()
    with pytest.raises(OptionError) as caught:
        SamplingParams(**bad)
    assert str(caught.value).startswith(f"SamplingParams({name}={value!r}): allowed is ")


def test_the_edges_of_what_is_allowed_are_allowed():
    SamplingParams(temperature=0, max_tokens=1, top_p=1, top_k=0, min_p=0, stop=("\n",), seed=0)


def test_a_blank_has_tokens_and_a_template_has_blanks():
    with pytest.raises(OptionError, match="at least 1 token"):
        Blank(0)
    with pytest.raises(OptionError, match="no Blank among the parts"):
        Template(Prompt.from_text("?"), ("all given",))


def test_a_request_asks_for_a_sample():
    with pytest.raises(OptionError, match="num_samples=0"):
        Request(prompt=Prompt.from_text("?"), num_samples=0)


def test_the_text_of_a_prompt():
    prompt = Prompt.from_text("question", system="be brief")
    assert prompt.messages == (Message("system", "be brief"), Message("user", "question"))
    assert Prompt(prompt.messages, prefix="Answer:").text == "be brief\nquestionAnswer:"


prompts = st.builds(
    Prompt,
    st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=5)), max_size=3).map(
        tuple
    ),
    prefix=st.text(max_size=3),
)
templates = st.builds(
    Template,
    prompts,
    st.lists(st.one_of(st.text(max_size=3), st.just(Blank(2))), max_size=3).map(lambda p: (Blank(1), *p)),
)
params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5]),
    stop=st.lists(st.text(min_size=1, max_size=2), max_size=2).map(tuple),
    seed=st.one_of(st.none(), st.integers(0, 3)),
)


@given(st.one_of(prompts, templates), st.one_of(prompts, templates), params, params)
def test_equal_questions_and_only_they_have_equal_digests(first, second, first_params, second_params):
    one, two = Request(prompt=first, params=first_params), Request(prompt=second, params=second_params)
    same = (first, first_params) == (second, second_params)
    assert (one.digest() == two.digest()) == same
    assert one.digest() == Request(prompt=first, params=first_params, num_samples=5, first_sample=9).digest()


def test_a_digest_is_the_same_in_every_process():
    code = (
        "from llmprog.types import *;"
        "template = Template(Prompt.from_text('é\\ud800'), ('a', Blank(3)));"
        "print(Request(prompt=template, params=SamplingParams(seed=1)).digest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(seen) == 1


def test_usage_adds_up_and_an_unknown_price_stays_unknown():
    assert Usage(1, 2, 3, 0.5) + Usage(1, 1, 1, 0.25) == Usage(2, 3, 4, 0.75)
    assert (Usage(usd=None) + Usage(usd=1.0)).usd is None
    assert total_usage([]) == Usage()
    assert total_usage([Completion(text="", usage=Usage(1, 2, 3)) for _ in range(3)]) == Usage(3, 6, 9)


def test_the_total_of_logprobs_is_their_sum():
    assert Logprobs(tokens=("a", "b"), logprobs=(-1.0, -0.5)).total == -1.5


@pytest.mark.parametrize("value", [Usage(), Completion(text=""), SamplingParams(), Prompt.from_text("x"), Blank(1)])
def test_values_are_frozen_and_slotted(value):
    assert not hasattr(value, "__dict__")
    with pytest.raises(AttributeError):
        setattr(value, next(iter(value.__dataclass_fields__)), 1)
