"""Where results go, and tables that fit there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_UNBOUNDED = 10_000  # columns; rich knows no console without a width
_LEAST = 12  # columns that a cell which is cut keeps
_GAP = 2  # columns between two cells


def output_console() -> Console:
    """The console of stdout: as wide as the terminal; in a pipe or a file, lines are as long as what they say.

    ``COLUMNS`` in the environment is the width everywhere.
    """
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBOUNDED
    return console


def table_lines(
    width: int, columns: Sequence[str], rows: Sequence[Mapping[str, Text]], *, spare: Sequence[str], cut: Sequence[str]
) -> Iterator[Text]:
    """A table of one line a row, whose cells are whole, so that an id can be copied, but for the columns to cut.

    Args:
        width: Columns of the terminal that there are. Lines are wider only where nothing more can be left out or cut.
        columns: Headings.
        rows: Cells by heading; one that is missing is empty.
        spare: Headings of columns that may be left out, the first of them first.
        cut: Headings of columns whose cells may be cut.
    """
    widths = {name: max([len(name), *(cell_len(row[name].plain) for row in rows if name in row)]) for name in columns}
    least = {name: min(wide, max(_LEAST, len(name))) if name in cut else wide for name, wide in widths.items()}
    for name in spare:
        if _total(least) > width:
            del least[name]
    for name in cut:
        least[name] = min(widths[name], least[name] + max(0, width - _total(least)))
    yield _line({name: Text(name, style="bold") for name in columns}, least)
    for row in rows:
        yield _line(row, least)


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _line(row: Mapping[str, Text], widths: Mapping[str, int]) -> Text:
    line = Text()
    for name, width in widths.items():
        cell = row.get(name, Text()).copy()
        cell.truncate(width, overflow="ellipsis", pad=True)
        line.append_text(cell).append(" " * _GAP)
    line.rstrip()
    return line
