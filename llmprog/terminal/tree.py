"""The thought graph as a tree of lines."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text
from rich.tree import Tree

from llmprog.search import Status, ThoughtGraph
from llmprog.search.thought_graph import format_state
from llmprog.terminal.text import plain

_MAX_CHILDREN = 6
_MAX_LINES = 60


def graph_tree(graph: ThoughtGraph, solution: Iterable[int] = ()) -> Tree:
    """The thought graph as a tree: the solution's path in full, elsewhere the best few children of each thought."""
    on_path = set(solution)
    children: dict[int, list[int]] = {}
    for thought in range(1, len(graph)):
        for parent in graph.parents_of(thought):
            children.setdefault(parent, []).append(thought)
    root = Tree(_label(graph, 0, on_path))
    budget = _MAX_LINES
    level = [(0, root)]
    while level and budget > 0:
        following: list[tuple[int, Tree]] = []
        for thought, branch in level:
            ranked = sorted(
                children.get(thought, []),
                key=lambda t: (t not in on_path, not children.get(t), not graph.is_usable(t), -graph.scores[t], t),
            )
            shown = [t for t in ranked[:_MAX_CHILDREN] if t in on_path or budget > 0]
            following.extend((child, branch.add(_label(graph, child, on_path))) for child in shown)
            if ranked[len(shown) :]:
                branch.add(Text(_summary(graph, ranked[len(shown) :]), style="dim"))
            budget -= len(shown) + 1
        level = following
    return root


def _label(graph: ThoughtGraph, thought: int, on_path: set[int]) -> Text:
    status = graph.status(thought)
    style = {Status.INVALID: "red", Status.PRUNED: "dim", Status.GOAL: "bold green"}.get(status, "")
    if thought in on_path:
        style = "bold green"
    text = Text(plain(format_state(graph.states[thought])), style=style)
    if graph.scores[thought]:
        text.append(f"  {graph.scores[thought]:.4g}", style="cyan")
    if status == Status.GOAL:
        text.append("  ★")
    reason = next((v.reason for _, v in graph[thought].verdicts if not v.valid and v.reason), "")
    if reason:
        text.append(f"  ✗ {plain(reason)}", style="red")
    arrivals = len(graph.arrivals(thought))
    if arrivals > 1:
        text.append(f"  (reached {arrivals} times)", style="dim")
    return text


def _summary(graph: ThoughtGraph, thoughts: list[int]) -> str:
    refused = sum(graph.status(t) == Status.INVALID for t in thoughts)
    rest = len(thoughts) - refused
    parts = ([f"{rest} more"] if rest else []) + ([f"{refused} refused by rules"] if refused else [])
    return "… " + ", ".join(parts)
