"""What ``llmprog bench`` does: variants from its options, their calls kept, their report shown."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llmprog.cli.app import EXIT_BUDGET, EXIT_SOLVED, EXIT_UNSOLVED
from llmprog.cli.run_command import absolute_program
from llmprog.cli.settings import assign

if TYPE_CHECKING:
    from llmprog.bench.shared_calls import SharedCalls
    from llmprog.bench.sweep import Report, UsageKind, Variant
    from llmprog.jobs.result import RowResult

_MAX_VALUES = 1000
_DOTS = ("...", "…")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCommand:
    """What was asked for; the options of ``llmprog bench``."""

    programs: tuple[str, ...]
    data: Path
    input: str | None
    gold: str | None
    settings: tuple[str, ...]
    trust: tuple[str, ...]
    sweep: str | None
    compare: str | None
    repeats: int
    limit: int | None
    concurrency: int | None
    budget: str | None
    backend: str
    seed: int
    record: Path | None
    plot: Path | None
    x: UsageKind


def run_bench(command: BenchCommand, *, as_json: bool, quiet: bool) -> int:
    """Do what ``command`` says; returns the exit code."""
    from llmprog.background_loop import run_sync
    from llmprog.bench.plot import refuse_unplottable, save_plot

    if command.plot is not None:
        refuse_unplottable(command.plot)
    variants, backend = _variants(command)
    done: list[Report] = []
    try:
        run_sync(_run(command, variants, backend, done, quiet=quiet or as_json))
    finally:
        for report in done:  # also where it ended early: what is done was paid for
            if report.points and command.plot is not None:
                save_plot(report, command.plot, x=command.x, title=f"{', '.join(command.programs)} on {backend}")
            _print(report, as_json=as_json)
    (report,) = done
    if report.shared.shortfall is not None:
        sys.stderr.write(
            f"llmprog: the budget is spent ({report.shared.shortfall}); with a larger --budget "
            "the same command goes on with the calls that were made\n"
        )
        return EXIT_BUDGET
    return EXIT_UNSOLVED if any(point.num_failed for point in report.points) else EXIT_SOLVED


def _print(report: Report, *, as_json: bool) -> None:
    from llmprog.bench.report import tables, to_json

    if as_json:
        typer.echo(json.dumps(to_json(report)))
    elif report.points:
        typer.echo(tables(report), nl=False)


async def _run(
    command: BenchCommand, variants: list[Variant], backend: str, done: list[Report], *, quiet: bool
) -> None:
    from llmprog.backends.bounds import refuse_unpriced
    from llmprog.backends.recording import Recorder, RecordingBackend
    from llmprog.backends.registry import open_backend
    from llmprog.backends.replay import ReplayBackend
    from llmprog.bench.shared_calls import SharedCalls
    from llmprog.bench.sweep import Sweep

    rows = _rows(command)
    path = command.record or _default_recording(command, backend)
    async with AsyncExitStack() as stack:
        recorder = stack.enter_context(Recorder(path))
        known = ReplayBackend(path)
        opened = open_backend(backend)
        stack.push_async_callback(opened.aclose)
        spending = await _spending(command.budget, stack)
        if spending is not None and spending.budget.usd is not None:
            refuse_unpriced(opened)
        shared = SharedCalls(RecordingBackend(opened, recorder), spending=spending, known=known)
        with _progress(shared, len(rows) * command.repeats, enabled=not quiet) as on_row:
            sweep = Sweep(
                variants,
                rows,
                shared,
                input=command.input,
                gold=command.gold,
                seed=command.seed,
                num_repeats=command.repeats,
                concurrency=command.concurrency,
                on_row=on_row,
            )
            done.append(sweep.report)
            await sweep.run()


def _rows(command: BenchCommand) -> list[Any]:
    from itertools import islice

    from llmprog.errors import InputError
    from llmprog.jobs.rows import read_rows

    rows = list(islice(read_rows(command.data), command.limit))
    for row in rows:
        if row.fault is not None:
            raise InputError(f"{row.fault}; a bench measures over all questions, so mend or remove it")
    return [row.values for row in rows]


def _variants(command: BenchCommand) -> tuple[list[Variant], str]:
    """The programs in all their settings, and the backend's id with its options."""
    from llmprog.backends.registry import describe_options, with_options
    from llmprog.bench.sweep import Variant
    from llmprog.programs.catalog import find

    swept, compared = _values("--sweep", command.sweep), _values("--compare", command.compare)
    options = describe_options(command.backend)
    variants: list[Variant] = []
    for_backend: dict[str, str] = {}
    for name in command.programs:
        entry = find(absolute_program(name), trust=command.trust)
        for series in compared:
            for point in swept:
                given = [*command.settings, *filter(None, (series, point))]
                settings, for_backend = assign(entry, given, command.backend, options)
                label = " ".join(filter(None, (name if len(command.programs) > 1 or not series else "", series)))
                variants.append(Variant(series=label, setting=point, program=entry.build(**settings)))
    return variants, with_options(command.backend, for_backend)


def _values(option: str, text: str | None) -> list[str]:
    """``KEY=VALUE`` for each value of ``KEY=V1,V2``; a list of one empty text without the option."""
    from llmprog.errors import OptionError

    if text is None:
        return [""]
    key, equals, values = text.partition("=")
    parts = [part.strip() for part in values.split(",")]
    if not key or not equals or not all(parts):
        raise OptionError(f"{option} {text!r}: expected KEY=V1,V2,…, such as num_samples=1,2,4,...,64")
    return [f"{key}={value}" for value in _with_steps(option, parts)]


def _with_steps(option: str, parts: list[str]) -> list[str]:
    """The values, with what ``...`` stands for: steps of equal ratio or, where there is none, of equal length."""
    from llmprog.errors import OptionError

    dots = [i for i, part in enumerate(parts) if part in _DOTS]
    if not dots:
        return parts
    shown = ",".join(parts)
    fault = OptionError(
        f"{option} {shown!r}: '...' stands between two values or more that show the step, and the last: 1,2,4,...,64"
    )
    if len(dots) > 1 or not 2 <= dots[0] == len(parts) - 2:
        raise fault
    numbers = [part for part in parts if part not in _DOTS]
    if not all(re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", number) for number in numbers):
        raise fault
    *begun, last = [Fraction(number) for number in numbers]
    before, latest = begun[-2:]
    ratios = {b / a for a, b in pairwise(begun)} if all(begun) else set()
    by_ratio = len(begun) > 2 and len(ratios) == 1 and latest / before > 1
    found = list(begun)
    while found[-1] < last and len(found) < _MAX_VALUES:
        found.append(found[-1] * (latest / before) if by_ratio else found[-1] + (latest - before))
        if latest <= before:
            raise fault
    if found[-1] != last:
        raise fault
    return [str(value) if value.denominator == 1 else str(float(value)) for value in found]


def _default_recording(command: BenchCommand, backend: str) -> Path:
    """Where the calls of this command are kept; the same whatever is swept, so that a longer sweep goes on."""
    import platformdirs

    from llmprog.runs.store import default_store

    store = str(default_store())
    kept = platformdirs.user_data_path("llmprog") if "://" in store or store == "memory" else Path(store)
    same = [*map(absolute_program, command.programs), str(command.data.absolute()), backend, str(command.seed)]
    folder = kept / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(json.dumps(same).encode('utf-8', 'surrogatepass')).hexdigest()[:16]}.jsonl"


async def _spending(text: str | None, stack: AsyncExitStack) -> Any:
    from llmprog.errors import OptionError
    from llmprog.runner import opened_ledger
    from llmprog.runs.budget import Budget

    if text is None:
        return None
    budget = Budget.parse(text)
    if budget.thoughts is not None:
        raise OptionError("--budget thoughts=… has no effect on a bench; limit calls, tokens, usd or seconds")
    ledger = await opened_ledger(budget, None)
    stack.push_async_callback(ledger.aclose)
    return ledger


@contextmanager
def _progress(shared: SharedCalls, num_runs: int, *, enabled: bool) -> Iterator[Any]:
    """Shows how far a sweep has come on stderr: a line that changes on a terminal, elsewhere one for each setting."""
    if not enabled:
        yield None
        return
    from rich.console import Console

    console = Console(stderr=True)
    counts: dict[int, int] = {}

    def line(variant: Variant) -> str:
        name = " ".join(filter(None, (variant.series, variant.setting)))
        return f"{name}: {counts[id(variant)]} of {num_runs} runs, {shared.usage.calls:,} calls made"

    if console.is_terminal:
        with console.status("beginning") as status:

            def show(variant: Variant, _: RowResult) -> None:
                counts[id(variant)] = counts.get(id(variant), 0) + 1
                status.update(line(variant))

            yield show
        return

    def tell(variant: Variant, _: RowResult) -> None:
        counts[id(variant)] = counts.get(id(variant), 0) + 1
        if counts[id(variant)] == num_runs:
            console.print(line(variant), markup=False, highlight=False, soft_wrap=True)

    yield tell
