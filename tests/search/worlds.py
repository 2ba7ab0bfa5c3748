"""What tests of controllers share: random graphs of plain Python moves, and searches that can be looked into."""

from __future__ import annotations

from hypothesis import strategies as st

from llmprog import Program, checker, compile_program, generator
from llmprog.events import ThoughtExpanded
from llmprog.search import Search

depths = st.integers(1, 6)


@st.composite
def worlds(draw, max_size=9):
    """A directed graph with scores: ``{node: (successors)}``, ``{node: score}``."""
    size = draw(st.integers(1, max_size))
    nodes = st.integers(0, size - 1)
    moves = {node: draw(st.lists(nodes, max_size=4)) for node in range(size)}
    scores = {node: draw(st.integers(0, 4)) for node in range(size)}
    return moves, scores


def program_for(world, controller, goal=None):
    moves, scores = world
    go = generator(name="go")(lambda state: moves[state])
    worth = checker(name="worth")(lambda state: float(scores[state]))
    return Program(
        generators=[go], checkers=[worth], controller=controller, goal=None if goal is None else lambda s: s == goal
    )


def reachable(moves, depth):
    """Exhaustive: every state that some walk of at most ``depth`` steps from 0 visits."""
    found = level = {0}
    for _ in range(depth):
        level = {child for state in level for child in moves[state]}
        found = found | level
    return found


async def run_search(program, start, *, caller=None, seed=0, **options):
    """The search after its end, its outcome, and the states it expanded in order."""
    expanded = []

    def observe(event):
        if isinstance(event, ThoughtExpanded):
            expanded.append(tuple(search.graph.states[t] for t in event.parents))

    search = Search(compile_program(program), caller, seed=seed, observe=observe, **options)
    outcome = await search.run(start)
    return search, outcome, expanded
