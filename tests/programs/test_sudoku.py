"""The sudoku program: boards, rules, exact answers, parsers, search; on the embedded model and on scripted answers."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprog import arun
from llmprog.backends import ScriptedBackend, open_backend
from llmprog.backends.local.puzzles.split import split_of_text
from llmprog.errors import CapabilityError, InputError, OptionError
from llmprog.programs.sudoku import Board, complete, dead_end, parse_board, random_puzzle, sudoku
from llmprog.programs.sudoku.board import cells_in_conflict, fault_of, read_rows, units_of
from llmprog.programs.sudoku.exact import Completions
from llmprog.programs.sudoku.nodes import (
    Position,
    blanks_of,
    few_conflicts,
    legal,
    next_cells,
    thought_key,
    whole_board,
)
from llmprog.types import Blank

PUZZLE = "1 . . 4 / . . 1 . / . 1 . . / 4 . . 1"
UNIQUE = "4 . . . / 3 . . . / . 4 2 . / . . 4 ."
SEARCHED = ". 1 6 . . 3 / . . 3 1 2 6 / . 3 . 4 . . / . . . . . . / . . 2 3 1 . / . 2 4 5 . 1"
SOLVED = "1 2 3 4 / 3 4 1 2 / 2 1 4 3 / 4 3 2 1"
DIFFUSION = "local:puzzles?decoder=masked_diffusion&unmask=quota"


def board(text: str, **options: bool | None) -> Board:
    return parse_board(text, **options)


def position(text: str) -> Position:
    return Position(board(text), board(text))


def held_out_puzzles(count: int) -> list[str]:
    """4x4 puzzles whose solution the embedded model was not trained on."""
    rng = random.Random(0)
    found = []
    while len(found) < count:
        puzzle = random_puzzle(4, rng, num_givens=6)
        (solution,) = complete(puzzle).boards
        if split_of_text("".join(map(str, solution.cells))) == "development":
            found.append(str(puzzle))
    return found


# ------------------------------------------------------------------------------------------------ boards


@pytest.mark.parametrize(
    "text",
    [
        PUZZLE,
        "1 . . 4\n. . 1 .\n. 1 . .\n4 . . 1",
        "1..4\n..1.\n.1..\n4..1",
        "1..4..1..1..4..1",
        "1004001001004001",
        "| 1 _ | _ 4 |\n| _ _ | 1 _ |\n|-----|-----|\n| _ 1 | _ _ |\n| 4 _ | _ 1 |",
        '[["1","*","*","4"],["*","*","1","*"],["*","1","*","*"],["4","*","*","1"]]',
        [[1, 0, 0, 4], [0, 0, 1, 0], [0, 1, 0, 0], [4, 0, 0, 1]],
        [[1, None, None, 4], [None, None, 1, None], [None, 1, None, None], [4, "", "", 1]],
    ],
)
def test_a_puzzle_is_read_in_any_usual_form(text: str) -> None:
    read = parse_board(text)
    assert str(read) == "1 . . 4\n. . 1 .\n. 1 . .\n4 . . 1"
    assert read.has_boxes


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a board of 0 rows"),
        ("1 2 / 2 1", "a board of 2 rows of 2 cells"),
        ("1 . . / . . / . . .", "a board of 3 rows of 2 or 3 cells"),
        ("hello / world", "'hello' is no row of a board"),
        ("1 . 1 / . . . / . . .", "row 1 holds 1 more than once, so the board has no solution"),
        ("1 . . / 1 . . / . . .", "column 1 holds 1 more than once"),
        ("1 . . . / . 1 . . / . . . . / . . . .", "box 1 holds 1 more than once"),
        ("4 . . / . . . / . . .", "row 1, column 1 holds 4; allowed are 1 to 3"),
    ],
)
def test_bad_input_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(InputError, match="sudoku") as caught:
        parse_board(text)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_boxes_are_those_of_square_sizes_unless_they_are_switched_off() -> None:
    assert [unit.name for unit in units_of(4, True)][-4:] == ["box 1", "box 2", "box 3", "box 4"]
    assert units_of(9, True)[-1].cells == (60, 61, 62, 69, 70, 71, 78, 79, 80)
    assert not board("1 . . / . . . / . . .").has_boxes
    assert not board(PUZZLE, boxes=False).has_boxes
    with pytest.raises(InputError, match="only boards of size 4 and 9 have boxes"):
        board("1 . . / . . . / . . .", boxes=True)


@pytest.mark.parametrize(
    ("reply", "rows"),
    [
        ("1 2 3\n2 3 1\n3 1 2", ((1, 2, 3), (2, 3, 1), (3, 1, 2))),
        ("Sure!\n```\n123\n2.1\n3*2\n```\nDone.", ((1, 2, 3), (2, 0, 1), (3, 0, 2))),
        ("I begin with\n1 . .\n. . .\n. . 2\nSolution:\n1 2 3\n2 3 1\n3 1 2", ((1, 2, 3), (2, 3, 1), (3, 1, 2))),
        ("1 . .\n. . .\n. . 2\n\n1 2 3\n2 3 1\n3 1 2", ((1, 2, 3), (2, 3, 1), (3, 1, 2))),
        ('{"rows": [["1","2","3"],["2","*","1"],["3","1","2"]]}', ((1, 2, 3), (2, 0, 1), (3, 1, 2))),
        ("Row 1: 1, 2, 3\nRow 2: 2, 3, 1\nRow 3: 3, 1, 2", ((1, 2, 3), (2, 3, 1), (3, 1, 2))),
        ("1 2\n2 1", ((1, 2), (2, 1))),
        ("1 10 2", ((1, 10, 2),)),
        ("no board at all", None),
        ("", None),
    ],
)
def test_the_last_board_of_a_reply_is_read_however_it_is_drawn(reply: str, rows: object) -> None:
    assert read_rows(reply, 3) == rows


@given(st.text(alphabet="123.*_|[]-+ \n,rowX", max_size=300), st.integers(3, 5))
def test_any_reply_gives_a_board_or_a_fault(reply: str, size: int) -> None:
    empty = Board(size, (0,) * size**2)
    for made in (
        whole_board(Position(empty, empty), reply),
        next_cells(Position(empty, empty), reply, 2),
    ):
        assert made.fault or (not fault_of(empty, made.board.rows) and made.board != empty)


# ------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        # The verdicts of Long's rule-based checker, in its order, on its 3x3 boards.
        ("1 2 3 / 2 3 1 / 3 1 2", ""),
        ("1 2 . / . . . / . . .", ""),
        ("1 2 / 2 1", "the board has 2 rows of 2 cells, not 3 rows of 3 cells"),
        ("1 2 2 / . . . / . . .", "row 1 holds 2 more than once"),
        ("1 2 3 / 2 2 1 / 3 1 2", "row 2 holds 2 more than once"),
        ("1 2 3 / 2 3 1 / 1 . .", "column 1 holds 1 more than once"),
        ("1 2 4 / . . . / . . .", "row 1, column 3 holds 4; allowed are 1 to 3"),
        ("2 1 3 / . . . / . . .", "row 1, column 1 holds 2; it is given as 1"),
        (". 2 3 / . . . / . . .", "row 1, column 1 is empty; it is given as 1"),
        ("2 2 4 / . . . / . . .", "row 1 holds 2 more than once"),
    ],
)
def test_a_board_is_judged_by_the_published_rules_in_their_order(rows: str, fault: str) -> None:
    given = board("1 . . / . . . / . . .")
    written = tuple(tuple(0 if c == "." else int(c) for c in row.split()) for row in rows.split("/"))
    assert fault_of(given, written) == fault


def test_a_box_may_hold_a_symbol_once() -> None:
    given = board(". . . . / . . . . / . . . . / . . . .")
    rows = ((1, 2, 3, 4), (2, 1, 4, 3), (0, 0, 0, 0), (0, 0, 0, 0))
    assert fault_of(given, rows) == "box 1 holds 1 more than once"
    assert fault_of(Board(4, given.cells), rows) == ""


def test_the_cells_of_a_draft_that_break_a_rule_are_found() -> None:
    wrong = Board(4, (*board(SOLVED).cells[:15], 2), has_boxes=True)
    assert cells_in_conflict(wrong) == {14, 15, 7}  # the 2s in its row and its column; its box is the row's
    assert cells_in_conflict(board(SOLVED)) == frozenset()


# ----------------------------------------------------------------------------------------- exact answers


def test_a_puzzle_is_completed_exactly() -> None:
    hard = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
    found = complete(board(hard), num_wanted=2)
    assert found.is_exhaustive
    (solution,) = found.boards
    assert not solution.num_empty
    assert not fault_of(board(hard), solution.rows)


def test_all_boards_of_a_size_are_counted() -> None:
    assert len(complete(Board(3, (0,) * 9), num_wanted=100).boards) == 12
    assert len(complete(Board(4, (0,) * 16, has_boxes=True), num_wanted=1000).boards) == 288
    assert len(complete(Board(4, (0,) * 16), num_wanted=1000).boards) == 576


@pytest.mark.parametrize(
    ("text", "effort", "why"),
    [
        (PUZZLE, "search", ""),
        ("1 2 . / . . 3 / . . .", "propagation", "3 cannot stand in row 2, column 3"),
        (". . . 1 / 4 . . . / . 4 . . / . . 4 .", "propagation", "4 has no place left in row 1"),
        (". . . / . 1 . / . . 2", "propagation", ""),
    ],
)
def test_a_dead_end_has_a_reason(text: str, effort: str, why: str) -> None:
    assert dead_end(board(text, boxes=False if why.startswith("4") else None), effort) == why


def test_a_dead_end_that_only_a_search_finds() -> None:
    tried = board(SEARCHED)
    assert dead_end(tried, "propagation") == ""
    assert dead_end(tried, "search") == "no way to fill the empty cells is left: every one was tried"
    assert complete(tried) == Completions((), is_exhaustive=True)


def test_a_search_that_comes_to_its_limit_claims_nothing() -> None:
    empty = Board(9, (0,) * 81, has_boxes=True)
    found = complete(empty, max_nodes=2)
    assert (found.boards, found.is_exhaustive) == ((), False)
    assert dead_end(empty, max_nodes=1) == ""


@pytest.mark.parametrize("size", [3, 4, 5, 6, 9])
def test_a_random_puzzle_has_one_solution_and_repeats(size: int) -> None:
    puzzle = random_puzzle(size, random.Random(size))
    found = complete(puzzle, num_wanted=2)
    assert len(found.boards) == 1
    assert found.is_exhaustive
    assert puzzle == random_puzzle(size, random.Random(size))
    assert puzzle.has_boxes == (size in (4, 9))
    roomy = random_puzzle(size, random.Random(size), num_givens=size * size - 3)
    assert roomy.num_empty == 3


# ------------------------------------------------------------------------------------------------- steps


def test_a_step_takes_the_first_new_cells_that_break_no_rule() -> None:
    reply = "1 2 2 4\n3 4 1 2\n2 1 4 3\n4 3 2 1"  # the 2s of its first rows and its third column clash
    made = next_cells(position(PUZZLE), reply, 4)
    assert not made.fault
    assert str(made.board) == "1 . . 4\n3 4 1 .\n2 1 4 .\n4 . . 1"
    assert next_cells(position(PUZZLE), reply, 2).board.num_empty == 8


def test_a_reply_that_changes_a_given_or_is_wrong_everywhere_is_refused() -> None:
    reply = "1 2 3 4\n3 4 1 2\n2 1 4 3\n3 4 2 1"
    refused = next_cells(position(PUZZLE), reply, 2)
    assert refused.fault == "row 4, column 1 holds 3; it is given as 4"
    assert str(refused) == reply
    assert not legal(refused).valid
    assert (
        next_cells(position("1 . 3 / . . . / . . ."), "1 1 3\n. . .\n. . .", 2).fault == "row 1 holds 1 more than once"
    )


def test_a_right_board_is_taken_whole() -> None:
    made = next_cells(position(PUZZLE), SOLVED.replace(" / ", "\n"), 2)
    assert made.board == board(SOLVED)


def test_a_reply_without_progress_is_refused() -> None:
    assert next_cells(position(PUZZLE), str(board(PUZZLE)), 4).fault == "no cell was filled in"
    assert next_cells(position(PUZZLE), "I cannot", 4).fault == "the reply holds no board"
    assert next_cells(position(PUZZLE), "1 2 3 4", 4).fault == "the board has 1 row of 4 cells, not 4 rows of 4 cells"
    assert whole_board(position(PUZZLE), "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 . 1").fault == "1 cell still empty"


def test_a_refused_board_never_shares_a_thought_with_a_good_one() -> None:
    reply = "1 2 3 4\n3 4 1 2\n2 1 4 3\n4 3 . 1"
    good, refused = next_cells(position(PUZZLE), reply, 16), whole_board(position(PUZZLE), reply)
    assert not good.fault
    assert refused.fault
    assert str(good) == str(refused)
    assert thought_key(good) != thought_key(refused)


def test_a_template_has_blanks_where_the_board_is_empty_and_a_draft_where_it_is_wrong() -> None:
    template = blanks_of(position("1 2 . / . . . / . . ."))
    assert template.parts[:6] == ("1", " ", "2", " ", Blank(1), "\n")
    assert sum(isinstance(part, Blank) for part in template.parts) == 7
    wrong = Position(board(PUZZLE), Board(4, (*board(SOLVED).cells[:14], 1, 1), has_boxes=True))
    cells = [part for part in blanks_of(wrong).parts if part not in (" ", "\n")]
    # Row 4 is 4 3 1 1 now: the last 1 is given and stays, as does the 1 above in column 3.
    assert [i for i, cell in enumerate(cells) if isinstance(cell, Blank)] == [14]
    assert few_conflicts(wrong).score == -float(len(cells_in_conflict(wrong.board)))


# ----------------------------------------------------------------------------------- on the embedded model


@pytest.mark.parametrize(
    ("method", "backend_id", "at_least"),
    [("tot", "local:puzzles", 5), ("infill", DIFFUSION, 1), ("edit", DIFFUSION, 3)],
)
async def test_the_embedded_model_solves_boards_it_was_not_trained_on(
    method: str, backend_id: str, at_least: int
) -> None:
    backend = open_backend(backend_id)
    program = sudoku(method=method)
    results = await asyncio.gather(*(arun(program, p, backend=backend, seed=1) for p in held_out_puzzles(6)))
    await backend.aclose()
    solved = [result for result in results if result.solved]
    assert len(solved) >= at_least
    for result in solved:
        assert not fault_of(board(result.input), board(result.answer).rows)
        assert not board(result.answer).num_empty


def test_blanks_need_a_model_that_fills_them() -> None:
    with pytest.raises(CapabilityError, match="use decoder=masked_diffusion or decoder=block_diffusion"):
        sudoku(method="infill").run(PUZZLE, backend="local:puzzles", seed=1)


async def test_an_edit_keeps_what_is_right() -> None:
    backend = open_backend(f"{DIFFUSION}&steps=1")
    result = await sudoku(method="edit", max_rounds=4).arun(held_out_puzzles(1)[0], backend=backend, seed=1)
    await backend.aclose()
    drafts = [thought.state.board for thought in result.graph if thought.depth > 0 and not thought.state.fault]
    assert drafts
    for before, after in itertools.pairwise(drafts):
        changed = {i for i, (a, b) in enumerate(zip(before.cells, after.cells, strict=True)) if a != b}
        assert changed <= cells_in_conflict(before)


# ------------------------------------------------------------------------------------------------ search


def test_the_first_right_board_of_many_is_taken() -> None:
    right, wrong = SOLVED.replace(" / ", "\n"), "1 2 3 4\n" * 4
    backend = ScriptedBackend(lambda prompt, sample: right if sample == 3 else wrong)
    assert not sudoku(method="one_shot").run(PUZZLE, backend=backend, seed=1).solved
    result = sudoku(method="best_of_n", num_samples=5).run(PUZZLE, backend=backend, seed=1)
    assert result.solved
    assert result.answer == right


def test_a_board_without_a_solution_is_named_as_such() -> None:
    backend = ScriptedBackend(lambda prompt, sample: "no")
    impossible = sudoku(method="one_shot").run("1 2 . / . . 3 / . . .", backend=backend, seed=1)
    assert impossible.explanation == "the board has no solution: every way to fill in the empty cells was tried exactly"
    possible = sudoku(method="one_shot").run(UNIQUE, backend=backend, seed=1)
    assert "has exactly one solution" in (possible.explanation or "")


def test_parameters_that_a_method_would_ignore_are_refused() -> None:
    with pytest.raises(OptionError, match="num_samples=3 has no effect with method=tot"):
        sudoku(num_samples=3)
    with pytest.raises(OptionError, match="cells_per_step=3 has no effect with method=edit"):
        sudoku(method="edit", cells_per_step=3)
