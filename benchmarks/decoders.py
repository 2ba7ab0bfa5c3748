"""Speed against quality of every decoder on the embedded model's tasks: how many forward passes buy how much.

    python benchmarks/decoders.py                                  # every decoder, rule and setting; about ten minutes
    python benchmarks/decoders.py --quick                          # a few of them on few questions
    python benchmarks/decoders.py --only uniform --out found.json --plot docs/images/decoders.png

Three tasks on held-out questions: grids of sudoku (solved), two legal steps of a three-number state (share of legal
lines; at temperature 1, because proposals are to differ), arithmetic (right answers). Every decoder runs the same
weights, those that know all modes, so that decoders are compared and not networks; ``--weights`` takes others, with
which decoders whose mode they lack are left out.

A sample's passes are the forward passes made while it was being written. Positions are the tokens fed to them, which
is what caches save: a pass over one token is cheaper than one over a canvas. Both are counted, not timed, so they do
not depend on the machine. Intervals are 95 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from torch import nn

from llmprog.backends.local.decoders.base import Decoder, Row, Written
from llmprog.backends.local.decoders.making import make_decoder
from llmprog.backends.local.networks.weights import load_weights
from llmprog.backends.local.options import LocalOptions
from llmprog.backends.local.puzzles.data import ExampleStream, random_question, sudoku_grids
from llmprog.backends.local.puzzles.language import PuzzlePrompt, PuzzleTokenizer
from llmprog.backends.local.puzzles.moves import legal_moves
from llmprog.backends.local.puzzles.split import Split, held_out_states, split_of_text
from llmprog.backends.local.sampling import stream_key
from llmprog.bench.measures import Estimate, mean_of
from llmprog.errors import OptionError
from llmprog.types import SamplingParams
from llmprog_puzzles import FURTHER_WEIGHTS

MASKED = "decoder=masked_diffusion"
TARGET = 24

SETTINGS: dict[str, list[str]] = {
    "autoregressive": ["decoder=autoregressive"],
    "quota": [f"{MASKED}&unmask=quota{s}" for s in ("&steps=1", "&steps=2", "&steps=4", "&steps=8", "")],
    "random": [f"{MASKED}&unmask=random{s}" for s in ("&steps=2", "&steps=4", "&steps=8", "")],
    "margin": [f"{MASKED}&unmask=margin{s}" for s in ("&steps=2", "&steps=4", "&steps=8", "")],
    "entropy": [f"{MASKED}&unmask=entropy&entropy_bound={b}" for b in (0.01, 0.1, 0.5, 2)],
    "threshold": [f"{MASKED}&fallback=confident&threshold={t}" for t in (0.5, 0.7, 0.9, 0.99)],
    "threshold, leftmost": [f"{MASKED}&threshold={t}" for t in (0.5, 0.7, 0.9, 0.99)],
    "factor": [f"{MASKED}&unmask=factor&factor={f}" for f in (0.03, 0.1, 0.5, 1)],
    "credit": [f"{MASKED}&unmask=credit&fallback=confident&threshold={t}" for t in (0.7, 0.9, 0.99)],
    "hierarchical": [f"{MASKED}&unmask=hierarchical&threshold={t}" for t in (0.7, 0.9, 0.99)],
    "quota, remask": [f"{MASKED}&unmask=quota&remask=conf&steps={s}" for s in (8, 20, 40)],
    "block diffusion": [f"decoder=block_diffusion&fallback=confident&threshold={t}" for t in (0.5, 0.7, 0.9, 0.99)],
    "uniform": [f"decoder=uniform_diffusion&entropy_bound={b}" for b in (0.02, 0.1, 0.5, 2)]
    + [f"decoder=uniform_diffusion&steps={s}" for s in (4, 8)],
    "Eso-LM B": [f"decoder=hybrid&alpha0={a}&steps=4" for a in (0.1, 0.25, 0.5, 1)] + ["decoder=hybrid&alpha0=0"],
    "Eso-LM A": [f"decoder=hybrid&variant=a&alpha0={a}&steps=4" for a in (0.1, 0.25, 0.5, 1)]
    + ["decoder=hybrid&variant=a&alpha0=0"],
    "MDLM": [f"decoder=mdlm&steps={s}" for s in (2, 4, 8, 16)] + ["decoder=mdlm&sampler=first_hitting"],
    "score entropy": [f"decoder=score_entropy&steps={s}" for s in (2, 4, 8, 16)],
    "score entropy, geometric": [
        f"decoder=score_entropy&noise=geometric&predictor=euler&steps={s}" for s in (4, 8, 16, 32)
    ],
}
"""Series of the plot and their settings, as in an id's query."""
QUICK = ("autoregressive", "quota", "threshold", "uniform", "Eso-LM A", "MDLM")


@dataclass(frozen=True)
class Question:
    """A prompt, how it is drawn, and what answers it."""

    prompt: PuzzlePrompt
    temperature: float
    solutions: frozenset[str]
    by_line: bool = False

    def marks(self, text: str) -> list[float]:
        """1 for what is right, 0 for what is not: one mark, or one a line."""
        return [float(part in self.solutions) for part in (text.split("\n") if self.by_line else [text])]


@dataclass(frozen=True)
class Point:
    """What one setting reached on one task."""

    series: str
    setting: str
    task: str
    quality: Estimate
    passes: float
    positions: float
    seconds: float


def questions_of(task: str, count: int, split: Split, tokenizer: PuzzleTokenizer) -> Iterator[Question]:
    """``count`` held-out questions, the same for every decoder."""
    rng = Random(f"decoders {task}")
    if task == "sudoku":
        stream = ExampleStream(7, split)
        grids = [grid for grid in sudoku_grids() if split_of_text(grid) == split]
        for _ in range(count):
            prompt, solution = stream.sudoku_puzzle(rng.choice(grids), fewest=4, most=8)
            yield Question(prompt, 0.0, frozenset([solution]))
    elif task == "steps":
        states = sorted(state for state, where in held_out_states().items() if where == split)
        for state in rng.sample(states, count):
            legal = frozenset(map(str, legal_moves(state)))
            yield Question(tokenizer.propose_prompt(state, TARGET, 2), 1.0, legal, by_line=True)
    else:
        while count:
            question = random_question(rng, rng.choice((3, 4)))
            if question is not None and split_of_text(question.text) == split:
                prompt = tokenizer.arithmetic_prompt(question.text)
                yield Question(prompt, 0.0, frozenset([question.reasoning]))
                count -= 1


class Meter:
    """Counts the forward passes of a model and the positions fed to them."""

    def __init__(self, model: nn.Module) -> None:
        self.passes = self.positions = 0
        model.get_submodule("embedding").register_forward_pre_hook(self._count)

    def _count(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.passes += 1
        self.positions += inputs[0].numel()


def write(decoder: Decoder, rows: Sequence[Row], meter: Meter) -> tuple[list[Written], float, float]:
    """The rows written in one batch, and the mean passes and positions of a row."""
    writing, found, passes = decoder.start(), {}, 0
    first = meter.positions
    waiting = dict(enumerate(rows))
    while waiting or len(writing):
        before = meter.passes
        joining = {i: waiting.pop(i) for i in list(waiting)[: writing.room(list(waiting.values())) if waiting else 0]}
        writing.admit(joining)
        under_way = len(writing)
        found |= writing.step()
        passes += (meter.passes - before) * under_way
        if waiting and not len(writing):
            writing = decoder.start()
    return [found[i] for i in range(len(rows))], passes / len(rows), (meter.positions - first) / len(rows)


def measure(
    series: str, setting: str, task: str, questions: Sequence[Question], model: nn.Module, meter: Meter
) -> Point:
    """One setting on one task."""
    tokenizer = PuzzleTokenizer.of(model.config.vocab_size)
    options = LocalOptions.parse("local:puzzles", dict(pair.split("=") for pair in setting.split("&")))
    decoder = make_decoder(model, tokenizer.vocabulary, options, shift_logits=False)
    mode = tokenizer.mode_token(options)
    rows = [
        Row(
            prompt=(mode, *question.prompt.tokens),
            canvas=(tokenizer.mask_id,) * question.prompt.canvas_length,
            block_length=question.prompt.block_length,
            key=stream_key(0, task.encode(), number),
            params=SamplingParams(temperature=question.temperature),
        )
        for number, question in enumerate(questions)
    ]
    started = time.perf_counter()
    written, passes, positions = write(decoder, rows, meter)
    seconds = time.perf_counter() - started
    marks = [
        mark for q, reply in zip(questions, written, strict=True) for mark in q.marks(tokenizer.decode(reply.tokens))
    ]
    return Point(series, setting, task, mean_of(marks), round(passes, 2), round(positions, 1), round(seconds, 2))


def show(points: Sequence[Point], tasks: Sequence[str]) -> None:
    """A line for each setting: quality in percent and passes of a sample on each task."""
    print(f"\n{'setting':<68}" + "".join(f"{task:>26}" for task in tasks))
    for setting in dict.fromkeys(point.setting for point in points):
        line = f"{setting.removeprefix('decoder='):<68}"
        for task in tasks:
            (point,) = [p for p in points if (p.setting, p.task) == (setting, task)]
            quality = point.quality
            shares = f"{100 * quality.value:.0f} ({100 * quality.low:.0f}-{100 * quality.high:.0f})"
            line += f"{shares:>14}{point.passes:>7.1f}{point.positions:>5.0f}"
        print(line)


def plot(points: Sequence[Point], tasks: Sequence[str], path: Path) -> None:
    """A panel for each task: quality against passes, a curve for each series."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    names = list(dict.fromkeys(point.series for point in points))
    styles = ("o-", "s--", "^:")
    for axes, task in zip(panels, tasks, strict=True):
        for number, name in enumerate(names):
            chosen = sorted((p for p in points if (p.series, p.task) == (name, task)), key=lambda p: p.passes)
            axes.errorbar(
                [p.passes for p in chosen],
                [100 * p.quality.value for p in chosen],
                yerr=[
                    [100 * (p.quality.value - p.quality.low) for p in chosen],
                    [100 * (p.quality.high - p.quality.value) for p in chosen],
                ],
                fmt=styles[number // 7 % len(styles)],
                color=f"C{number % 7}",
                label=name if axes is panels[0] else None,
                markersize=4,
                linewidth=1.2,
                elinewidth=0.4,
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(task)
        axes.set_xlabel("forward passes a sample")
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("right, %")
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few decoders, settings and questions")
    parser.add_argument("--count", type=int, help="questions of each task (default 100; quick: 12)")
    parser.add_argument("--only", nargs="+", help="series whose names contain one of these")
    parser.add_argument("--tasks", nargs="+", choices=("sudoku", "steps", "arithmetic"), help="default: all")
    parser.add_argument("--split", choices=("development", "test"), default="test")
    parser.add_argument("--weights", type=Path, default=FURTHER_WEIGHTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write all points as JSON here")
    parser.add_argument("--plot", type=Path, help="draw them here: .png, .svg or .pdf")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tasks = arguments.tasks or ["sudoku", "steps", "arithmetic"]
    count = arguments.count or (12 if arguments.quick else 100)
    chosen = {name: s for name, s in SETTINGS.items() if not arguments.quick or name in QUICK}
    if arguments.only:
        chosen = {name: s for name, s in chosen.items() if any(part in name for part in arguments.only)}
    model = load_weights(arguments.weights, backend="local:puzzles")
    meter, tokenizer = Meter(model), PuzzleTokenizer.of(model.config.vocab_size)
    questions = {task: list(questions_of(task, count, arguments.split, tokenizer)) for task in tasks}
    points: list[Point] = []
    for series, settings in chosen.items():
        for setting in settings[1::2] if arguments.quick and len(settings) > 1 else settings:
            try:
                points += [measure(series, setting, task, questions[task], model, meter) for task in tasks]
            except OptionError as error:
                print(f"left out {setting}: {error}", file=sys.stderr)
                continue
            print(f"{series}: {setting}: " + ", ".join(f"{p.seconds:.1f} s" for p in points[-len(tasks) :]), flush=True)
    show(points, tasks)
    print(
        f"\nquality in % with its 95 % interval, passes and positions of a sample; {count} {arguments.split} questions"
    )
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")
    if arguments.plot:
        plot(points, tasks, arguments.plot)


if __name__ == "__main__":
    main()
