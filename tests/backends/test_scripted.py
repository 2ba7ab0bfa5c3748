from __future__ import annotations

import asyncio

import pytest

from llmprog import Blank, Completion, Prompt, SamplingParams, Template
from llmprog.backends import Backend, ScriptedBackend
from llmprog.errors import BackendError, CapabilityError
from llmprog.types import Request


def asking(text, num_samples=1, first_sample=0):
    return Request(prompt=Prompt.from_text(text), num_samples=num_samples, first_sample=first_sample)


async def texts(backend, *request):
    return [c.text for c in await backend.generate(asking(*request))]


async def test_replies_by_mapping_begin_again_after_the_last():
    backend = ScriptedBackend({"one": "a", "many": ["x", "y", "z"]})
    assert await texts(backend, "one", 2) == ["a", "a"]
    assert await texts(backend, "many", 4, 1) == ["y", "z", "x", "y"]
    with pytest.raises(BackendError, match="no reply is scripted for the prompt 'other'"):
        await texts(backend, "other")


async def test_replies_by_function_and_whole_completions():
    whole = Completion(text="w", finish_reason="length")
    backend = ScriptedBackend(lambda text, sample: whole if sample else f"{text}!")
    assert (await backend.generate(asking("q", 2)))[1] is whole
    first = (await backend.generate(asking("a b c")))[0]
    assert (first.usage.calls, first.usage.prompt_tokens, first.usage.completion_tokens) == (1, 3, 3)


async def test_shuffled_calls_are_answered_out_of_order_and_rightly():
    backend = ScriptedBackend(lambda text, sample: text, shuffle=1)
    order = []

    async def ask(text):
        order.extend(await texts(backend, text))

    await asyncio.gather(*(ask(str(i)) for i in range(12)))
    assert order != sorted(order, key=int)
    assert sorted(order, key=int) == [str(i) for i in range(12)]
    assert backend.num_in_flight == 0


async def test_a_cancelled_call_leaves_nothing():
    backend = ScriptedBackend({"q": "a"}, latency_s=60)
    call = asyncio.ensure_future(backend.generate(asking("q")))
    await asyncio.sleep(0)
    assert backend.num_in_flight == 1
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert backend.num_in_flight == 0


async def test_it_is_a_backend_and_says_what_it_cannot_do():
    backend = ScriptedBackend({})
    assert isinstance(backend, Backend)
    with pytest.raises(CapabilityError, match="no likelihoods"):
        await backend.score(Prompt.from_text("q"), ["a"])
    with pytest.raises(CapabilityError, match="fills no blanks"):
        await backend.infill(Template(Prompt.from_text("q"), (Blank(1),)), SamplingParams())
    await backend.aclose()
    await backend.aclose()
