"""Mini crosswords: five words across and five down, from ten clues."""

from llmprog.programs.crosswords.grid import Crossword, Measures, bundled, measure, parse_crossword
from llmprog.programs.crosswords.program import crosswords

__all__ = ["Crossword", "Measures", "bundled", "crosswords", "measure", "parse_crossword"]
