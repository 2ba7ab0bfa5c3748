"""Chat completions, as the ``openai`` client has them from a real server."""

from __future__ import annotations

import openai
import pytest

PROPOSE = "Input: 4 9 10 13\nPossible next steps:"
MESSAGES = [{"role": "user", "content": PROPOSE}]


def ask(client, **options):
    return client.chat.completions.create(**{"model": "puzzles", "messages": MESSAGES, "max_tokens": 24, **options})


def test_a_reply_and_its_usage(client):
    reply = ask(client, seed=1)
    (choice,) = reply.choices
    assert " = " in choice.message.content
    assert (reply.model, choice.finish_reason) == ("puzzles", "length")
    assert choice.logprobs is None
    assert reply.usage.completion_tokens == 24
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 24


def test_samples_of_a_seed_are_drawn_each_for_itself_and_again_the_same(client):
    texts = [choice.message.content for choice in ask(client, n=4, seed=1).choices]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in ask(client, n=4, seed=1).choices]
    assert texts[0] == ask(client, seed=1).choices[0].message.content


def test_logprobs_are_those_of_the_chosen_tokens(client):
    (choice,) = ask(client, logprobs=True, seed=1).choices
    tokens = choice.logprobs.content
    assert "".join(item.token for item in tokens).split() == choice.message.content.replace(" ", "").split()
    assert all(item.logprob <= 0 and item.top_logprobs == [] for item in tokens)


def test_a_stream_is_the_reply_in_pieces(client):
    whole = [choice.message.content for choice in ask(client, n=2, seed=3, logprobs=True).choices]
    texts, finishes, usage, num_logprobs = ["", ""], [None, None], None, 0
    options = {"include_usage": True}
    for chunk in ask(client, n=2, seed=3, logprobs=True, stream=True, stream_options=options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
            num_logprobs += len(choice.logprobs.content) if choice.logprobs else 0
    assert texts == whole
    assert finishes == ["length", "length"]
    assert usage.completion_tokens == num_logprobs == 48


def test_a_stream_of_a_diffusion_model_is_its_reply(client):
    asked = {"model": "diffusion", "seed": 2}
    whole = ask(client, **asked).choices[0].message.content
    pieces, canvases = [], []
    for chunk in ask(client, **asked, stream=True, stream_options={"include_canvas": True}):
        (choice,) = chunk.choices
        pieces += [choice.delta.content] if choice.delta.content else []
        canvases += [choice.llmprog["canvas"]] if hasattr(choice, "llmprog") else []
    assert "".join(pieces) == canvases[-1] == whole
    assert len(pieces) > 2  # what is before the first mask is sent while the rest is written
    assert any("▒" in canvas for canvas in canvases)
    without = [chunk.choices[0].delta.content or "" for chunk in ask(client, **asked, stream=True)]
    assert "".join(without) == whole


def test_a_stop_text_ends_a_reply_streamed_or_not(client):
    whole = ask(client, seed=1).choices[0].message.content
    end = whole[len(whole) // 2 :].split()[1]
    (choice,) = ask(client, seed=1, stop=end).choices
    assert choice.message.content == whole.partition(end)[0]
    assert choice.finish_reason == "stop"
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, seed=1, stop=[end], stream=True))
    assert streamed == choice.message.content


def test_sampling_parameters_reach_the_model(client):
    greedy = {ask(client, temperature=0, seed=seed).choices[0].message.content for seed in range(4)}
    assert len(greedy) == 1
    only = {ask(client, seed=seed, extra_body={"top_k": 1}).choices[0].message.content for seed in range(4)}
    assert only == greedy
    only = {ask(client, seed=seed, extra_body={"min_p": 0.99}).choices[0].message.content for seed in range(4)}
    assert only == greedy


def test_content_may_come_in_parts_and_what_says_who_asks_is_read_over(client):
    parts = [{"type": "text", "text": PROPOSE[:10]}, {"type": "text", "text": PROPOSE[10:]}]
    reply = ask(
        client, messages=[{"role": "user", "content": parts}], seed=1, user="me", metadata={"a": "b"}, store=True
    )
    assert reply.choices[0].message.content == ask(client, seed=1).choices[0].message.content


def test_the_last_message_can_begin_the_reply(client):
    begun = [*MESSAGES, {"role": "assistant", "content": "13 - 9 ="}]
    reply = ask(client, messages=begun, seed=1, max_tokens=1, extra_body={"continue_final_message": True})
    assert reply.choices[0].message.content.strip() == "4"


@pytest.mark.parametrize(
    ("options", "param", "says"),
    [
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": 1e300}, "temperature", "less than or equal to 100"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"top_logprobs": 2, "logprobs": True}, "top_logprobs", "chosen tokens only"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"logit_bias": {"1": 5}}, "logit_bias", "not supported"),
        ({"extra_body": {"mirostat": 2}}, "mirostat", "unknown field"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "at most 0 items"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "one of them"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'assistant'"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "without stream"),
        (
            {"stream": True, "stream_options": {"include_canvas": True}},
            "stream_options.include_canvas",
            "does not change",
        ),
        ({"response_format": {"type": "json_object"}}, None, "cannot be held to"),
        ({"stop": [""]}, None, "non-empty texts"),
        ({"messages": [{"role": "user", "content": "Hello"}]}, None, "understands prompts that end with"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, options, param, says):
    with pytest.raises(openai.BadRequestError, match=says) as refused:
        ask(client, **options)
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


def test_what_changes_nothing_is_taken(client):
    neutral = {"frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}, "tools": [], "top_p": 1, "n": 1}
    assert ask(client, seed=1, **neutral).choices[0].message.content


def test_an_error_of_a_stream_that_has_not_begun_has_its_status(client):
    with pytest.raises(openai.BadRequestError, match="understands prompts"):
        list(ask(client, messages=[{"role": "user", "content": "Hello"}], stream=True))


def test_an_unknown_model_lists_those_that_are_served(client):
    with pytest.raises(openai.NotFoundError, match="served: puzzles, diffusion") as missing:
        ask(client, model="gpt-17")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
