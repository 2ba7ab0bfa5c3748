"""Train the embedded model from scratch: ``python -m llmprog.backends.local.puzzles.train`` (``make train``).

Every step takes one batch of each objective (autoregressive, masked diffusion, hybrid). The learning rate warms up,
stays, and decays linearly to zero over the last part of the steps. The run is resumable: it continues from its latest
checkpoint with the same draws as if it had not been interrupted. The defaults are those of the committed weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from llmprog.backends.local.models import puzzles_weights
from llmprog.backends.local.networks.transformer import Transformer, TransformerConfig
from llmprog.backends.local.networks.weights import load_weights, save_weights
from llmprog.backends.local.puzzles.data import Example, ExampleStream
from llmprog.backends.local.puzzles.evaluate import evaluate
from llmprog.backends.local.puzzles.language import FURTHER_MODES, PuzzleTokenizer
from llmprog.backends.local.puzzles.muon import Muon
from llmprog.backends.local.puzzles.objectives import OBJECTIVES, Batch, Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained, on what, from where.

    Attributes:
        objectives: By name.
        batch_tokens: Prompt and canvas tokens per step and worker of each objective; some feed their canvas twice.
        loss_weights: Of each objective in the loss of a step.
        turns: The objectives of one step, in turn; one batch of each is taken.
        mixture: Relative number of examples of each kind; ``None`` is ``data.MIXTURE``.
        initial: Weights to start from; ``None`` draws them. Their vocabulary may lack the further modes.
        further_modes: Whether the vocabulary has a token for each of ``language.FURTHER_MODES``.
    """

    objectives: Mapping[str, Objective]
    batch_tokens: Mapping[str, int]
    loss_weights: Mapping[str, float]
    turns: tuple[tuple[str, ...], ...]
    mixture: dict[str, float] | None = None
    initial: Path | None = None
    further_modes: bool = False


FROM_SCRATCH = Recipe(
    objectives=OBJECTIVES,
    batch_tokens={"ar": 1250, "diffusion": 1600, "hybrid": 1100},
    loss_weights={"ar": 0.4, "diffusion": 0.3, "hybrid": 0.3},
    turns=(("ar", "diffusion", "hybrid"),),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """Everything that decides the weights.

    Attributes:
        steps: Optimiser steps in all.
        warmup_steps: Steps of linear warm-up.
        decay_steps: Steps of linear decay to zero at the end.
        matrix_lr: Peak learning rate of Muon.
        vector_lr: Peak learning rate of AdamW (embedding and norms).
        weight_decay: Decoupled decay of matrices and embedding.
        clip_norm: Largest gradient norm.
        flag_weight: Weight of the rare flags ``yes`` and ``near`` of a judgement against that of other tokens.
        workers: Processes of one thread each, whose gradients are averaged every step. On two cores they are twice as
            fast as one process of two threads, which spends its time waiting at thread barriers.
        seed: Fixes initial weights, examples and masks.
    """

    steps: int = 4200
    warmup_steps: int = 100
    decay_steps: int = 1400
    matrix_lr: float = 5e-3
    vector_lr: float = 3e-3
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    workers: int = 2
    flag_weight: float = 3.0
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
    """One worker: model and optimisers, the same in every worker, and its own example streams."""

    def __init__(self, options: TrainingOptions, rank: int = 0, recipe: Recipe = FROM_SCRATCH) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.recipe = recipe
        self.rank = rank
        self.tokenizer = PuzzleTokenizer(further_modes=recipe.further_modes)
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
        seed = options.seed * 1000 + rank * 10
        self.generator = torch.Generator().manual_seed(seed)
        self.streams = {
            name: ExampleStream(seed + i, mixture=recipe.mixture) for i, name in enumerate(recipe.objectives)
        }
        self.flags = torch.tensor([self.tokenizer.id_of(word) for word in ("yes", "yes,", "near", "near,")])
        self.steps_done = 0
        self.tokens_done = 0

    def step(self) -> dict[str, float]:
        """One optimiser step; returns the loss by objective and task."""
        scale = self.options.schedule(self.steps_done)
        for optimiser, rate in ((self.muon, self.options.matrix_lr), (self.adam, self.options.vector_lr)):
            for group in optimiser.param_groups:
                group["lr"] = rate * scale
        losses: dict[str, float] = {}
        for name in self.recipe.turns[self.steps_done % len(self.recipe.turns)]:
            examples = self.streams[name].next_batch(self.recipe.batch_tokens[name])
            inputs = self.recipe.objectives[name](collate(examples), self.tokenizer, self.generator)
            if self.options.flag_weight != 1:
                inputs = inputs.emphasise(self.flags, self.options.flag_weight)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = inputs.loss(self.model)
            (loss * self.recipe.loss_weights[name]).backward()  # type: ignore[no-untyped-call]
            losses[f"{name}/{examples[0].task}"] = float(loss.detach())
            self.tokens_done += inputs.tokens.numel()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip_norm)
        for optimiser in (self.muon, self.adam):
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.steps_done += 1
        return losses

    def save(self, directory: Path, name: str) -> None:
        """Write this worker's part of what the run needs to continue exactly where it is."""
        state: dict[str, Any] = {
            "steps_done": self.steps_done,
            "tokens_done": self.tokens_done,
            "generator": self.generator.get_state(),
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
        }
        if self.rank == 0:
            state |= {"model": self.model.state_dict(), "muon": self.muon.state_dict(), "adam": self.adam.state_dict()}
        partial = directory / f"{name}-{self.rank}.partial"
        torch.save(state, partial)
        partial.replace(directory / f"{name}-{self.rank}.pt")

    def load(self, directory: Path, name: str) -> None:
        """Continue a run of the same options (the number of steps and their decay may differ)."""
        shared: dict[str, Any] = torch.load(directory / f"{name}-0.pt", weights_only=True)
        own: dict[str, Any] = torch.load(directory / f"{name}-{self.rank}.pt", weights_only=True)
        if shared["steps_done"] != own["steps_done"]:
            raise SystemExit(f"the workers' checkpoints {directory / name}-*.pt are of different steps; delete them")
        self.model.load_state_dict(shared["model"])
        self.muon.load_state_dict(shared["muon"])
        self.adam.load_state_dict(shared["adam"])
        self.generator.set_state(own["generator"])
        for key, stream in self.streams.items():
            stream.load_state_dict(own["streams"][key])
        self.steps_done, self.tokens_done = own["steps_done"], own["tokens_done"]

    def _average_gradients(self) -> None:
        if self.options.workers > 1:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(flat)
            flat /= self.options.workers
            for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def _initialise(self) -> None:
        if self.recipe.initial is not None:
            continue_from(self.recipe.initial, self.model)
            return
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


def continue_from(path: Path, model: Transformer) -> None:
    """Give ``model`` the weights at ``path``; a mode token that these lack starts as a copy of the one most like it."""
    weights = load_weights(path, backend="local:puzzles").state_dict()
    tokenizer = PuzzleTokenizer(further_modes=True)
    known = weights["embedding.weight"]
    likes = {"uniform": "diffusion", "block": "diffusion", "hybrid_a": "hybrid"}
    if len(known) < tokenizer.vocab_size:
        rows = [known[tokenizer.mode_id(likes[mode])] for mode in FURTHER_MODES]
        weights["embedding.weight"] = torch.cat([known, torch.stack(rows)])
    model.load_state_dict(weights)


def train(
    options: TrainingOptions,
    directory: Path,
    *,
    recipe: Recipe = FROM_SCRATCH,
    log_every: int = 50,
    checkpoint_every: int = 100,
) -> None:
    """Run, or continue, the training in ``directory``.

    ``latest.safetensors`` there holds the latest weights, ``latest-*.pt`` what is needed to continue, ``stable-*.pt``
    the state before the decay, ``metrics.jsonl`` the losses.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if options.workers == 1:
        _work(0, options, recipe, directory, log_every, checkpoint_every, "")
        return
    with tempfile.TemporaryDirectory() as meeting:
        spawn(  # type: ignore[no-untyped-call]
            _work,
            (options, recipe, directory, log_every, checkpoint_every, f"file://{meeting}/store"),
            nprocs=options.workers,
        )


def _work(
    rank: int,
    options: TrainingOptions,
    recipe: Recipe,
    directory: Path,
    log_every: int,
    checkpoint_every: int,
    meeting: str,
) -> None:
    """One worker's whole run."""
    torch.set_num_threads(1)
    if meeting:
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=options.workers)
    trainer = Trainer(options, rank, recipe)
    if (directory / "latest-0.pt").exists():
        trainer.load(directory, "latest")
    log = _Log(trainer, directory / "metrics.jsonl") if rank == 0 else None
    while trainer.steps_done < options.steps:
        losses = trainer.step()
        done = trainer.steps_done
        if log is not None:
            log.add(losses)
            if done % log_every == 0 or done == options.steps:
                log.write()
        if done % checkpoint_every == 0 or done == options.steps:
            trainer.save(directory, "latest")
            if rank == 0:
                metadata = {"steps": str(done), "seed": str(options.seed)}
                save_weights(trainer.model, directory / "latest.safetensors", metadata=metadata)
        if done == options.steps - options.decay_steps:
            trainer.save(directory, "stable")
    if meeting:
        distributed.destroy_process_group()


class _Log:
    """Prints and keeps the mean losses of the first worker."""

    def __init__(self, trainer: Trainer, path: Path) -> None:
        self.trainer = trainer
        self.path = path
        self.started = time.monotonic()
        self.first_step, self.first_token = trainer.steps_done, trainer.tokens_done
        self.recent: dict[str, list[float]] = defaultdict(list)
        start = f"continuing from step {trainer.steps_done}" if trainer.steps_done else "starting"
        print(f"{start}: {trainer.model.num_parameters()} parameters; {asdict(trainer.options)}", flush=True)  # noqa: T201 - progress of a command

    def add(self, losses: dict[str, float]) -> None:
        """Take in the losses of one step."""
        for name, loss in losses.items():
            self.recent[name].append(loss)

    def write(self) -> None:
        """Print and store the means since the last time."""
        options, done = self.trainer.options, self.trainer.steps_done
        seconds = time.monotonic() - self.started
        means = {name: round(sum(values) / len(values), 4) for name, values in sorted(self.recent.items())}
        self.recent.clear()
        rate = (self.trainer.tokens_done - self.first_token) * options.workers / seconds
        left = seconds / (done - self.first_step) * (options.steps - done)
        losses = " ".join(f"{name}={value:.3f}" for name, value in means.items())
        print(f"step {done} {rate / 1000:.1f}k tokens/s, {left / 60:.0f} min left: {losses}", flush=True)  # noqa: T201 - as above
        tokens = self.trainer.tokens_done * options.workers
        with self.path.open("a") as file:
            file.write(json.dumps({"step": done, "tokens": tokens, "seconds": round(seconds), **means}) + "\n")


def main() -> None:
    """Train with the defaults of the committed weights; write weights and what they reach on the development split."""
    default = TrainingOptions()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=default.steps, help="optimiser steps in all")
    parser.add_argument("--decay-steps", type=int, help="steps of decay at the end (default: the same share)")
    parser.add_argument("--flag-weight", type=float, default=default.flag_weight, help="weight of yes and near flags")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--workers", type=int, default=default.workers, help="processes of one thread each")
    parser.add_argument("--directory", type=Path, default=Path("checkpoints/puzzles"), help="checkpoints and metrics")
    parser.add_argument("--output", type=Path, default=puzzles_weights(further=False))
    arguments = parser.parse_args()
    decay = arguments.decay_steps or round(arguments.steps * default.decay_steps / default.steps)
    options = TrainingOptions(
        steps=arguments.steps,
        decay_steps=decay,
        flag_weight=arguments.flag_weight,
        seed=arguments.seed,
        workers=arguments.workers,
    )
    train(options, arguments.directory)
    shutil.copyfile(arguments.directory / "latest.safetensors", arguments.output)
    write_metrics(arguments.output, arguments.directory, options)
    print(f"wrote {arguments.output}", flush=True)  # noqa: T201 - the result of a command


def write_metrics(weights: Path, directory: Path, options: TrainingOptions) -> None:
    """Measure ``weights`` on the development split; the results go beside them, as JSON, with the last losses."""
    model = load_weights(weights, backend="local:puzzles")
    last = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
    metrics = {"options": asdict(options), "training": last, "development": evaluate(model, "development")}
    weights.with_suffix(".metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
