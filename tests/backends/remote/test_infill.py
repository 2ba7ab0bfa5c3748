"""Templates with blanks over HTTP."""

import pytest

from llmprog.backends.remote.profiles import get_profile
from llmprog.backends.remote.protocols import open_infiller
from llmprog.errors import BadResponseError, CapabilityError
from llmprog.types import Blank, Message, Prompt, Regex, SamplingParams, Template

ONE = Template(Prompt.from_text("Python:"), ("def f(x):\n    ", Blank(8), "\n    return y\n"))
TWO = Template(Prompt.from_text("Fill in."), ("a = ", Blank(2), "\nb = ", Blank(3), "\n"))


def infiller(profile="mercury"):
    return open_infiller(get_profile(profile), "test:model")


def edited(text):
    return {"id": "e", "choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]}


def test_one_blank_is_filled_in_the_middle():
    sent = infiller().request("mercury-2", ONE, SamplingParams(temperature=0.0))
    assert sent.path == "/fim/completions"
    assert sent.body == {
        "model": "mercury-edit-2",
        "prompt": "Python:\ndef f(x):\n    ",
        "suffix": "\n    return y\n",
        "temperature": 0.0,
        "max_tokens": 8,
    }
    body = {"choices": [{"index": 0, "text": "y = x", "finish_reason": "stop"}], "usage": {"prompt_tokens": 9}}
    reply = infiller().parse(body, ONE)
    assert reply.choices[0].text == "def f(x):\n    y = x\n    return y\n"
    assert reply.tokens.prompt == 9


def test_a_prefix_begins_the_reply_at_once():
    template = Template(Prompt((Message("user", "Q"),), "A: "), (Blank(2), Blank(3), "."))
    sent = infiller("deepseek").request("deepseek-chat", template, SamplingParams())
    assert sent.path == "/beta/completions"
    assert (sent.body["model"], sent.body["prompt"], sent.body["suffix"]) == ("deepseek-chat", "QA: ", ".")
    assert sent.body["max_tokens"] == 5  # blanks side by side are one


def test_several_blanks_are_an_edit():
    sent = infiller().request("mercury-2", TWO, SamplingParams())
    assert sent.path == "/edit/completions"
    [message] = sent.body["messages"]
    assert message["role"] == "user"
    assert "<|code_to_edit|>\na = ____\nb = ____\n\n<|/code_to_edit|>" in message["content"]
    assert "Fill in." in message["content"]


@pytest.mark.parametrize(
    "answer",
    ["a = 1\nb = 2\n", "```\na = 1\nb = 2\n```", "```python\n<|code_to_edit|>\na = 1\nb = 2\n<|/code_to_edit|>\n```"],
)
def test_an_edit_that_keeps_what_was_given(answer):
    assert infiller().parse(edited(answer), TWO).choices[0].text == "a = 1\nb = 2\n"


@pytest.mark.parametrize(
    "answer", ["", "a = 1\n", "c = 1\nb = 2\n", "a = ____\nb = 2\n", "a = 1\nb = ____\n", "a = \nb = \n"]
)
def test_an_edit_that_does_not_is_no_reply_and_is_not_paid_for_again(answer):
    with pytest.raises(BadResponseError) as caught:
        infiller().parse(edited(answer), TWO)
    assert not caught.value.retryable
    assert caught.value.possibly_billed


def test_a_given_text_that_also_occurs_in_a_filling():
    template = Template(Prompt.from_text("x"), ("a", Blank(1), "b", Blank(1), "c"))
    assert infiller().parse(edited("abxbyc"), template).choices[0].text == "abxbyc"


def test_what_cannot_be_filled_is_refused():
    with pytest.raises(CapabilityError, match="one blank at a time and the template has 2"):
        infiller("deepseek").request("m", TWO, SamplingParams())
    with pytest.raises(CapabilityError, match="guided"):
        infiller().request("m", ONE, SamplingParams(guided=Regex("a")))
    with pytest.raises(CapabilityError, match="top_k=3"):
        infiller().request("m", ONE, SamplingParams(top_k=3))
