"""Sudoku: boards with rows, columns and boxes, from 3x3 to 9x9."""

from llmprog.programs.sudoku.board import Board, parse_board
from llmprog.programs.sudoku.exact import complete, dead_end, random_puzzle
from llmprog.programs.sudoku.program import sudoku

__all__ = ["Board", "complete", "dead_end", "parse_board", "random_puzzle", "sudoku"]
