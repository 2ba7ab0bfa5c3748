"""What a rule that does not know the answer can tell of it: best of n by equations that hold, against votes.

    python benchmarks/best_of_n.py [--questions 100] [--seed 0]

The embedded model answers held-out arithmetic questions by n chains of thought. The vote counts their answers; the
reward takes a chain all of whose equations hold, by exact arithmetic, whatever it answers; the last line knows the
right answers, and is what no choice among the chains can pass (pass@n). All three hear chains of the same distribution,
not the same chains. Intervals are 95 % (Wilson's).
"""

from __future__ import annotations

import argparse
import asyncio

from held_out import held_out_questions
from rich.console import Console
from rich.table import Table

from llmprog import Program, arun
from llmprog.arithmetic import evaluate
from llmprog.backends import Backend, open_backend
from llmprog.jobs.progress import wilson_interval
from llmprog.programs.best_of_n import best_of_n
from llmprog.programs.rewards import accuracy_reward
from llmprog.programs.self_consistency import self_consistency

NUMBERS = (1, 4, 16)


def contenders(n: int) -> dict[str, Program]:
    return {
        "vote": self_consistency(num_samples=n, answer="number"),
        "equations": best_of_n(num_samples=n, reward="equations", answer="number"),
        "pass@n": best_of_n(num_samples=n, reward="accuracy", gold="none", answer="number"),
    }


async def share_right(program: Program, questions: list[str], backend: Backend, seed: int) -> str:
    num_right = 0
    for number, question in enumerate(questions):
        gold = str(evaluate(question))
        given = {"question": question, "gold": gold} if program.name == "best_of_n" else question
        result = await arun(program, given, backend=backend, seed=seed + number)
        num_right += result.answer is not None and accuracy_reward(result.answer, gold) == 1
    return "{:.2f} [{:.2f}, {:.2f}]".format(*wilson_interval(num_right, len(questions)))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    questions = held_out_questions(args.questions, args.seed)
    backend = open_backend("local:puzzles")
    title = f"share right of {len(questions)} held-out questions, seed {args.seed}"
    table = Table("", *(f"n = {n}" for n in NUMBERS), title=title)
    shares = {
        n: {name: await share_right(program, questions, backend, args.seed) for name, program in contenders(n).items()}
        for n in NUMBERS
    }
    for name in contenders(1):
        table.add_row(name, *(shares[n][name] for n in NUMBERS))
    Console(width=110).print(table)
    await backend.aclose()


if __name__ == "__main__":
    asyncio.run(main())
