"""Text completions, and likelihoods in both forms."""

import math
from pathlib import Path

import pytest

from llmprog.backends.remote.profiles import get_profile
from llmprog.backends.remote.protocols import open_protocol, open_scorer
from llmprog.backends.remote.sse import SSEParser
from llmprog.backends.remote.wire import ModelCall, TokenCounts
from llmprog.errors import BackendError, CapabilityError, OptionError
from llmprog.types import Choices, Logprobs, Message, Prompt, SamplingParams

WIRE = Path(__file__).parent / "wire"
PROMPT = Prompt((Message("user", "one"),), " and")


def completions(profile="vllm-completions"):
    return open_protocol(get_profile(profile), "test:model")


def call(**params):
    return ModelCall(model="m", prompt=PROMPT, params=SamplingParams(**params))


def test_the_conversation_is_sent_as_one_text_with_its_prefix():
    sent = completions("completions").request(call(max_tokens=4, logprobs=True, stop=("\n",)))
    assert sent.path == "/completions"
    assert sent.body == {
        "model": "m",
        "prompt": "one and",
        "temperature": 0.7,
        "max_tokens": 4,
        "stop": ["\n"],
        "logprobs": 1,
    }


def test_guided_output():
    assert completions().request(call(guided=Choices(("a",)))).body["structured_outputs"] == {"choice": ["a"]}
    with pytest.raises(CapabilityError, match="vllm"):
        completions("completions").request(call(guided=Choices(("a",))))


def test_an_answer():
    logprobs = {"tokens": [" two"], "token_logprobs": [-0.5], "text_offset": [7], "top_logprobs": None}
    reply = completions().parse(
        {
            "id": "cmpl-1",
            "choices": [{"index": 0, "text": " two", "logprobs": logprobs, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 1},
        }
    )
    assert reply.choices[0].text == " two"
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].logprobs == Logprobs(tokens=(" two",), logprobs=(-0.5,))
    assert reply.tokens == TokenCounts(prompt=2, completion=1)


def test_a_stream():
    reader, deltas = completions().reader(), []
    for event in SSEParser().feed((WIRE / "completions_vllm.sse").read_bytes()):
        deltas += reader.feed(event)
    choice = reader.finish().choices[0]
    assert choice.text == "".join(d.text for d in deltas) == " two three"
    assert choice.logprobs == Logprobs(tokens=(" two", " three"), logprobs=(-0.5, -1.0))
    assert choice.finish_reason == "length"


class TestEcho:
    def scorer(self):
        return open_scorer(get_profile("sglang"), "test:model")

    def answer(self, tokens, logprobs, written=1):
        listed = {"tokens": tokens, "token_logprobs": logprobs}
        return {"choices": [{"text": "".join(tokens), "logprobs": listed}], "usage": {"completion_tokens": written}}

    def test_the_request(self):
        sent = self.scorer().request("m", PROMPT, " two")
        assert sent.path == "/completions"
        assert sent.body["prompt"] == "one and two"
        assert (sent.body["echo"], sent.body["logprobs"], sent.body["max_tokens"]) == (True, 1, 1)

    def test_what_texts_begin_with_can_be_given(self):
        sent = open_scorer(get_profile("llama-cpp-python"), "test:model", "<s>").request("m", PROMPT, " two")
        assert sent.body["prompt"] == "<s>one and two"
        with pytest.raises(OptionError, match="its chat template begins texts; leave it out"):
            open_scorer(get_profile("vllm"), "test:model", "<s>")

    def test_likelihoods_that_are_one_place_late_are_refused(self):
        # llama-cpp-python, of a model whose texts begin with nothing: as many as the prompt has tokens
        body = self.answer(["one", " and", " two"], [None, -1.0, -0.5])
        with pytest.raises(CapabilityError, match=r"\?bos=TEXT where the model's tokenizer begins texts with nothing"):
            self.scorer().parse(body, " two")

    def test_the_tokens_of_the_continuation_alone_count(self):
        body = self.answer(["one", " and", " t", "wo", "!"], [None, -1.0, -0.5, -0.25, -9.0])
        assert self.scorer().parse(body, " two") == Logprobs(tokens=(" t", "wo"), logprobs=(-0.5, -0.25))

    def test_no_token_was_written(self):
        body = self.answer(["one", " two"], [None, -0.5], written=0)
        assert self.scorer().parse(body, " two").total == -0.5

    def test_a_token_with_white_space_of_the_prompt_counts(self):
        body = self.answer(["one", " two", "x"], [None, -0.5, -1.0])
        assert self.scorer().parse(body, "two") == Logprobs(tokens=("two",), logprobs=(-0.5,))

    def test_a_token_across_the_border_has_no_likelihood_of_its_own(self):
        with pytest.raises(CapabilityError, match="begins with a space"):
            self.scorer().parse(self.answer(["on", "etwo", "x"], [None, -0.5, -1.0]), "two")

    def test_the_first_token_of_all_has_none(self):
        with pytest.raises(CapabilityError, match="a token has none"):
            self.scorer().parse(self.answer(["two", "x"], [None, -1.0]), "two")

    @pytest.mark.parametrize("body", [{"choices": [{"text": "!"}]}, {"choices": []}, {}])
    def test_a_server_that_does_not_echo(self, body):
        with pytest.raises(CapabilityError, match="check that it serves"):
            self.scorer().parse(body, " two")

    def test_an_error_object(self):
        with pytest.raises(BackendError, match="busy"):
            self.scorer().parse({"error": {"message": "busy", "code": 503}}, " two")


class TestPromptLogprobs:
    def entry(self, token, logprob, number=1):
        return {str(number): {"logprob": logprob, "rank": 1, "decoded_token": token}}

    def test_chat(self):
        scorer = open_scorer(get_profile("vllm"), "test:model")
        sent = scorer.request("m", PROMPT, " two")
        assert sent.path == "/chat/completions"
        assert sent.body["messages"][-1] == {"role": "assistant", "content": " and two"}
        assert sent.body["prompt_logprobs"] == 0
        assert sent.body["continue_final_message"] is True
        listed = [None, self.entry("<|im_start|>", -3.0), self.entry(" and", -2.0), self.entry(" two", -0.5)]
        # A likelier token may stand beside the prompt's own, which comes first.
        listed[3] |= self.entry(" three", -0.1, 2)
        result = scorer.parse({"choices": [], "prompt_logprobs": listed}, " two")
        assert result == Logprobs(tokens=(" two",), logprobs=(-0.5,))

    def test_plain_text(self):
        scorer = open_scorer(get_profile("vllm-completions"), "test:model")
        assert scorer.request("m", PROMPT, " two").body["prompt"] == "one and two"
        choice = {"text": "!", "prompt_logprobs": [None, self.entry(" and", -2.0), self.entry(" two", -9999.0)]}
        assert math.isfinite(scorer.parse({"choices": [choice]}, " two").total)
