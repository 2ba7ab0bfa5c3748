"""Boards: rows, columns and boxes of symbols; leniently read from any text, exactly judged."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from llmprog.errors import InputError

SIZES = range(3, 10)
EMPTY = 0

Rows = tuple[tuple[int, ...], ...]
"""Rows as somebody wrote them: of any number and length, with any symbols, ``EMPTY`` where a cell is left open."""


@dataclass(frozen=True, slots=True)
class Board:
    """A square board of the symbols 1 to ``size``, some of its cells empty.

    Attributes:
        size: Rows, columns and symbols, 3 to 9.
        cells: Row by row; ``EMPTY`` where a cell is empty.
        has_boxes: Whether each of the square boxes, too, holds every symbol once.
    """

    size: int
    cells: tuple[int, ...]
    has_boxes: bool = False

    @property
    def rows(self) -> Rows:
        """The board row by row."""
        return tuple(self.cells[i : i + self.size] for i in range(0, len(self.cells), self.size))

    @property
    def num_empty(self) -> int:
        """How many cells are empty."""
        return self.cells.count(EMPTY)

    def __str__(self) -> str:
        return "\n".join(" ".join(str(cell) if cell else "." for cell in row) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Unit:
    """Cells of which no two may hold the same symbol.

    Attributes:
        name: Such as ``row 1``; rows, columns and boxes count from 1, boxes row by row.
        cells: Their indices.
    """

    name: str
    cells: tuple[int, ...]


@cache
def units_of(size: int, has_boxes: bool) -> tuple[Unit, ...]:
    """The rows, the columns, then the boxes of a board."""
    n = size
    units = [Unit(f"row {r + 1}", tuple(range(r * n, r * n + n))) for r in range(n)]
    units += [Unit(f"column {c + 1}", tuple(range(c, n * n, n))) for c in range(n)]
    if has_boxes:
        side = math.isqrt(n)
        for box in range(n):
            top, left = box // side * side, box % side * side
            cells = tuple((top + i // side) * n + left + i % side for i in range(n))
            units.append(Unit(f"box {box + 1}", cells))
    return tuple(units)


def place_of(cell: int, size: int) -> str:
    """A cell in words, such as ``row 1, column 2``."""
    return f"row {cell // size + 1}, column {cell % size + 1}"


# ------------------------------------------------------------------------------------------------ judging


def fault_of(given: Board, rows: Rows) -> str:
    """Why ``rows`` are no way to fill in ``given``; empty if they are, cells left open included.

    The rules and their order are those of Long 2023 (arXiv 2305.08291), to which boxes are added: size, no symbol
    twice in a row, a column or a box, nothing but symbols of the board, every given cell kept.
    """
    size = given.size
    if len(rows) != size or any(len(row) != size for row in rows):
        return f"the board has {_shape(rows)}, not {size} rows of {size} cells"
    cells = tuple(cell for row in rows for cell in row)
    for unit in units_of(size, given.has_boxes):
        held = [cells[i] for i in unit.cells if cells[i] != EMPTY]
        twice = next((symbol for symbol in held if held.count(symbol) > 1), None)
        if twice is not None:
            return f"{unit.name} holds {twice} more than once"
    for i, cell in enumerate(cells):
        if not 0 <= cell <= size:
            return f"{place_of(i, size)} holds {cell}; allowed are 1 to {size}"
        if given.cells[i] not in (EMPTY, cell):
            wrote = f"holds {cell}" if cell else "is empty"
            return f"{place_of(i, size)} {wrote}; it is given as {given.cells[i]}"
    return ""


def _shape(rows: Rows) -> str:
    lengths = sorted({len(row) for row in rows})
    cells = " or ".join(map(str, lengths)) if len(lengths) < 3 else f"{lengths[0]} to {lengths[-1]}"
    return f"{len(rows)} row{'s' * (len(rows) != 1)}{f' of {cells} cells' * bool(rows)}"


def cells_in_conflict(board: Board) -> frozenset[int]:
    """The filled cells whose symbol stands in one of their units more than once."""
    found: set[int] = set()
    for unit in units_of(board.size, board.has_boxes):
        held = [board.cells[i] for i in unit.cells]
        found.update(i for i in unit.cells if board.cells[i] != EMPTY and held.count(board.cells[i]) > 1)
    return frozenset(found)


# ------------------------------------------------------------------------------------------------ reading

_MAX_TEXT = 20_000  # of a longer text the end is read
_MAX_LINE = 200
_ROW_LINE = re.compile(r"[\d.*_?\s,|'\"\[\]]*[\d.*_?][\d.*_?\s,|'\"\[\]]*")
_RULER = re.compile(r"[-+|=:\s`]*")  # lines between boxes, fences, and lines that are blank
_ROW_NAME = re.compile(r"^(?:[-*]\s+)?row\s*\d+\s*[:.)]\s*", re.IGNORECASE)
_LIST_ROW = re.compile(r"\[([^\[\]]*)\]")
_BETWEEN = re.compile(r"[\s,|'\"\[\]]+")
_ILLEGIBLE = 999


def read_rows(text: str, size: int) -> Rows | None:
    """The last board that a text holds, whatever it is drawn with; ``None`` where no line looks like a row.

    Rows may be lines of cells with or without spaces, commas and bars between them, or lists in brackets; an empty
    cell is one of ``. * _ ? 0``. Of several boards without a word between them the last is read.
    """
    text = text[-_MAX_TEXT:]
    if (opening := text.rfind("[[")) >= 0:
        return tuple(row for row in map(_cells, _LIST_ROW.findall(text[opening:])) if row) or None
    runs: list[list[tuple[int, ...]]] = [[]]
    for written in text.splitlines():
        line = _ROW_NAME.sub("", written[:_MAX_LINE].strip())
        if _ROW_LINE.fullmatch(line):
            runs[-1].append(_cells(line))
        elif not _RULER.fullmatch(line) and runs[-1]:
            runs.append([])
    rows = next((run for run in reversed(runs) if run), [])
    if len(rows) > size and len(rows) % size == 0:
        rows = rows[-size:]
    return tuple(rows) or None


def _cells(line: str) -> tuple[int, ...]:
    """The cells of a row: its words, or, where no word is a single character, its characters."""
    words = [word for word in _BETWEEN.split(line.replace("null", ".")) if word]
    if all(len(word) > 1 for word in words):
        words = list("".join(words))
    return tuple(map(_symbol, words))


def _symbol(word: str) -> int:
    if word in (".", "*", "_", "?"):
        return EMPTY
    return int(word) if word.isascii() and word.isdigit() and len(word) < 4 else _ILLEGIBLE


def parse_board(text: str | Sequence[Sequence[object]], *, boxes: bool | None = None) -> Board:
    """A puzzle from rows on lines or between slashes, from one row of all n*n cells, or from a list of lists.

    Args:
        text: Such as ``1 . . 4 / . . 1 . / . 1 . . / 4 . . 1``; an empty cell is one of ``. * _ ? 0``.
        boxes: Whether square boxes count; ``None``: where the size is a square.

    Raises:
        InputError: It is no board of an allowed size, or its givens already break a rule.
    """
    if not isinstance(text, str):
        text = "\n".join(" ".join("." if cell in (None, "", " ") else str(cell) for cell in row) for row in text)
    lines = [line for line in re.split(r"[\n/;]|\]\s*,", text[:_MAX_TEXT]) if not _RULER.fullmatch(line)]
    if strange := next((line for line in lines if not _ROW_LINE.fullmatch(line)), None):
        raise InputError(f"sudoku: {strange.strip()[:60]!r} is no row of a board; {_FORM}")
    rows = list(map(_cells, lines))
    if len(rows) == 1:
        side = max(1, math.isqrt(len(rows[0])))
        rows = [rows[0][i : i + side] for i in range(0, len(rows[0]), side)]
    size = len(rows)
    if size not in SIZES or any(len(row) != size for row in rows):
        raise InputError(f"sudoku: a board of {_shape(tuple(rows))}; {_FORM}")
    is_square = math.isqrt(size) ** 2 == size
    if boxes and not is_square:
        raise InputError(f"sudoku: boxes=True with a board of size {size}; only boards of size 4 and 9 have boxes")
    board = Board(size, tuple(cell for row in rows for cell in row), is_square if boxes is None else boxes)
    if fault := fault_of(Board(size, (EMPTY,) * size**2, board.has_boxes), board.rows):
        raise InputError(f"sudoku: {fault}, so the board has no solution; correct the givens")
    return board


_FORM = (
    f"allowed are {SIZES[0]} to {SIZES[-1]} rows of as many cells, on lines or between slashes, with . for an empty "
    "cell, such as 1 . 3 / . . . / 2 . ."
)
