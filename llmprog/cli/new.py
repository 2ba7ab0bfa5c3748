"""``llmprog new``: a starter program, with tests that pass."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Annotated

import typer

from llmprog.cli.app import app


@app.command("new")
def new_program(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the program is called: a word such as my_program.")],
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where to write it (default: here).", file_okay=False)
    ] = Path(),
    as_yaml: Annotated[bool, typer.Option("--yaml", help="As a YAML file, without Python.")] = False,
) -> None:
    """Write a program to start from, with tests. The files are NAME.py (or NAME.yaml) and test_NAME.py."""
    from llmprog.cli import starters
    from llmprog.errors import OptionError

    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise OptionError(f"{name!r} is no name for a program; use letters, digits and _, such as my_program")
    if name in starters.TAKEN_NAMES:
        raise OptionError(f"{name!r} is the name of a module that the program itself needs; choose another")
    texts = starters.yaml_starter(name) if as_yaml else starters.python_starter(name)
    files = {folder / file: text for file, text in texts.items()}
    there = [str(path) for path in files if path.exists()]
    if there:
        raise OptionError(
            f"{', '.join(there)}: already there, and nothing is overwritten; choose another name or --dir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        typer.echo(f"wrote {path}")
    program, tests = (str(path) for path in files)
    target = program if as_yaml else f"{program}:{name}"
    typer.echo(f"try it:  llmprog run {target} 'What is (17 + 25) * 3 - 40?'")
    typer.echo(f"test it: python -m pytest {tests}")
