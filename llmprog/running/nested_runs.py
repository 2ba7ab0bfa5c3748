"""What the nodes of a search call: models, through the scheduler, and programs, as part of the same run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from llmprog.backends.scheduler import Scheduler
from llmprog.compile import CompiledProgram, compile_program
from llmprog.errors import BudgetExceededError, LLMProgError
from llmprog.program import Program
from llmprog.running.result import Result

RunNested = Callable[[CompiledProgram, Any, str, int, str], Awaitable[Result]]
"""Runs a compiled program on an input, for a node, with a seed, at a place within the path of the node's search."""


class NodeCalls:
    """Implements ``llmprog.search.calls.Caller``.

    Args:
        scheduler: Sends the calls of models; what programs spend is added to its usage.
        run_nested: Runs programs; the runner's.
    """

    def __init__(self, scheduler: Scheduler, run_nested: RunNested) -> None:
        self.can = scheduler.can
        self.generate = scheduler.generate
        self.score = scheduler.score
        self._scheduler = scheduler
        self._run_nested = run_nested

    async def run_program(self, node: str, program: Program, given: Any, seed: int, place: str) -> Result:
        """The result of a program that ``node`` runs.

        Raises:
            BudgetExceededError: The budget ended before there was a solution.
        """
        try:
            result = await self._run_nested(compile_program(program), given, node, seed, place)
        except LLMProgError as error:
            if isinstance(error.partial, Result):
                self._scheduler.usage += error.partial.usage
                error.partial = None  # the whole search's is what the caller of the whole wants
            raise
        self._scheduler.usage += result.usage
        if result.stopped == "budget" and not result.solved:
            raise BudgetExceededError(f"the budget is spent: {result.shortfall}")
        return result
