"""What llmprog itself costs: CPU per call and per thought with a backend that answers at once, and memory per thought.

    python benchmarks/overhead.py [--thoughts 1000000] [--samples 10000]

Goals: under 150 µs of CPU per call, and under 1.5 GB of memory for a best-first search of a million thoughts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmprog import Program, checker, generator
from llmprog.backends import ScriptedBackend
from llmprog.search import BestFirstSearch, BreadthFirstSearch, DepthFirstSearch, SelfConsistency

GOAL_US_PER_CALL = 150.0
GOAL_BYTES = 1.5e9


@dataclass(frozen=True, slots=True)
class Place:
    """A state like those of real programs: a value and how it was reached."""

    number: int
    steps: tuple[str, ...] = ()


@generator(prompt="Number: {number}\nSteps so far:\n{steps}\nPossible next steps:\n")
def propose(state: Place, completion: str) -> list[Place]:
    return [Place(state.number * 4 + int(word), (*state.steps[-3:], word)) for word in completion.split()]


@checker
def legal(state: Place) -> bool:
    return state.number >= 0


@checker(prompt="How good is {number}?\n")
def promising(_state: Place, completion: str) -> float:
    return float(completion)


@generator(prompt="Question: what is six times seven?\nAnswer:")
def reason(_state: str, completion: str) -> list[str]:
    return [completion]


@generator
def step(state: int) -> tuple[int, ...]:
    # Bounded, so that the measure is of thoughts and not of ever longer integers in a deep search.
    return ((state * 2 + 1) % (2**61 - 1), (state * 2 + 2) % (2**61 - 1))


@checker
def worth(state: int) -> float:
    return float(state % 1009)


def reply(text: str, sample: int) -> str:
    """Four proposals, a value, or one of three answers."""
    if text.startswith("Number"):
        return "0 1 2 3"
    if text.startswith("How"):
        return str(len(text) % 10)
    return ("42", "42", "41", "54")[sample % 4]


def tree(controller: Any) -> Program:
    return Program(generators=[propose], checkers=[legal, promising], controller=controller)


def measure(program: Program, start: Any) -> dict[str, float]:
    backend = ScriptedBackend(reply)
    begun = time.process_time()
    result = program.run(start, backend=backend, seed=0)
    spent = time.process_time() - begun
    return {"cpu_s": spent, "calls": result.usage.calls, "thoughts": len(result.graph)}


def best_first(num_thoughts: int) -> dict[str, float]:
    """In a process of its own, so that the highest memory is this search's."""
    program = Program(generators=[step], checkers=[worth], controller=BestFirstSearch(max_thoughts=num_thoughts))
    begun = time.process_time()
    result = program.run(0, seed=0)
    spent = time.process_time() - begun
    scale = 1 if sys.platform == "darwin" else 1024
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return {"cpu_s": spent, "calls": 0, "thoughts": len(result.graph), "bytes": highest}


def in_own_process(num_thoughts: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--only-best-first", "--thoughts", str(num_thoughts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - this very script
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def row(name: str, measured: dict[str, float]) -> tuple[bool, str]:
    cpu_us = measured["cpu_s"] * 1e6
    per_call = cpu_us / measured["calls"] if measured["calls"] else None
    # All the samples of a vote are a few thoughts; the cost of one would say nothing.
    per_thought = f"{cpu_us / measured['thoughts']:.1f}" if measured["thoughts"] > measured["calls"] / 100 else ""
    memory = measured.get("bytes")
    good = (per_call is None or per_call < GOAL_US_PER_CALL) and (memory is None or memory < GOAL_BYTES)
    cells = [
        f"{name:<34}",
        f"{measured['calls']:>9,.0f}",
        f"{measured['thoughts']:>10,.0f}",
        f"{measured['cpu_s']:>8.2f}",
        f"{'' if per_call is None else f'{per_call:.1f}':>12}",
        f"{per_thought:>15}",
        f"{'' if memory is None else f'{memory / 1e9:.2f}':>13}",
        "  yes" if good else "  NO",
    ]
    return good, "".join(cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thoughts", type=int, default=1_000_000, help="size of the best-first search")
    parser.add_argument("--samples", type=int, default=10_000, help="samples of the vote")
    parser.add_argument("--only-best-first", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_best_first:
        print(json.dumps(best_first(options.thoughts)))
        return 0
    vote = Program(generators=[reason], controller=SelfConsistency(num_samples=options.samples))
    cases: list[tuple[str, Callable[[], dict[str, float]]]] = [
        ("breadth-first, depth 6", lambda: measure(tree(BreadthFirstSearch(max_depth=6)), Place(1))),
        ("depth-first, depth 6", lambda: measure(tree(DepthFirstSearch(max_depth=6)), Place(1))),
        (f"vote of {options.samples:,} samples", lambda: measure(vote, "")),
        (f"best-first, {options.thoughts:,} thoughts", lambda: in_own_process(options.thoughts)),
    ]
    measure(tree(BreadthFirstSearch(max_depth=2)), Place(1))  # imports and compiles
    titles = (
        f"{'':<34}",
        f"{'calls':>9}",
        f"{'thoughts':>10}",
        f"{'CPU s':>8}",
        f"{'µs/call':>12}",
        f"{'µs/thought':>15}",
    )
    head = "".join((*titles, f"{'highest GB':>13}", "  goal"))
    print(head)
    results = []
    for name, run in cases:
        good, line = row(name, run())
        results.append(good)
        print(line, flush=True)
    print(f"goals: under {GOAL_US_PER_CALL:.0f} µs of CPU per call; under {GOAL_BYTES / 1e9:.1f} GB for the last row")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
