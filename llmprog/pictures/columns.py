"""Where the nodes of a small graph stand when it is drawn from left to right.

Columns are the longest paths from the nodes that nothing leads to, lines over several columns are given a place in
each, and within columns nodes are ordered by the mean of their neighbours' places (Sugiyama, Tagawa and Toda 1981).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_SWEEPS = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node stands: its upper left corner and its size."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right side."""
        return self.x + self.width

    @property
    def middle(self) -> float:
        """The height of its middle."""
        return self.y + self.height / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything stands.

    Attributes:
        places: Of the nodes by name, and of the bends in ``chains``.
        chains: For each edge that leads to the right, the names of what it passes through, ends included.
        back: Edges that lead back or stay where they are.
        width: Of the whole.
        height: Of the whole.
    """

    places: Mapping[str, Place]
    chains: tuple[tuple[str, ...], ...]
    back: tuple[tuple[str, str], ...]
    width: float
    height: float


def laid_out(
    sizes: Mapping[str, tuple[float, float]],
    edges: Sequence[tuple[str, str]],
    *,
    gap: float,
    row_gap: float,
    thin: float,
) -> Layout:
    """Where the nodes of a graph stand.

    Args:
        sizes: Width and height of each node, in the order in which they were declared.
        edges: Pairs of names.
        gap: Pixels between columns.
        row_gap: Pixels between the nodes of a column.
        thin: The height that a line takes up in a column that it passes.
    """
    back = _edges_back(list(sizes), edges)
    ahead = [edge for edge in dict.fromkeys(edges) if edge not in back]
    column_of = _longest_paths(list(sizes), ahead)
    heights = {name: height for name, (_, height) in sizes.items()}
    columns: list[list[str]] = [[] for _ in range(max(column_of.values(), default=-1) + 1)]
    for name in sizes:
        columns[column_of[name]].append(name)
    chains: list[tuple[str, ...]] = []
    for number, (source, target) in enumerate(ahead):
        passed = range(column_of[source] + 1, column_of[target])
        bends = [f"\n{number}.{column}" for column in passed]  # a line break: no node is called so
        for bend, column in zip(bends, passed, strict=True):
            columns[column].append(bend)
            heights[bend] = thin
        chains.append((source, *bends, target))
    _order(columns, chains)
    widths = [max((sizes[name][0] for name in column if name in sizes), default=0.0) for column in columns]
    tall = [sum(heights[name] for name in column) + row_gap * (len(column) - 1) for column in columns]
    height = max(tall, default=0.0)
    places: dict[str, Place] = {}
    x = 0.0
    for names, width, total in zip(columns, widths, tall, strict=True):
        y = (height - total) / 2
        for name in names:
            places[name] = Place(x, y, width, heights[name])
            y += heights[name] + row_gap
        x += width + gap
    return Layout(places=places, chains=tuple(chains), back=tuple(back), width=max(0.0, x - gap), height=height)


def _edges_back(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[tuple[str, str], None]:
    """The edges that lead to a node which is being left, in a walk through the graph in declared order."""
    after: dict[str, list[str]] = {node: [] for node in nodes}
    for source, target in edges:
        after[source].append(target)
    back: dict[tuple[str, str], None] = {}
    state: dict[str, int] = {}  # 1 while its followers are walked, 2 afterwards
    for begin in nodes:
        if begin in state:
            continue
        state[begin] = 1
        stack = [(begin, iter(after[begin]))]
        while stack:
            node, followers = stack[-1]
            for target in followers:
                if state.get(target) == 1:
                    back[node, target] = None
                elif target not in state:
                    state[target] = 1
                    stack.append((target, iter(after[target])))
                    break
            else:
                state[node] = 2
                stack.pop()
    return back


def _longest_paths(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """For each node of a graph without cycles, how many edges the longest path to it has."""
    before: dict[str, list[str]] = {node: [] for node in nodes}
    after: dict[str, list[str]] = {node: [] for node in nodes}
    for source, target in edges:
        before[target].append(source)
        after[source].append(target)
    left = {node: len(before[node]) for node in nodes}
    ready = [node for node in nodes if not left[node]]
    columns: dict[str, int] = {}
    for node in ready:
        columns[node] = max((columns[source] + 1 for source in before[node]), default=0)
        for target in after[node]:
            left[target] -= 1
            if not left[target]:
                ready.append(target)
    return columns


def _order(columns: Sequence[list[str]], chains: Sequence[tuple[str, ...]]) -> None:
    """Sort each column by the mean of its neighbours' places, a few times there and back."""
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for chain in chains:
        for source, target in pairwise(chain):
            after.setdefault(source, []).append(target)
            before.setdefault(target, []).append(source)
    place = {name: number / len(column) for column in columns for number, name in enumerate(column)}
    for sweep in range(_SWEEPS):
        neighbours = before if sweep % 2 == 0 else after
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = {name: _mean([place[near] for near in neighbours.get(name, ())], place[name]) for name in column}
            column.sort(key=wanted.__getitem__)
            for number, name in enumerate(column):
                place[name] = number / len(column)


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
