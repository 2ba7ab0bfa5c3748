"""A compiled program as notebooks show it: its graph as a picture, its controller's parameters, its parts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from llmprog.pictures import FlowNode, Picture, draw_flow
from llmprog.pictures.fragments import drawn, facts, folded, heading
from llmprog.pictures.text import cut, one_line
from llmprog.program import ControllerSpec
from llmprog.program_graph import ProgramGraph

_DETAIL, _TITLE = 60, 1500  # characters


def program_html(graph: ProgramGraph, controller: ControllerSpec, hash_: str, parts: Mapping[str, str]) -> str:
    """A program, a piece of HTML; ``parts`` are those of its parts by name."""
    rows = [(name, parameter_text(value)) for name, value in controller.parameters().items()]
    return "".join(
        (
            heading(graph.name, f"{controller.name}, {hash_[:12]}"),
            drawn(program_picture(graph, controller)),
            folded(f"{controller.name}'s parameters", facts(rows)) if rows else "",
            *(folded(f"part {name}", content) for name, content in parts.items()),
        )
    )


def program_picture(graph: ProgramGraph, controller: ControllerSpec) -> Picture:
    """The program graph as a picture."""
    nodes = [_node(name, attributes, controller) for name, attributes in graph.nodes.items()]
    return draw_flow(nodes, graph.edges, f"the graph of program {graph.name}")


def _node(name: str, attributes: Mapping[str, Any], controller: ControllerSpec) -> FlowNode:
    kind = attributes["kind"]
    if kind == "controller":
        parameters = [f"{key}={parameter_text(value)}" for key, value in controller.parameters().items()]
        numbers = [f"{key}={value:g}" for key, value in controller.parameters().items() if _is_number(value)]
        return FlowNode(name=name, kind=kind, detail=", ".join(numbers), title=cut("\n".join(parameters), _TITLE))
    if kind == "program":
        detail = f"{attributes['takes']} → {attributes['gives']}"
        return FlowNode(name=name, kind=kind, detail=cut(one_line(detail), _DETAIL))
    if kind not in ("generator", "checker"):
        return FlowNode(name=name, kind=kind)
    how = "model" if attributes["calls_model"] else "rule" if kind == "checker" else "Python"
    checks = attributes.get("checks", "state")
    samples = attributes.get("n", 1)
    shown = (kind, how, checks if checks != "state" else "", f"n={samples}" if samples != 1 else "")
    detail = ", ".join(filter(None, shown))
    return FlowNode(name=name, kind=kind, detail=detail, title=cut(attributes.get("prompt", ""), _TITLE))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def parameter_text(value: Any) -> str:
    """A parameter's value for people; of several lines where it draws itself, as a graph of operations does."""
    if inspect.isroutine(value):
        return value.__qualname__
    drawing = str(value)
    return drawing if "\n" in drawing else repr(value)
