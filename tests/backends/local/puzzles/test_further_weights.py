"""The second set of weights: what its decoders can do on held-out puzzles, through the backend."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
import torch

from llmprog.backends import open_backend
from llmprog.backends.local.backend import LocalBackend
from llmprog.backends.local.decoders.base import Row, write_all
from llmprog.backends.local.decoders.uniform_diffusion import UniformDiffusionDecoder
from llmprog.backends.local.networks.weights import load_weights
from llmprog.backends.local.options import LocalOptions
from llmprog.backends.local.puzzles.data import ExampleStream, sudoku_grids
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.puzzles.moves import legal_moves
from llmprog.backends.local.puzzles.split import held_out_states, split_of_text
from llmprog.errors import CapabilityError, OptionError
from llmprog.types import Blank, Prompt, Request, SamplingParams, Template
from llmprog_puzzles import FURTHER_WEIGHTS, WEIGHTS

NEW = (
    "decoder=uniform_diffusion",
    "decoder=block_diffusion",
    "decoder=hybrid&variant=a",
    "decoder=mdlm",
    "decoder=score_entropy",
)
STEPS = Prompt.from_text("Input: 4 9 10 13\nPossible next steps:")


def grids(count: int) -> list[tuple[str, str]]:
    """Held-out sudokus of eight to ten givens as text, and their solutions."""
    rng, stream = Random(2), ExampleStream(4, "development")
    chosen = [grid for grid in sudoku_grids() if split_of_text(grid) == "development"]
    found = []
    for _ in range(count):
        prompt, solution = stream.sudoku_puzzle(rng.choice(chosen), fewest=8, most=10)
        words = [stream.tokenizer.word(token) for token in prompt.tokens[1:]]
        found.append(("\n".join(" ".join(words[i : i + 4]) for i in range(0, 16, 4)) + "\nSolution:", solution))
    return found


@pytest.mark.parametrize("query", NEW)
def test_held_out_grids_are_filled(query: str) -> None:
    async def solve() -> int:
        backend = open_backend(f"local:puzzles?{query}")
        questions = grids(12)
        params = SamplingParams(temperature=0.0)
        replies = await asyncio.gather(
            *(backend.generate(Request(prompt=Prompt.from_text(text), params=params)) for text, _ in questions)
        )
        await backend.aclose()
        return sum(reply[0].text == solution for reply, (_, solution) in zip(replies, questions, strict=True))

    assert asyncio.run(solve()) >= 6


@pytest.mark.parametrize("query", NEW)
def test_blanks_are_filled_and_given_text_stays(query: str) -> None:
    async def fill() -> list[str]:
        backend = open_backend(f"local:puzzles?{query}")
        template = Template(STEPS, ("13 - 9 = ", Blank(1), " (left: 4 4 10)"))
        filled = await backend.infill(template, SamplingParams(temperature=0.0), 1)
        await backend.aclose()
        return [completion.text for completion in filled]

    (text,) = asyncio.run(fill())
    assert text.startswith("13 - 9 = ")
    assert text.endswith(" (left: 4 4 10)")


def test_scores_tell_right_from_wrong_or_are_refused() -> None:
    async def score(query: str) -> tuple[float, float]:
        backend = open_backend(f"local:puzzles?{query}")
        right, wrong = await backend.score(STEPS, ["13 - 9 = 4 (left: 4 4 10)", "13 - 9 = 5 (left: 4 5 10)"])
        await backend.aclose()
        return right.total, wrong.total

    for query in NEW[1:]:
        right, wrong = asyncio.run(score(query))
        assert right > wrong
    with pytest.raises(CapabilityError, match="defines no likelihood"):
        asyncio.run(score(NEW[0]))
    assert not open_backend(f"local:puzzles?{NEW[0]}").capabilities.score


def test_the_first_weights_do_not_know_the_new_modes() -> None:
    backend = LocalBackend.open(LocalOptions(decoder="uniform_diffusion"), weights=WEIGHTS)
    request = Request(prompt=STEPS, params=SamplingParams(seed=1))
    with pytest.raises(OptionError, match="not trained on the mode 'uniform'"):
        asyncio.run(backend.generate(request))
    asyncio.run(backend.aclose())


@pytest.mark.parametrize("query", ["decoder=autoregressive", "decoder=masked_diffusion", "decoder=hybrid"])
def test_the_second_weights_still_know_the_old_modes(query: str) -> None:
    options = LocalOptions.parse("local:puzzles", dict([query.split("=")]))

    async def propose() -> list[str]:
        backend = LocalBackend.open(options, weights=FURTHER_WEIGHTS)
        request = Request(prompt=STEPS, params=SamplingParams(seed=1), num_samples=8)
        found = await backend.generate(request)
        await backend.aclose()
        return [line for completion in found for line in completion.text.split("\n")]

    lines = asyncio.run(propose())
    legal = {str(move) for move in legal_moves((4, 9, 10, 13))}
    assert sum(line in legal for line in lines) > len(lines) / 2


@torch.inference_mode()
def test_a_draft_with_wrong_tokens_is_put_right() -> None:
    """Instant edit: a legal step with one wrong number, repaired more often than a step from noise is legal."""
    model = load_weights(FURTHER_WEIGHTS, backend="local:puzzles")
    tokenizer = PuzzleTokenizer(further_modes=True)
    rng = Random(3)
    states = rng.sample(sorted(s for s, where in held_out_states().items() if where == "development"), 40)
    rows, legal = [], []
    for number, state in enumerate(states):
        prompt = tokenizer.propose_prompt(state, 24, 1)
        draft = [*tokenizer.encode_text(str(rng.choice(legal_moves(state))))]
        draft[4] = tokenizer.number_id(rng.randrange(200))  # the result
        draft += [tokenizer.eos_id] * (prompt.canvas_length - len(draft))
        rows.append(
            Row(
                prompt=(tokenizer.mode_id("uniform"), *prompt.tokens),
                canvas=(tokenizer.mask_id,) * prompt.canvas_length,
                block_length=prompt.block_length,
                key=number,
                params=SamplingParams(temperature=1.0),
                draft=tuple(draft),
            )
        )
        legal.append({str(move) for move in legal_moves(state)})
    written = write_all(UniformDiffusionDecoder(model, tokenizer.vocabulary), rows)
    repaired = sum(tokenizer.decode(reply.tokens) in known for reply, known in zip(written, legal, strict=True))
    assert repaired >= 20
