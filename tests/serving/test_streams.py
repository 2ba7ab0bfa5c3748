"""What a stream sends, event by event, of backends that write in scripted pieces."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx
import pytest

from llmprog.backends import Capabilities, ScriptedBackend
from llmprog.serving.background import serving
from llmprog.types import Completion, Delta

ASKED = {"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": True}


class Pieces(ScriptedBackend):
    """Tells of scripted pieces, then answers."""

    def __init__(self, completion, *deltas, **options):
        super().__init__("", **options)
        self.capabilities = Capabilities(stream="append", n=True)
        self._completion = completion
        self._deltas = deltas

    async def generate(self, request):
        return [self._completion] * request.num_samples

    async def stream(self, request, on_delta):
        for delta in self._deltas:
            on_delta(delta)
        return await self.generate(request)


@pytest.fixture
def streamed():
    """The raw text of a stream of a backend, and its events."""

    def ask(backend, **options):
        with serving({"m": backend}, {}) as base:
            text = httpx.post(f"{base}/chat/completions", json=ASKED | options, timeout=30).text
        lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        return text, [json.loads(line) for line in lines if line != "[DONE]"]

    return ask


def contents(events, key="content"):
    return [choice["delta"][key] for event in events for choice in event["choices"] if choice["delta"].get(key)]


def test_reasoning_is_kept_apart(streamed):
    deltas = [Delta(sample=0, text="hm", is_reasoning=True), Delta(sample=0, text="yes")]
    _, events = streamed(Pieces(Completion(text="yes", reasoning="hm"), *deltas))
    assert (contents(events, "reasoning_content"), contents(events)) == (["hm"], ["yes"])
    _, events = streamed(Pieces(Completion(text="yes", reasoning="hm")))
    assert (contents(events, "reasoning_content"), contents(events)) == (["hm"], ["yes"])


def test_a_reply_that_begins_anew_after_a_part_was_sent_ends_in_an_error(streamed):
    deltas = [Delta(sample=0, text="one"), Delta(sample=0, text="", replaces=True), Delta(sample=0, text="two")]
    text, events = streamed(Pieces(Completion(text="two"), *deltas))
    assert contents(events[:-1]) == ["one"]
    assert events[-1]["error"]["code"] == "reply_changed"
    assert "[DONE]" not in text


def test_events_are_lines_whatever_they_hold(streamed):
    hostile = "a\u2028b\u0085c\r\n\nd\ud800e"
    text, events = streamed(Pieces(Completion(text=hostile), Delta(sample=0, text=hostile)))
    assert "".join(contents(events)) == hostile.replace("\ud800", "\ufffd")
    assert text.splitlines() == text.split("\n")[:-1]


def test_a_backend_that_does_not_stream_sends_one_piece_and_keeps_the_connection_alive():
    is_waited_for = threading.Event()

    class Late(ScriptedBackend):
        async def generate(self, request):
            await asyncio.to_thread(is_waited_for.wait, 100)
            return await super().generate(request)

    with (
        serving({"m": Late(lambda *_: "late")}, {}) as base,
        httpx.stream("POST", f"{base}/chat/completions", json=ASKED, timeout=100) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == ": waiting"
        is_waited_for.set()
        said = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert contents(map(json.loads, said[:-1])) == ["late"]
    assert said[-1] == "[DONE]"


def test_every_choice_begins_and_ends_once(streamed):
    deltas = [Delta(sample=i, text=piece) for piece in ("a", "b") for i in (1, 0, 2)]
    _, events = streamed(Pieces(Completion(text="ab"), *deltas), n=3, stream_options={"include_usage": True})
    assert "usage" in events.pop()
    for index in range(3):
        own = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert [choice["finish_reason"] for choice in own] == [None, None, None, "stop"]


def test_text_completions_number_their_choices_over_all_prompts(streamed):
    backend = Pieces(Completion(text="ab"), Delta(sample=0, text="a"), Delta(sample=1, text="a"))
    with serving({"m": backend}, {}) as base:
        asked = {"model": "m", "prompt": ["x", "y"], "n": 2, "stream": True, "echo": True}
        text = httpx.post(f"{base}/completions", json=asked, timeout=60).text
    found = ["", "", "", ""]
    for line in text.split("\n"):
        if line.startswith("data: {"):
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            found[choice["index"]] += choice["text"]
    assert found == ["xab", "xab", "yab", "yab"]
