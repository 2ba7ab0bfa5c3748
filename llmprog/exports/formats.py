"""The forms in which a run can be exported, by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmprog.errors import OptionError, StoreError
from llmprog.exports.records import records_of
from llmprog.exports.sheet import csv_lines
from llmprog.exports.training import grpo_lines, preference_lines, sft_lines
from llmprog.jobs.output import encode_line
from llmprog.runs.run import Run
from llmprog.viewer.static_file import html_pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of export.

    Attributes:
        pieces: Makes it from a run and options: texts, or JSON values that are lines.
        options: The names of its options.
    """

    pieces: Callable[..., Iterable[str] | Iterable[dict[str, Any]]]
    options: tuple[str, ...] = ()


FORMS: Mapping[str, Form] = {
    "jsonl": Form(pieces=records_of),
    "csv": Form(pieces=csv_lines),
    "html": Form(pieces=html_pieces),
    "sft": Form(pieces=sft_lines, options=("max_per_input",)),
    "preferences": Form(pieces=preference_lines, options=("max_pairs", "margin")),
    "grpo": Form(pieces=grpo_lines, options=("keep_flat",)),
}


def export(run: Run, form: str, **options: Any) -> Iterator[bytes]:
    """A run in another form, piece by piece; of forms that consist of lines, each piece is one.

    Args:
        run: The run; it may be under way.
        form: ``jsonl``, ``csv``, ``html``, ``sft``, ``preferences`` or ``grpo``.
        **options: Of ``sft``: ``max_per_input``. Of ``preferences``: ``max_pairs``, ``margin``. Of ``grpo``:
            ``keep_flat``.

    Raises:
        OptionError: There is no such form or option, or nothing in the run verifies what is to be exported.
        StoreError: The run cannot be read.
    """
    if form not in FORMS:
        raise OptionError.unknown("form of export", form, FORMS)
    for option in options:
        if option not in FORMS[form].options:
            raise OptionError.unknown(f"option of the export {form!r}:", option, FORMS[form].options)
    try:
        with run.reporting():
            for piece in FORMS[form].pieces(run, **options):
                yield piece.encode("utf-8", "replace") if isinstance(piece, str) else encode_line(piece)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # a run file may hold anything
        raise StoreError(f"run {run.id}: it cannot be exported: {type(error).__name__}: {error}") from error


def write_export(run: Run, form: str, path: str | Path, **options: Any) -> int:
    """Export a run to a file, which appears when it is whole; returns the number of pieces written.

    Args:
        run: As for ``export``.
        form: As for ``export``.
        path: The file; one that is there is replaced.
        **options: As for ``export``.

    Raises:
        OptionError: As for ``export``, or the file cannot be written.
        StoreError: The run cannot be read.
    """
    path = Path(path)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with new.open("wb") as file:
            for piece in export(run, form, **options):
                file.write(piece)
                count += 1
        new.replace(path)
    except OSError as error:
        raise OptionError(f"the export {str(path)!r} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
    return count
