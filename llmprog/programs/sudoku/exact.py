"""What is exactly true of a board: whether, and how, it can be completed; and puzzles with exactly one solution."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

from llmprog.programs.sudoku.board import EMPTY, Board, place_of, units_of

MAX_NODES = 20_000
"""Boards that a search looks at unless told otherwise: far more than any 9x9 puzzle with one solution needs."""

Effort = Literal["propagation", "search"]


@dataclass(frozen=True, slots=True)
class Completions:
    """What a search for completions found.

    Attributes:
        boards: Full boards, at most as many as were asked for.
        is_exhaustive: Whether these are all there are.
    """

    boards: tuple[Board, ...]
    is_exhaustive: bool


class _DeadEndError(Exception):
    """The board cannot be completed; the message says why."""


@cache
def _peers(size: int, has_boxes: bool) -> tuple[tuple[int, ...], ...]:
    """For each cell, the others that share a unit with it."""
    shared: list[set[int]] = [set() for _ in range(size * size)]
    for unit in units_of(size, has_boxes):
        for i in unit.cells:
            shared[i].update(unit.cells)
    return tuple(tuple(sorted(cells - {i})) for i, cells in enumerate(shared))


class _Candidates:
    """The symbols each cell may still hold, as bits, and what follows from them."""

    __slots__ = ("board", "masks")

    def __init__(self, board: Board, masks: list[int] | None = None) -> None:
        self.board = board
        self.masks = [(1 << board.size) - 1] * board.size**2 if masks is None else masks

    def start(self) -> None:
        """Enter what is given and everything that follows from it."""
        for i, symbol in enumerate(self.board.cells):
            if symbol != EMPTY:
                if not self.masks[i] >> (symbol - 1) & 1:
                    raise _DeadEndError(f"{symbol} cannot stand in {place_of(i, self.board.size)}")
                self.settle(i, 1 << (symbol - 1))
        self.fill_only_places()

    def settle(self, cell: int, bit: int) -> None:
        """Put a symbol into a cell, and into others where only one is left then."""
        masks, peers = self.masks, _peers(self.board.size, self.board.has_boxes)
        masks[cell] = bit
        waiting = [cell]
        while waiting:
            i = waiting.pop()
            bit = masks[i]
            for j in peers[i]:
                if masks[j] & bit:
                    masks[j] &= ~bit
                    if not masks[j]:
                        raise _DeadEndError(f"no symbol is left for {place_of(j, self.board.size)}")
                    if not masks[j] & (masks[j] - 1):
                        waiting.append(j)

    def fill_only_places(self) -> None:
        """Settle every symbol that has but one place in some row, column or box, until there is none."""
        has_changed = True
        while has_changed:
            has_changed = False
            for unit in units_of(self.board.size, self.board.has_boxes):
                for symbol in range(self.board.size):
                    bit = 1 << symbol
                    places = [i for i in unit.cells if self.masks[i] & bit]
                    if not places:
                        raise _DeadEndError(f"{symbol + 1} has no place left in {unit.name}")
                    if len(places) == 1 and self.masks[places[0]] != bit:
                        self.settle(places[0], bit)
                        has_changed = True

    def open_cell(self) -> int | None:
        """The undecided cell with the fewest symbols, the first of several; ``None`` if all are decided."""
        undecided = ((mask.bit_count(), i) for i, mask in enumerate(self.masks) if mask & (mask - 1))
        return min(undecided, default=(0, None))[1]

    def full_board(self) -> Board:
        """The board, all cells being decided."""
        return Board(self.board.size, tuple(mask.bit_length() for mask in self.masks), self.board.has_boxes)


def complete(
    board: Board, *, num_wanted: int = 1, max_nodes: int = MAX_NODES, rng: random.Random | None = None
) -> Completions:
    """Full boards that ``board`` can become, found by propagation and depth-first search.

    Args:
        board: Some of its cells filled.
        num_wanted: Where to stop; 2 tells a puzzle with one solution from others.
        max_nodes: Boards looked at before giving up.
        rng: Tries symbols in random order; in ascending order by default.
    """
    found: list[Board] = []
    stack: list[tuple[_Candidates, int, int]] = []  # to be looked at once the symbol stands in the cell
    root = _Candidates(board)
    try:
        root.start()
    except _DeadEndError:
        return Completions((), is_exhaustive=True)
    num_nodes = 0
    now: _Candidates | None = root
    while now is not None or stack:
        if num_nodes >= max_nodes:
            return Completions(tuple(found), is_exhaustive=False)
        num_nodes += 1
        if now is None:
            before, cell, bit = stack.pop()
            now = _Candidates(board, before.masks.copy())
            try:
                now.settle(cell, bit)
                now.fill_only_places()
            except _DeadEndError:
                now = None
                continue
        cell_left = now.open_cell()
        if cell_left is None:
            found.append(now.full_board())
            if len(found) >= num_wanted:
                return Completions(tuple(found), is_exhaustive=False)
        else:
            bits = [1 << s for s in range(board.size) if now.masks[cell_left] >> s & 1]
            if rng is not None:
                rng.shuffle(bits)
            stack.extend((now, cell_left, bit) for bit in reversed(bits))
        now = None
    return Completions(tuple(found), is_exhaustive=True)


def dead_end(board: Board, effort: Effort = "search", *, max_nodes: int = MAX_NODES) -> str:
    """Why ``board``, which breaks no rule yet, cannot be completed; empty if it can, or if that was not found out.

    Args:
        board: Some of its cells filled.
        effort: ``propagation`` finds cells without a symbol and symbols without a place; ``search`` finds every
            dead end, unless that takes more than ``max_nodes`` boards.
        max_nodes: See there.
    """
    try:
        _Candidates(board).start()
    except _DeadEndError as why:
        return str(why)
    if effort == "search":
        result = complete(board, max_nodes=max_nodes)
        if result.is_exhaustive and not result.boards:
            return "no way to fill the empty cells is left: every one was tried"
    return ""


def random_puzzle(size: int, rng: random.Random, *, num_givens: int | None = None, boxes: bool | None = None) -> Board:
    """A puzzle with exactly one solution; equal states of ``rng`` give equal puzzles.

    A random full board (not all are equally likely) loses cells in random order as long as its solution stays the
    only one.

    Args:
        size: 3 to 9.
        rng: Draws the board and the order.
        num_givens: Cells to keep; where so few do not fix the solution, as few as the order allows. ``None``: that.
        boxes: As for ``parse_board``.
    """
    has_boxes = size in (4, 9) if boxes is None else boxes
    full: tuple[Board, ...] = ()
    while not full:  # a search that began badly may give up
        full = complete(Board(size, (EMPTY,) * size**2, has_boxes), rng=rng).boards
    cells = list(full[0].cells)
    for cell in rng.sample(range(size * size), size * size):
        if num_givens is not None and size * size - cells.count(EMPTY) <= num_givens:
            break
        kept, cells[cell] = cells[cell], EMPTY
        if len(complete(Board(size, tuple(cells), has_boxes), num_wanted=2).boards) != 1:
            cells[cell] = kept
    return Board(size, tuple(cells), has_boxes)
