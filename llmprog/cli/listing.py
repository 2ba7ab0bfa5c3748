"""``llmprog list | show | doctor``: what is there, what it consists of, and whether it works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llmprog.cli.app import EXIT_BACKEND, EXIT_SOLVED, JsonFlag, app
from llmprog.cli.settings import assign

if TYPE_CHECKING:
    from llmprog.doctor import Diagnosis


@app.command("list")
def list_all(
    as_json: JsonFlag = False,
) -> None:
    """List programs and backends: what is installed, what is missing and how to get it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from llmprog.backends.registry import BackendInfo, module_of, schemes
    from llmprog.programs.catalog import find, names

    programs = [find(name) for name in names()]
    backends: list[BackendInfo] = [info for scheme in sorted(schemes()) for info in module_of(scheme).list_backends()]
    if as_json:
        content = {
            "programs": [{"name": p.name, "summary": p.summary, "parameters": list(p.parameters)} for p in programs],
            "backends": [{"id": b.id, "summary": b.summary, "missing": b.missing} for b in backends],
        }
        typer.echo(json.dumps(content))
        return
    console = Console()
    table = Table("program", "what it does", "--set", box=None, pad_edge=False, header_style="bold")
    for entry in programs:
        table.add_row(*map(Text, (entry.name, entry.summary, ", ".join(entry.parameters))))
    console.print(table)
    console.print()
    table = Table("backend", "what it is", "status", box=None, pad_edge=False, header_style="bold")
    for info in backends:
        table.add_row(*map(Text, (info.id, info.summary, "missing" if info.missing else "ready")))
    console.print(table)
    for info in backends:
        if info.missing:
            console.print(Text(f"{info.id}: {info.missing}"), soft_wrap=True)


@app.command()
def show(
    program: Annotated[str, typer.Argument(help="A name from `llmprog list`, or path/to/file.py:name.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter of the program.")
    ] = None,
) -> None:
    """Show PROGRAM's graph: its nodes, prompts, controller and parameters."""
    from rich.console import Console
    from rich.text import Text

    from llmprog import terminal
    from llmprog.compile import compile_program
    from llmprog.programs.catalog import find

    entry = find(program)
    for_program, _ = assign(entry, settings or [], None, {})
    console = Console()
    console.print(terminal.program_lines(compile_program(entry.build(**for_program))))
    for parameter in entry.parameters.values():
        console.print(Text(f"--set {parameter.name}={parameter.default}", style="bold"), Text(parameter.help))


@app.command()
def doctor(
    backend: Annotated[
        list[str] | None, typer.Option(help="The backend to examine; repeatable. Default: all that are configured.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Call each configured backend once, cheaply; show what it can do, how fast it is, and what to fix."""
    import asyncio
    from dataclasses import asdict

    from rich.console import Console

    from llmprog import terminal
    from llmprog.doctor import configured, examine

    async def examine_all() -> list[Diagnosis]:
        return list(await asyncio.gather(*(examine(backend_id) for backend_id in ids)))

    ids = backend or [info.id for info in configured()]
    diagnoses = asyncio.run(examine_all())
    if as_json:
        typer.echo(json.dumps([asdict(diagnosis) for diagnosis in diagnoses]))
    else:
        terminal.print_diagnoses(Console(), diagnoses)
    raise typer.Exit(EXIT_SOLVED if all(diagnosis.ok for diagnosis in diagnoses) else EXIT_BACKEND)
