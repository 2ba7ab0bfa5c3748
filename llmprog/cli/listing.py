"""``llmprog list | show | doctor``: what is there, what it consists of, and whether it works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmprog.cli.app import EXIT_BACKEND, EXIT_SOLVED, PROGRAM_HELP, JsonFlag, TrustOption, app
from llmprog.cli.settings import assign

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmprog.doctor import Diagnosis
    from llmprog.programs.catalog import ProgramEntry

Form = Literal["yaml", "json"]


@app.command("list")
def list_all(
    as_json: JsonFlag = False,
) -> None:
    """List programs and backends. Says what is missing to use a backend, and how to get it."""
    from rich.table import Table
    from rich.text import Text

    from llmprog import terminal
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
    console = terminal.output_console()
    table = Table("program", "what it does", box=None, pad_edge=False, header_style="bold")
    for entry in programs:
        table.add_row(Text(entry.name, no_wrap=True), Text(entry.summary))
    console.print(table, Text("`llmprog show PROGRAM` has its prompts, and the parameters that --set reaches."), "")
    table = Table("backend", "what it is", "status", box=None, pad_edge=False, header_style="bold")
    for info in backends:
        table.add_row(Text(info.id, no_wrap=True), Text(info.summary), Text("missing" if info.missing else "ready"))
    console.print(table)
    for info in backends:
        if info.missing:
            console.print(Text(f"{info.id}: {info.missing}"), soft_wrap=True)


@app.command()
def show(
    program: Annotated[str | None, typer.Argument(metavar="PROGRAM", help=PROGRAM_HELP)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter of the program.")
    ] = None,
    trust: TrustOption = None,
    form: Annotated[Form | None, typer.Option("--as", help="Print the program as a file, to run or to change.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="With --as: every node of it, instead of the program's name.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of program files.")] = False,
) -> None:
    """Show what PROGRAM consists of. Its nodes, prompts, controller and parameters; or PROGRAM as a file."""
    from rich.table import Table
    from rich.text import Text

    from llmprog import terminal
    from llmprog.compile import compile_program
    from llmprog.programs.catalog import find

    if schema:
        from llmprog.spec import json_schema

        typer.echo(json.dumps(json_schema(), indent=2))
        return
    if program is None:
        raise typer.BadParameter("give a program, or --schema", param_hint="PROGRAM")
    if full and form is None:
        raise typer.BadParameter("has no effect without --as", param_hint="--full")
    entry = find(program, trust=trust or ())
    for_program, _ = assign(entry, settings or [], None, {})
    if form is not None:
        typer.echo(_as_file(entry, for_program, form, full=full), nl=False)
        return
    console = terminal.output_console()
    console.print(terminal.program_lines(compile_program(entry.build(**for_program))))
    if not entry.parameters:
        return
    table = Table("--set", "default", "what it is", box=None, pad_edge=False, header_style="bold")
    for parameter in entry.parameters.values():
        cells = (parameter.name, str(parameter.default), parameter.help.replace("``", "`"))
        table.add_row(*map(Text, cells))
    console.print(Text(), table, sep="")


def _as_file(entry: ProgramEntry, values: Mapping[str, Any], form: Form, *, full: bool) -> str:
    """A program as the text of a file: a registered one by its name, any other node by node."""
    from llmprog.programs.catalog import names
    from llmprog.spec import dump_program, form_text, reference_form

    built = entry.build(**values)  # what is wrong with the values is said now
    if entry.name in names() and not full:
        return form_text(reference_form(entry.name, values), form)
    return dump_program(built, form)


@app.command()
def doctor(
    backend: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="The backend to examine; repeatable. Default: all that are configured."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Try every configured backend. Calls each once, cheaply; shows what it can do, how fast it is, what to fix.

    Without --backend, also say which extras are not installed.
    """
    import asyncio
    from dataclasses import asdict

    from llmprog import terminal
    from llmprog.doctor import configured, examine, missing_extras

    async def examine_all() -> list[Diagnosis]:
        return list(await asyncio.gather(*(examine(backend_id) for backend_id in ids)))

    ids = backend or [info.id for info in configured()]
    diagnoses = asyncio.run(examine_all())
    if as_json:
        typer.echo(json.dumps([asdict(diagnosis) for diagnosis in diagnoses]))
    else:
        terminal.print_diagnoses(terminal.output_console(), diagnoses)
        for extra, packages in missing_extras().items() if not backend else ():
            typer.echo(f'not installed: {", ".join(packages)}; for it: pip install "llmprog[{extra}]"')
    raise typer.Exit(EXIT_SOLVED if all(diagnosis.ok for diagnosis in diagnoses) else EXIT_BACKEND)
