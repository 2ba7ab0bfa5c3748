"""``llmprog map | vote``: one program over the rows of a file."""

from __future__ import annotations

import functools
import typing
from pathlib import Path
from typing import Annotated

import typer

from llmprog.cli.app import DEFAULT_BACKEND, JsonFlag, ProgramArgument, TrustOption, app
from llmprog.cli.job_command import JobCommand, run_job
from llmprog.cli.run_command import absolute_place, absolute_program

Data = Annotated[Path, typer.Option(metavar="FILE", help="Rows to read: .jsonl or .csv, also with .gz.")]
Out = Annotated[Path, typer.Option(metavar="OUT.jsonl", help="Where to write one JSON line for each row.")]
Input = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN|TEMPLATE",
        help="The input: a column, or a template such as '{question}'. Default: the column that must be it.",
    ),
]
Gold = Annotated[str | None, typer.Option(metavar="COLUMN", help="The column that holds the right answer.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter of the program or backend; repeatable."),
]
Concurrency = Annotated[int | None, typer.Option(metavar="N", help="Rows worked on at once (default: 64).")]
BudgetText = Annotated[
    str | None,
    typer.Option(metavar="LIMITS", help="The most to spend: calls=200,tokens=1e6,usd=2,seconds=60,thoughts=5000."),
]
BackendId = Annotated[str, typer.Option("--backend", metavar="ID", help="Model to run on, such as local:puzzles.")]
Store = Annotated[str | None, typer.Option(metavar="DIR", help="Where runs are kept (default: among the user's data).")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Repeat a job; drawn at random if absent.")]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|ray",
        help="Where rows are worked on: local (this process) or ray (a Ray cluster's).",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="A Ray that runs: auto, HOST:PORT or ray://HOST:PORT (default: one is begun here)."
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(metavar="N", help="Ray workers (default: one for each CPU; for a local model, for each GPU)."),
]
InOrder = Annotated[bool, typer.Option("--in-order", help="Write rows in the order of the data.")]
Cache = Annotated[bool, typer.Option("--cache", help="Use completions of earlier runs that asked the same.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, although the job was begun before.")]
Fork = Annotated[
    bool, typer.Option("--fork", help="Go on with a program that was edited since, with the calls that still fit.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output file that holds something else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


@app.command("map")
def map_rows(
    program: ProgramArgument,
    data: Data,
    out: Out,
    input: Input = None,  # noqa: A002 - the name of the option
    gold: Gold = None,
    settings: Settings = None,
    trust: TrustOption = None,
    concurrency: Concurrency = None,
    budget: BudgetText = None,
    backend: BackendId = DEFAULT_BACKEND,
    store: Store = None,
    seed: Seed = None,
    executor: ExecutorName = "local",
    ray_address: RayAddress = None,
    num_workers: NumWorkers = None,
    in_order: InOrder = False,
    cache: Cache = False,
    fresh: Fresh = False,
    fork: Fork = False,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
    quiet: Quiet = False,
) -> None:
    """Run PROGRAM on every row of a file. After an interruption, the same command goes on where it was."""
    command = JobCommand(
        program=absolute_program(program),
        data=str(data.absolute()),
        out=str(out.absolute()),
        input=_unescaped(input),
        gold=gold,
        settings=tuple(settings or ()),
        trust=tuple(map(absolute_place, trust or ())),
        concurrency=concurrency,
        budget=budget,
        backend=backend,
        store=store,
        seed=seed,
        executor=executor,
        ray_address=ray_address,
        num_workers=num_workers,
        in_order=in_order,
        cache=cache,
    )
    code = run_job(command, fresh=fresh, fork=fork, overwrite=overwrite, as_json=as_json, quiet=quiet)
    raise typer.Exit(code)


def _unescaped(spec: str | None) -> str | None:
    r"""A template as it was meant: a shell hands ``\n`` over as two characters."""
    return spec if spec is None or "{" not in spec else spec.replace(r"\n", "\n").replace(r"\t", "\t")


# The same command with its program given. Typer reads options from annotations, which a partial lacks.
vote = functools.partial(map_rows, "self_consistency")
vote.__annotations__ = typing.get_type_hints(map_rows, include_extras=True)
vote.__doc__ = (
    "Vote on an answer to every row of a file. The same as `llmprog map self_consistency`: several chains of thought."
)
app.command("vote")(vote)
