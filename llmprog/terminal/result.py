"""What is shown of a run that has ended: the tree, the vote, the answer, what was spent."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from llmprog.running.result import Result
from llmprog.templates import format_value
from llmprog.terminal.text import plain
from llmprog.terminal.tree import graph_tree


def print_result(console: Console, result: Result) -> None:
    """The tree, the vote if there was one, the answer, and what was spent."""
    path = [thought.id for thought in result.graph.path(result.thought.id)] if result.thought is not None else []
    console.print(graph_tree(result.graph, path))
    if result.votes is not None:
        console.print()
        most = max((n for _, n in result.votes.histogram), default=1) or 1
        for answer, count in result.votes.histogram[:8]:
            bar = "█" * max(1, round(24 * count / most))
            console.print(Text(f"{count:>5g} {bar} {plain(format_value(answer))}"))
        if result.votes.num_samples > result.votes.num_valid:
            console.print(Text(f"{result.votes.num_samples - result.votes.num_valid:>5} without a valid answer"))
    console.print()
    console.print(Text(answer_line(result), style="bold green" if result.solved else "bold yellow"), soft_wrap=True)
    console.print(Text(spent_line(result), style="dim"), soft_wrap=True)


def answer_line(result: Result) -> str:
    """The answer, or why there is none."""
    if result.solved:
        confidence = result.votes.confidence if result.votes else None
        sure = f"  ({confidence:.1%} sure to be the model's most frequent answer)" if confidence is not None else ""
        return f"Answer: {plain(format_value(result.answer))}{sure}"
    best = plain(format_value(result.answer)) if result.answer is not None else ""
    return f"Not solved: {plain(result.why_unsolved)}" + (f" (best so far: {best})" if best else "")


def spent_line(result: Result) -> str:
    """What the run cost and how to repeat it."""
    backend = "no model" if result.backend == "none" else result.backend
    return (
        f"{result.spent}, {len(result.graph)} thoughts, {result.wall_s:.2f} s, stopped: {result.stopped}, "
        f"seed {result.seed}, {backend}"
    )
