"""Small 3-SAT: truth values that make every clause hold."""

from llmprog.programs.three_sat.formula import Formula, parse_formula, random_formula, satisfy
from llmprog.programs.three_sat.program import three_sat

__all__ = ["Formula", "parse_formula", "random_formula", "satisfy", "three_sat"]
