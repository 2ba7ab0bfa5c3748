"""What the command line shows: progress while a search runs, the thought graph as a tree, the result.

Text from models and users is hostile: control sequences are stripped and no markup is interpreted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from rich.tree import Tree

from llmprog.compile_picture import parameter_text
from llmprog.events import CallSettled, CompletionDelta, Event, ThoughtChecked, ThoughtExpanded
from llmprog.running.result import Result
from llmprog.search import Status, ThoughtGraph
from llmprog.search.thought_graph import format_state
from llmprog.templates import format_value
from llmprog.types import Request

if TYPE_CHECKING:  # it brings all of HTTP along
    from llmprog.doctor import Diagnosis

_MAX_CHILDREN = 6
_MAX_LINES = 60
_LINES_OF_TEXT = 12  # of a completion that is being written


def plain_lines(text: str) -> str:
    """``text`` with its line breaks, each line ``plain``."""
    return "\n".join(plain(line) for line in text.replace("\r\n", "\n").split("\n"))


def plain(text: str) -> str:
    """``text`` on one line, without control, format (bidirectional, too) or surrogate characters."""
    return "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")


@dataclass
class WrittenText:
    """The completion that is being written just now: of several at once, the one that began first.

    Attributes:
        text: What it has written so far, reasoning and reply apart by a blank line.
    """

    text: str = ""
    _of: tuple[str, Request, int] | None = None
    _in_reasoning: bool = False

    def add(self, event: CompletionDelta) -> str | None:
        """Take in a piece. Returns what to append to the text shown so far, or ``None`` where that does not do."""
        source = (event.node, event.request, event.delta.sample)
        if self._of is None:
            self.text, self._of, self._in_reasoning = "", source, False
        if source != self._of:
            return ""
        piece = event.delta.text
        if event.delta.replaces:
            self.text = piece
            return None
        if self._in_reasoning and not event.delta.is_reasoning:
            piece = "\n\n" + piece
        self._in_reasoning = event.delta.is_reasoning
        self.text += piece
        return piece

    def settle(self, event: CallSettled) -> bool:
        """Let another completion be shown if the call of this one has settled; returns whether it has."""
        if self._of is None or (event.node, event.request) != self._of[:2]:
            return False
        self._of = None
        return True


@dataclass
class Progress:
    """Counts events, and draws them as one line, above what is being written, where there is a terminal."""

    num_thoughts: int = 1
    num_checked: int = 0
    num_calls: int = 0
    num_tokens: int = 0
    spinner: Spinner = field(default_factory=lambda: Spinner("dots", text=Text("starting")))
    written: WrittenText = field(default_factory=WrittenText)
    console: Console | None = None  # where pieces are printed one after the other; None where they are redrawn

    def __call__(self, event: Event) -> None:
        if isinstance(event, CompletionDelta):
            self._show(event)
            return
        if isinstance(event, CallSettled) and self.written.settle(event) and self.console is not None:
            self.console.print()
        if isinstance(event, ThoughtExpanded):
            self.num_thoughts += sum(event.is_new)
        elif isinstance(event, ThoughtChecked):
            self.num_checked += 1
        elif isinstance(event, CallSettled):
            self.num_calls += event.usage.calls
            self.num_tokens += event.usage.completion_tokens
        else:
            return
        self.spinner.update(text=Text(self.line()))

    def _show(self, event: CompletionDelta) -> None:
        piece = self.written.add(event)
        if self.console is None:
            return
        if piece is None:  # a terminal redraws; a file gets the text anew
            self.console.print()
            piece = self.written.text
        self.console.print(Text(plain_lines(piece)), end="", soft_wrap=True)

    def __rich__(self) -> RenderableType:
        tail = plain_lines(self.written.text).splitlines()[-_LINES_OF_TEXT:]
        return Group(self.spinner, Text("\n".join(tail), style="dim")) if tail else self.spinner

    def line(self) -> str:
        """What has happened so far."""
        return (
            f"{self.num_thoughts} thoughts, {self.num_checked} checked, "
            f"{self.num_calls} calls, {self.num_tokens} tokens generated"
        )


@contextmanager
def live_progress(console: Console, *, enabled: bool) -> Iterator[Progress]:
    """Progress on ``console`` while the block runs: redrawn on a terminal, elsewhere only the text that is streamed."""
    if not (enabled and console.is_terminal):
        yield Progress(console=console if enabled else None)
        return
    progress = Progress()
    with Live(progress, console=console, transient=True, refresh_per_second=10):
        yield progress


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
    return (
        f"{result.spent}, {len(result.graph)} thoughts, {result.wall_s:.2f} s, stopped: {result.stopped}, "
        f"seed {result.seed}, {result.backend}"
    )


def program_lines(compiled: Any) -> Tree:
    """A compiled program's graph as a tree of its parts and what feeds what."""
    graph = compiled.graph
    root = Tree(Text(f"{compiled.name}  {compiled.hash[:12]}", style="bold"))
    styles = {"generator": "green", "checker": "yellow", "controller": "magenta"}
    for node, attributes in graph.nodes(data=True):
        kind = attributes["kind"]
        text = Text(f"{node}", style=styles.get(kind, ""))
        how = "model" if attributes.get("calls_model") else "rule" if kind == "checker" else ""
        types = f"{attributes['takes']} → {attributes['gives']}" if kind == "program" else ""
        details = ", ".join(filter(None, (kind, how, types, f"n={attributes['n']}" if "n" in attributes else "")))
        text.append(f"  ({details})", style="dim")
        successors = ", ".join(graph.successors(node))
        if successors:
            text.append(f"  → {successors}")
        branch = root.add(text)
        if kind == "controller":
            for name, value in compiled.controller.parameters().items():
                drawn = parameter_text(value).splitlines()
                if len(drawn) > 1:
                    picture = branch.add(Text(f"{name}:"))
                    for line in drawn:
                        picture.add(Text(plain(line)))
                else:
                    branch.add(Text(plain(f"{name} = {drawn[0] if drawn else ''}")))
        elif kind == "program" and (compiled.parts[node].parts or compiled.parts[node].generators):
            branch.add(program_lines(compiled.parts[node]))
        elif attributes.get("prompt"):
            for line in str(attributes["prompt"]).strip().splitlines():
                branch.add(Text(plain(line), style="dim"))
    return root


def print_diagnoses(console: Console, diagnoses: Iterable[Diagnosis]) -> None:
    """What ``llmprog doctor`` found, a few lines for each backend."""
    for found in diagnoses:
        took = "" if found.latency_ms is None else f"  {found.latency_ms:.0f} ms"
        console.print(
            Text(f"{'ok  ' if found.ok else 'FAIL'} {plain(found.id)}{took}", style="green" if found.ok else "red")
        )
        if found.found:
            console.print(Text(f"     {plain(', '.join(found.found))}"), soft_wrap=True)
        if found.fix:
            console.print(Text(f"     to fix: {plain(found.fix)}"), soft_wrap=True)
