"""Train the embedded model from scratch: ``python -m llmprog.backends.local.puzzles.train`` (``make train``).

Every step takes one batch of each objective (autoregressive, masked diffusion, hybrid). The learning rate warms up, stays,
and decays linearly to zero over the last part of the steps. The run is resumable: it continues from its latest checkpoint
with the same draws as if it had not been interrupted. The defaults are those of the committed weights.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmprog.backends.local.puzzles.data import Example, ExampleStream
from llmprog.backends.local.puzzles.language import PuzzleTokenizer
from llmprog.backends.local.puzzles.muon import Muon
from llmprog.backends.local.puzzles.objectives import OBJECTIVES, Batch
from llmprog.backends.local.transformer import Transformer, TransformerConfig
from llmprog.backends.local.weights import save_weights

BATCH_TOKENS = {"ar": 3500, "diffusion": 4500, "hybrid": 3000}
"""Prompt and canvas tokens per step of each objective; the hybrid feeds its canvas twice."""
LOSS_WEIGHTS = {"ar": 0.4, "diffusion": 0.3, "hybrid": 0.3}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """What decides the weights, besides the number of threads.

    Attributes:
        steps: Optimiser steps in all.
        warmup_steps: Steps of linear warm-up.
        decay_steps: Steps of linear decay to zero at the end.
        matrix_lr: Peak learning rate of Muon.
        vector_lr: Peak learning rate of AdamW (embedding and norms).
        weight_decay: Decoupled decay of matrices and embedding.
        clip_norm: Largest gradient norm.
        seed: Fixes initial weights, examples and masks.
    """

    steps: int = 4000
    warmup_steps: int = 100
    decay_steps: int = 1100
    matrix_lr: float = 5e-3
    vector_lr: float = 3e-3
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    seed: int = 24

    def schedule(self, step: int) -> float:
        """Share of the peak learning rate used at ``step``."""
        return min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / max(1, self.decay_steps))


def model_config(tokenizer: PuzzleTokenizer) -> TransformerConfig:
    """The shape of the embedded model."""
    return TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=192,
        num_layers=5,
        num_heads=6,
        num_kv_heads=2,
        d_ff=512,
        max_positions=256,
    )


class Trainer:
    """Model, optimisers, example streams and the number of steps done."""

    def __init__(self, options: TrainingOptions) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.tokenizer = PuzzleTokenizer()
        self.model = Transformer(model_config(self.tokenizer))
        self._initialise()
        matrices = [p for name, p in self.model.named_parameters() if p.dim() == 2 and "embedding" not in name]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        self.muon = Muon(matrices, lr=options.matrix_lr, weight_decay=options.weight_decay)
        self.adam = torch.optim.AdamW(
            [
                {"params": [self.model.embedding.weight], "weight_decay": options.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=options.vector_lr,
            betas=(0.9, 0.98),
        )
        self.generator = torch.Generator().manual_seed(options.seed)
        self.streams = {name: ExampleStream(options.seed * 1000 + i) for i, name in enumerate(OBJECTIVES)}
        self.batches = {name: stream.batches(BATCH_TOKENS[name]) for name, stream in self.streams.items()}
        self.steps_done = 0
        self.tokens_done = 0

    def step(self) -> dict[str, float]:
        """One optimiser step; returns the loss by objective and task."""
        scale = self.options.schedule(self.steps_done)
        for optimiser, rate in ((self.muon, self.options.matrix_lr), (self.adam, self.options.vector_lr)):
            for group in optimiser.param_groups:
                group["lr"] = rate * scale
        losses: dict[str, float] = {}
        for name, objective in OBJECTIVES.items():
            examples = next(self.batches[name])
            inputs = objective(collate(examples), self.tokenizer, self.generator)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = inputs.loss(self.model)
            (loss * LOSS_WEIGHTS[name]).backward()  # type: ignore[no-untyped-call]
            losses[f"{name}/{examples[0].task}"] = float(loss.detach())
            self.tokens_done += inputs.tokens.numel()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        for optimiser in (self.muon, self.adam):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.steps_done += 1
        return losses

    def save(self, path: Path) -> None:
        """Write everything the run needs to continue exactly where it is."""
        state = {
            "options": asdict(self.options),
            "model": self.model.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "generator": self.generator.get_state(),
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
            "steps_done": self.steps_done,
            "tokens_done": self.tokens_done,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Continue a run of the same options (the number of steps and their decay may differ)."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.generator.set_state(state["generator"])
        for name, stream in self.streams.items():
            stream.load_state_dict(state["streams"][name])
            self.batches[name] = stream.batches(BATCH_TOKENS[name])
        self.steps_done, self.tokens_done = state["steps_done"], state["tokens_done"]

    def _initialise(self) -> None:
        depth = (2 * self.model.config.num_layers) ** -0.5
        for name, parameter in self.model.named_parameters():
            if "embedding" in name:
                torch.nn.init.normal_(parameter, std=0.05)
            elif parameter.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 * (depth if residual else 1.0))


def collate(examples: list[Example]) -> Batch:
    """Examples of one shape as tensors."""
    prompt: Tensor = torch.tensor([example.prompt for example in examples])
    canvas: Tensor = torch.tensor([example.canvas for example in examples])
    return Batch(prompt, canvas, examples[0].block_length)


def train(options: TrainingOptions, directory: Path, *, log_every: int = 50, checkpoint_every: int = 200) -> Trainer:
    """Run, or continue, the training in ``directory``; the file ``stable.pt`` there is the state before the decay."""
    directory.mkdir(parents=True, exist_ok=True)
    latest = directory / "latest.pt"
    trainer = Trainer(options)
    if latest.exists():
        trainer.load(latest)
        print(f"continuing from step {trainer.steps_done}", flush=True)
    print(f"{trainer.model.num_parameters()} parameters; {asdict(options)}", flush=True)
    started, tokens_before, steps_before = time.monotonic(), trainer.tokens_done, trainer.steps_done
    recent: dict[str, list[float]] = defaultdict(list)
    with (directory / "metrics.jsonl").open("a") as log:
        while trainer.steps_done < options.steps:
            for name, loss in trainer.step().items():
                recent[name].append(loss)
            done = trainer.steps_done
            if done % log_every == 0 or done == options.steps:
                seconds = time.monotonic() - started
                means = {name: round(sum(values) / len(values), 4) for name, values in sorted(recent.items())}
                recent.clear()
                rate = (trainer.tokens_done - tokens_before) / seconds
                left = seconds / (done - steps_before) * (options.steps - done)
                losses = " ".join(f"{name}={value:.3f}" for name, value in means.items())
                print(f"step {done} {rate / 1000:.1f}k tokens/s, {left / 60:.0f} min left: {losses}", flush=True)
                log.write(json.dumps({"step": done, "tokens": trainer.tokens_done, "seconds": round(seconds), **means}))
                log.write("\n")
                log.flush()
            if done % checkpoint_every == 0 or done == options.steps:
                trainer.save(latest)
                save_weights(trainer.model, directory / "latest.safetensors")
            if done == options.steps - options.decay_steps:
                trainer.save(directory / "stable.pt")
    return trainer


def main() -> None:
    """Train with the defaults of the committed weights, then write them and what was measured."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=TrainingOptions().steps, help="optimiser steps in all")
    parser.add_argument(
        "--decay-steps", type=int, default=None, help="steps of decay at the end (default: as published)"
    )
    parser.add_argument("--seed", type=int, default=TrainingOptions().seed)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--directory", type=Path, default=Path("checkpoints/puzzles"), help="checkpoints and metrics")
    parser.add_argument("--output", type=Path, default=here / "puzzles.safetensors", help="where the weights go")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    default = TrainingOptions()
    decay = arguments.decay_steps or round(arguments.steps * default.decay_steps / default.steps)
    options = TrainingOptions(steps=arguments.steps, decay_steps=decay, seed=arguments.seed)
    trainer = train(options, arguments.directory)
    metadata = {"steps": str(trainer.steps_done), "tokens": str(trainer.tokens_done), "seed": str(options.seed)}
    save_weights(trainer.model, arguments.output, metadata=metadata)
    print(f"wrote {arguments.output}", flush=True)


if __name__ == "__main__":
    main()
