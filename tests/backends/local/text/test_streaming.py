from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from llmprog.backends.base import StreamingBackend
from llmprog.backends.local.backend import LocalBackend
from llmprog.backends.local.decoders.base import Seen
from llmprog.backends.local.options import LocalOptions
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.text.streaming import MASK_SIGN, StreamedCompletion, TokenTexts
from llmprog.types import Blank, CanvasToken, Delta, Prompt, Request, SamplingParams, Template

MASK, END = 0, 1
STEPS = Prompt.from_text("Input: 4 9 10 13\nSteps:")


def letters(text: str) -> str:
    """``text`` without its spaces: a canvas has one before every word, also behind a bracket."""
    return "".join(text.split())


def read(tokens) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


def make(deltas: list[Delta], **changes) -> StreamedCompletion:
    options = {"mask_id": MASK, "end_ids": (END,), "stop": (), "appends": True, "keeps_tokens": True}
    return StreamedCompletion(0, read, lambda token: read([token]), deltas.append, **{**options, **changes})


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


WATCHED = {
    "quota": LocalOptions(decoder="masked_diffusion", unmask="quota"),
    "threshold": LocalOptions(decoder="masked_diffusion", unmask="threshold"),
    "credit": LocalOptions(decoder="masked_diffusion", unmask="credit"),
    "remasked": LocalOptions(decoder="masked_diffusion", unmask="quota", remask="cap", remask_eta=0.4),
    "cached": LocalOptions(decoder="masked_diffusion", cache="dual"),
    "block": LocalOptions(decoder="block_diffusion"),
    "uniform": LocalOptions(decoder="uniform_diffusion"),
    "mdlm": LocalOptions(decoder="mdlm"),
    "first hitting": LocalOptions(decoder="mdlm", sampler="first_hitting"),
    "score entropy": LocalOptions(decoder="score_entropy"),
    "hybrid": LocalOptions(decoder="hybrid", alpha0=0.5),
    "hybrid, variant a": LocalOptions(decoder="hybrid", variant="a", alpha0=0.5),
}


@pytest.mark.parametrize("options", WATCHED.values(), ids=WATCHED)
async def test_a_canvas_is_told_token_by_token_with_how_likely_each_was(options) -> None:
    backend = LocalBackend.open(options)
    request = Request(prompt=STEPS, params=SamplingParams(temperature=0.9, seed=3), num_samples=4)
    told: dict[int, list[Delta]] = {sample: [] for sample in range(4)}
    try:
        completions, unwatched = await asyncio.gather(
            backend.stream(request, lambda delta: told[delta.sample].append(delta)),
            backend.generate(replace(request, first_sample=4)),
        )
        whole = await backend.generate(replace(request, num_samples=8))
    finally:
        await backend.aclose()
    assert [c.text for c in (*completions, *unwatched)] == [c.text for c in whole]
    for sample, deltas in told.items():
        canvases = [delta.canvas for delta in deltas]
        assert all(canvas is not None for canvas in canvases)
        first, last = canvases[0], canvases[-1]
        assert len(canvases) > 3
        assert all(token.text is None for token in first)
        assert letters("".join(token.text for token in last)) == letters(completions[sample].text)
        assert all(token.probability is not None and 0 <= token.probability <= 1 for token in last)
        for canvas in canvases:
            assert all((token.text is None) == (token.probability is None) for token in canvas)
        for before, after in pairwise(deltas):
            assert (before.text, before.canvas) != (after.text, after.canvas)
        if options.remask is None and options.decoder != "uniform_diffusion":
            for canvas in canvases:
                assert all(now.text is None or now == end for now, end in zip(canvas, last, strict=False))
    changed = any(
        old.text is not None and old != new
        for deltas in told.values()
        for before, after in pairwise(deltas)
        for old, new in zip(before.canvas, after.canvas, strict=False)
    )
    assert changed == (options.remask is not None or options.decoder == "uniform_diffusion")


async def test_written_left_to_right_the_probabilities_are_the_likelihood() -> None:
    backend = LocalBackend.open(LocalOptions(decoder="hybrid", alpha0=0.0))
    deltas: list[Delta] = []
    try:
        (completion,) = await backend.stream(Request(prompt=STEPS, params=SamplingParams(seed=11)), deltas.append)
        (scored,) = await backend.score(STEPS, [completion.text])
    finally:
        await backend.aclose()
    told = [token.probability for token in deltas[-1].canvas]
    assert told == pytest.approx([math.exp(value) for value in scored.logprobs], abs=2e-4)
    assert min(told) < 0.9


async def test_what_appends_has_no_canvas() -> None:
    backend = LocalBackend.open(LocalOptions(decoder="autoregressive"))
    deltas: list[Delta] = []
    try:
        await backend.stream(Request(prompt=STEPS), deltas.append)
    finally:
        await backend.aclose()
    assert len(deltas) > 3
    assert all(delta.canvas is None for delta in deltas)


def test_what_is_not_looked_at_again_is_told_once() -> None:
    deltas: list[Delta] = []
    told = make(deltas, appends=False, num_given=1)
    told.begin([99, 0, 0])
    for probability in (0.5, 0.5, 0.25):
        told.update([99, 97, 0], Seen((99, 97, 0), (None, probability, None)))
    told.finish("a", Seen((99, 97), (None, 0.25)))
    assert [delta.canvas for delta in deltas] == [
        (CanvasToken(None), CanvasToken(None)),
        (CanvasToken("a", 0.5), CanvasToken(None)),
        (CanvasToken("a", 0.25), CanvasToken(None)),
        (CanvasToken("a", 0.25),),
    ]


def test_a_token_reads_the_same_wherever_it_stands() -> None:
    language = PuzzleTokenizer()
    texts = TokenTexts(language)
    tokens = language.encode_text("13 - 9 = 4\n(4 + 2) * 4 = 24")
    assert [texts(token) for token in tokens[:6]] == [" 13", " -", " 9", " =", " 4", "\n"]
    assert letters("".join(map(texts, tokens))) == letters(language.decode(tokens))


async def test_a_template_is_told_as_its_blanks_are_filled_and_a_cancelled_stream_ends() -> None:
    backend = LocalBackend.open(LocalOptions(decoder="masked_diffusion"))
    deltas: list[Delta] = []
    template = Template(Prompt.from_text("Input: 4 9 10 13\nPossible next steps:"), ("13 - 9 =", Blank(1)))
    params = SamplingParams(seed=1)
    try:
        filled = await backend.stream(Request(prompt=template, params=params), deltas.append)
        assert filled == await backend.infill(template, params)
        assert [(delta.text, delta.replaces, delta.num_settled) for delta in deltas] == [
            ("13 - 9 =", True, 0),
            (filled[0].text, True, len(filled[0].text)),
        ]
        given, blank = deltas[-1].canvas[:4], deltas[-1].canvas[4]
        assert [token.probability for token in given] == [None] * 4
        assert blank.probability is not None
        assert deltas[0].canvas == (*given, CanvasToken(None))
        told = asyncio.Event()
        streaming = asyncio.create_task(backend.stream(Request(prompt=STEPS, num_samples=64), lambda delta: told.set()))
        await told.wait()
        streaming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await streaming
        assert await backend.generate(Request(prompt=STEPS))
    finally:
        await backend.aclose()
