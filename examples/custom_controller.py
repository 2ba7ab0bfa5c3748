"""A search algorithm in one file: beam search with random restarts, here on the queens problem.

    python examples/custom_controller.py [SIZE]

A narrow beam is quick, but it can lose every way to a solution, and being deterministic it would lose them again. The
remedy is old: keep some chance in the choice, and begin again when the beam runs dry. Nothing of this needs more than
``Controller``: a class that is asked what to do and told what came of it.

The task is to place n queens on an n x n board so that none attacks another. No model is involved: the generator is
plain Python, so the run needs no backend. With a generator that asks a model, the controller would not change.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmprog import Program, checker, generator
from llmprog.events import ThoughtChecked, ThoughtExpanded
from llmprog.search import Action, Controller, Expand, Stop, ThoughtGraph

# ---------------------------------------------------------------------------------------------- the controller
#
# Fields with a value in __init__ are parameters: they are shown by `llmprog show` and checked by `faults` before
# anything runs. Fields with init=False are the state of one run. They hold plain values only, so that a run can be
# saved and continued. A declared controller is never run itself: each run gets a fresh copy, with a random generator
# that depends on the run's seed. That generator is the only source of chance, so a seed repeats the search.


@dataclass(kw_only=True)
class RestartingBeam(Controller):
    """Beam search that draws its beam by chance, favouring high scores, and starts over when it is empty.

    Attributes:
        beam_width: Thoughts kept per level.
        max_depth: Levels per attempt.
        max_restarts: Attempts after the first.
        temperature: How much chance there is: near 0 the best scores are kept, high values draw evenly.
    """

    beam_width: int
    max_depth: int
    max_restarts: int = 20
    temperature: float = 1.0
    frontier: list[int] = field(default_factory=lambda: [0], init=False, repr=False)  # to be expanded
    level: list[int] = field(default_factory=list, init=False, repr=False)  # what the expansions led to
    num_waiting: int = field(default=0, init=False, repr=False)  # expansions and checks that are not done
    depth: int = field(default=0, init=False, repr=False)
    num_restarts: int = field(default=0, init=False, repr=False)

    def faults(self) -> list[str]:
        """All that is wrong, in one go: a program with a bad parameter does not compile."""
        found = [
            f"{name}={getattr(self, name)!r}; allowed is a whole number >= 1"
            for name in ("beam_width", "max_depth")
            if getattr(self, name) < 1
        ]
        if self.temperature <= 0:
            found.append(f"temperature={self.temperature!r}; allowed is a number > 0")
        return found

    def tell(self, event: Any) -> None:
        """Take note, decide nothing. Events come in the order in which the work was asked for."""
        if isinstance(event, ThoughtExpanded):
            # A child that is new will be checked, and told again; one that is known has been checked before. After a
            # restart most are known: the graph remembers every attempt, and no state is judged twice.
            self.level += event.children
            self.num_waiting += sum(event.is_new) - 1
        elif isinstance(event, ThoughtChecked):
            self.num_waiting -= 1

    def ask(self, graph: ThoughtGraph, capacity: int) -> Sequence[Action]:
        """Expand what is left of the level, at most ``capacity`` at once; when all is checked, choose the next one."""
        if self.frontier:
            now, self.frontier = self.frontier[:capacity], self.frontier[capacity:]
            self.num_waiting += len(now)
            return [Expand(thought) for thought in now]
        if self.num_waiting:
            return []
        self.frontier = self._draw(graph)
        self.level = []
        self.depth += 1
        if not self.frontier or self.depth == self.max_depth:
            if self.num_restarts == self.max_restarts:
                return [Stop("max_restarts")]
            self.num_restarts += 1
            self.frontier, self.depth = [0], 0
        return self.ask(graph, capacity) if capacity else []

    def _draw(self, graph: ThoughtGraph) -> list[int]:
        """Draw without replacement, with weights exp(score / temperature), by the Gumbel-max trick."""
        rng = self._context.rng
        candidates = [thought for thought in dict.fromkeys(self.level) if graph.is_open(thought)]
        keys = {t: graph.scores[t] / self.temperature - math.log(rng.expovariate(1.0)) for t in candidates}
        return sorted(candidates, key=lambda t: -keys[t])[: self.beam_width]


# ------------------------------------------------------------------------------------------------- the program


@dataclass(frozen=True)
class Board:
    """Queens placed so far: ``columns[row]`` is where the queen of a row stands."""

    size: int
    columns: tuple[int, ...] = ()

    def free(self) -> list[int]:
        """Columns of the next row that no queen attacks."""
        row = len(self.columns)
        return [
            column
            for column in range(self.size)
            if all(column != c and abs(column - c) != row - r for r, c in enumerate(self.columns))
        ]

    def __str__(self) -> str:
        return " ".join(map(str, self.columns)) or "empty board"


@generator
def place(board: Board) -> list[Board]:
    """One more queen, in every way that is allowed."""
    return [Board(board.size, (*board.columns, column)) for column in board.free()]


@checker
def room(board: Board) -> float:
    """More free squares in the next row are better."""
    return len(board.free())


def queens(size: int = 12, beam_width: int = 2, max_restarts: int = 200) -> Program:
    """Place queens so that none attacks another.

    Args:
        size: Rows, columns and queens.
        beam_width: Thoughts kept per level.
        max_restarts: Attempts after the first.
    """
    return Program(
        name="queens",
        start=lambda text: Board(int(text or size)),
        generators=[place],
        checkers=[room],
        controller=RestartingBeam(beam_width=beam_width, max_depth=size, max_restarts=max_restarts),
        goal=lambda board: len(board.columns) == board.size,
        answer=str,
    )


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    result = queens(size=size).run(str(size), seed=7)
    print(f"stopped: {result.stopped}, {len(result.graph)} thoughts, {result.wall_s:.2f} s")
    if result.solved:
        for column in result.thought.state.columns:
            print(" ".join("Q" if c == column else "." for c in range(size)))
    else:
        print("no solution found")


if __name__ == "__main__":
    main()
