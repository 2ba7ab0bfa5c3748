"""Tools that programs use, and a program that uses them: a calculator, and a search over documents."""

from llmprog.programs.tools.bm25 import BM25Index
from llmprog.programs.tools.program import Trace, Turn, calculate, search_documents, tools

__all__ = ["BM25Index", "Trace", "Turn", "calculate", "search_documents", "tools"]
