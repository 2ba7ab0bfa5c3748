"""Sudoku on 3x3, 4x4 and 5x5 boards: at once, the first right one of many, step by step with going back, by blanks.

    python benchmarks/sudoku.py                               # 100 puzzles of each size, 3 seeds
    python benchmarks/sudoku.py --puzzles 10 --seeds 1 --sizes 4 --who model

Puzzles are random, have exactly one solution, and none of their givens can be left out. Two generators write boards:

* *model*: the embedded model ``local:puzzles``, which knows 4x4 boards only: autoregressive where boards are written as
  text, masked diffusion where blanks are filled. The solutions of its puzzles are in the test split: it was not trained
  on them. On other sizes it is asked once, and what it says is shown.
* *noisy solver*: no model. An exact solver that writes a whole board and puts another number into each cell with
  probability ``--error-rate``. It stands in for a model that can write boards of any size and is often wrong, so its
  rows compare the methods and say nothing of what models can do.

The methods:

* *one shot*, and *best of 20*: whole boards, one after the other until one breaks no rule.
* *rules (Long)*: ``TreeOfThoughtController`` with the rules that were published: go back by one, by two after five
  visits; boards that break no rule are gone on from, also where they cannot be completed.
* *rules, dead ends*: the program's default, which finds such boards exactly as well. As the puzzles have one solution,
  this checker refuses every wrong cell: what is left to the generator is to write right ones.
* *infill*: diffusion fills all blanks of one template, one in each denoising step; *infill, best of 20*; *edit*: cells
  that break a rule are filled again, up to 8 times; the same with two denoising steps a template.

calls: completions asked for per puzzle, unsolved ones included. All methods ask for one at a time, so calls are rounds
too. A puzzle counts with its mean over the seeds. Intervals are 95 %: Wilson's, of the number of puzzles, for the share
solved, by bootstrap over puzzles for calls.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from llmprog import Program, arun
from llmprog.backends import Backend, ScriptedBackend, open_backend
from llmprog.backends.local.puzzles.split import split_of_text
from llmprog.errors import InputError
from llmprog.programs.sudoku import Board, complete, parse_board, random_puzzle, sudoku
from llmprog.search import BestOfN, RollbackRules, TreeOfThoughtController

AUTOREGRESSIVE = "local:puzzles"
DIFFUSION = "local:puzzles?decoder=masked_diffusion&unmask=quota"
TWO_STEPS = f"{DIFFUSION}&steps=2"
MODEL, NOISY = "model", "noisy solver"
LEARNED_SIZE = 4
MANY = 20


@dataclass(frozen=True)
class Contender:
    """A method on a generator: one line of the table."""

    method: str
    who: str
    program: Program
    open_backend: Callable[[int], Backend]


@dataclass(frozen=True)
class Row:
    """What a contender achieved, by puzzle, each the mean over seeds."""

    contender: Contender
    size: int
    solved: Sequence[float]
    calls: Sequence[float]
    seconds: float


# ----------------------------------------------------------------------------------------------- puzzles


def random_puzzles(size: int, count: int) -> list[Board]:
    """The same puzzles for the same size and count, whatever the seeds of the runs."""
    rng = random.Random(f"puzzles of {size}")
    found: list[Board] = []
    while len(found) < count:
        puzzle = random_puzzle(size, rng)
        (solution,) = complete(puzzle).boards
        if size != LEARNED_SIZE or split_of_text("".join(map(str, solution.cells))) == "test":
            found.append(puzzle)
    return found


def noisy_solver(error_rate: float, seed: int) -> ScriptedBackend:
    """An exact solver whose cells are wrong with a known probability, each independently of the others.

    A board that cannot be completed is filled in at random.
    """

    def write(prompt: str, sample: int) -> str:
        rng = random.Random(f"{seed}\n{sample}\n{prompt}")
        size = len(prompt.strip().splitlines()[-2].split())
        board = parse_board("\n".join(prompt.strip().splitlines()[-1 - size : -1]))
        completions = complete(board, rng=rng).boards
        cells = list(board.cells)
        for i, given in enumerate(board.cells):
            if not given:
                right = completions[0].cells[i] if completions else 0
                is_wrong = not right or rng.random() < error_rate
                cells[i] = rng.choice([s for s in range(1, size + 1) if s != right]) if is_wrong else right
        return str(replace(board, cells=tuple(cells)))

    return ScriptedBackend(write)


# -------------------------------------------------------------------------------------------- contenders


def contenders(size: int, args: argparse.Namespace) -> list[Contender]:
    """All lines of a size: a further method, such as another policy, is a further entry here."""
    as_published = TreeOfThoughtController(
        max_depth=size * size, max_rounds=100, policy=RollbackRules(max_visits=5, patience=None)
    )
    boards: dict[str, Program] = {
        "one shot": sudoku(method="one_shot"),
        f"best of {MANY}": one_by_one(sudoku(method="best_of_n", num_samples=MANY)),
        "rules (Long)": replace(sudoku(dead_ends="none"), controller=as_published),
        "rules, dead ends": sudoku(),
    }
    blanks: dict[str, Program] = {
        "infill": sudoku(method="infill"),
        f"infill, best of {MANY}": one_by_one(sudoku(method="infill", num_samples=MANY)),
        "edit": sudoku(method="edit"),
    }
    found: list[Contender] = []
    if MODEL in args.who and size == LEARNED_SIZE:
        found += [Contender(name, MODEL, program, opener(AUTOREGRESSIVE)) for name, program in boards.items()]
        found += [Contender(name, MODEL, program, opener(DIFFUSION)) for name, program in blanks.items()]
        for name in ("infill", "edit"):
            found.append(Contender(f"{name}, 2 steps", MODEL, blanks[name], opener(TWO_STEPS)))
    if NOISY in args.who:
        found += [
            Contender(name, NOISY, program, lambda seed: noisy_solver(args.error_rate, seed))
            for name, program in boards.items()
        ]
    return found


def opener(backend_id: str) -> Callable[[int], Backend]:
    """Opens a model, whose draws have the seed of the run and not of the model."""
    return lambda _: open_backend(backend_id)


def one_by_one(program: Program) -> Program:
    """Best of n that draws a board only when the one before was wrong, so that calls can be compared."""
    return replace(program, controller=BestOfN(num_samples=MANY, batch_size=1))


def refusal_of_the_model(size: int) -> str:
    """What the embedded model says to a board of another size than the one it knows."""
    try:
        sudoku(method="one_shot").run(str(random_puzzles(size, 1)[0]), backend=AUTOREGRESSIVE, seed=0)
    except InputError as refusal:
        return f"Refused: {str(refusal).partition(': the embedded')[0]}."
    return "It answers."


# --------------------------------------------------------------------------------------------- measuring


async def measure(contender: Contender, size: int, puzzles: Sequence[Board], args: argparse.Namespace) -> Row:
    solved = [[0.0] * args.seeds for _ in puzzles]
    calls = [[0.0] * args.seeds for _ in puzzles]
    begun = time.perf_counter()
    for seed in range(args.seeds):
        backend = contender.open_backend(seed)
        places = asyncio.Semaphore(args.concurrency)

        async def solve(i: int, seed: int = seed, backend: Backend = backend, places: Any = places) -> None:
            async with places:
                result = await arun(contender.program, str(puzzles[i]), backend=backend, seed=seed)
            solved[i][seed], calls[i][seed] = float(result.solved), float(result.usage.calls)

        await asyncio.gather(*(solve(i) for i in range(len(puzzles))))
        await backend.aclose()
    seconds = (time.perf_counter() - begun) / (len(puzzles) * args.seeds)
    return Row(contender, size, [statistics.mean(s) for s in solved], [statistics.mean(c) for c in calls], seconds)


def share_interval(share: float, total: int) -> tuple[float, float]:
    """95 % Wilson interval of a share of ``total`` puzzles."""
    z = 1.96
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * ((share * (1 - share) + z * z / (4 * total)) / total) ** 0.5 / (1 + z * z / total)
    return centre - half, centre + half


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = random.Random(0)
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(2_000))
    return means[49], means[1949]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puzzles", type=int, default=100, help="of each size")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every puzzle, with seeds from 0 on")
    parser.add_argument("--sizes", type=int, nargs="+", choices=range(3, 10), default=(3, 4, 5))
    parser.add_argument("--who", nargs="+", choices=(MODEL, NOISY), default=(MODEL, NOISY))
    parser.add_argument("--error-rate", type=float, default=0.15, help="of the noisy solver, per cell")
    parser.add_argument("--concurrency", type=int, default=32, help="puzzles at a time")
    args = parser.parse_args()

    table = Table(
        title=f"sudoku, {args.puzzles} puzzles a size, seeds 0 to {args.seeds - 1}, "
        f"noisy solver wrong in {100 * args.error_rate:g} % of cells"
    )
    for column in ("size", "generator", "method", "solved %", "95 %", "calls", "95 %", "s/puzzle"):
        is_text = column in ("generator", "method")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    notes: list[str] = []
    for size in args.sizes:
        puzzles = random_puzzles(size, args.puzzles)
        if MODEL in args.who and size != LEARNED_SIZE:
            notes.append(f"{size}x{size}, model: it has never seen such a board. {refusal_of_the_model(size)}")
        for contender in contenders(size, args):
            row = asyncio.run(measure(contender, size, puzzles, args))
            solved, calls = statistics.fmean(row.solved), statistics.fmean(row.calls)
            solved_low, solved_high = share_interval(solved, len(puzzles))
            calls_low, calls_high = mean_interval(row.calls)
            table.add_row(
                f"{size}x{size}", contender.who, contender.method, f"{100 * solved:.1f}",
                f"{100 * solved_low:.0f}–{100 * solved_high:.0f}", f"{calls:.1f}", f"{calls_low:.1f}–{calls_high:.1f}",
                f"{row.seconds:.2f}",
            )  # fmt: skip
            Console(stderr=True).print(f"{size}x{size} {contender.who}, {contender.method}: {solved:.2f}, {calls:.1f}")
    console = Console(width=120)
    console.print(table)
    for note in notes:
        console.print(note)


if __name__ == "__main__":
    main()
