"""``llmprog runs export``: a run in other forms."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from llmprog.cli.runs import RunArgument, StoreOption, find_run, opened, runs_app


@runs_app.command("export")
def export_run(
    run_id: RunArgument,
    form: Annotated[
        str, typer.Option("--as", metavar="FORM", help="jsonl, csv, html, sft, preferences or grpo.")
    ] = "jsonl",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to (default: stdout).", dir_okay=False)
    ] = None,
    store: StoreOption = None,
    max_per_input: Annotated[
        int | None, typer.Option(metavar="N", help="sft: lines of one run, or one row of a job, at most.")
    ] = None,
    max_pairs: Annotated[
        int | None, typer.Option(metavar="N", help="preferences: pairs of one question at most (default: 4).")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="preferences: how far apart scores have to be (default: 0).")
    ] = None,
    keep_flat: Annotated[
        bool, typer.Option("--keep-flat", help="grpo: keep groups whose rewards are all the same.")
    ] = False,
) -> None:
    """Write a run in another form. As records, as a table, as a page to look at, or as training data."""
    from llmprog.errors import OptionError
    from llmprog.exports.formats import export, write_export

    given: dict[str, Any] = {"max_per_input": max_per_input, "max_pairs": max_pairs, "margin": margin}
    options = {name: value for name, value in given.items() if value is not None}
    if keep_flat:
        options["keep_flat"] = True
    if form == "html" and out is None:
        raise OptionError("--as html: a page needs a file; add --out FILE.html")
    with closing(opened(store)) as kept, find_run(kept, run_id) as run:
        if out is not None:
            count = write_export(run, form, out, **options)
        else:
            count = 0
            for piece in export(run, form, **options):
                sys.stdout.buffer.write(piece)
                count += 1
            sys.stdout.buffer.flush()
    if form in ("sft", "preferences", "grpo"):
        why = "; none of its results is both verified and linked to the call it came from" if form == "sft" else ""
        sys.stderr.write(f"llmprog: {count} lines{'' if count else why}\n")
