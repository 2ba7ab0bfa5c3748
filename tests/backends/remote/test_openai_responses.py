"""The responses endpoint."""

import json
from pathlib import Path

import pytest

from llmprog.backends.remote.profiles import get_profile
from llmprog.backends.remote.protocols import open_protocol
from llmprog.backends.remote.sse import ServerSentEvent, SSEParser
from llmprog.backends.remote.wire import ModelCall, TokenCounts
from llmprog.errors import BackendError, BadResponseError, CapabilityError, RateLimitError, TruncatedStreamError
from llmprog.types import JsonSchema, Logprobs, Prompt, SamplingParams

STREAM = (Path(__file__).parent / "wire" / "responses_openai.sse").read_bytes()


def responses(effort=None):
    profile = get_profile("openai-responses")
    return open_protocol(profile if effort is None else profile.with_reasoning(effort), "test:model")


def call(**params):
    return ModelCall(model="gpt-5", prompt=Prompt.from_text("hi", system="Be brief."), params=SamplingParams(**params))


def answer(**changes):
    content = [{"type": "output_text", "text": "24"}]
    return {"status": "completed", "output": [{"type": "message", "content": content}], **changes}


def test_a_request():
    sent = responses("low").request(call(temperature=1, max_tokens=64, logprobs=True))
    assert sent.path == "/responses"
    assert sent.body == {
        "model": "gpt-5",
        "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "temperature": 1,
        "max_output_tokens": 64,
        "include": ["message.output_text.logprobs"],
        "store": False,
        "reasoning": {"effort": "low"},
    }


def test_a_schema_is_a_text_format():
    sent = responses().request(call(guided=JsonSchema('{"type": "object"}'))).body["text"]["format"]
    assert sent == {"type": "json_schema", "name": "reply", "schema": {"type": "object"}, "strict": False}


def test_stop_texts_are_refused():
    with pytest.raises(CapabilityError, match="at most 0 stop texts"):
        responses().request(call(stop=("x",)))


def test_a_stream():
    reader, deltas = responses().reader(), []
    for event in SSEParser().feed(STREAM):
        deltas += reader.feed(event)
    assert reader.is_complete
    reply = reader.finish()
    assert [(d.text, d.is_reasoning) for d in deltas] == [("Multiply.", True), ("2", False), ("4", False)]
    assert (reply.choices[0].text, reply.choices[0].reasoning) == ("24", "Multiply.")
    assert reply.choices[0].logprobs == Logprobs(tokens=("24",), logprobs=(-0.125,))
    assert reply.tokens == TokenCounts(prompt=20, completion=11, cached=8, reasoning=9)
    assert (reply.id, reply.model) == ("resp_1", "gpt-5")


def test_a_stream_cut_before_its_end():
    reader = responses().reader()
    for event in SSEParser().feed(STREAM)[:-1]:
        reader.feed(event)
    assert not reader.is_complete
    with pytest.raises(TruncatedStreamError):
        reader.finish()


@pytest.mark.parametrize(
    ("reason", "expected"), [("max_output_tokens", "length"), ("content_filter", "content_filter")]
)
def test_incomplete_is_an_outcome(reason, expected):
    body = answer(status="incomplete", incomplete_details={"reason": reason})
    assert responses().parse(body).choices[0].finish_reason == expected


def test_a_refusal_is_an_outcome():
    output = [{"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}]
    choice = responses().parse(answer(output=output)).choices[0]
    assert (choice.text, choice.finish_reason) == ("No.", "content_filter")


def test_errors():
    with pytest.raises(BackendError, match="boom") as caught:
        responses().parse(answer(status="failed", error={"code": "server_error", "message": "boom"}))
    assert caught.value.retryable
    with pytest.raises(TruncatedStreamError):
        responses().parse(answer(status="in_progress"))
    with pytest.raises(BadResponseError):
        responses().parse({"choices": []})
    failed = {"type": "response.failed", "response": answer(status="failed", error={"code": "rate_limit_exceeded"})}
    with pytest.raises(RateLimitError):
        responses().reader().feed(ServerSentEvent("response.failed", json.dumps(failed)))
    with pytest.raises(BackendError, match="went wrong"):
        responses().reader().feed(ServerSentEvent("error", '{"type": "error", "code": null, "message": "went wrong"}'))
