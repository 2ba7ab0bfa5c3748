"""How close a search over a slow endpoint comes to its critical path: the calls that have to wait for one another.

    python benchmarks/latency.py [--puzzles 5] [--latency-ms 50] [--sigma 0.5]

Tree of Thoughts on five numbers (four rounds of depth): beam 5, one proposal call of eight steps per thought, one
verdict call of three samples per new state. A loopback endpoint in a process of its own answers every call after 50 ms
with legal steps and plausible verdicts. A beam must compare all thoughts of a depth before it goes on, so a depth costs
two dependent calls, and the last one, whose thoughts the rules judge, one: seven rounds of 50 ms.

Goal: wall time at most 1.15 times that. With log-normal latency the critical path is computed from the recorded times
of the calls: each depth takes until its last verdict, whose call could begin when the first proposal that holds its
state had come.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmprog import Completion
from llmprog.backends import open_backend
from llmprog.programs.game24 import game24
from llmprog.runner import arun
from llmprog.types import Request

GOAL_RATIO = 1.15
STEPS_PER_PROPOSAL = 8
NUMBERS = 5
_LEFT = re.compile(r"\(left: ([\d ]+)\)")


def answer(request: dict[str, Any], sample_index: int) -> str:
    """What the endpoint says: eight legal steps, or a verdict; a function of the prompt and the sample alone."""
    prompt = request["messages"][-1]["content"]
    rng = random.Random(f"{prompt} {sample_index}")
    lines = prompt.strip().splitlines()
    if lines[-1] == "Possible next steps:":
        numbers = [int(word) for word in lines[-2].removeprefix("Input: ").split()]
        return "\n".join(legal_step(numbers, rng) for _ in range(STEPS_PER_PROPOSAL))
    return rng.choices(["sure", "likely", "impossible"], [1, 4, 5])[0]


def legal_step(numbers: list[int], rng: random.Random) -> str:
    """One random step on whole numbers, never to the target by luck: a search must go all the way down."""
    rest = list(numbers)
    a = rest.pop(rng.randrange(len(rest)))
    b = rest.pop(rng.randrange(len(rest)))
    sign = rng.choice("+-*")
    a, b = max(a, b), min(a, b)
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return f"{a} {sign} {b} = {result} (left: {' '.join(map(str, sorted([*rest, result])))})"


@dataclass(slots=True)
class Call:
    """One call as it was seen by the search: what is left of which numbers, and when."""

    begun: float
    ended: float
    numbers: str
    proposes: bool
    offers: frozenset[str]


@dataclass
class Recording:
    """A backend that notes when each call of another began and ended."""

    backend: Any
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id, self.capabilities = self.backend.id, self.backend.capabilities
        self.score, self.infill, self.aclose = self.backend.score, self.backend.infill, self.backend.aclose

    async def generate(self, request: Request) -> Sequence[Completion]:
        lines = request.prompt.text.strip().splitlines()
        proposes = lines[-1] == "Possible next steps:"
        begun = time.perf_counter()
        completions = await self.backend.generate(request)
        ended = time.perf_counter()
        offers = frozenset(left for c in completions for left in _LEFT.findall(c.text)) if proposes else frozenset()
        numbers = (lines[-2] if proposes else lines[-1]).removeprefix("Input: ")
        self.calls.append(Call(begun, ended, numbers, proposes, offers))
        return completions


def critical_path(calls: Sequence[Call]) -> tuple[float, int]:
    """Seconds that the calls need if each is sent as soon as what it asks about is known, and the rounds of them."""
    total, rounds = 0.0, 0
    for size in range(NUMBERS, 1, -1):
        proposals = [c for c in calls if c.proposes and len(c.numbers.split()) == size]
        verdicts = [c for c in calls if not c.proposes and len(c.numbers.split()) == size - 1]
        came = {
            left: min(p.ended - p.begun for p in proposals if left in p.offers) for p in proposals for left in p.offers
        }
        ends = [p.ended - p.begun for p in proposals] + [came[v.numbers] + v.ended - v.begun for v in verdicts]
        total += max(ends, default=0.0)
        rounds += bool(proposals) + bool(verdicts)
    return total, rounds


async def measure(latency_ms: float, sigma: float, puzzles: int) -> list[tuple[float, float, int, int, float]]:
    """For each puzzle: wall seconds, critical path in seconds, its rounds, calls, and the sum of their times."""
    from loopback import start_server

    rows = []
    with start_server(latency_ms=latency_ms, sigma=sigma, answer="latency:answer") as server:
        backend = Recording(open_backend(f"{server.url}#bench?server=vllm&start_concurrency=100"))
        # A target out of reach: every search goes all the way down. Nobody asks why there is no solution.
        program = replace(game24(target=997, num_samples=1), explain=None)
        rng = random.Random(0)
        for number in range(puzzles + 1):
            puzzle = " ".join(str(rng.randint(1, 13)) for _ in range(NUMBERS))
            backend.calls.clear()
            gc.collect()  # what the imports and the last puzzle left behind is not this one's to clear away
            begun = time.perf_counter()
            await arun(program, puzzle, backend=backend, seed=number)
            wall = time.perf_counter() - begun
            path, rounds = critical_path(backend.calls)
            if number:  # the first opens the connections
                together = sum(c.ended - c.begun for c in backend.calls)
                rows.append((wall, path, rounds, len(backend.calls), together))
        await backend.aclose()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--puzzles", type=int, default=5)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--sigma", type=float, default=0.5, help="spread of the log-normal latency")
    options = parser.parse_args()
    print(f"{'latency':<28}{'calls':>7}{'rounds':>8}{'wall s':>9}{'path s':>9}{'ratio':>8}{'one by one s':>14}")
    for name, sigma in (("constant", 0.0), ("log-normal", options.sigma)):
        rows = asyncio.run(measure(options.latency_ms, sigma, options.puzzles))
        for wall, path, rounds, calls, together in rows:
            ideal = rounds * options.latency_ms / 1000 if not sigma else path
            label = f"{name}, {options.latency_ms:g} ms"
            print(f"{label:<28}{calls:>7}{rounds:>8}{wall:>9.3f}{ideal:>9.3f}{wall / ideal:>8.3f}{together:>14.2f}")
        ratios = [r[0] / (r[2] * options.latency_ms / 1000 if not sigma else r[1]) for r in rows]
        goal = f" (goal at most {GOAL_RATIO})" if not sigma else ""
        print(f"{name}: median ratio {statistics.median(ratios):.3f}{goal}\n")


if __name__ == "__main__":
    main()
