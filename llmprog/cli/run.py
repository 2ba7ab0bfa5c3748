"""``llmprog run``: one program on one input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmprog.cli.app import DEFAULT_BACKEND, JsonFlag, ProgramArgument, TrustOption, app


@app.command(context_settings={"ignore_unknown_options": False})
def run(
    program: ProgramArgument,
    words: Annotated[list[str], typer.Argument(metavar="INPUT", help="The input; several words are joined.")],
    backend: Annotated[
        str, typer.Option(metavar="ID", help="Model to run on, such as local:puzzles.")
    ] = DEFAULT_BACKEND,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter of the program or backend; repeatable."),
    ] = None,
    trust: TrustOption = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Repeat a run; drawn at random and printed if absent.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="LIMITS", help="The most to spend: calls=200,tokens=1e6,usd=2,seconds=60,thoughts=5000."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where runs are kept (default: among the user's data).")
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Use completions of earlier runs that asked the same.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the answer only.")] = False,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Show text while it is written, and keep how diffusion models wrote it (default: where stderr is a "
            "terminal).",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append all calls and completions to this file, for --backend replay:FILE.",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Run PROGRAM on INPUT. Shows the thought graph, the answer and what was spent."""
    from llmprog.cli.run_command import RunCommand, carry_out

    command = RunCommand(
        program=program,
        settings=tuple(settings or ()),
        trust=tuple(trust or ()),
        backend=backend,
        budget=budget,
        cache=cache,
    )
    code = carry_out(
        command,
        " ".join(words),
        store=store,
        seed=seed,
        record=record,
        stream=stream,
        as_json=as_json,
        quiet=quiet,
    )
    raise typer.Exit(code)
