"""Chat completions: what is sent under each profile, what answers and streams mean."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog.backends.remote.profiles import built_in_profiles, get_profile
from llmprog.backends.remote.protocols import open_protocol
from llmprog.backends.remote.sse import ServerSentEvent, SSEParser
from llmprog.backends.remote.wire import ModelCall, TokenCounts
from llmprog.errors import (
    AuthenticationError,
    BackendError,
    BadResponseError,
    CapabilityError,
    QuotaError,
    RateLimitError,
    RequestRefusedError,
    TruncatedStreamError,
)
from llmprog.redaction import register_secret
from llmprog.types import Choices, Delta, JsonSchema, Logprobs, Message, Prompt, Regex, SamplingParams

WIRE = Path(__file__).parent / "wire"
SCHEMA = JsonSchema.of(
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
)


def chat(profile="openai", **changes):
    return open_protocol(replace(get_profile(profile), **changes), "test:model")


def call(prompt="hi", *, num_samples=1, stream=False, prefix="", **params):
    asked = Prompt((Message("system", "Be brief."), Message("user", prompt)), prefix)
    return ModelCall(model="m", prompt=asked, params=SamplingParams(**params), num_samples=num_samples, stream=stream)


def body(profile, **kwargs):
    return chat(profile).request(call(**kwargs)).body


def stream(protocol, data, size=None):
    """The deltas and the reply of a stream fed in pieces of ``size`` bytes."""
    reader, parser, deltas = protocol.reader(), SSEParser(), []
    size = size or len(data)
    for start in range(0, len(data), size):
        for event in parser.feed(data[start : start + size]):
            deltas += reader.feed(event)
    return deltas, reader


def event(value, name="message"):
    return ServerSentEvent(name, value if isinstance(value, str) else json.dumps(value))


def pieces(*texts, finish="stop"):
    """A stream of one choice."""
    events = [event({"choices": [{"index": 0, "delta": {"content": text}}]}) for text in texts]
    return [*events, event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}), event("[DONE]")]


def put_together(deltas, is_reasoning=False):
    text = ""
    for delta in deltas:
        if delta.is_reasoning == is_reasoning:
            text = delta.text if delta.replaces else text + delta.text
    return text


def answer(content="24", **message):
    return {"choices": [{"index": 0, "message": {"content": content, **message}, "finish_reason": "stop"}]}


class TestRequest:
    def test_a_hosted_chat_call(self):
        sent = chat().request(call(num_samples=3, stop=("\n",), seed=7, max_tokens=9, temperature=0.5, logprobs=True))
        assert (sent.method, sent.path, sent.stream) == ("POST", "/chat/completions", False)
        assert sent.body == {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
            "temperature": 0.5,
            "max_completion_tokens": 9,
            "stop": ["\n"],
            "seed": 7,
            "n": 3,
            "logprobs": True,
            "top_logprobs": 1,
        }

    def test_a_stream_asks_for_usage(self):
        sent = chat().request(call(stream=True))
        assert sent.stream
        assert sent.body["stream"] is True
        assert sent.body["stream_options"] == {"include_usage": True}

    def test_servers_with_defaults_of_their_own_are_told_the_neutral_values(self):
        sent = body("llamacpp")
        assert (sent["top_p"], sent["top_k"], sent["min_p"], sent["cache_prompt"]) == (1.0, 0, 0.0, True)
        assert body("vllm")["top_k"] == -1
        assert not {"top_p", "top_k", "min_p"} & set(body("openai"))

    def test_the_reply_begins_with_the_prefix(self):
        vllm = body("vllm", prefix="Sure")
        assert vllm["messages"][-1] == {"role": "assistant", "content": "Sure"}
        assert (vllm["add_generation_prompt"], vllm["continue_final_message"]) == (False, True)
        deepseek = chat("deepseek").request(call(prefix="Sure"))
        assert deepseek.path == "/beta/chat/completions"
        assert deepseek.body["messages"][-1] == {"role": "assistant", "content": "Sure", "prefix": True}

    @pytest.mark.parametrize(
        ("profile", "guided", "field", "value"),
        [
            ("vllm", Choices(("a", "b")), "structured_outputs", {"choice": ["a", "b"]}),
            ("vllm", Regex("[0-9]+"), "structured_outputs", {"regex": "[0-9]+"}),
            ("sglang", Regex("[0-9]+"), "regex", "[0-9]+"),
            ("sglang", Choices(("a.b", "c d\n")), "regex", r"(a\.b|c d\n)"),
            ("llamacpp", Choices(('say "x"', "a\\b\n")), "grammar", r'root ::= "say \"x\"" | "a\\b\n"'),
        ],
    )
    def test_guided_output(self, profile, guided, field, value):
        assert body(profile, guided=guided)[field] == value

    def test_a_schema_is_strict_where_it_names_all_fields(self):
        sent = body("openai", guided=SCHEMA)["response_format"]
        assert sent["type"] == "json_schema"
        assert sent["json_schema"]["strict"] is True
        assert (
            body("openai", guided=JsonSchema('{"type": "object"}'))["response_format"]["json_schema"]["strict"] is False
        )

    @pytest.mark.parametrize(
        ("profile", "kwargs", "words"),
        [
            ("openai", {"top_k": 5}, ["top_k=5", "vllm"]),
            ("openai", {"min_p": 0.1}, ["min_p=0.1", "openrouter"]),
            ("mercury", {"logprobs": True}, ["logprobs=True", "openai"]),
            ("openai", {"prefix": "So"}, ["'So'", "anthropic", "vllm"]),
            ("openai", {"guided": Regex("a")}, ["'regex'", "vllm, sglang"]),
            ("openai", {"stop": tuple("abcde")}, ["at most 4"]),
            ("ollama", {"num_samples": 2}, ["num_samples=2", "vllm"]),
        ],
    )
    def test_what_cannot_be_expressed_is_refused_naming_what_can(self, profile, kwargs, words):
        with pytest.raises(CapabilityError) as caught:
            chat(profile).request(call(**kwargs))
        assert all(word in str(caught.value) for word in words)
        assert "\n" not in str(caught.value)

    def test_a_seed_that_is_not_supported_is_not_sent(self):
        assert "seed" not in body("deepseek", seed=3)

    def test_the_profile_has_the_last_word(self):
        protocol = chat(extra_body={"temperature": 1, "metadata": {"a": "b"}}, omit=("max_completion_tokens",))
        sent = protocol.request(call()).body
        assert sent["temperature"] == 1
        assert sent["metadata"] == {"a": "b"}
        assert "max_completion_tokens" not in sent

    def test_every_request_is_json(self):
        for name, profile in built_in_profiles().items():
            json.dumps(open_protocol(profile, name).request(call(stream=True)).body)


class TestParse:
    def test_choices_come_in_sample_order_and_gaps_close(self):
        choices = [{"index": i, "message": {"content": str(i)}, "finish_reason": "stop"} for i in (3, 0, 1)]
        assert [c.text for c in chat().parse({"choices": choices}).choices] == ["0", "1", "3"]

    def test_a_full_answer(self):
        logprobs = {"content": [{"token": "2", "logprob": -0.5}, {"token": "4", "logprob": 0}]}
        reply = chat().parse(
            {
                "id": "x",
                "model": "gpt-5-mini-2025-08-07",
                "choices": [{"message": {"content": "24"}, "finish_reason": "length", "logprobs": logprobs}],
                "usage": {"prompt_tokens": 5, "completion_tokens": 2},
            }
        )
        choice = reply.choices[0]
        assert (reply.id, reply.model, choice.text, choice.finish_reason) == (
            "x",
            "gpt-5-mini-2025-08-07",
            "24",
            "length",
        )
        assert choice.logprobs == Logprobs(tokens=("2", "4"), logprobs=(-0.5, 0.0))
        assert reply.tokens == TokenCounts(prompt=5, completion=2)

    @pytest.mark.parametrize(
        "usage",
        [
            None,
            {},
            [],
            {"prompt_tokens": -1, "completion_tokens": None},
            {"prompt_tokens": "3", "completion_tokens": True},
            {"prompt_tokens": 10**30, "completion_tokens": 1e300},
        ],
    )
    def test_usage_that_says_nothing_is_unknown(self, usage):
        assert chat().parse({**answer(), "usage": usage}).tokens == TokenCounts()

    def test_subsets_never_exceed_their_whole(self):
        usage = {"prompt_tokens": 4, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}
        assert chat().parse({**answer(), "usage": usage}).tokens == TokenCounts(prompt=4, completion=3, cached=4)

    @pytest.mark.parametrize(
        "message",
        [
            {"reasoning_content": "why"},
            {"reasoning": "why"},
            {"reasoning": "why", "reasoning_content": "why"},
            {"reasoning": "why", "reasoning_details": [{"type": "reasoning.text", "text": "why"}]},
            {"reasoning_details": [{"type": "reasoning.summary", "summary": "why"}, {"type": "reasoning.encrypted"}]},
            {"content": "<think>why</think>\n\n24"},
            {"content": "why</think>24"},
        ],
    )
    def test_reasoning_is_kept_apart_under_any_of_its_names(self, message):
        choice = chat().parse(answer(**message)).choices[0]
        assert (choice.text, choice.reasoning) == ("24", "why")

    def test_an_unclosed_tag_is_reasoning_without_an_answer(self):
        choice = chat().parse(answer("<think>why and so on")).choices[0]
        assert (choice.text, choice.reasoning) == ("", "why and so on")

    def test_a_tag_within_a_text_is_text(self):
        assert chat().parse(answer("Write <think> first.")).choices[0].text == "Write <think> first."

    def test_content_in_parts(self):
        parts = [{"type": "text", "text": "2"}, {"type": "thinking", "thinking": []}, {"type": "text", "text": "4"}]
        assert chat().parse(answer(parts)).choices[0].text == "24"

    def test_a_refusal_is_an_outcome(self):
        choice = chat().parse(answer(None, refusal="I cannot.")).choices[0]
        assert (choice.text, choice.finish_reason) == ("I cannot.", "content_filter")

    @pytest.mark.parametrize(
        ("given", "expected"),
        [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("eos", "stop"), (None, "stop")],
    )
    def test_finish_reasons(self, given, expected):
        choices = [{"message": {"content": ""}, "finish_reason": given}]
        assert chat().parse({"choices": choices}).choices[0].finish_reason == expected

    @pytest.mark.parametrize("reason", ["abort", "insufficient_system_resource"])
    def test_a_server_that_gave_up_midway_gave_no_completion(self, reason):
        with pytest.raises(TruncatedStreamError) as caught:
            chat("deepseek").parse({"choices": [{"message": {"content": "x"}, "finish_reason": reason}]})
        assert caught.value.retryable

    @pytest.mark.parametrize("nothing", [None, [], "text", 3, {}, {"choices": None}, {"choices": {}}])
    def test_json_that_is_no_reply(self, nothing):
        with pytest.raises(BadResponseError) as caught:
            chat().parse(nothing)
        assert caught.value.retryable

    @pytest.mark.parametrize(
        ("error", "kind", "retryable"),
        [
            ({"message": "Over quota", "code": "insufficient_quota"}, QuotaError, False),
            ({"message": "Slow", "code": 429}, RateLimitError, True),
            (
                {"message": "Bad key", "code": "invalid_api_key", "type": "invalid_request_error"},
                AuthenticationError,
                False,
            ),
            ({"message": "Too long", "type": "BadRequestError", "code": 400}, RequestRefusedError, False),
            ({"message": "Bad gateway", "code": 502}, BackendError, True),
            ({"message": "Busy", "type": "overloaded_error"}, BackendError, True),
            ("something", BackendError, True),
        ],
    )
    def test_an_error_object_in_a_success(self, error, kind, retryable):
        with pytest.raises(BackendError) as caught:
            chat().parse({"error": error})
        assert type(caught.value) is kind
        assert caught.value.retryable is retryable

    def test_an_error_of_one_choice(self):
        with pytest.raises(BackendError, match="upstream") as caught:
            chat("openrouter").parse(
                {"choices": [{"message": {"content": ""}, "error": {"code": 503, "message": "upstream"}}]}
            )
        assert caught.value.retryable

    def test_no_message_shows_a_key(self):
        register_secret("sk-canary-0123456789")
        with pytest.raises(BackendError) as caught:
            chat().parse({"error": {"message": "x" * 290 + "sk-canary-0123456789"}})
        assert "canary" not in str(caught.value)
        with pytest.raises(BadResponseError) as caught:
            chat().parse({"leak": ["sk-canary-0123456789"]})
        assert "canary" not in str(caught.value)


class TestStream:
    @pytest.mark.parametrize("size", [1, 7, 4096])
    def test_interleaved_choices(self, size):
        deltas, reader = stream(chat(), (WIRE / "chat_openai.sse").read_bytes(), size)
        assert reader.is_complete
        reply = reader.finish()
        first, second = reply.choices
        assert (first.text, first.finish_reason) == ("4 * 6 = 24", "stop")
        assert first.logprobs == Logprobs(tokens=("4 *", " 6"), logprobs=(-0.5, -0.25))
        assert (second.text, second.finish_reason) == ("Zwei", "length")
        assert reply.tokens == TokenCounts(prompt=19, completion=10, cached=16, reasoning=3)
        assert (reply.model, reply.id) == ("gpt-5-mini-2025-08-07", "chatcmpl-1")
        assert [d.text for d in deltas if d.sample == 0] == ["4 * 6", " = 24"]

    def test_reasoning_content(self):
        deltas, reader = stream(chat("deepseek"), (WIRE / "chat_deepseek.sse").read_bytes())
        reply = reader.finish()
        assert (reply.choices[0].text, reply.choices[0].reasoning) == ("24", "First think.")
        assert reply.tokens == TokenCounts(prompt=12, completion=8, cached=4, reasoning=6)
        assert put_together(deltas, is_reasoning=True) == "First think."

    def test_replacing_deltas(self):
        deltas, reader = stream(chat("mercury"), (WIRE / "chat_mercury.sse").read_bytes())
        assert deltas[1] == Delta(sample=0, text="The answer 24", replaces=True)
        assert reader.finish().choices[0].text == put_together(deltas) == "The answer is 24"

    def test_an_error_object_midway(self):
        with pytest.raises(BackendError, match="EngineCore") as caught:
            stream(chat("vllm"), (WIRE / "chat_overloaded.sse").read_bytes())
        assert caught.value.retryable
        assert caught.value.possibly_billed

    def test_an_event_named_error(self):
        with pytest.raises(RateLimitError):
            chat().reader().feed(event({"message": "slow down", "code": 429}, name="error"))

    @pytest.mark.parametrize("kept", [0, 1, 2])
    def test_an_end_without_a_finish_reason_is_truncated(self, kept):
        reader = chat().reader()
        for item in pieces("a", "b")[:kept]:
            reader.feed(item)
        with pytest.raises(TruncatedStreamError) as caught:
            reader.finish()
        assert caught.value.retryable
        assert caught.value.possibly_billed

    def test_done_does_not_stand_in_for_a_finish_reason(self):
        reader = chat().reader()
        reader.feed(pieces("a")[0])
        reader.feed(event("[DONE]"))
        assert reader.is_complete
        with pytest.raises(TruncatedStreamError):
            reader.finish()

    def test_usage_alone_ends_a_stream_that_is_never_done(self):
        reader = chat().reader()
        for item in pieces("a")[:-1]:
            reader.feed(item)
        assert not reader.is_complete
        reader.feed(event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}))
        assert reader.is_complete

    @pytest.mark.parametrize("data", ["null", "[1]", '"x"', "{", '{"a":1,"a":2}', '{"a":NaN}', "[" * 100_000, "<html>"])
    def test_data_that_is_no_object(self, data):
        with pytest.raises(BadResponseError):
            chat().reader().feed(event(data))

    def test_an_absurd_index(self):
        with pytest.raises(BadResponseError):
            chat().reader().feed(event({"choices": [{"index": 10**9, "delta": {"content": "x"}}]}))

    @given(
        st.sampled_from(
            [
                "<think>why</think>\n\n24",
                "\n<think>\nwhy\n</think>24</think>",
                "why</think>\n24",
                "<think>never ends </thin",
                "a < b, <thin",
                "24",
                "  ",
                "</think>",
            ]
        ),
        st.lists(st.integers(1, 5), max_size=30),
    )
    def test_tags_split_anywhere_are_read_alike(self, text, sizes):
        whole = chat().parse(answer(text)).choices[0]
        parts, rest = [], text
        for size in sizes:
            parts.append(rest[:size])
            rest = rest[size:]
        reader, deltas = chat().reader(), []
        for item in pieces(*parts, rest):
            deltas += reader.feed(item)
        choice = reader.finish().choices[0]
        assert choice == whole
        assert put_together(deltas) == choice.text
        assert put_together(deltas, is_reasoning=True) == (choice.reasoning or "")
