"""The remote backend as a whole, against a server on loopback that sends exact bytes."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from exchanging import until

from llmprog import Blank, Choices, JsonSchema, Prompt, Template
from llmprog.backends import Scheduler, open_backend
from llmprog.background_loop import run_sync
from llmprog.errors import (
    AuthenticationError,
    BadResponseError,
    CapabilityError,
    OptionError,
    RequestRefusedError,
    TruncatedStreamError,
)
from llmprog.types import Delta, Request, SamplingParams, Usage

PROMPT = Prompt.from_text("Say something.", system="Be brief.")


def asking(num_samples=1, first_sample=0, prompt=PROMPT, **params):
    return Request(prompt=prompt, params=SamplingParams(**params), num_samples=num_samples, first_sample=first_sample)


def answer(*texts, usage=(10, 6), model="tiny-2"):
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    counts = {} if usage is None else {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}}
    return {"id": "r1", "object": "chat.completion", "model": model, "choices": choices, **counts}


@pytest.fixture
async def opened():
    """``opened(server, query)`` opens the model ``tiny`` of a loopback server."""
    backends = []

    def open_at(server, query=""):
        backends.append(open_backend(f"{server.url}/v1#tiny{query and '?' + query}"))
        return backends[-1]

    yield open_at
    for backend in backends:
        await backend.aclose()


@pytest.fixture
async def talk(serve, wire, opened):
    """A server whose chat completions a function of the request's JSON makes, and its backend."""

    async def start(reply, query=""):
        async def handler(request, writer):
            content = reply(request.json)
            writer.write(content if isinstance(content, bytes) else wire.http(200, content))

        server = await serve(handler)
        return server, opened(server, query)

    return start


def numbered(body):
    """As many answers as asked for, each different."""
    return answer(*(f"text {i}" for i in range(body.get("n", 1))))


# ------------------------------------------------------------------------------------------------ ids and options


@pytest.mark.parametrize(
    ("backend_id", "message"),
    [
        ("http://127.0.0.1:8000/v1", "names no model; expected http://HOST:PORT/v1#MODEL"),
        ("http:tiny", "no address; expected"),
        ("http://127.0.0.1:x/v1#m", "no address; expected"),
        ("http://user:secret-key-1@127.0.0.1/v1#m", r"must not hold a key; .* \?key_env=NAME"),
        ("openai:gpt-5?max_concurrency=0", "option max_concurrency='0' .* allowed is most calls in flight, >= 1"),
        ("openai:gpt-5?first_byte_s=nan", "option first_byte_s='nan'"),
        ("openai:gpt-5?speed=11", "unknown option of openai:gpt-5 'speed'; known: .*max_attempts"),
        ("openai:gpt-5?server=vllm", "it is for ids that are addresses"),
        ("openai:gpt-5?reasoning_effort=huge", "reasoning effort 'huge' .* allowed is none, minimal, low"),
        ("http://127.0.0.1/v1#m?server=nope", "option server='nope' .* generic | vllm"),
    ],
)
def test_a_bad_id_is_one_clear_error_without_secrets(backend_id, message):
    with pytest.raises(OptionError, match=message) as raised:
        open_backend(backend_id)
    assert "secret-key-1" not in str(raised.value)


async def test_a_missing_key_is_said_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    backend = open_backend("openai:gpt-5?base_url=http://127.0.0.1:9/v1")
    with pytest.raises(AuthenticationError, match="no key is set; set OPENAI_API_KEY"):
        await backend.generate(asking())
    await backend.aclose()


async def test_the_key_is_read_when_a_request_is_sent(talk, monkeypatch):
    monkeypatch.setenv("MY_KEY", "first-key-value")
    server, backend = await talk(numbered, "key_env=MY_KEY")
    await backend.generate(asking())
    monkeypatch.setenv("MY_KEY", "other-key-value")
    await backend.generate(asking())
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer first-key-value", "Bearer other-key-value"]


# ------------------------------------------------------------------------------------------------------- samples


async def test_samples_come_in_one_call_where_n_is_honoured(talk):
    server, backend = await talk(numbered, "server=vllm")
    completions = await backend.generate(asking(5))
    assert [c.text for c in completions] == [f"text {i}" for i in range(5)]
    assert [request.json["n"] for request in server.requests] == [5]


async def test_more_than_twenty_samples_are_split(talk):
    server, backend = await talk(numbered, "server=vllm")
    assert len(await backend.generate(asking(45))) == 45
    assert sorted(request.json["n"] for request in server.requests) == [5, 20, 20]


@pytest.mark.fault("provider", "n=5 answered with 3", "the rest is asked for")
async def test_missing_samples_are_asked_for(talk):
    server, backend = await talk(lambda body: answer(*["x", "y", "z"][: body.get("n", 1)]), "server=vllm")
    assert [c.text for c in await backend.generate(asking(5))] == ["x", "y", "z", "x", "y"]
    assert [request.json.get("n", 1) for request in server.requests] == [5, 2]


@pytest.mark.fault("provider", "n ignored", "samples are drawn one by one from then on")
async def test_a_server_that_ignores_n_is_asked_one_by_one(talk):
    server, backend = await talk(lambda body: answer("one"), "server=vllm")
    assert len(await backend.generate(asking(4))) == 4
    assert [request.json.get("n", 1) for request in server.requests] == [4, 1, 1, 1]
    await backend.generate(asking(3))
    assert [request.json.get("n", 1) for request in server.requests[4:]] == [1, 1, 1]


@pytest.mark.fault("provider", "n refused with 400", "samples are drawn one by one from then on")
async def test_a_server_that_refuses_n_is_asked_one_by_one(talk, wire):
    def reply(body):
        return wire.http(400, {"error": {"message": "n must be 1"}}) if body.get("n", 1) > 1 else answer("one")

    server, backend = await talk(reply, "server=vllm")
    assert len(await backend.generate(asking(3))) == 3
    assert len(server.requests) == 4


async def test_a_refusal_for_another_reason_is_raised(talk, wire):
    _, backend = await talk(lambda body: wire.http(400, {"error": {"message": "too long"}}), "server=vllm")
    with pytest.raises(RequestRefusedError, match="too long"):
        await backend.generate(asking(3))


@pytest.mark.fault("provider", "a reply without choices", "BadResponseError after the allowed attempts")
async def test_a_reply_without_choices_is_an_error(talk):
    _, backend = await talk(lambda body: answer(), "max_attempts=1")
    with pytest.raises(BadResponseError, match=r"without a single completion|choices"):
        await backend.generate(asking())


async def test_each_sample_has_a_seed_of_its_own(talk):
    server, backend = await talk(numbered, "server=llamacpp")  # which draws one sample per call
    scheduler = Scheduler(backend)
    await scheduler.generate("node", asking(3, seed=7))
    await scheduler.generate("node", asking(1, first_sample=2, seed=7))
    seeds = [request.json["seed"] for request in server.requests]
    assert len(set(seeds[:3])) == 3
    assert seeds[3] in seeds[:3]
    assert all(0 <= seed < 2**31 for seed in seeds)


async def test_a_reply_ends_before_a_stop_text_that_the_server_ignored(talk):
    _, backend = await talk(lambda body: answer("one\ntwo END three"))
    (completion,) = await backend.generate(asking(stop=("END", "\n\n")))
    assert (completion.text, completion.finish_reason) == ("one\ntwo ", "stop")


@pytest.mark.fault("provider", "length, content_filter", "finish reasons, not errors")
@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_a_reply_cut_short_is_an_outcome(talk, reason):
    body = answer("half a")
    body["choices"][0]["finish_reason"] = reason
    server, backend = await talk(lambda _: body)
    (completion,) = await backend.generate(asking())
    assert (completion.text, completion.finish_reason) == ("half a", reason)
    assert len(server.requests) == 1


@pytest.mark.fault("provider", "changed model id", "the completion says who answered")
async def test_the_model_that_answered_is_named(talk):
    _, backend = await talk(lambda _: answer("x", model="tiny-3-preview"))
    assert (await backend.generate(asking()))[0].model == "tiny-3-preview"


# ---------------------------------------------------------------------------------------------- usage and prices


async def test_usage_is_shared_out_and_priced(talk, tmp_path):
    prices = tmp_path / "prices.toml"
    prices.write_text('date = 2026-01-01\n[vllm]\nsource = "a test"\n"tiny-2" = { input = 1.0, output = 10.0 }\n')
    _, backend = await talk(lambda body: answer("1234", "12", usage=(100, 9)), f"server=vllm&prices={prices}")
    first, second = await backend.generate(asking(2))
    assert first.usage == Usage(1, 100, 6, pytest.approx((100 + 60) / 1e6))
    assert second.usage == Usage(1, 0, 3, pytest.approx(30 / 1e6))
    assert first.model == "tiny-2"


@pytest.mark.fault("provider", "usage missing", "tokens 0 and cost unknown, never 0")
@pytest.mark.parametrize("usage", [None, (-5, 6)])
async def test_unknown_usage_costs_an_unknown_amount(talk, usage):
    _, backend = await talk(lambda body: answer("x", usage=usage))
    (completion,) = await backend.generate(asking())
    assert completion.usage.usd is None
    assert completion.usage.calls == 1
    assert completion.usage.prompt_tokens == 0


# -------------------------------------------------------------------------------------------------------- streams


def events(*pieces, finish="stop", model="tiny-2"):
    """A stream of chat completion chunks, ending with [DONE]."""
    lines = [
        {"id": "s", "model": model, "choices": [{"index": 0, "delta": {"content": p}, "finish_reason": None}]}
        for p in pieces
    ]
    if finish:
        lines.append({"id": "s", "model": model, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return [f"data: {json.dumps(line)}\n\n" for line in lines] + (["data: [DONE]\n\n"] if finish else [])


async def test_a_stream_tells_its_pieces_and_gives_the_whole(talk, wire):
    body = wire.STREAM_HEAD + b"".join(map(wire.chunk, events("Hel", "lo", " you"))) + wire.chunk(b"")
    server, backend = await talk(lambda _: body)
    deltas = []
    (completion,) = await backend.stream(asking(), deltas.append)
    assert completion.text == "Hello you" == "".join(d.text for d in deltas)
    assert [d.text for d in deltas if d.text] == ["Hel", "lo", " you"]
    assert server.requests[0].json["stream"] is True


@pytest.mark.fault("sse", "a stream cut before its finish reason", "tried again; what was shown is withdrawn")
async def test_a_stream_that_breaks_off_is_tried_again_from_the_beginning(talk, wire):
    attempts = iter([events("Wro", "ng", finish=""), events("Right")])
    _, backend = await talk(lambda _: wire.STREAM_HEAD + b"".join(map(wire.chunk, next(attempts))) + wire.chunk(b""))
    deltas = []
    (completion,) = await backend.stream(asking(), deltas.append)
    assert completion.text == "Right"
    assert [d for d in deltas if d.text or d.replaces] == [
        Delta(sample=0, text="Wro"),
        Delta(sample=0, text="ng"),
        Delta(sample=0, text="", replaces=True),
        Delta(sample=0, text="Right"),
    ]


@pytest.mark.fault("sse", "an error object in mid-stream", "tried again if it is an overload")
async def test_an_error_in_mid_stream_is_tried_again(talk, wire):
    error = 'data: {"error": {"message": "overloaded", "type": "overloaded_error", "code": 529}}\n\n'
    attempts = iter([[*events("Wro", finish=""), error], events("Right")])
    _, backend = await talk(lambda _: wire.STREAM_HEAD + b"".join(map(wire.chunk, next(attempts))) + wire.chunk(b""))
    (completion,) = await backend.stream(asking(), lambda _: None)
    assert completion.text == "Right"


@pytest.mark.fault("sse", "every attempt cut", "TruncatedStreamError, possibly billed; never a completion")
async def test_streams_that_always_break_off_are_an_error(talk, wire):
    body = wire.STREAM_HEAD + b"".join(map(wire.chunk, events("half", finish=""))) + wire.chunk(b"")
    _, backend = await talk(lambda _: body, "max_attempts=1")
    with pytest.raises(TruncatedStreamError) as raised:
        await backend.stream(asking(), lambda _: None)
    assert raised.value.possibly_billed


async def test_a_server_that_does_not_stream_is_read_whole(talk):
    _, backend = await talk(lambda _: answer("all at once"))
    deltas = []
    (completion,) = await backend.stream(asking(), deltas.append)
    assert completion.text == "all at once" == deltas[-1].text


# ------------------------------------------------------------------------------------------ what it cannot do, can do


async def test_guided_output_is_validated_here(talk):
    texts = iter(["yes", "maybe"])
    _, backend = await talk(lambda _: answer(next(texts)), "server=vllm")
    good, bad = [(await backend.generate(asking(guided=Choices(("yes", "no")))))[0] for _ in range(2)]
    assert good.violation is None
    assert "maybe" in bad.violation


async def test_guided_output_a_server_cannot_do_is_refused_unsent(talk):
    server, backend = await talk(numbered)
    with pytest.raises(CapabilityError, match="it can to no form"):
        await backend.generate(asking(guided=JsonSchema.of({"type": "object"})))
    with pytest.raises(CapabilityError, match="no log-probabilities"):
        await backend.generate(asking(logprobs=True))
    with pytest.raises(CapabilityError):
        await backend.score(PROMPT, ["x"])
    with pytest.raises(CapabilityError):
        await backend.infill(Template(PROMPT, ("a", Blank(3), "b")), SamplingParams())
    assert server.requests == []


async def test_a_blank_is_filled_by_a_provider_that_can(serve, wire, monkeypatch):
    monkeypatch.setenv("INCEPTION_API_KEY", "mercury-key-1234")
    server = await serve(
        wire.http(200, {"id": "f", "model": "m", "choices": [{"index": 0, "text": "two", "finish_reason": "stop"}]})
    )
    backend = open_backend(f"mercury:mercury-2?base_url={server.url}/v1")
    template = Template(Prompt(()), ("one ", Blank(3), " three"))
    filled = await backend.infill(template, SamplingParams(), 2)
    await backend.aclose()
    assert [c.text for c in filled] == ["one two three"] * 2
    assert server.requests[0].path == "/v1/fim/completions"
    assert (server.requests[0].json["prompt"], server.requests[0].json["suffix"]) == ("one ", " three")


# --------------------------------------------------------------------------------------------- loops and closing


async def test_connections_are_reused_and_closed(talk):
    server, backend = await talk(numbered)
    for _ in range(5):
        await backend.generate(asking())
    assert server.num_connections == 1
    await backend.aclose()
    await backend.aclose()
    await until(lambda: server.num_open == 0)
    assert (await backend.generate(asking()))[0].text == "text 0"  # it opens again when needed


async def test_one_backend_serves_several_loops(talk):
    server, backend = await talk(numbered)
    await backend.generate(asking())
    await asyncio.to_thread(run_sync, backend.generate(asking()))
    await asyncio.to_thread(asyncio.run, backend.generate(asking()))
    gc.collect()
    assert server.num_connections == 3
    await until(lambda: server.num_open == 2)  # what asyncio.run opened was closed with its loop


async def test_backends_of_one_account_share_its_connections(serve, wire, opened):
    server = await serve(wire.http(200, answer("x")))
    backends = [open_backend(f"{server.url}/v1#{model}") for model in ("a", "b")]
    for backend in backends:
        await backend.generate(asking())
    assert server.num_connections == 1
    assert [request.json["model"] for request in server.requests] == ["a", "b"]
    for backend in backends:
        await backend.aclose()
