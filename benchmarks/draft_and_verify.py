"""One model drafts, another verifies: accuracy on held-out arithmetic questions, and what it takes, against each alone.

    python benchmarks/draft_and_verify.py [--questions 100] [--seed 0]

The embedded model plays both parts: its masked-diffusion decoder drafts chains of thought, its left-to-right decoder
tells how likely they are, takes the likeliest, and writes on from the first line that it doubts. The weights are the
same, so this says what the two ways to decode are good for together, not what two models are.

Below the table: in how many questions a draft is right, and what became of the draft that was selected.

passes: forward passes of the network per question, samples of one call side by side in a pass; tokens: positions that
were computed in them per question. Questions are answered one after the other. Intervals are 95 % (Wilson's).
"""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from held_out import held_out_questions
from rich.console import Console
from rich.table import Table

from llmprog import Program, arun
from llmprog.arithmetic import evaluate
from llmprog.backends import Backend, open_backend
from llmprog.backends.local.networks.transformer import Block
from llmprog.jobs.progress import wilson_interval
from llmprog.programs.draft_and_verify import draft_and_verify
from llmprog.programs.rewards import accuracy_reward
from llmprog.programs.self_consistency import self_consistency

LEFT_TO_RIGHT = "local:puzzles"
DIFFUSION = "local:puzzles?decoder=masked_diffusion"
HASTY = "local:puzzles?decoder=masked_diffusion&threshold=0.7&fallback=confident"


class Work:
    """Counts what the network computes, from where it is registered on."""

    def __init__(self, num_layers: int) -> None:
        self.num_layers = num_layers
        self.blocks = 0
        self.positions = 0

    def __call__(self, module: torch.nn.Module, given: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, Block):
            self.blocks += 1
            self.positions += given[0].shape[0] * given[0].shape[1]

    @property
    def passes(self) -> float:
        return self.blocks / self.num_layers

    @property
    def tokens(self) -> float:
        return self.positions / self.num_layers


@dataclass(frozen=True)
class Contender:
    """A line of the table."""

    name: str
    program: Program
    backend: Mapping[str, str]


def contenders() -> list[Contender]:
    found = []
    for name, backend in (("diffusion", DIFFUSION), ("hasty diffusion", HASTY), ("left to right", LEFT_TO_RIGHT)):
        for samples in (1, 4):
            how = f"{name}, vote of {samples}" if samples > 1 else name
            found.append(Contender(how, self_consistency(num_samples=samples, answer="number"), {"default": backend}))
    for name, backend in (("diffusion", DIFFUSION), ("hasty diffusion", HASTY)):
        for method in ("select", "correct"):
            program = draft_and_verify(num_samples=4, method=method, answer="number")
            backends = {"draft": backend, "default": LEFT_TO_RIGHT}
            found.append(Contender(f"{name} drafts 4, left to right: {method}", program, backends))
    return found


async def measure(contender: Contender, questions: Sequence[str], backends: dict[str, Backend], seed: int) -> list[str]:
    work = Work(num_layers=5)
    chosen = {node: backends[name] for node, name in contender.backend.items()}
    hook = torch.nn.modules.module.register_module_forward_hook(work)
    num_right = 0
    try:
        for number, question in enumerate(questions):
            result = await arun(contender.program, question, backend=chosen, seed=seed + number)
            num_right += accuracy_reward(result.answer, str(evaluate(question))) == 1
    finally:
        hook.remove()
    count = len(questions)
    share, low, high = wilson_interval(num_right, count)
    shown = f"{share:.2f} [{low:.2f}, {high:.2f}]"
    return [contender.name, shown, f"{work.passes / count:.1f}", f"{work.tokens / count:.0f}"]


async def what_became_of_selected(questions: Sequence[str], backends: dict[str, Backend], seed: int) -> str:
    """How often a right draft was there, and what correcting made of the one that was selected."""
    chosen = {"draft": backends[DIFFUSION], "default": backends[LEFT_TO_RIGHT]}
    program = draft_and_verify(num_samples=4, method="correct", answer="number")
    counts: Counter[str] = Counter()
    for number, question in enumerate(questions):
        gold = str(evaluate(question))
        result = await arun(program, question, backend=chosen, seed=seed + number)
        drafts = [thought for thought in result.graph if thought.depth == 1]
        selected = max(drafts, key=lambda thought: thought.score)
        was_right = accuracy_reward(selected.state.answer, gold) == 1
        counts["a draft is right"] += any(accuracy_reward(draft.state.answer, gold) == 1 for draft in drafts)
        counts["selected, right" if was_right else "selected, wrong"] += 1
        if result.thought is not None and result.thought.id != selected.id:
            counts["right, rewritten" if was_right else "wrong, rewritten"] += 1
            is_right = accuracy_reward(result.answer, gold) == 1
            counts["spoiled" if was_right and not is_right else "put right"] += was_right != is_right
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    questions = held_out_questions(args.questions, args.seed)
    backends = {name: open_backend(name) for name in (LEFT_TO_RIGHT, DIFFUSION, HASTY)}
    table = Table("", "right", "passes", "tokens", title=f"{len(questions)} held-out questions, seed {args.seed}")
    for contender in contenders():
        table.add_row(*await measure(contender, questions, backends, args.seed))
    console = Console(width=110)
    console.print(table)
    console.print("Diffusion drafts 4:", await what_became_of_selected(questions, backends, args.seed))
    for backend in backends.values():
        await backend.aclose()


if __name__ == "__main__":
    asyncio.run(main())
