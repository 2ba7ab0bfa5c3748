"""The Game of 24 on held-out puzzles: every method on every decoder, and what the network adds.

    python benchmarks/game24.py [--puzzles 100] [--split test] [--seed 0] [--concurrency 4] [--ceiling]

Puzzles are the solvable ones of the split, which training never saw, nor any state of three numbers on the way.
Control rows show what is left without the network: *random steps + rules* proposes as many legal steps as the network's
samples hold and lets exact rules alone judge; *random value* keeps the neural generator and judges at random.
With ``--ceiling``, *exact value* rows judge by exhaustive search: the most that a better checker could bring.

legal: share of proposed lines (in chains: of step lines) that exact arithmetic accepts. calls: completions per
puzzle. s/puzzle: wall time divided by puzzles, with ``--concurrency`` puzzles at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from llmprog import Program, arun, checker, generator
from llmprog.backends import Backend, open_backend
from llmprog.backends.local.puzzles.moves import legal_moves, reachable_numbers, verdict
from llmprog.backends.local.puzzles.split import classic_puzzles
from llmprog.programs import game24
from llmprog.programs.game24 import VALUES, Numbers, _first_state, legal, propose
from llmprog.types import Completion, Prompt, Request, SamplingParams, Template

DECODERS = ("autoregressive", "masked_diffusion", "hybrid")
METHODS = ("io", "cot", "cot_sc", "best_of_n", "tot")
LINES_PER_SAMPLE = 4


class StepCounter:
    """A backend that counts, in what passes through it, step lines and how many of them are legal."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.id = inner.id
        self.capabilities = inner.capabilities
        self.lines = 0
        self.legal = 0

    async def generate(self, request: Request) -> Sequence[Completion]:
        completions = await self.inner.generate(request)
        asked = request.prompt.text.strip().splitlines() if isinstance(request.prompt, Prompt) else []
        if len(asked) > 1 and asked[-1] in ("Possible next steps:", "Steps:"):
            numbers = tuple(Fraction(n) for n in re.findall(r"\d+", asked[-2]))
            for completion in completions:
                self._count(completion.text, _first_state(tuple(sorted(numbers)), Fraction(0)), asked[-1] == "Steps:")
        return completions

    def _count(self, text: str, state: Numbers, is_chain: bool) -> None:
        for line in text.splitlines():
            if not line.strip() or line.startswith("Answer"):
                continue
            made = next(iter(propose(state, line)), None)
            self.lines += 1
            self.legal += made is not None and not made.fault
            if is_chain:
                if made is None or made.fault:
                    return
                state = made

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Any:
        return await self.inner.score(prompt, continuations)

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Any:
        return await self.inner.infill(template, params, num_samples)

    async def aclose(self) -> None:
        await self.inner.aclose()


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    decoder: str
    solved: int
    puzzles: int
    legal: float | None
    calls: float
    seconds: float


def without_network(program: Program, seed: int, num_steps: int) -> Program:
    """The program with random legal steps in place of the network, judged by rules alone."""

    @generator
    def random_steps(state: Numbers) -> list[Numbers]:
        rng = random.Random(f"{seed} {state.left}")
        moves = legal_moves(tuple(int(number) for number in state.left))
        drawn = rng.choices(moves, k=num_steps) if moves else []
        return [made for move in drawn for made in propose(state, str(move))]

    return replace(program, generators=[random_steps], checkers=[legal])


def with_random_value(program: Program, seed: int) -> Program:
    """The program with verdicts drawn at random."""

    @checker
    def random_value(state: Numbers) -> float:
        return random.Random(f"{seed} {state.left}").random()

    return replace(program, checkers=[legal, random_value])


def with_exact_value(program: Program) -> Program:
    """The program with verdicts by exhaustive search."""

    @checker
    def exact_value(state: Numbers) -> float:
        return VALUES[verdict(tuple(int(number) for number in state.left), int(state.target))]

    return replace(program, checkers=[legal, exact_value])


async def measure(name: str, program: Program, decoder: str, puzzles: Sequence[str], args: argparse.Namespace) -> Row:
    backend = (
        None if decoder == "none" else StepCounter(open_backend(f"local:puzzles?decoder={decoder}&dtype={args.dtype}"))
    )
    places = asyncio.Semaphore(args.concurrency)

    async def solve(puzzle: str) -> tuple[bool, int]:
        async with places:
            result = await arun(program, puzzle, backend=backend, seed=args.seed)
            return result.solved, result.usage.calls

    if backend is not None:  # loading and first-call costs are not the search's
        await arun(program, puzzles[0], backend=backend, seed=args.seed)
        backend.lines = backend.legal = 0
    begun = time.perf_counter()
    results = await asyncio.gather(*(solve(puzzle) for puzzle in puzzles))
    seconds = time.perf_counter() - begun
    if backend is not None:
        await backend.aclose()
    return Row(
        name=name,
        decoder=decoder,
        solved=sum(solved for solved, _ in results),
        puzzles=len(puzzles),
        legal=backend.legal / backend.lines if backend and backend.lines else None,
        calls=sum(calls for _, calls in results) / len(puzzles),
        seconds=seconds / len(puzzles),
    )


def rows_wanted(args: argparse.Namespace) -> list[tuple[str, Program, str]]:
    def tot() -> Program:
        return game24(num_samples=args.num_samples)

    wanted: list[tuple[str, Program, str]] = []
    for method in args.methods:
        program = tot() if method == "tot" else game24(method=method)
        label = {"cot_sc": "cot_sc (20)", "best_of_n": "best of 20", "tot": f"tot (beam 5, {args.num_samples} samples)"}
        wanted += [(label.get(method, method), program, decoder) for decoder in args.decoders]
    if "tot" in args.methods:
        wanted.append(
            (
                "control: random steps + rules",
                without_network(tot(), args.seed, args.num_samples * LINES_PER_SAMPLE),
                "none",
            )
        )
        for decoder in args.decoders:
            wanted.append(("control: neural steps, random value", with_random_value(tot(), args.seed), decoder))
        if args.ceiling:
            for decoder in args.decoders:
                wanted.append(("ceiling: neural steps, exact value", with_exact_value(tot()), decoder))
    return wanted


def interval(solved: int, total: int) -> str:
    """95 % Wilson interval in percent."""
    z, share = 1.96, solved / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * ((share * (1 - share) + z * z / (4 * total)) / total) ** 0.5 / (1 + z * z / total)
    return f"{100 * (centre - half):.0f}–{100 * (centre + half):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--puzzles", type=int, default=100)
    parser.add_argument("--split", choices=("test", "development"), default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--num-samples", type=int, default=16, help="proposals per state")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16" if torch.cpu.get_capabilities().get("amx_bf16") else "float32",
        help="default: bfloat16 where the CPU has matrix instructions for it; diffusion is more than twice as fast",
    )
    parser.add_argument("--ceiling", action="store_true", help="also judge by exhaustive search")
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, default=DECODERS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    args = parser.parse_args()

    solvable = [p for p in classic_puzzles(args.split) if 24 in reachable_numbers(p)]
    puzzles = [" ".join(map(str, p)) for p in random.Random(24).sample(solvable, min(args.puzzles, len(solvable)))]
    table = Table(title=f"Game of 24, {len(puzzles)} solvable {args.split} puzzles, seed {args.seed}, {args.dtype}")
    for column in ("method", "decoder", "solved %", "95 %", "legal %", "calls", "s/puzzle"):
        table.add_column(column, justify="left" if column in ("method", "decoder") else "right")
    console = Console(width=120)
    for name, program, decoder in rows_wanted(args):
        row = asyncio.run(measure(name, program, decoder, puzzles, args))
        table.add_row(
            row.name, row.decoder, f"{100 * row.solved / row.puzzles:.1f}", interval(row.solved, row.puzzles),
            "–" if row.legal is None else f"{100 * row.legal:.1f}", f"{row.calls:.0f}", f"{row.seconds:.2f}",
        )  # fmt: skip
        Console(stderr=True).print(f"{row.name}, {row.decoder}: {row.solved}/{row.puzzles}, {row.seconds:.2f} s each")
    console.print(table)


if __name__ == "__main__":
    main()
