"""generateContent."""

from pathlib import Path

import pytest

from llmprog.backends.remote.profiles import get_profile
from llmprog.backends.remote.protocols import open_protocol
from llmprog.backends.remote.sse import SSEParser
from llmprog.backends.remote.wire import ModelCall, TokenCounts
from llmprog.errors import BackendError, BadResponseError, TruncatedStreamError
from llmprog.types import Choices, JsonSchema, Logprobs, Message, Prompt, SamplingParams

STREAM = (Path(__file__).parent / "wire" / "gemini.sse").read_bytes()


def gemini():
    return open_protocol(get_profile("gemini"), "test:model")


def call(model="gemini-2.5-flash", *, num_samples=1, stream=False, **params):
    messages = (Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    params = SamplingParams(**params)
    return ModelCall(model=model, prompt=Prompt(messages), params=params, num_samples=num_samples, stream=stream)


def candidate(text="24", **changes):
    return {"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": "STOP", **changes}


def test_a_request():
    sent = gemini().request(call(num_samples=2, top_k=4, top_p=0.5, seed=3, stop=("x",), logprobs=True))
    assert sent.path == "/models/gemini-2.5-flash:generateContent"
    assert sent.body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "a"}]},
            {"role": "model", "parts": [{"text": "b"}]},
            {"role": "user", "parts": [{"text": "c"}]},
        ],
        "generationConfig": {
            "temperature": 0.7,
            "maxOutputTokens": 256,
            "topP": 0.5,
            "topK": 4,
            "stopSequences": ["x"],
            "seed": 3,
            "candidateCount": 2,
            "responseLogprobs": True,
        },
    }


def test_paths():
    assert gemini().request(call(stream=True)).path == "/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert gemini().request(call("tunedModels/x?y")).path == "/tunedModels/x%3Fy:generateContent"


def test_guided_output():
    schema = gemini().request(call(guided=JsonSchema('{"type": "object"}'))).body["generationConfig"]
    assert schema["responseMimeType"] == "application/json"
    assert schema["responseJsonSchema"] == {"type": "object"}
    assert schema["temperature"] == 0.7
    choice = gemini().request(call(guided=Choices(("a", "b")))).body["generationConfig"]
    assert choice["responseSchema"] == {"type": "STRING", "enum": ["a", "b"]}


def test_an_answer():
    chosen = {"chosenCandidates": [{"token": "24", "tokenId": 1, "logProbability": -0.5}]}
    reply = gemini().parse({"candidates": [candidate("B", index=1), candidate("A", logprobsResult=chosen)]})
    assert [c.text for c in reply.choices] == ["A", "B"]
    assert reply.choices[0].logprobs == Logprobs(tokens=("24",), logprobs=(-0.5,))
    assert reply.tokens == TokenCounts()


@pytest.mark.parametrize(
    ("reason", "expected"), [("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("OTHER", "error")]
)
def test_finish_reasons(reason, expected):
    assert gemini().parse({"candidates": [{"finishReason": reason}]}).choices[0].finish_reason == expected


def test_a_blocked_prompt_is_an_outcome():
    choice = gemini().parse({"promptFeedback": {"blockReason": "SAFETY"}}).choices[0]
    assert (choice.text, choice.finish_reason) == ("", "content_filter")


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_stream(size):
    reader, parser, deltas = gemini().reader(), SSEParser(), []
    for start in range(0, len(STREAM), size):
        for event in parser.feed(STREAM[start : start + size]):
            deltas += reader.feed(event)
    reply = reader.finish()
    assert [(d.text, d.is_reasoning) for d in deltas] == [("Think first.", True), ("2", False), ("4", False)]
    assert (reply.choices[0].text, reply.choices[0].reasoning) == ("24", "Think first.")
    # Thoughts are counted beside the candidates on this wire.
    assert reply.tokens == TokenCounts(prompt=8, completion=12, cached=4, reasoning=10)
    assert (reply.model, reply.id) == ("gemini-2.5-flash", "r1")


def test_a_stream_cut_before_its_end():
    reader = gemini().reader()
    for event in SSEParser().feed(STREAM)[:-1]:
        reader.feed(event)
    with pytest.raises(TruncatedStreamError):
        reader.finish()


def test_errors():
    with pytest.raises(BackendError, match="overloaded") as caught:
        gemini().parse({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}})
    assert caught.value.retryable
    for body in ([], {}, {"choices": []}):
        with pytest.raises(BadResponseError):
            gemini().parse(body)
