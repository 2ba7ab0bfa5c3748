"""The messages endpoint."""

from pathlib import Path

import pytest

from llmprog.backends.remote.profiles import get_profile
from llmprog.backends.remote.protocols import open_protocol
from llmprog.backends.remote.sse import ServerSentEvent, SSEParser
from llmprog.backends.remote.wire import ModelCall, TokenCounts
from llmprog.errors import BackendError, BadResponseError, CapabilityError, TruncatedStreamError
from llmprog.types import JsonSchema, Message, Prompt, SamplingParams

STREAM = (Path(__file__).parent / "wire" / "messages_anthropic.sse").read_bytes()
MARK = {"type": "ephemeral"}


def messages():
    return open_protocol(get_profile("anthropic"), "test:model")


def call(prompt=None, **params):
    prompt = prompt or Prompt.from_text("hi", system="Be brief.")
    return ModelCall(model="claude", prompt=prompt, params=SamplingParams(**params))


def test_a_request():
    prompt = Prompt((Message("system", "Be brief."), Message("user", "hi")), "Sure")
    sent = messages().request(call(prompt, top_k=5, stop=("x",), max_tokens=9))
    assert sent.path == "/messages"
    assert sent.headers == {"anthropic-version": "2023-06-01"}
    assert sent.body == {
        "model": "claude",
        "system": [{"type": "text", "text": "Be brief.", "cache_control": MARK}],
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Sure"}],
        "max_tokens": 9,
        "temperature": 0.7,
        "top_k": 5,
        "stop_sequences": ["x"],
    }


def test_the_first_of_several_messages_is_what_siblings_share():
    many = Prompt((Message("user", "examples"), Message("assistant", "ok"), Message("user", "hi")))
    sent = messages().request(call(many)).body
    assert sent["messages"][0]["content"] == [{"type": "text", "text": "examples", "cache_control": MARK}]
    alone = messages().request(call(Prompt.from_text("hi"))).body
    assert "system" not in alone
    assert alone["messages"] == [{"role": "user", "content": "hi"}]


def test_effort_and_schema_share_a_field():
    protocol = open_protocol(get_profile("anthropic").with_reasoning("low"), "test:model")
    sent = protocol.request(call(guided=JsonSchema('{"type": "object"}'))).body["output_config"]
    assert sent == {"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (call(temperature=1.5), "temperature=1.5"),
        (call(Prompt((Message("user", "hi"),), "Sure ")), "white space"),
        (call(logprobs=True), "logprobs"),
        (call(min_p=0.1), "min_p"),
    ],
)
def test_what_cannot_be_expressed_is_refused(bad, words):
    with pytest.raises(CapabilityError, match=words):
        messages().request(bad)


def test_an_answer():
    reply = messages().parse(
        {
            "id": "msg_1",
            "type": "message",
            "model": "claude-sonnet-4-5-20250929",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "redacted_thinking", "data": "y"},
                {"type": "text", "text": "2"},
                {"type": "text", "text": "4"},
            ],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 7},
        }
    )
    choice = reply.choices[0]
    assert (choice.text, choice.reasoning, choice.finish_reason) == ("24", "Hm.", "stop")
    assert reply.tokens == TokenCounts(prompt=5, completion=7)


@pytest.mark.parametrize(
    ("reason", "expected"), [("stop_sequence", "stop"), ("max_tokens", "length"), ("refusal", "content_filter")]
)
def test_stop_reasons(reason, expected):
    assert messages().parse({"content": [], "stop_reason": reason}).choices[0].finish_reason == expected


@pytest.mark.parametrize("size", [1, 64, 10_000])
def test_a_stream(size):
    reader, parser, deltas = messages().reader(), SSEParser(), []
    for start in range(0, len(STREAM), size):
        for event in parser.feed(STREAM[start : start + size]):
            deltas += reader.feed(event)
    assert reader.is_complete
    reply = reader.finish()
    assert (reply.choices[0].text, reply.choices[0].reasoning) == ("24", "Six times four.")
    assert reply.choices[0].finish_reason == "length"
    # Cached tokens are counted beside the others on this wire.
    assert reply.tokens == TokenCounts(prompt=115, completion=12, cached=100)
    assert [d.is_reasoning for d in deltas] == [True, False, False]
    assert reply.model == "claude-sonnet-4-5-20250929"


def test_a_stream_cut_before_its_end():
    reader = messages().reader()
    for event in SSEParser().feed(STREAM)[:-2]:
        reader.feed(event)
    with pytest.raises(TruncatedStreamError):
        reader.finish()


def test_errors():
    overloaded = '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'
    with pytest.raises(BackendError, match="Overloaded") as caught:
        messages().reader().feed(ServerSentEvent("error", overloaded))
    assert caught.value.retryable
    with pytest.raises(BadResponseError):
        messages().parse({"type": "message"})
