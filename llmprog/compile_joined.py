"""What compiling a joined program adds to compiling its parts: its own faults, its graph, what it is hashed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmprog.fingerprint import describe_function, describe_value
from llmprog.joined import ANSWER, INPUT, Joined
from llmprog.program import Program
from llmprog.program_graph import ProgramGraph
from llmprog.signatures import Signature, hint_name

_RESERVED = (INPUT, ANSWER, "default")  # nodes of every graph, and what backend= means by "default"


def part_faults(program: Joined, name: Any, part: Any) -> Iterator[str]:
    """What keeps ``part`` from being a part, beside its own faults."""
    if not isinstance(part, Program):
        yield f"part {name!r}: {part!r:.200} is not a program; wrap a function in Apply(...)"
    if not isinstance(name, str) or not name or "/" in name or "." in name:
        yield f"a part is called {name!r}; allowed is a text without '/' and '.': rename it, a program with name=..."
    elif name in (*_RESERVED, program.controller.name):
        yield f"a part is called {name!r}, which the joined program itself uses; rename it, a program with name=..."


def joined_faults(program: Joined, parts: Mapping[str, Signature]) -> Iterator[str]:
    """Faults of the combinator's own parameters, and of what feeds what."""
    if not isinstance(program.name, str) or not program.name:
        yield f"name={program.name!r}; allowed is a non-empty text"
    yield from program.faults()
    if list(parts) == list(program.parts):  # otherwise a part is no program, which is said elsewhere
        yield from program.mismatches(parts)


def joined_graph(
    program: Joined, described: Mapping[str, Mapping[str, Any]], parts: Mapping[str, Signature]
) -> ProgramGraph:
    """The graph of a joined program: its parts, and the combinator where something passes through it."""
    combinator = program.controller.name
    edges = list(program.flow())
    nodes: dict[str, dict[str, Any]] = {INPUT: {"kind": "input"}}
    if any(combinator in edge for edge in edges):
        nodes[combinator] = {"kind": "controller"}
    for name, attributes in described.items():
        takes = " and ".join(map(hint_name, parts[name].takes)) or "Any"
        nodes[name] = {"kind": "program", "takes": takes, "gives": hint_name(parts[name].gives), **attributes}
    nodes[ANSWER] = {"kind": "answer"}
    return ProgramGraph.of(program.name, nodes, edges)


def joined_content(program: Joined, parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a joined program is, as JSON values, with what its parts are."""
    return {
        "name": program.name,
        "combinator": type(program).__name__,
        "parameters": {
            name: describe_function(value) if callable(value) else describe_value(value)
            for name, value in program.parameters().items()
        },
        "parts": [{"part": name, "program": part} for name, part in parts.items()],
    }
