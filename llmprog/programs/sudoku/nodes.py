"""The nodes of the sudoku program: what models are asked, how replies become boards, which boards are refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmprog.nodes import Checker, Generator, Verdict, checker, generator
from llmprog.programs.sudoku.board import EMPTY, Board, Rows, cells_in_conflict, fault_of, place_of, read_rows
from llmprog.programs.sudoku.exact import Effort, dead_end
from llmprog.types import Blank, Prompt, Template

NO_BOARD = "the reply holds no board"
HALF_A_ROW = 0
_SEARCHED_NODES = 2_000  # boards that a check for a dead end looks at; propagation alone leaves few to be searched


@dataclass(frozen=True, slots=True)
class Position:
    """Where a puzzle stands.

    Attributes:
        puzzle: The board as it was given.
        board: The board now; it keeps every given cell.
        written: What the model wrote, where that cannot be taken.
        fault: Why it cannot; empty where ``board`` is what it wrote.
    """

    puzzle: Board
    board: Board
    written: str = ""
    fault: str = ""

    @property
    def rules(self) -> str:
        """The rules in words."""
        n = self.board.size
        if not self.board.has_boxes:
            return f"every row and every column holds each of the numbers 1 to {n} exactly once"
        side = f"{n**0.5:.0f}"
        return f"every row, every column and every {side}x{side} box holds each of the numbers 1 to {n} exactly once"

    def __str__(self) -> str:
        return self.written or str(self.board)


def thought_key(state: Position) -> str:
    """Equal boards are one thought; what cannot be taken never stands for a good board."""
    return f"{state.written}\n{state.fault}" if state.fault else str(state.board)


def refused(state: Position, rows: Rows | None, fault: str) -> Position:
    """``state`` with what was written and why it cannot be taken."""
    text = "\n".join(" ".join(str(cell) if cell else "." for cell in row) for row in rows or ())
    return Position(state.puzzle, state.board, text, fault)


# ------------------------------------------------------------------------------------------ boards as text

_WHOLE_PROMPT = (
    "Fill in the empty cells of this board, which are shown as dots, so that {rules}. Give the full board alone, one "
    "row per line.\n\n{board}\nSolution:\n"
)
_STEP_PROMPT = (
    "We fill in this board together, a few cells at a time, so that {rules}. Fill in some of the empty cells, those "
    "that you are sure of, and keep a dot for every other one. Give the board alone, one row per line.\n{hint}\n\n"
    "{board}\nSolution:\n"
)


@generator(prompt=_WHOLE_PROMPT, name="solve")
def whole_board(state: Position, completion: str) -> Position:
    """The full board that a completion holds."""
    rows = read_rows(completion, state.board.size)
    fault = NO_BOARD if rows is None else fault_of(state.board, rows)
    if rows is None or fault:
        return refused(state, rows, fault)
    after = _with_cells(state, [cell for row in rows for cell in row])
    return refused(state, rows, _still_empty(after.board)) if after.board.num_empty else after


def next_cells(state: Position, completion: str, num_cells: int) -> Position:
    """The board with the first ``num_cells`` new cells of a completion that break no rule on the board it holds.

    A full board that breaks no rule is taken whole. So models that write nothing but whole boards, wrong in places, can
    be taken a few cells at a time; a reply that changes a given cell is refused altogether.
    """
    before = state.board
    rows = read_rows(completion, before.size)
    cells = _cells_of(rows, before.size)
    if rows is None or cells is None:
        return refused(state, rows, NO_BOARD if rows is None else fault_of(before, rows))
    fault = fault_of(before, rows)
    if EMPTY in cells or fault:
        wrong = cells_in_conflict(_with_cells(state, cells).board)
        new = [i for i, cell in enumerate(cells) if cell != EMPTY and before.cells[i] == EMPTY]
        taken = set([i for i in new if i not in wrong][:num_cells])
        if not taken:
            return refused(state, rows, fault or "no cell was filled in")
        cells = [EMPTY if i in new and i not in taken else cell for i, cell in enumerate(cells)]
    after = _with_cells(state, cells)
    fault = fault_of(before, after.board.rows)
    return refused(state, rows, fault) if fault else after


def fill_some(num_cells: int) -> Generator:
    """A generator of boards with at most ``num_cells`` more cells filled; ``HALF_A_ROW`` is that, rounded up."""

    @generator(prompt=_STEP_PROMPT, name="fill_some")
    def fill(state: Position, completion: str) -> Position:
        return next_cells(state, completion, num_cells or (state.board.size + 1) // 2)

    return fill


def _cells_of(rows: Rows | None, size: int) -> list[int] | None:
    """The cells of a board of the right size; ``None`` for another."""
    if rows is None or len(rows) != size or any(len(row) != size for row in rows):
        return None
    return [cell for row in rows for cell in row]


def _with_cells(state: Position, cells: list[int]) -> Position:
    return Position(state.puzzle, replace(state.board, cells=tuple(cells)))


def _still_empty(board: Board) -> str:
    return f"{board.num_empty} cell{'s' * (board.num_empty != 1)} still empty"


# ------------------------------------------------------------------------------------------ boards as templates


def blanks_of(state: Position) -> Template:
    """The board with a blank for every cell to be written, for models that write in any order.

    These are the empty cells; of a full board those that break a rule, given ones excepted: a draft is edited. The
    givens stand in the prompt as well.
    """
    board, puzzle = state.board, state.puzzle
    wrong = cells_in_conflict(board)
    parts: list[str | Blank] = []
    for i, cell in enumerate(board.cells):
        if i:
            parts.append("\n" if i % board.size == 0 else " ")
        is_open = cell == EMPTY or (i in wrong and puzzle.cells[i] == EMPTY)
        parts.append(Blank(1) if is_open else str(cell))
    prompt = Prompt.from_text(_WHOLE_PROMPT.format(rules=state.rules, board=puzzle))
    return Template(prompt, tuple(parts))


@generator(prompt=blanks_of, name="fill_blanks")
def fill_blanks(state: Position, completion: str) -> Position:
    """The full board that a completion holds, also where cells of it break a rule: it may be edited."""
    size, given = state.board.size, state.puzzle.cells
    rows = read_rows(completion, size)
    cells = _cells_of(rows, size)
    if rows is None or cells is None:
        return refused(state, rows, NO_BOARD if rows is None else fault_of(state.board, rows))
    after = _with_cells(state, cells)
    if after.board.num_empty:
        return refused(state, rows, _still_empty(after.board))
    for i, cell in enumerate(cells):
        if cell > size or given[i] not in (EMPTY, cell):
            return refused(state, rows, f"{place_of(i, size)} holds {cell}, not {given[i] or f'one of 1 to {size}'}")
    return after


# ------------------------------------------------------------------------------------------------ checkers


@checker
def legal(state: Position) -> Verdict:
    """The rules refuse boards that break one, and replies that are no board."""
    fault = state.fault or fault_of(state.puzzle, state.board.rows)
    return Verdict(valid=not fault, reason=fault)


@checker
def few_conflicts(state: Position) -> Verdict:
    """A draft is worth the more the fewer of its cells break a rule."""
    if state.fault:
        return Verdict(valid=False, reason=state.fault)
    return Verdict(score=-float(len(cells_in_conflict(state.board))))


def can_be_completed(effort: Effort) -> Checker:
    """A rule that refuses boards that break no rule and still cannot be completed."""

    @checker(name="can_be_completed")
    def check(state: Position) -> Verdict:
        why = dead_end(state.board, effort, max_nodes=_SEARCHED_NODES)
        return Verdict(valid=not why, reason=why)

    return check
