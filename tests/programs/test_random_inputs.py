"""Random inputs by the entry-point group ``llmprog.inputs``: the same for the same numbers, set by name, checked."""

from __future__ import annotations

import random

import pytest

from llmprog.errors import OptionError
from llmprog.programs.random_inputs import random_inputs
from llmprog.programs.sudoku import parse_board
from llmprog.programs.three_sat import parse_formula


def test_random_puzzles_are_boards_and_the_same_for_the_same_numbers():
    make = random_inputs("sudoku", ["size=3", "num_givens=5"])
    boards = [parse_board(make(random.Random(seed))) for seed in (1, 1, 2)]
    assert boards[0] == boards[1] != boards[2]
    assert all((board.size, board.num_empty) == (3, 4) for board in boards)


def test_random_formulas_are_formulas():
    make = random_inputs("three_sat", ["num_variables=6", "num_clauses=10"])
    formula = parse_formula(make(random.Random(1)))
    assert len(formula.clauses) == 10


@pytest.mark.parametrize(
    ("program", "settings", "message"),
    [
        ("game24", [], "no random inputs for program 'game24', only for sudoku, three_sat; give a file of inputs"),
        ("sudoku", [], r"random inputs of sudoku need size \(3 to 9\); give it as --random size=4, for one"),
        ("sudoku", ["size"], "'size'; allowed is KEY=VALUE with size, num_givens, boxes"),
        ("sudoku", ["rng=1"], "'rng=1'; allowed is KEY=VALUE with size, num_givens, boxes"),
        ("sudoku", ["size=big"], "size='big': .*valid integer"),
        ("three_sat", ["num_variables=4"], "random inputs of three_sat need num_clauses"),
    ],
)
def test_what_cannot_be_made_is_said(program, settings, message):
    with pytest.raises(OptionError, match=message):
        random_inputs(program, settings)
