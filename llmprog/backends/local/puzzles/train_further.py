"""Train the second set of weights from the first: ``python -m llmprog.backends.local.puzzles.train_further``.

It learns uniform diffusion, block diffusion and Eso-LM A, and in turn one of the modes it knows already, so that these
stay. ``make train`` makes the first set and leaves this one as it is; docs/decisions/0009 says why there are two.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from llmprog.backends.local.models import puzzles_weights
from llmprog.backends.local.puzzles.further_objectives import FURTHER_OBJECTIVES
from llmprog.backends.local.puzzles.objectives import OBJECTIVES
from llmprog.backends.local.puzzles.train import Recipe, TrainingOptions, train

MIXTURE = {
    "sudoku": 22.0,
    "arithmetic": 18.0,
    "propose4": 16.0,
    "propose3": 12.0,
    "propose2": 6.0,
    "evaluate3": 12.0,
    "evaluate2": 6.0,
    "evaluate1": 1.0,
    "cot4": 3.0,
}
"""Relative number of examples of each kind; what the decoders are compared on has more than in ``data.MIXTURE``."""
_NEW = ("uniform", "block", "hybrid_a")
FURTHER = Recipe(
    objectives={**FURTHER_OBJECTIVES, **OBJECTIVES},
    batch_tokens={"uniform": 2500, "block": 900, "hybrid_a": 800, "ar": 600, "diffusion": 800, "hybrid": 500},
    loss_weights={"uniform": 0.5, "block": 0.2, "hybrid_a": 0.15, "ar": 0.15, "diffusion": 0.15, "hybrid": 0.15},
    turns=tuple((*_NEW, old) for old in OBJECTIVES),
    mixture=MIXTURE,
    initial=puzzles_weights(further=False),
    further_modes=True,
)
OPTIONS = TrainingOptions(
    steps=480, warmup_steps=50, decay_steps=72, matrix_lr=3e-3, vector_lr=2e-3, workers=1, flag_weight=2.0, seed=25
)


def main() -> None:
    """Train with the defaults of the committed weights."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=OPTIONS.steps, help="optimiser steps in all")
    parser.add_argument("--decay-steps", type=int, default=OPTIONS.decay_steps, help="steps of decay at the end")
    parser.add_argument("--directory", type=Path, default=Path("checkpoints/further"), help="checkpoints and metrics")
    parser.add_argument("--output", type=Path, default=puzzles_weights(further=True))
    arguments = parser.parse_args()
    options = TrainingOptions(
        steps=arguments.steps,
        decay_steps=arguments.decay_steps,
        warmup_steps=OPTIONS.warmup_steps,
        matrix_lr=OPTIONS.matrix_lr,
        vector_lr=OPTIONS.vector_lr,
        workers=OPTIONS.workers,
        flag_weight=OPTIONS.flag_weight,
        seed=OPTIONS.seed,
    )
    train(options, arguments.directory, recipe=FURTHER)
    shutil.copyfile(arguments.directory / "latest.safetensors", arguments.output)
    print(f"wrote {arguments.output}", flush=True)  # noqa: T201 - the result of a command


if __name__ == "__main__":
    main()
