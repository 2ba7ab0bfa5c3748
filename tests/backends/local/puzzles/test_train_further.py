"""The second training run: where it starts, what it takes turns in, and that it continues where it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmprog.backends.local.networks.weights import load_weights
from llmprog.backends.local.puzzles.objectives import OBJECTIVES
from llmprog.backends.local.puzzles.train import Trainer
from llmprog.backends.local.puzzles.train_further import FURTHER, OPTIONS
from llmprog_puzzles import WEIGHTS

SMALL = replace(FURTHER, batch_tokens=dict.fromkeys(FURTHER.batch_tokens, 60))


def test_it_starts_from_the_first_weights_and_takes_turns_in_the_old_modes(tmp_path: Path) -> None:
    trainer = Trainer(OPTIONS, 0, SMALL)
    first = load_weights(WEIGHTS, backend="local:puzzles")
    known = first.embedding.weight.shape[0]
    assert torch.equal(trainer.model.embedding.weight[:known], first.embedding.weight)
    assert trainer.model.embedding.weight.shape[0] == known + 3
    names = [{name.partition("/")[0] for name in trainer.step()} for _ in OBJECTIVES]
    assert names == [{"uniform", "block", "hybrid_a", old} for old in OBJECTIVES]
    assert not torch.equal(trainer.model.embedding.weight[:known], first.embedding.weight)

    trainer.save(tmp_path, "latest")
    losses = trainer.step()
    other = Trainer(OPTIONS, 0, SMALL)
    other.load(tmp_path, "latest")
    assert other.step() == pytest.approx(losses, rel=1e-4)


def test_the_learning_rate_ends_at_zero() -> None:
    assert OPTIONS.schedule(0) == pytest.approx(1 / OPTIONS.warmup_steps)
    assert OPTIONS.schedule(OPTIONS.steps - OPTIONS.decay_steps) == 1
    assert OPTIONS.schedule(OPTIONS.steps - 1) == pytest.approx(1 / OPTIONS.decay_steps)
