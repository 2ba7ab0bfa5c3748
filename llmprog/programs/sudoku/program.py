"""The sudoku program: boards completed at once, step by step with going back, or by filling blanks in any order.

Long 2023 (arXiv 2305.08291): a model fills in a few cells, rules check the board, and a controller goes back where it
must. Beyond it: boxes where the size is a square, boards that break no rule and still cannot be completed are found
exactly, and diffusion models fill all blanks of the board in one template, or edit the wrong cells of a draft.
"""

from __future__ import annotations

from typing import Literal

from llmprog.errors import OptionError
from llmprog.nodes import Checker, Generator
from llmprog.program import Program
from llmprog.programs.catalog import for_method, one_of
from llmprog.programs.line_of_thought import line_of_thought
from llmprog.programs.sudoku.board import SIZES, parse_board
from llmprog.programs.sudoku.exact import complete
from llmprog.programs.sudoku.nodes import (
    HALF_A_ROW,
    Position,
    can_be_completed,
    few_conflicts,
    fill_blanks,
    fill_some,
    legal,
    thought_key,
    whole_board,
)  # fmt: skip
from llmprog.search import BestOfN, Controller

Method = Literal["one_shot", "best_of_n", "tot", "infill", "edit"]
DeadEnds = Literal["none", "propagation", "search"]


def sudoku(
    *,
    method: Method = "tot",
    boxes: bool | None = None,
    num_samples: int | None = None,
    cells_per_step: int | None = None,
    dead_ends: DeadEnds | None = None,
    max_rounds: int | None = None,
    max_visits: int | None = None,
    policy: str | None = None,
    temperature: float = 0.7,
    max_tokens: int = 512,
) -> Program:
    """Fill in a square board so that every row, column and box holds each number once.

    Args:
        method: ``one_shot`` (the full board at once), ``best_of_n`` (the first of many that breaks no rule), ``tot``
            (a few cells at a time, going back where it must), ``infill`` (a diffusion model fills the blanks of the
            board, in any order) or ``edit`` (the same, then the cells that break a rule are filled again).
        boxes: Whether square boxes count; by default where the size is a square, 4 or 9.
        num_samples: Boards drawn (best_of_n; default 20) or drafts (infill, edit; default 1).
        cells_per_step: Most cells that one step fills in (tot; default 0: half a row).
        dead_ends: How boards that break no rule but cannot be completed are found (tot; default search): ``none``,
            ``propagation`` (a cell without a number, a number without a place) or ``search`` (all, within limits).
        max_rounds: Steps tried (tot; default 100), or edits of a draft (edit; default 8).
        max_visits: Steps tried from a board before going back by two (tot; default 5).
        policy: A file that ``llmprog train-policy`` wrote: it decides when to go back, instead of rules (tot).
        temperature: Of everything that is drawn.
        max_tokens: Longest reply, in the model's tokens.
    """
    one_of("method", method, Method)
    samples = for_method("num_samples", num_samples, method, {"best_of_n": 20, "infill": 1, "edit": 1})
    cells = for_method("cells_per_step", cells_per_step, method, {"tot": HALF_A_ROW})
    effort = for_method("dead_ends", dead_ends, method, {"tot": "search"})
    rounds = for_method("max_rounds", max_rounds, method, {"tot": 100, "edit": 8})
    for_method("max_visits", max_visits, method, {"tot": 5})
    for_method("policy", policy, method, {"tot": ""})
    if cells is not None and cells < 0:
        raise OptionError(f"cells_per_step={cells}; allowed is a whole number >= 1, or 0 for half a row")
    num_boards = 1 if samples is None else samples

    node: Generator = whole_board
    checkers: list[Checker] = [legal]
    controller: Controller = BestOfN(num_samples=num_boards)
    if cells is not None and rounds is not None:
        node = fill_some(cells)
        if one_of("dead_ends", effort, DeadEnds) in ("propagation", "search"):
            checkers.append(can_be_completed("search" if effort == "search" else "propagation"))
        controller = line_of_thought(max(SIZES) ** 2, rounds, max_visits=max_visits, policy=policy)
    elif rounds is not None:
        node, checkers = fill_blanks, [few_conflicts]
        controller = BestOfN(num_samples=num_boards, max_depth=1 + rounds)
    elif method == "infill":
        node = fill_blanks
    return Program(
        name="sudoku",
        start=lambda text: _first_state(text, boxes),
        generators=[node.with_options(temperature=temperature, max_tokens=max_tokens)],
        checkers=checkers,
        controller=controller,
        goal=_is_solved,
        answer=_board,
        key=thought_key,
        explain=_explain,
    )


def _first_state(text: str, boxes: bool | None) -> Position:
    board = parse_board(text, boxes=boxes)
    return Position(board, board)


def _is_solved(state: Position) -> bool:
    return not state.board.num_empty and not legal(state).reason


def _board(state: Position) -> str:
    return str(state.board)


def _explain(state: Position) -> str:
    """Whether the puzzle has solutions at all, by exact search."""
    found = complete(state.puzzle, num_wanted=2)
    if found.boards:
        count = "exactly one solution" if found.is_exhaustive else "a solution"
        return f"no solution was found, but the board has {count}: try more samples or more rounds"
    if found.is_exhaustive:
        return "the board has no solution: every way to fill in the empty cells was tried exactly"
    return "no solution was found; whether there is one is not known: an exact search came to its limit"
