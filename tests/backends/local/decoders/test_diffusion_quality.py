"""Every rule on the embedded model itself: how many sudokus it solves and how many legal steps it proposes, in how many
steps. The bounds are far below what is measured (docs/decoders.md); a rule that is wrong falls through them."""

from __future__ import annotations

from random import Random

import pytest

from llmprog.backends.local.decoders.base import Row, Written
from llmprog.backends.local.decoders.making import make_decoder
from llmprog.backends.local.networks.transformer import Transformer
from llmprog.backends.local.networks.weights import load_weights
from llmprog.backends.local.options import LocalOptions
from llmprog.backends.local.puzzles.data import ExampleStream, sudoku_grids
from llmprog.backends.local.puzzles.language import PuzzlePrompt, PuzzleTokenizer
from llmprog.backends.local.puzzles.moves import legal_moves
from llmprog.backends.local.puzzles.split import held_out_states, split_of_text
from llmprog.backends.local.sampling import stream_key
from llmprog.types import SamplingParams
from llmprog_puzzles import FURTHER_WEIGHTS, WEIGHTS

COUNT = 20
SETTINGS: dict[str, tuple[dict[str, str], float]] = {  # options, and the most steps a sudoku of 20 tokens may take
    "quota": ({"unmask": "quota"}, 20),
    "quota, 10 steps": ({"unmask": "quota", "steps": "10"}, 10),
    "margin": ({"unmask": "margin", "steps": "10"}, 10),
    "entropy": ({"unmask": "entropy", "steps": "10"}, 10),
    "entropy, bounded": ({"unmask": "entropy", "entropy_bound": "0.1"}, 12),
    "threshold": ({}, 12),
    "threshold, confident": ({"fallback": "confident"}, 12),
    "factor": ({"unmask": "factor"}, 12),
    "credit": ({"unmask": "credit", "fallback": "confident"}, 12),
    "hierarchical": ({"unmask": "hierarchical", "low_threshold": "0.9"}, 12),
    "remask": ({"unmask": "quota", "remask": "conf", "steps": "24"}, 24),
    "prefix cache": ({"unmask": "quota", "cache": "prefix", "refresh_every": "4"}, 20),
    "dual cache": ({"unmask": "quota", "cache": "dual", "refresh_every": "4"}, 20),
    "block diffusion": ({"decoder": "block_diffusion", "fallback": "confident"}, 12),
}


@pytest.fixture(scope="module")
def models() -> dict[bool, Transformer]:
    """The embedded weights, and those that know blocks."""
    return {own: load_weights(WEIGHTS if own else FURTHER_WEIGHTS, backend="test") for own in (True, False)}


def write(
    models: dict[bool, Transformer], texts: dict[str, str], prompts: list[PuzzlePrompt], temperature: float
) -> tuple[list[str], int]:
    """What is written, and in how many steps."""
    options = LocalOptions.parse("local:puzzles", {"decoder": "masked_diffusion", **texts})
    model = models[options.decoder == "masked_diffusion"]
    tokenizer = PuzzleTokenizer.of(model.config.vocab_size)
    writing = make_decoder(model, tokenizer.vocabulary, options, shift_logits=False).start()
    writing.admit(
        {
            number: Row(
                prompt=(tokenizer.mode_token(options), *prompt.tokens),
                canvas=(tokenizer.mask_id,) * prompt.canvas_length,
                block_length=prompt.block_length,
                key=stream_key(0, b"", number),
                params=SamplingParams(temperature=temperature),
            )
            for number, prompt in enumerate(prompts)
        }
    )
    found: dict[int, Written] = {}
    steps = 0
    while len(writing):
        found |= writing.step()
        steps += 1
    return [tokenizer.decode(found[i].tokens) for i in range(len(prompts))], steps


@pytest.mark.parametrize("setting", SETTINGS)
def test_sudokus_are_solved_in_few_steps(models: dict[bool, Transformer], setting: str) -> None:
    texts, most_steps = SETTINGS[setting]
    stream, rng = ExampleStream(7, "development"), Random(1)
    grids = [grid for grid in sudoku_grids() if split_of_text(grid) == "development"]
    puzzles = [stream.sudoku_puzzle(rng.choice(grids), fewest=6, most=10) for _ in range(COUNT)]
    replies, steps = write(models, texts, [prompt for prompt, _ in puzzles], 0.0)
    solved = sum(reply == solution for reply, (_, solution) in zip(replies, puzzles, strict=True))
    assert solved >= 0.4 * COUNT, f"{solved} of {COUNT}"
    assert steps <= most_steps


@pytest.mark.parametrize("setting", ["quota", "threshold", "credit", "factor", "prefix cache", "block diffusion"])
def test_proposed_steps_are_legal(models: dict[bool, Transformer], setting: str) -> None:
    states = sorted(state for state, where in held_out_states().items() if where == "development")
    chosen = Random(1).sample(states, COUNT)
    prompts = [PuzzleTokenizer().propose_prompt(state, 24, 2) for state in chosen]
    replies, _ = write(models, SETTINGS[setting][0], prompts, 1.0)
    marks = [
        line in set(map(str, legal_moves(state)))
        for state, reply in zip(chosen, replies, strict=True)
        for line in reply.split("\n")
    ]
    assert len(marks) >= COUNT
    assert sum(marks) >= 0.5 * len(marks), f"{sum(marks)} of {len(marks)}"
