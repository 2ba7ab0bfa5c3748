"""``llmprog bench``: programs and settings over the rows of a file, on the same calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llmprog.cli.app import DEFAULT_BACKEND, JsonFlag, TrustOption, app
from llmprog.cli.jobs import BackendId, Concurrency, Gold, Input, Settings


@app.command()
def bench(
    programs: Annotated[
        list[str], typer.Argument(metavar="PROGRAM", help="Names from `llmprog list`, or path/to/file.py:name.")
    ],
    data: Annotated[Path, typer.Option(metavar="FILE", help="Questions to read: .jsonl or .csv, also with .gz.")],
    input: Input = None,  # noqa: A002 - the name of the option
    gold: Gold = None,
    settings: Settings = None,
    trust: TrustOption = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="KEY=V1,V2,...", help="Settings along a curve, such as num_samples=1,2,4,...,64."),
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="KEY=V1,V2", help="Settings that make curves of their own: method=io,cot,tot.")
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="N", help="Runs of every question, each with a seed of its own.")] = 1,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Read no more than so many questions.")] = None,
    concurrency: Concurrency = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="LIMITS", help="The most to spend on calls that are really made: calls=200,tokens=1e6,usd=2."
        ),
    ] = None,
    backend: BackendId = DEFAULT_BACKEND,
    seed: Annotated[int, typer.Option(metavar="N", help="Another one is another draw.")] = 0,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Where calls are kept; those it holds are not made again (default: among the user's data).",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the curves: .png, .svg or .pdf.", dir_okay=False)
    ] = None,
    x: Annotated[
        Literal["calls", "tokens", "usd"], typer.Option("--x", help="What the curves are drawn against.")
    ] = "calls",
    as_json: JsonFlag = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Measure what more calls buy. Runs PROGRAMs in several settings on the same questions: accuracy against cost."""
    from llmprog.cli.bench_command import BenchCommand, run_bench

    command = BenchCommand(
        programs=tuple(programs),
        data=data,
        input=input,
        gold=gold,
        settings=tuple(settings or ()),
        trust=tuple(trust or ()),
        sweep=sweep,
        compare=compare,
        repeats=repeats,
        limit=limit,
        concurrency=concurrency,
        budget=budget,
        backend=backend,
        seed=seed,
        record=record,
        plot=plot,
        x=x,
    )
    raise typer.Exit(run_bench(command, as_json=as_json, quiet=quiet))
