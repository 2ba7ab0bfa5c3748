"""Sorting by a noisy generator: io, cot, tot and got of Graph of Thoughts, at equal numbers of calls.

    python benchmarks/graph_of_thoughts.py                    # 32 and 64 digits, 200 lists; then the sweeps
    python benchmarks/graph_of_thoughts.py --lists 100 --lengths 32 --no-sweep

The generator is no language model. It sorts or merges exactly and then spoils what it writes with known rates, so its
rows compare the methods and say nothing of what models can do:

* Each number of a list of m is, independently, spoilt with probability ``rate · (m / 16) ** growth``, one half at most:
  dropped, written twice, or swapped with the next (which may be equal, so that nothing is wrong), each as likely.
  ``rate`` is the error rate at 16 numbers.
* Merging two sorted lists into one of m has that probability times ``--merge-ratio``; sorting after having counted
  (cot) has it times ``--reason-ratio``.
* Improving a list takes each missing number in, each surplus one out and puts all in order with probability
  ``--repair`` each, and then spoils what it writes, with that probability times ``--improve-ratio``.

The methods are the program ``sorting``; all of them are told the number of errors of every list, exactly:

* *io*, *cot*: one list. *io, best of B* and *cot, best of B*: list after list until one has no error, B at most.
* *tot*: B / 3 lists, the best of which is improved B / 3 times, and once more.
* *got*: parts of ``--part-size``, 5 lists for each part and each merge, the best kept and improved 3 times at most.

B, the calls that each may make, is the most that got can make. error: Besta et al.'s measure of the answer against the
whole input, 0 for a sorted list. Means with 95 % bootstrap intervals over the lists.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.table import Table

from llmprog import Program, arun
from llmprog.backends import ScriptedBackend
from llmprog.programs.divide_and_merge import num_parts_for
from llmprog.programs.sorting import num_errors, random_numbers, sorting
from llmprog.search import BestOfN

NUM_SAMPLES, MAX_TRIES, LEVELS = 5, 3, 3
SWEEPS: dict[str, tuple[float, ...]] = {
    "rate": (0.01, 0.02, 0.05, 0.1, 0.2),
    "merge_ratio": (1.0, 0.5, 0.2, 0.05),
    "improve_ratio": (1.0, 0.5, 0.2, 0.05),
    "growth": (0.0, 0.5, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class NoisyGenerator:
    """Sorts, merges and improves lists, and makes mistakes with the rates that the module's text documents."""

    rate: float
    growth: float
    merge_ratio: float
    improve_ratio: float
    reason_ratio: float
    repair: float

    def __call__(self, prompt: str, sample: int) -> str:
        rng = random.Random(f"{self.rate} {self.growth}\n{sample}\n{prompt}")
        task = prompt.rpartition("\n\n")[2]
        lists = [[int(n) for n in found.split(",") if n.strip()] for found in re.findall(r"\[([^\]]*)\]", task)]
        if task.startswith("First:"):
            written, ratio = sorted(itertools.chain(*lists)), self.merge_ratio
        elif "with mistakes:" in task:
            written, ratio = self.repaired(*lists, rng), self.improve_ratio
        else:
            written, ratio = sorted(lists[0]), self.reason_ratio if "First count" in prompt else 1.0
        return str(self.spoilt(written, ratio, rng))

    def spoilt(self, numbers: Sequence[int], ratio: float, rng: random.Random) -> list[int]:
        """The list as it is written."""
        probability = min(0.5, ratio * self.rate * (len(numbers) / 16) ** self.growth)
        written: list[int] = []
        waiting: int | None = None  # a number that is swapped with the next
        for number in numbers:
            kind = rng.choice(("drop", "twice", "swap")) if rng.random() < probability else ""
            if kind == "swap" and waiting is None:
                waiting = number
                continue
            written += [number] * {"drop": 0, "twice": 2}.get(kind, 1)
            if waiting is not None:
                written.append(waiting)
                waiting = None
        return written if waiting is None else [*written, waiting]

    def repaired(self, given: Sequence[int], mistaken: Sequence[int], rng: random.Random) -> list[int]:
        """A list with some of its mistakes corrected."""
        written = list(mistaken)
        for number in (Counter(mistaken) - Counter(given)).elements():
            if rng.random() < self.repair:
                written.remove(number)
        in_order = rng.random() < self.repair
        for number in (Counter(given) - Counter(mistaken)).elements():
            if rng.random() < self.repair:
                place = next((i for i, other in enumerate(written) if other > number), len(written))
                written.insert(place, number)
        return sorted(written) if in_order else written


@dataclass(frozen=True)
class Row:
    """What a method achieved, list by list."""

    method: str
    errors: Sequence[float]
    calls: Sequence[float]


# -------------------------------------------------------------------------------------------- methods


def most_calls(length: int, part_size: int) -> int:
    """The most calls that got makes for a list: for its parts and merges, and for improving each."""
    parts = num_parts_for(length, part_size)
    return (2 * parts - 1) * (NUM_SAMPLES + MAX_TRIES)


def methods(length: int, part_size: int) -> dict[str, Program]:
    """The programs of the table; none of them makes more calls than got may."""
    calls = most_calls(length, part_size)
    one_by_one = BestOfN(num_samples=calls, batch_size=1)
    return {
        "io": sorting(method="io"),
        "cot": sorting(method="cot"),
        f"io, best of {calls}": replace(sorting(method="io"), controller=one_by_one),
        f"cot, best of {calls}": replace(sorting(method="cot"), controller=one_by_one),
        "tot": sorting(method="tot", num_samples=calls // LEVELS, max_depth=LEVELS),
        "got": sorting(part_size=part_size, num_samples=NUM_SAMPLES, max_tries=MAX_TRIES),
    }


async def measure(method: str, program: Program, lists: Sequence[tuple[int, ...]], noise: NoisyGenerator) -> Row:
    """All lists, one after the other: nothing here waits for anything."""
    errors, calls = [], []
    for seed, numbers in enumerate(lists):
        given = " ".join(map(str, numbers))
        result = await arun(program, given, backend=ScriptedBackend(noise), seed=seed)
        answer = None if result.thought is None else result.thought.state.answer
        errors.append(float(num_errors(numbers, answer or ())))
        calls.append(float(result.usage.calls))
    return Row(method, errors, calls)


def random_lists(length: int, count: int) -> list[tuple[int, ...]]:
    """The same lists for the same length, whatever the count."""
    rng = random.Random(f"lists of {length}")
    return [random_numbers(length, rng) for _ in range(count)]


def interval(values: Sequence[float]) -> str:
    """The mean, and its 95 % bootstrap interval."""
    rng = random.Random(0)
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(2_000))
    return f"{statistics.fmean(values):.2f} ({means[49]:.2f}–{means[1949]:.2f})"


# --------------------------------------------------------------------------------------------- tables


def noise_of(args: argparse.Namespace, **changes: float) -> NoisyGenerator:
    noise = NoisyGenerator(
        rate=args.error_rate, growth=args.growth, merge_ratio=args.merge_ratio, improve_ratio=args.improve_ratio,
        reason_ratio=args.reason_ratio, repair=args.repair,
    )  # fmt: skip
    return replace(noise, **changes)


def compare(args: argparse.Namespace, console: Console) -> None:
    noise = noise_of(args)
    table = Table(title=f"sorting {args.lists} lists of each length; {noise}")
    for column in ("numbers", "method", "error (95 %)", "median", "sorted %", "calls", "may call"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for length in args.lengths:
        lists = random_lists(length, args.lists)
        for name, program in methods(length, args.part_size).items():
            row = asyncio.run(measure(name, program, lists, noise))
            share = 100 * sum(error == 0 for error in row.errors) / len(lists)
            allowed = 1 if name in ("io", "cot") else most_calls(length, args.part_size)
            table.add_row(
                str(length), name, interval(row.errors), f"{statistics.median(row.errors):g}", f"{share:.0f}",
                f"{statistics.fmean(row.calls):.1f}", str(allowed),
            )  # fmt: skip
        table.add_section()
    console.print(table)


def sweep(parameter: str, length: int, args: argparse.Namespace, console: Console) -> None:
    """Mean errors of every method, with one parameter of the generator changed and the others as given."""
    values = SWEEPS[parameter]
    table = Table(title=f"{length} numbers: error (95 %) by {parameter}, {args.sweep_lists} lists")
    table.add_column("method", no_wrap=True)
    for value in values:
        table.add_column(f"{value:g}", justify="right", no_wrap=True)
    lists = random_lists(length, args.sweep_lists)
    for name, program in methods(length, args.part_size).items():
        rows = []
        for value in values:
            if rows and name.startswith(("io", "cot")) and parameter in ("merge_ratio", "improve_ratio"):
                rows.append(rows[0])  # where nothing is merged or improved, nothing changes
            else:
                rows.append(asyncio.run(measure(name, program, lists, noise_of(args, **{parameter: value}))))
        table.add_row(name, *(interval(row.errors) for row in rows))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=200, help="of each length")
    parser.add_argument("--sweep-lists", type=int, default=100, help="of each length in the sweeps")
    parser.add_argument("--lengths", type=int, nargs="+", default=(32, 64))
    parser.add_argument("--error-rate", type=float, default=0.05, help="of each number of a list of 16")
    parser.add_argument("--growth", type=float, default=1.0, help="exponent with which the rate grows with the length")
    parser.add_argument("--merge-ratio", type=float, default=0.5, help="error rate of merging, to that of sorting")
    parser.add_argument("--improve-ratio", type=float, default=1.0, help="error rate of improving, to that of sorting")
    parser.add_argument("--reason-ratio", type=float, default=0.7, help="error rate after counting, to that without")
    parser.add_argument("--repair", type=float, default=0.5, help="probability that a mistake is corrected")
    parser.add_argument("--part-size", type=int, default=16, help="of got")
    parser.add_argument(
        "--sweep", action=argparse.BooleanOptionalAction, default=True, help="error rates from 0.005 on"
    )
    args = parser.parse_args()
    console = Console(width=150)
    compare(args, console)
    if args.sweep:
        for parameter, length in itertools.product(SWEEPS, args.lengths):
            sweep(parameter, length, args, console)


if __name__ == "__main__":
    main()
