from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from random import Random

import pytest

from llmprog.backends.base import EditedSpan, EditingBackend
from llmprog.backends.local.backend import LocalBackend, LocalOptions
from llmprog.backends.local.editing import edited_spans
from llmprog.errors import CapabilityError, OptionError
from llmprog.types import Prompt, SamplingParams

SUDOKU = Prompt.from_text(". 2 3 .\n3 . . .\n. 1 . 3\n4 . 2 .\nSolution:")
SOLVED = "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"
SUM = Prompt.from_text("Question: What is (17 + 25) * 3 - 40?\nReasoning:")
RIGHT = "17 + 25 = 42\n42 * 3 = 126\n126 - 40 = 86\nAnswer: 86"

Opener = Callable[..., LocalBackend]


@pytest.fixture
async def opened() -> AsyncIterator[Opener]:
    backends: list[LocalBackend] = []

    def opener(**options: object) -> LocalBackend:
        backends.append(LocalBackend.open(LocalOptions(device="cpu", threads=1, **options)))
        return backends[-1]

    yield opener
    for backend in backends:
        await backend.aclose()


def with_other_cells(text: str, count: int, rng: Random) -> str:
    """A grid with ``count`` of its cells changed."""
    cells = list(text)
    for place in rng.sample([i for i, char in enumerate(text) if char.isdigit()], count):
        cells[place] = rng.choice([digit for digit in "1234" if digit != cells[place]])
    return "".join(cells)


@pytest.mark.parametrize("options", [{"unmask": "quota"}, {"unmask": "credit"}, {"cache": "dual"}], ids=str)
async def test_wrong_cells_of_a_sudoku_are_found_and_put_right(opened: Opener, options: dict[str, str]) -> None:
    backend = opened(decoder="masked_diffusion", **options)
    assert isinstance(backend, EditingBackend)
    assert backend.capabilities.edit
    rng = Random(3)
    repaired = 0
    for _ in range(10):
        draft = with_other_cells(SOLVED, 2, rng)
        edit = await backend.edit(SUDOKU, draft, num_tokens=4)
        repaired += edit.text == SOLVED
        rebuilt, lost = edit.text, 0
        for span in edit.spans:
            assert rebuilt[span.start : span.start + len(span.new)] == span.new
            assert draft[span.start : span.start + len(span.old)] == span.old
            lost += len(span.new) - len(span.old)
        assert lost == 0
        assert 1 <= edit.rounds <= 4
        assert edit.usage.calls == edit.rounds
        assert edit.usage.completion_tokens == 4 * edit.rounds
    assert repaired >= 7


@pytest.mark.parametrize(
    "decoder", ["masked_diffusion", "block_diffusion", "hybrid", "mdlm", "score_entropy", "uniform_diffusion"]
)
async def test_a_wrong_step_is_rewritten_and_what_is_right_stays(opened: Opener, decoder: str) -> None:
    backend = opened(decoder=decoder)
    right = await backend.edit(SUM, RIGHT)
    assert (right.text, right.spans) == (RIGHT, ())
    wrong = await backend.edit(SUM, RIGHT.replace("42 * 3 = 126", "42 * 3 = 127"))
    if decoder == "hybrid":  # the tokens behind the mistake are as unlikely from left to right as the mistake
        assert wrong.text.startswith("17 + 25 = 42\n42 * 3 = ")
    else:
        assert wrong.text == RIGHT
        (span,) = wrong.spans
        assert span == EditedSpan(RIGHT.index("126"), "127", "126")


async def test_a_prefix_is_no_part_of_the_draft(opened: Opener) -> None:
    backend = opened(decoder="masked_diffusion")
    begin, end = RIGHT[: len("17 + 25 = 42\n")], RIGHT[len("17 + 25 = 42\n") :]
    edit = await backend.edit(Prompt(SUM.messages, prefix=begin), end.replace("= 126", "= 127"))
    assert edit.text == end
    assert edit.spans == (EditedSpan(end.index("126"), "127", "126"),)


async def test_samples_of_an_edit_are_fixed_by_the_seed(opened: Opener) -> None:
    backend = opened(decoder="masked_diffusion")
    params = SamplingParams(temperature=1.0, seed=4)
    draft = with_other_cells(SOLVED, 8, Random(1))
    first = await backend.edit(SUDOKU, draft, params, share=0.5)
    assert await backend.edit(SUDOKU, draft, params, share=0.5) == first
    assert await backend.edit(SUDOKU, "", params) == type(first)(text="", spans=(), rounds=0, usage=type(first.usage)())


async def test_what_has_no_effect_is_refused(opened: Opener) -> None:
    backend = opened(decoder="masked_diffusion")
    with pytest.raises(OptionError, match="give one of the two"):
        await backend.edit(SUM, RIGHT, num_tokens=3, share=0.5)
    for options, message in (
        ({"num_tokens": 0}, "num_tokens=0"),
        ({"num_tokens": 1.5}, "num_tokens=1.5): allowed is a whole number"),
        ({"num_tokens": True}, "num_tokens=True): allowed is a whole number"),
        ({"share": "half"}, "share='half'): allowed is a number"),
        ({"max_rounds": 2.0}, "max_rounds=2.0): allowed is a whole number"),
        ({"share": 1.5}, "in (0, 1]"),
        ({"max_rounds": 0}, "max_rounds=0"),
    ):
        with pytest.raises(OptionError) as caught:
            await backend.edit(SUM, RIGHT, **options)
        assert message in str(caught.value)
    with pytest.raises(OptionError, match="has no effect when blanks"):
        await backend.edit(SUM, RIGHT, SamplingParams(stop=("x",)))
    with pytest.raises(OptionError, match=r"max_tokens=2\): 3 tokens of the draft"):
        await backend.edit(SUM, RIGHT, SamplingParams(max_tokens=2), num_tokens=3)
    with pytest.raises(OptionError, match=r"max_tokens=9\): \d\d tokens of the draft"):
        await opened(decoder="uniform_diffusion").edit(SUM, RIGHT, SamplingParams(max_tokens=9))
    assert (await backend.edit(SUM, RIGHT, SamplingParams(temperature=0, max_tokens=3), num_tokens=3)).text == RIGHT
    with pytest.raises(CapabilityError, match="from left to right"):
        await opened().edit(SUM, RIGHT)
    with pytest.raises(OptionError, match="decides by itself"):
        await opened(decoder="uniform_diffusion").edit(SUM, RIGHT, num_tokens=2)


def test_spans_are_runs_of_tokens_that_differ() -> None:
    def read(tokens: tuple[int, ...]) -> str:
        return " ".join("abcdefgh"[token] for token in tokens)

    spans = edited_spans((0, 1, 2, 3, 4), (0, 5, 6, 3, 7), read)
    assert spans == (EditedSpan(2, "b c", "f g"), EditedSpan(8, "e", "h"))
    assert edited_spans((1, 2), (1, 2), read) == ()


def test_spans_do_not_cut_characters() -> None:
    def read(tokens: tuple[int, ...]) -> str:
        return bytes(tokens).decode("utf-8", "replace")

    old, new = tuple("aé-ö".encode()), tuple("aè-ö".encode())
    assert sum(a != b for a, b in zip(old, new, strict=True)) == 1
    assert edited_spans(old, new, read) == (EditedSpan(1, "é", "è"),)
    assert edited_spans(tuple("éa".encode()), tuple("êb".encode()), read) == (EditedSpan(0, "éa", "êb"),)
