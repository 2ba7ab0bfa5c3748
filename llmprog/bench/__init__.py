"""Measures of programs: accuracy against what was spent, over the rows of a file."""
