"""What the command line shows: progress while a search runs, the thought graph as a tree, the result.

Text from models and users is hostile: control sequences are stripped and no markup is interpreted.
"""

from __future__ import annotations

from llmprog.terminal.live import live_progress
from llmprog.terminal.output import output_console, table_lines
from llmprog.terminal.programs import print_diagnoses, program_lines
from llmprog.terminal.result import answer_line, print_result, spent_line
from llmprog.terminal.text import plain, plain_lines
from llmprog.terminal.tree import graph_tree

__all__ = [
    "answer_line",
    "graph_tree",
    "live_progress",
    "output_console",
    "plain",
    "plain_lines",
    "print_diagnoses",
    "print_result",
    "program_lines",
    "spent_line",
    "table_lines",
]
