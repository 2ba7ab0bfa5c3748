"""Programs in several settings over the same questions, on the same calls: accuracy against what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from llmprog.bench.measures import Estimate, Samples, difference_of, majority_at_k, mean_of, pass_at_k
from llmprog.bench.shared_calls import SharedCalls
from llmprog.compile import compile_program
from llmprog.errors import OptionError
from llmprog.jobs.executor import canonical_form
from llmprog.jobs.job import Job
from llmprog.jobs.result import RowResult, is_correct
from llmprog.program import Program
from llmprog.search.controller import is_whole
from llmprog.types import Usage

UsageKind = Literal["calls", "tokens", "usd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A program in one setting.

    Attributes:
        series: What it is compared as: variants of one series make a curve.
        setting: What tells it from the others of its series, such as ``num_samples=8``; empty where it is alone.
        program: The program.
    """

    series: str
    setting: str
    program: Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a variant came to.

    Attributes:
        variant: The variant.
        values: For each question the share of its runs that were right.
        usage: What all runs took, as if no call had been shared.
        num_runs: How many these are.
        samples: For each question the samples that voted or, with several runs of it, these; ``None`` for neither.
        num_failed: Runs that an error ended; they count as not right.
        error: What the first of these errors was.
    """

    variant: Variant
    values: tuple[float, ...]
    usage: Usage
    num_runs: int
    samples: tuple[Samples, ...] | None
    num_failed: int
    error: str | None = None

    @property
    def accuracy(self) -> Estimate:
        """The share of questions that were answered right."""
        return mean_of(self.values)

    def mean_usage(self, what: UsageKind) -> float | None:
        """What a run took; ``None`` where prices are unknown."""
        usage = self.usage
        total = {
            "calls": usage.calls,
            "tokens": usage.prompt_tokens + usage.completion_tokens,
            "usd": usage.usd,
        }[what]
        return None if total is None else total / self.num_runs

    def at_k(self) -> list[tuple[int, Estimate, Estimate]]:
        """``(k, pass@k, majority@k)`` for k = 1, 2, 4, … and the number of samples that all questions have."""
        if self.samples is None:
            return []
        most = min(samples.total for samples in self.samples)
        if most < 2:
            return []
        sizes = [2**i for i in range(most.bit_length()) if 2**i < most] + [most]
        return [
            (
                k,
                mean_of([pass_at_k(samples, k) for samples in self.samples]),
                mean_of([majority_at_k(samples, k) for samples in self.samples]),
            )
            for k in sizes
        ]


@dataclass(slots=True, kw_only=True)
class Report:
    """What a sweep has come to; it grows by one point at a time.

    Attributes:
        measure: ``correct`` where right answers are known, else ``solved``.
        num_questions: How many questions each point has.
        points: In the order of the variants.
        shared: The calls, and what was really spent on them.
    """

    measure: str
    num_questions: int
    shared: SharedCalls
    points: list[Point] = field(default_factory=list)

    def series(self) -> dict[str, list[Point]]:
        """The points by what they are compared as."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.variant.series, []).append(point)
        return found

    def differences(self) -> list[tuple[str, str, Estimate]]:
        """How the last point of every further series differs from that of the first, question by question."""
        first, *others = self.series().items()
        return [
            (name, first[0], difference_of(points[-1].values, first[1][-1].values, seed=1)) for name, points in others
        ]


class Sweep:
    """Runs variants one after the other; ``report`` holds what is done, also where it ends early.

    Args:
        variants: The variants.
        rows: The questions.
        shared: Where their calls go.
        input: As for ``Job``.
        gold: As for ``Job``; without it a question counts as right where the program's goal is reached.
        seed: Of every variant alike, so that equal calls are equal draws.
        num_repeats: Runs of every question, each with a seed of its own.
        concurrency: Questions worked on at once.
        on_row: Told of every run that is done, and of which variant it is.

    Raises:
        OptionError: There is nothing to run.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        rows: Iterable[Mapping[str, Any]],
        shared: SharedCalls,
        *,
        input: str | None = None,  # noqa: A002 - as for a job
        gold: str | None = None,
        seed: int = 0,
        num_repeats: int = 1,
        concurrency: int | None = None,
        on_row: Callable[[Variant, RowResult], None] | None = None,
    ) -> None:
        rows = list(rows)
        if not variants or not rows:
            raise OptionError(f"a sweep over {len(variants)} variants and {len(rows)} questions; at least one of each")
        if not is_whole(num_repeats, 1):
            raise OptionError(f"num_repeats={num_repeats!r}; allowed is a whole number >= 1")
        self.variants = variants
        self.report = Report(measure="solved" if gold is None else "correct", num_questions=len(rows), shared=shared)
        self._rows = [row for row in rows for _ in range(num_repeats)]
        self._num_repeats = num_repeats
        self._options: dict[str, Any] = {"input": input, "gold": gold, "seed": seed, "concurrency": concurrency}
        self._gold = gold
        self._on_row = on_row

    async def run(self) -> Report:
        """Run all variants, or those that the budget allows.

        Raises:
            LLMProgError: What concerns all questions, as for ``Job``.
        """
        for variant in self.variants:
            results = await self._results(variant)
            if self.report.shared.shortfall is not None:
                break
            self.report.points.append(self._point(variant, results))
        return self.report

    async def _results(self, variant: Variant) -> list[RowResult]:
        view = self.report.shared.view()
        job = Job(variant.program, self._rows, backend=view, in_order=True, **self._options)
        found = []
        async with aclosing(job.results()) as results:
            async for result in results:
                found.append(result)
                if self._on_row is not None:
                    self._on_row(variant, result)
        return found

    def _point(self, variant: Variant, results: Sequence[RowResult]) -> Point:
        size = self._num_repeats
        questions = [results[i : i + size] for i in range(0, len(results), size)]
        failed = [result.error for result in results if result.error is not None]
        return Point(
            variant=variant,
            values=tuple(sum(map(_is_right, runs)) / size for runs in questions),
            usage=sum((result.usage for result in results), Usage()),
            num_runs=len(results),
            samples=self._samples(variant, questions),
            num_failed=len(failed),
            error=None if not failed else f"{failed[0].type}: {failed[0].message}",
        )

    def _samples(self, variant: Variant, questions: Sequence[Sequence[RowResult]]) -> tuple[Samples, ...] | None:
        canonical = canonical_form(compile_program(variant.program))
        if self._num_repeats > 1:
            return tuple(_of_runs(runs, canonical) for runs in questions)
        if self._gold is None:
            return None
        found = [_of_votes(run, self._gold, canonical) for (run,) in questions]
        samples = [each for each in found if each is not None]
        return tuple(samples) if len(samples) == len(found) else None


def _is_right(result: RowResult) -> bool:
    return result.solved if result.correct is None else result.correct


def _of_runs(runs: Sequence[RowResult], canonical: Callable[[Any], str | None]) -> Samples:
    """Several runs of one question as its samples."""
    wrong = Counter(canonical(run.answer) for run in runs if not _is_right(run))
    num_invalid = wrong.pop(None, 0)
    return Samples(num_correct=sum(map(_is_right, runs)), others=tuple(wrong.values()), num_invalid=num_invalid)


def _of_votes(run: RowResult, gold: str, canonical: Callable[[Any], str | None]) -> Samples | None:
    """The samples of a vote; ``None`` where there was none, or votes are weights."""
    if run.votes is None or run.num_samples is None or run.row is None:
        return None
    counts = [(answer, int(votes)) for answer, votes in run.votes]
    num_valid = sum(count for _, count in counts)
    if any(count != votes for (_, count), (_, votes) in zip(counts, run.votes, strict=True)):
        return None
    right = [is_correct(answer, run.row.get(gold), canonical) for answer, _ in counts]
    return Samples(
        num_correct=sum(count for (_, count), is_right in zip(counts, right, strict=True) if is_right),
        others=tuple(count for (_, count), is_right in zip(counts, right, strict=True) if not is_right),
        num_invalid=run.num_samples - num_valid,
    )
