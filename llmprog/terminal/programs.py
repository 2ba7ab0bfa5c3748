"""A compiled program as a tree of its parts, and what ``llmprog doctor`` has found of backends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from llmprog.compile_picture import parameter_text
from llmprog.terminal.text import plain, plain_lines

if TYPE_CHECKING:  # it brings all of HTTP along
    from llmprog.doctor import Diagnosis


def program_lines(compiled: Any) -> Tree:
    """A compiled program's graph as a tree of its parts and what feeds what."""
    graph = compiled.graph
    root = Tree(Text(f"{compiled.name}  {compiled.hash[:12]}", style="bold"))
    styles = {"generator": "green", "checker": "yellow", "controller": "magenta"}
    for node, attributes in graph.nodes.items():
        kind = attributes["kind"]
        text = Text(f"{node}", style=styles.get(kind, ""))
        how = "model" if attributes.get("calls_model") else "rule" if kind == "checker" else ""
        types = f"{attributes['takes']} → {attributes['gives']}" if kind == "program" else ""
        details = ", ".join(filter(None, (kind, how, types, f"n={attributes['n']}" if "n" in attributes else "")))
        text.append(f"  ({details})", style="dim")
        successors = ", ".join(fed for source, fed in graph.edges if source == node)
        if successors:
            text.append(f"  → {successors}")
        branch = root.add(text)
        if kind == "controller":
            for name, value in compiled.controller.parameters().items():
                drawn = parameter_text(value).splitlines()
                if len(drawn) > 1:
                    branch.add(Text(f"{name}:")).add(Text("\n".join(map(plain, drawn))))
                else:
                    branch.add(Text(plain(f"{name} = {drawn[0] if drawn else ''}")))
        elif kind == "program" and (compiled.parts[node].parts or compiled.parts[node].generators):
            branch.add(program_lines(compiled.parts[node]))
        elif attributes.get("prompt"):
            branch.add(Text(plain_lines(str(attributes["prompt"]).strip()), style="dim"))
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
