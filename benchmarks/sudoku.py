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
* *rules*: ``TreeOfThoughtController`` as published: go back by one, by two after five visits; boards that break no rule
  are gone on from, also where they cannot be completed.
* *policy*: the same with a learned policy in place of the rules for going back.
* *rules, dead ends*: the program's default, which finds boards that cannot be completed exactly as well. As the puzzles
  have one solution, this checker refuses every wrong cell: what is left to the generator is to write right ones.
* *policy, dead ends*: the same with a learned policy.
* *infill*: diffusion fills all blanks of one template, one in each denoising step; *infill, best of 20*; *edit*: cells
  that break a rule are filled again, up to 8 times; the same with two denoising steps a template.

Policies are trained here, on random puzzles that are none of the test's: ``--policies`` of each kind, with seeds of
their own, by ``--episodes`` runs on the noisy solver, or ``--model-episodes`` on the model, on puzzles whose solutions
are in its training split. Runs with seed s use policy s modulo their number. With ``--keep FOLDER`` policies stay
there, and are used again.

calls: completions asked for per puzzle, unsolved ones included. All methods ask for one at a time, so calls are rounds
too. A puzzle counts with its mean over the seeds. Intervals are 95 %: Wilson's, of the number of puzzles, for the share
solved; by bootstrap over puzzles for calls, and, in pairs, for what the policy changes.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llmprog import Program, arun
from llmprog.backends import Backend, ScriptedBackend, open_backend
from llmprog.backends.local.puzzles.split import split_of_text
from llmprog.errors import InputError
from llmprog.policy_training import TrainingProgress, train_policy
from llmprog.programs.sudoku import Board, complete, parse_board, random_puzzle, sudoku
from llmprog.search import BestOfN, PolicyController, RollbackRules, TreeOfThoughtController, load_policy

AUTOREGRESSIVE = "local:puzzles"
DIFFUSION = "local:puzzles?decoder=masked_diffusion&unmask=quota"
TWO_STEPS = f"{DIFFUSION}&steps=2"
MODEL, NOISY = "model", "noisy solver"
LEARNED_SIZE = 4
MANY = 20


@dataclass(frozen=True)
class Contender:
    """A method on a generator: one line of the table.

    Attributes:
        programs: What is run, by seed; the first again after the last.
        rules: The method that it does with a learned policy, if it does.
    """

    method: str
    who: str
    programs: Sequence[Program]
    open_backend: Callable[[int], Backend]
    rules: str | None = None


@dataclass(frozen=True)
class Row:
    """What a contender achieved, by puzzle, each the mean over seeds."""

    contender: Contender
    size: int
    solved: Sequence[float]
    calls: Sequence[float]


# ----------------------------------------------------------------------------------------------- puzzles


def random_puzzles(size: int, count: int) -> list[Board]:
    """The same puzzles for the same size and count, whatever the seeds of the runs."""
    rng = random.Random(f"puzzles of {size}")
    found: list[Board] = []
    while len(found) < count:
        puzzle = random_puzzle(size, rng)
        if size != LEARNED_SIZE or split_of(puzzle) == "test":
            found.append(puzzle)
    return found


def split_of(puzzle: Board) -> str:
    """The split of the model's data that the puzzle's solution is in."""
    (solution,) = complete(puzzle).boards
    return split_of_text("".join(map(str, solution.cells)))


def other_puzzles(size: int, tested: Sequence[Board]) -> Callable[[random.Random], str]:
    """Makes puzzles to learn from: none that is ``tested``; where there is a model, none that it was not trained on."""
    forbidden = sorted(str(puzzle) for puzzle in tested)

    def make(rng: random.Random) -> str:
        while True:
            puzzle = random_puzzle(size, rng)
            if str(puzzle) not in forbidden and (size != LEARNED_SIZE or split_of(puzzle) == "train"):
                return str(puzzle)

    return make


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


# ---------------------------------------------------------------------------------------------- policies


class Policies:
    """Trains policies, each once, and keeps them in a folder.

    Args:
        folder: Where they are kept.
        args: The options of the benchmark.
        tested: The test's puzzles, by size.
    """

    def __init__(self, folder: Path, args: argparse.Namespace, tested: dict[int, Sequence[Board]]) -> None:
        self._folder = folder
        self._args = args
        self._tested = tested

    def programs(self, rules: Program, who: str, size: int) -> list[Program]:
        """``rules`` with policies in place of the rules, as many as were asked for."""
        return [self._learned(rules, who, size, seed) for seed in range(self._args.policies)]

    def _learned(self, rules: Program, who: str, size: int, seed: int) -> Program:
        args = self._args
        checks = "all" if len(rules.checkers) > 1 else "rules"
        generator = f"noisy-{args.error_rate}" if who == NOISY else "model"
        out = self._folder / f"{generator}-{size}-{checks}-{seed}.safetensors"
        shown_at = 0.0

        def show(progress: TrainingProgress) -> None:
            nonlocal shown_at
            if time.monotonic() - shown_at > 30:
                shown_at = time.monotonic()
                say(out, progress)

        training = train_policy(
            rules,
            other_puzzles(size, self._tested[size]),
            out=out,
            num_episodes=args.episodes if who == NOISY else args.model_episodes,
            backend=noisy_solver(args.error_rate, seed=-1 - seed) if who == NOISY else AUTOREGRESSIVE,
            seed=seed,
            on_progress=show,
        )
        say(out, asyncio.run(training))
        return with_policy(rules, out)


def say(out: Path, progress: TrainingProgress) -> None:
    Console(stderr=True).print(
        f"{out.stem}: {progress.num_episodes} of {progress.num_wanted} episodes, {progress.solve_rate:.1%} solved, "
        f"{progress.mean_rounds:.2f} rounds"
    )


def with_policy(program: Program, path: Path) -> Program:
    controller: Any = program.controller
    learned = PolicyController(
        max_depth=controller.max_depth, max_rounds=controller.max_rounds, policy=load_policy(path)
    )
    return replace(program, controller=learned)


# -------------------------------------------------------------------------------------------- contenders


def contenders(size: int, args: argparse.Namespace, policies: Policies) -> list[Contender]:
    """All lines of a size."""
    as_published = TreeOfThoughtController(
        max_depth=size * size, max_rounds=100, policy=RollbackRules(max_visits=5, patience=None)
    )
    by_rules = {
        "rules": replace(sudoku(dead_ends="none"), controller=as_published),
        "rules, dead ends": sudoku(),
    }
    whole = {
        "one shot": sudoku(method="one_shot"),
        f"best of {MANY}": one_by_one(sudoku(method="best_of_n", num_samples=MANY)),
    }
    blanks = {
        "infill": sudoku(method="infill"),
        f"infill, best of {MANY}": one_by_one(sudoku(method="infill", num_samples=MANY)),
        "edit": sudoku(method="edit"),
    }
    found: list[Contender] = []
    writers: dict[str, Callable[[int], Backend]] = {
        MODEL: opener(AUTOREGRESSIVE),
        NOISY: lambda seed: noisy_solver(args.error_rate, seed),
    }
    for who in (who for who in writers if who in args.who and (who == NOISY or size == LEARNED_SIZE)):
        found += [Contender(name, who, [program], writers[who]) for name, program in whole.items()]
        for name, program in by_rules.items():
            found.append(Contender(name, who, [program], writers[who]))
            if args.policies:
                learned = policies.programs(program, who, size)
                found.append(Contender(name.replace("rules", "policy"), who, learned, writers[who], rules=name))
        if who == MODEL:
            found += [Contender(name, who, [program], opener(DIFFUSION)) for name, program in blanks.items()]
            for name in ("infill", "edit"):
                found.append(Contender(f"{name}, 2 steps", who, [blanks[name]], opener(TWO_STEPS)))
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
    for seed in range(args.seeds):
        backend = contender.open_backend(seed)
        places = asyncio.Semaphore(args.concurrency)

        async def solve(i: int, seed: int = seed, backend: Backend = backend, places: Any = places) -> None:
            program = contender.programs[seed % len(contender.programs)]
            async with places:
                result = await arun(program, str(puzzles[i]), backend=backend, seed=seed)
            solved[i][seed], calls[i][seed] = float(result.solved), float(result.usage.calls)

        await asyncio.gather(*(solve(i) for i in range(len(puzzles))))
        await backend.aclose()
    return Row(contender, size, [statistics.mean(s) for s in solved], [statistics.mean(c) for c in calls])


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


def paired_interval(now: Sequence[float], before: Sequence[float]) -> tuple[float, float, float]:
    """The mean difference by puzzle, and its 95 % bootstrap interval."""
    differences = [a - b for a, b in zip(now, before, strict=True)]
    return statistics.fmean(differences), *mean_interval(differences)


# --------------------------------------------------------------------------------------------- showing


def table_of(rows: Sequence[Row], args: argparse.Namespace) -> Table:
    table = Table(
        title=f"sudoku, {args.puzzles} puzzles a size, seeds 0 to {args.seeds - 1}, "
        f"noisy solver wrong in {100 * args.error_rate:g} % of cells"
    )
    for column in ("size", "generator", "method", "solved %", "95 %", "calls", "95 %"):
        is_text = column in ("generator", "method")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        solved, calls = statistics.fmean(row.solved), statistics.fmean(row.calls)
        solved_low, solved_high = share_interval(solved, len(row.solved))
        calls_low, calls_high = mean_interval(row.calls)
        table.add_row(
            f"{row.size}x{row.size}", row.contender.who, row.contender.method, f"{100 * solved:.1f}",
            f"{100 * solved_low:.0f}–{100 * solved_high:.0f}", f"{calls:.1f}", f"{calls_low:.1f}–{calls_high:.1f}",
        )  # fmt: skip
    return table


def comparison_of(rows: Sequence[Row]) -> Table:
    """What learned policies change, against the rules on the same puzzles with the same seeds."""
    table = Table(title="learned policy less rules, in pairs")
    for column in ("size", "generator", "checks", "solved, points", "95 %", "rounds", "95 %"):
        is_text = column in ("generator", "checks")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    by_method = {(row.size, row.contender.who, row.contender.method): row for row in rows}
    for row in rows:
        who, rules = row.contender.who, row.contender.rules
        if rules is not None:
            before = by_method[row.size, who, rules]
            solved = [100 * value for value in paired_interval(row.solved, before.solved)]
            rounds = paired_interval(row.calls, before.calls)
            table.add_row(
                f"{row.size}x{row.size}", who, "rules, dead ends" if "dead" in rules else "rules", f"{solved[0]:+.1f}",
                f"{solved[1]:+.1f} to {solved[2]:+.1f}", f"{rounds[0]:+.2f}", f"{rounds[1]:+.2f} to {rounds[2]:+.2f}",
            )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puzzles", type=int, default=100, help="of each size")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every puzzle, with seeds from 0 on")
    parser.add_argument("--sizes", type=int, nargs="+", choices=range(3, 10), default=(3, 4, 5))
    parser.add_argument("--who", nargs="+", choices=(MODEL, NOISY), default=(MODEL, NOISY))
    parser.add_argument("--error-rate", type=float, default=0.3, help="of the noisy solver, per cell")
    parser.add_argument("--policies", type=int, default=1, help="trained for every line that has one; 0 for none")
    parser.add_argument("--episodes", type=int, default=1500, help="of training on the noisy solver")
    parser.add_argument("--model-episodes", type=int, default=800, help="of training on the model")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep policies here, and use those that are there")
    parser.add_argument("--concurrency", type=int, default=32, help="puzzles at a time")
    args = parser.parse_args()

    rows: list[Row] = []
    notes: list[str] = []
    puzzles = {size: random_puzzles(size, args.puzzles) for size in args.sizes}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        policies = Policies(folder, args, puzzles)
        for size in args.sizes:
            if MODEL in args.who and size != LEARNED_SIZE:
                notes.append(f"{size}x{size}, model: it has never seen such a board. {refusal_of_the_model(size)}")
            for contender in contenders(size, args, policies):
                row = asyncio.run(measure(contender, size, puzzles[size], args))
                rows.append(row)
                Console(stderr=True).print(
                    f"{size}x{size} {contender.who}, {contender.method}: {statistics.fmean(row.solved):.3f} solved, "
                    f"{statistics.fmean(row.calls):.2f} calls"
                )
    console = Console(width=120)
    console.print(table_of(rows, args))
    if args.policies:
        console.print(comparison_of(rows))
    for note in notes:
        console.print(note)


if __name__ == "__main__":
    main()
