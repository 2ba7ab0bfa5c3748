from __future__ import annotations

import asyncio

import pytest

from llmprog.backends.base import StreamingBackend
from llmprog.backends.local.backend import LocalBackend
from llmprog.backends.local.options import LocalOptions
from llmprog.backends.local.streaming import MASK_SIGN, StreamedCompletion
from llmprog.types import Blank, Delta, Prompt, Request, SamplingParams, Template

MASK, END = 0, 1
STEPS = Prompt.from_text("Input: 4 9 10 13\nSteps:")


def read(tokens) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


def make(deltas: list[Delta], **changes) -> StreamedCompletion:
    options = {"mask_id": MASK, "end_ids": (END,), "stop": (), "appends": True, "keeps_tokens": True}
    return StreamedCompletion(0, read, deltas.append, **{**options, **changes})


def tell(text: bytes, **changes) -> list[Delta]:
    """The pieces of a reply that is written byte by byte."""
    deltas: list[Delta] = []
    told = make(deltas, **changes)
    for count in range(len(text) + 1):
        told.update([*text[:count], *[MASK] * (len(text) - count)])
    return deltas


def test_pieces_follow_each_other_in_whole_characters() -> None:
    deltas = tell("aé√𝄞b".encode())
    assert [delta.text for delta in deltas] == ["a", "é", "√", "𝄞", "b"]
    assert not any(delta.replaces for delta in deltas)


def test_what_may_become_a_stop_text_is_held_back() -> None:
    assert [delta.text for delta in tell(b"one\ntwo", stop=("\n\n",))] == ["o", "n", "e", "\nt", "w", "o"]
    assert "".join(delta.text for delta in tell(b"one\n\ntwo", stop=("\n\n", "o\nx"))) == "one"


def test_what_stands_behind_an_end_is_not_told() -> None:
    deltas: list[Delta] = []
    make(deltas).update([97, END, 98])
    assert [delta.text for delta in deltas] == ["a"]


def test_a_canvas_is_told_whole_with_what_of_it_is_settled() -> None:
    deltas: list[Delta] = []
    told = make(deltas, appends=False)
    for canvas in ([0, 0, 0, 0], [0, 98, 0, 0], [97, 98, 0, 100], [97, 98, 99, 100]):
        told.update(canvas)
    told.update([97, 98, 99, 100])
    assert [(delta.text, delta.num_settled) for delta in deltas] == [
        (f"{MASK_SIGN}b", 0),
        (f"ab{MASK_SIGN}d", 2),
        ("abcd", 4),
    ]
    assert all(delta.replaces for delta in deltas)


def test_nothing_is_settled_where_written_tokens_may_change() -> None:
    deltas: list[Delta] = []
    told = make(deltas, appends=False, keeps_tokens=False)
    told.update([97, 98, 0, 0])
    told.finish("xyz")
    assert [(delta.text, delta.num_settled) for delta in deltas] == [("ab", 0), ("xyz", 3)]


@pytest.mark.parametrize("decoder", ["autoregressive", "masked_diffusion", "hybrid"])
async def test_the_pieces_of_a_real_model_add_up_to_what_it_says(decoder) -> None:
    backend = LocalBackend.open(LocalOptions(decoder=decoder))
    assert isinstance(backend, StreamingBackend)
    params = SamplingParams(temperature=0.7, seed=5, stop=("Answer",))
    request = Request(prompt=STEPS, params=params, num_samples=3)
    texts = [""] * 3
    deltas: list[Delta] = []

    def take(delta: Delta) -> None:
        deltas.append(delta)
        before = texts[delta.sample]
        texts[delta.sample] = delta.text if delta.replaces else before + delta.text
        if backend.capabilities.stream == "append":
            assert not delta.replaces

    try:
        completions = await backend.stream(request, take)
        assert [completion.text for completion in completions] == texts
        assert [c.text for c in await backend.generate(request)] == texts
        assert all(len([d for d in deltas if d.sample == i]) > 3 for i in range(3))
        if decoder != "autoregressive":
            for i in range(3):
                for delta in (d for d in deltas if d.sample == i):
                    assert texts[i].startswith(delta.text[: delta.num_settled])
            assert any(MASK_SIGN in delta.text for delta in deltas)
    finally:
        await backend.aclose()


async def test_a_template_comes_as_one_piece_and_a_cancelled_stream_ends() -> None:
    backend = LocalBackend.open(LocalOptions(decoder="masked_diffusion"))
    deltas: list[Delta] = []
    template = Template(Prompt.from_text("Input: 4 9 10 13\nPossible next steps:"), ("13 - 9 =", Blank(1)))
    try:
        filled = await backend.stream(Request(prompt=template, params=SamplingParams(seed=1)), deltas.append)
        assert [(delta.text, delta.replaces) for delta in deltas] == [(filled[0].text, True)]
        told = asyncio.Event()
        streaming = asyncio.create_task(backend.stream(Request(prompt=STEPS, num_samples=64), lambda delta: told.set()))
        await told.wait()
        streaming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await streaming
        assert await backend.generate(Request(prompt=STEPS))
    finally:
        await backend.aclose()
