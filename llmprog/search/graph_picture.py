"""Which thoughts of a graph are drawn: the path of the answer, then the best; the rest is counted."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

from llmprog.pictures import DrawnThought, Picture, draw_thoughts
from llmprog.pictures.fragments import card, drawn
from llmprog.pictures.text import cut, one_line
from llmprog.pictures.thoughts import Standing
from llmprog.redaction import redact
from llmprog.search.thought_graph import Status, ThoughtGraph, format_state

_MAX_CHILDREN = 10  # of one thought, its children on the path not counted
_TEXT = 80  # characters of a state in its box
_TITLE = 1200
_MAX_IN_NOTEBOOK = 120  # thoughts
_GIVEN_UP = {Status.PRUNED: 1, Status.INVALID: 2}
_STANDINGS: dict[Status, Standing] = {
    Status.OPEN: "open",
    Status.GOAL: "goal",
    Status.INVALID: "refused",
    Status.PRUNED: "pruned",
}


def graph_html(graph: ThoughtGraph, answered_with: int | None = None, max_thoughts: int = _MAX_IN_NOTEBOOK) -> str:
    """The thought graph as notebooks show it; arguments as for ``graph_picture``."""
    return card(drawn(graph_picture(graph, max_thoughts=max_thoughts, answered_with=answered_with)))


def graph_picture(
    graph: ThoughtGraph,
    *,
    max_thoughts: int,
    answered_with: int | None = None,
    describe: Callable[[Any], str] | None = None,
) -> Picture:
    """The thought graph as a picture.

    Args:
        graph: What to draw.
        max_thoughts: Thoughts drawn at most, 1 at least.
        answered_with: The thought whose path stands out; the first goal by default.
        describe: How a state is written; its fields in short by default.
    """
    if answered_with is None:
        answered_with = next((t for t in range(len(graph)) if graph.is_goal(t)), None)
    path = [] if answered_with is None else [thought.id for thought in graph.path(answered_with)]
    children: dict[int, list[int]] = {}
    for thought in range(len(graph)):
        for parent in graph.parents_of(thought)[:1]:
            children.setdefault(parent, []).append(thought)
    chosen = _chosen(graph, children, set(path), max_thoughts)
    describe = describe or format_state
    shown = [_drawn(graph, t, children.get(t, ()), chosen, set(path), describe) for t in chosen]
    return draw_thoughts(shown, _note(graph, len(chosen), path, any(thought.others for thought in shown)))


def _chosen(graph: ThoughtGraph, children: dict[int, list[int]], path: set[int], max_thoughts: int) -> dict[int, None]:
    """The thoughts to be drawn, each after its parent and siblings by rank: the path's, then the expanded and best."""

    def rank(thought: int) -> tuple[bool, int, bool, float, int]:
        given_up = _GIVEN_UP.get(graph.status(thought), 0)
        return (thought not in path, given_up, thought not in children, -graph.scores[thought], thought)

    found: set[int] = set()
    waiting = [(rank(0), 0)] if len(graph) else []
    while waiting and len(found) < max_thoughts:
        _, thought = heapq.heappop(waiting)
        found.add(thought)
        below = heapq.nsmallest(_MAX_CHILDREN, children.get(thought, ()), key=rank)
        for child in below:
            heapq.heappush(waiting, (rank(child), child))
    order: dict[int, None] = {}
    stack = [0] if found else []
    while stack:
        thought = stack.pop()
        order[thought] = None
        below = sorted((child for child in children.get(thought, ()) if child in found), key=rank)
        stack.extend(reversed(below))
    return order


def _drawn(
    graph: ThoughtGraph,
    thought: int,
    children: list[int] | tuple[int, ...],
    chosen: dict[int, None],
    path: set[int],
    describe: Callable[[Any], str],
) -> DrawnThought:
    state = graph.states[thought]
    tree_parents = graph.parents_of(thought)[:1]
    sources = dict.fromkeys(p for arrival in graph.arrivals(thought) for p in arrival.parents)
    score = graph.scores[thought]
    return DrawnThought(
        id=thought,
        text=cut(one_line(describe(state)), _TEXT),
        score=f"{score:.4g}" if score else "",
        standing=_STANDINGS[graph.status(thought)],
        title=cut("\n".join(_title(graph, thought, describe)), _TITLE),
        parent=tree_parents[0] if tree_parents else None,
        others=tuple(source for source in sources if source in chosen and source not in tree_parents),
        is_on_path=thought in path,
        left_out=_left_out(graph, [child for child in children if child not in chosen]),
    )


def _title(graph: ThoughtGraph, thought: int, describe: Callable[[Any], str]) -> Iterator[str]:
    yield f"[{thought}] {redact(describe(graph.states[thought]))}"
    yield f"score {graph.scores[thought]:g}, {_STANDINGS[graph.status(thought)]}"
    if reason := graph.prune_reason(thought):
        yield f"pruned: {redact(reason)}"
    for checker, verdict in graph.verdicts.get(thought, ()):
        valid = "" if verdict.valid else "refused, "
        yield f"{checker}: {valid}{verdict.score:g}" + (f", {redact(verdict.reason)}" if verdict.reason else "")
    arrivals = graph.arrivals(thought)
    if len(arrivals) > 1:
        yield f"reached {len(arrivals)} times"


def _left_out(graph: ThoughtGraph, thoughts: list[int]) -> str:
    if not thoughts:
        return ""
    refused = sum(graph.status(thought) == Status.INVALID for thought in thoughts)
    return f"… {len(thoughts)} more" + (f", {refused} refused" if refused else "")


def _note(graph: ThoughtGraph, num_drawn: int, path: list[int], has_others: bool) -> str:
    count = f"{len(graph)} thought{'s' if len(graph) != 1 else ''}"
    parts = [count if num_drawn == len(graph) else f"{num_drawn} of {count}: the path and the best"]
    if path:
        parts.append("green: the path to the answer")
    if has_others:
        parts.append("dashed: other ways in which a thought was reached")
    return "; ".join(parts)
