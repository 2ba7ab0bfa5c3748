"""Self-consistency on held-out arithmetic questions: accuracy against samples, and what early stopping saves.

    python benchmarks/vote.py [--questions 100] [--seed 0] [--decoder autoregressive]

Each question's 40 chains are sampled once by the embedded model; a vote over the first n of them is the fixed-n answer,
and the stopping rules hear the same chains in the same order, through the same controller, so that rows differ
in nothing but when they stop.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from held_out import held_out_questions
from rich.console import Console
from rich.table import Table

from llmprog import arun
from llmprog.arithmetic import evaluate
from llmprog.backends import ScriptedBackend, open_backend
from llmprog.programs import arithmetic
from llmprog.search import BetaStop, SelfConsistency, StoppingRule, WindowStop
from llmprog.types import Completion

MOST = 40


async def sample_chains(questions: Sequence[str], decoder: str, seed: int) -> dict[str, list[Completion]]:
    """The 40 chains of each question, by the model."""
    backend = open_backend(f"local:puzzles?decoder={decoder}")
    program = arithmetic(num_samples=MOST)

    async def chains(question: str) -> list[Completion]:
        drawn: dict[int, Completion] = {}
        result = await arun(program, question, backend=backend, seed=seed)
        for thought in result.graph:
            drawn |= {a.sample: a.completion for a in thought.arrivals if a.completion is not None}
        return [drawn[i] for i in range(MOST)]

    places = asyncio.Semaphore(4)

    async def limited(question: str) -> list[Completion]:
        async with places:
            return await chains(question)

    found = await asyncio.gather(*(limited(question) for question in questions))
    await backend.aclose()
    return dict(zip(questions, found, strict=True))


async def vote(
    questions: Sequence[str], chains: dict[str, list[Completion]], num_samples: int, stopping: StoppingRule | None
) -> tuple[float, float, list[object]]:
    """Accuracy, mean samples drawn, and the answers of one voting rule over recorded chains."""
    answers: list[object] = []
    drawn: list[int] = []
    right = 0
    for question in questions:
        base = arithmetic(num_samples=num_samples)
        program = replace(base, controller=SelfConsistency(num_samples=num_samples, stopping=stopping))
        replay = ScriptedBackend(lambda _, sample, recorded=chains[question]: recorded[sample])
        result = await arun(program, question, backend=replay, seed=0)
        answers.append(result.answer)
        drawn.append(result.votes.num_samples if result.votes else 0)
        right += result.answer == evaluate(question)
    return right / len(questions), fmean(drawn), answers


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", choices=("autoregressive", "masked_diffusion", "hybrid"), default="autoregressive")
    args = parser.parse_args()

    questions = held_out_questions(args.questions, args.seed)
    chains = await sample_chains(questions, args.decoder, args.seed)
    _, _, reference = await vote(questions, chains, MOST, None)
    table = Table(title=f"{len(questions)} held-out arithmetic questions, {args.decoder}, seed {args.seed}")
    for column in ("vote", "accuracy %", "samples", f"same answer as {MOST} %"):
        table.add_column(column, justify="left" if column == "vote" else "right")
    rules: list[tuple[str, int, StoppingRule | None]] = [
        *((f"fixed {n}", n, None) for n in (1, 2, 3, 5, 8, 10, 15, 20, 30, MOST)),
        *((f"BetaStop({c})", MOST, BetaStop(c)) for c in (0.8, 0.95, 0.99)),
        *((f"WindowStop({w})", MOST, WindowStop(w)) for w in (3, 5)),
    ]
    for name, num_samples, stopping in rules:
        accuracy, drawn, answers = await vote(questions, chains, num_samples, stopping)
        same = fmean(a == b for a, b in zip(answers, reference, strict=True))
        table.add_row(name, f"{100 * accuracy:.1f}", f"{drawn:.1f}", f"{100 * same:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    asyncio.run(main())
