"""From a declared ``Program`` to a ``CompiledProgram``: validated, immutable, hashed.

All faults of a declaration are reported at once. The nodes of the program graph are the declared
parts, its edges say what feeds what.
"""

from __future__ import annotations

import collections.abc
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llmprog.compile_joined import joined_content, joined_faults, joined_graph, part_faults
from llmprog.compile_picture import program_html, program_picture
from llmprog.errors import CompileError, DeclarationError, OptionError
from llmprog.fingerprint import describe_function, describe_value, function_name, readable_lines
from llmprog.joined import Joined
from llmprog.nodes import Checker, Generator, Node
from llmprog.pictures.fragments import card
from llmprog.program import ControllerSpec, Program
from llmprog.program_graph import ProgramGraph
from llmprog.signatures import Signature, as_class, fits, returned, state_made, state_taken, taken
from llmprog.templates import HINT_FIELDS, PAIRWISE_FIELDS, VOTE_FIELDS, field_names, state_fields

_START, _GOAL, _ANSWER = "start", "goal", "answer"
_CONTROLLER_PARTS = ("ask", "tell", "fresh", "best", "votes", "stop_on_goal", "parameters", "faults", "program_faults")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledProgram:
    """A program that has been checked; it can be run any number of times.

    Attributes:
        program: What was declared.
        graph: What feeds what; attribute ``kind`` of a node is one of input, start, generator, checker,
            controller, goal, answer; of a joined program also program.
        hash: Hex digest over templates, sampling, functions' sources and parameters: equal
            declarations have equal hashes in every process.
        declaration: What the hash is over, in lines that can be read and compared.
        rules: Checkers that need no model, in declared order.
        judges: Checkers of states that call a model, in declared order.
        comparers: Checkers across states (vote, pairwise).
        signature: What it takes and gives, as far as annotations say.
        parts: The parts of a joined program by name; empty for a search.
    """

    program: Program
    graph: ProgramGraph
    hash: str
    declaration: str
    rules: tuple[Checker, ...]
    judges: tuple[Checker, ...]
    comparers: tuple[Checker, ...]
    signature: Signature
    parts: Mapping[str, CompiledProgram] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The program's name."""
        return self.program.name

    @property
    def generators(self) -> tuple[Generator, ...]:
        """The program's generators in declared order."""
        return tuple(self.program.generators)

    @property
    def controller(self) -> ControllerSpec:
        """The program's controller, a declaration without run state."""
        return self.program.controller

    @property
    def model_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that may call a model; those of parts as ``part.node``."""
        nodes: tuple[Node, ...] = (*self.generators, *self.judges, *self.comparers)
        of_parts = (f"{name}.{node}" for name, part in self.parts.items() for node in part.model_nodes)
        return (*(node.name for node in nodes if node.calls_model), *of_parts)

    @property
    def prompted_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that are sure to call a model; an async node may do without."""
        nodes: tuple[Node, ...] = (*self.generators, *self.judges, *self.comparers)
        of_parts = (f"{name}.{node}" for name, part in self.parts.items() for node in part.prompted_nodes)
        return (*(node.name for node in nodes if node.prompt is not None), *of_parts)

    def to_svg(self) -> str:
        """The program graph as a picture, a file of its own."""
        return program_picture(self.graph, self.controller).document()

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def _repr_html_(self) -> str:
        return card(self._html())

    def _html(self) -> str:
        parts = {name: part._html() for name, part in self.parts.items() if part.parts or part.generators}
        return program_html(self.graph, self.controller, self.hash, parts)


def compile_program(program: Program) -> CompiledProgram:
    """Check ``program`` and fix it for running; the result is remembered per program object.

    Raises:
        CompileError: The declaration has faults; all of them are listed.
        OptionError: It is no program.
    """
    if not isinstance(program, Program | Joined):
        raise OptionError(
            f"program={program!r:.100}; allowed is a Program, such as llmprog.programs.game24() makes, or a combinator "
            "of programs"
        )
    cached = program._cache.get("compiled")
    if isinstance(cached, CompiledProgram):
        return cached
    compiled = _compile_joined(program) if isinstance(program, Joined) else _compile_search(program)
    program._cache["compiled"] = compiled
    return compiled


def _compile_search(program: Program) -> CompiledProgram:
    faults = list(_faults(program))
    if faults:
        raise CompileError(program.name, faults)
    checkers = tuple(program.checkers)
    content = _content(program)
    return CompiledProgram(
        program=program,
        graph=_graph(program),
        hash=_hash(content),
        declaration="\n".join(readable_lines(content)),
        rules=tuple(c for c in checkers if c.kind == "state" and not c.calls_model),
        judges=tuple(c for c in checkers if c.kind == "state" and c.calls_model),
        comparers=tuple(c for c in checkers if c.kind != "state"),
        signature=_signature(program),
    )


def _compile_joined(program: Joined) -> CompiledProgram:
    parts: dict[str, CompiledProgram] = {}
    faults: list[str] = []
    for name, part in program.parts.items():
        found = list(part_faults(program, name, part))
        if not found:
            try:
                parts[name] = compile_program(part)
            except CompileError as error:
                found = [f"part {name!r}: {fault}" for fault in error.faults]
        faults += found
    signatures = {name: part.signature for name, part in parts.items()}
    faults += joined_faults(program, signatures)
    if faults:
        raise CompileError(program.name, faults)
    content = _content(program)
    described = {name: {"calls_model": bool(part.model_nodes), "hash": part.hash} for name, part in parts.items()}
    return CompiledProgram(
        program=program,
        graph=joined_graph(program, described, signatures),
        hash=_hash(content),
        declaration="\n".join(readable_lines(content)),
        rules=(),
        judges=(),
        comparers=(),
        signature=program.signature(signatures),
        parts=parts,
    )


def _signature(program: Program) -> Signature:
    """What a search takes and gives: what ``start`` takes and ``answer`` returns, else its states."""
    taken_by = [state_taken(g.function) for g in program.generators if not g.aggregates]
    takes = taken(program.start) if program.start is not None else next((t for t in taken_by if t is not None), Any)
    if program.answer is not None:
        return Signature(takes=(takes,), gives=returned(program.answer))
    made = {state_made(g.function) for g in program.generators}
    state = made.pop() if len(made) == 1 else None
    return Signature(takes=(takes,), gives=Any if state is None else state)


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


# ---------------------------------------------------------------------------------------------- faults


def _faults(program: Program) -> collections.abc.Iterator[str]:
    if not isinstance(program.name, str) or not program.name:
        yield f"name={program.name!r}; allowed is a non-empty text"
    yield from _not_nodes("generators", program.generators, Generator)
    yield from _not_nodes("checkers", program.checkers, Checker)
    generators = [g for g in _listed(program.generators) if isinstance(g, Generator)]
    checkers = [c for c in _listed(program.checkers) if isinstance(c, Checker)]
    if isinstance(program.generators, Sequence) and not program.generators:
        yield "no generator: a search without one has nothing to expand; give generators=[...]"
    controller = program.controller
    yield from _duplicate_names([*generators, *checkers], getattr(controller, "name", "controller"))
    for label in (_START, _GOAL, _ANSWER, "key", "explain"):
        yield from _not_a_function_of_one(label, getattr(program, label))
    if isinstance(controller, type) or not all(hasattr(controller, part) for part in _CONTROLLER_PARTS):
        yield f"controller={controller!r} is not a controller; give one such as BeamSearch(beam_width=5, max_depth=3)"
    else:
        yield from (f"controller {controller.name}: {fault}" for fault in controller.faults())
        yield from (f"controller {controller.name}: {f}" for f in controller.program_faults(generators, checkers))
        yield from _unreachable(controller, generators, checkers)
    start_type = None if program.start is None else as_class(returned(program.start))
    known_types = [start_type, *(state_made(g.function) for g in generators)]
    yield from _type_mismatches(start_type, generators, checkers)
    for node in (*generators, *checkers):
        yield from _template_faults(node, [t for t in known_types if t is not None])


def _listed(nodes: Any) -> Sequence[Any]:
    return nodes if isinstance(nodes, Sequence) else ()


def _not_nodes(label: str, nodes: Any, kind: type[Node]) -> collections.abc.Iterator[str]:
    if isinstance(nodes, Node):
        yield f"{label}: the node {nodes.name!r} alone; put it in a list: {label}=[{nodes.name}]"
    elif not isinstance(nodes, Sequence):
        yield f"{label}={nodes!r}; allowed is a list of {label}"
    for item in _listed(nodes):
        if not isinstance(item, kind):
            yield f"{label}: {item!r} is not a {label[:-1]}; decorate the function with @{label[:-1]}"


def _duplicate_names(nodes: Sequence[Node], controller: str) -> collections.abc.Iterator[str]:
    seen: set[str] = set()
    for node in nodes:
        if node.name in seen:
            yield f"two nodes are named {node.name!r}; names are unique: rename one with name=..."
        if node.name in (_START, _GOAL, _ANSWER, "input", "default", "controller", controller):
            yield f"a node is named {node.name!r}, which the program itself uses; rename it with name=..."
        seen.add(node.name)


def _not_a_function_of_one(label: str, function: Any) -> collections.abc.Iterator[str]:
    if function is None:
        return
    if not callable(function):
        yield f"{label}={function!r} is not a function of one argument"
        return
    try:
        inspect.signature(function).bind(object())
    except TypeError as error:
        yield f"{label}: the function cannot be called with one argument ({error})"
    except ValueError:
        return  # a builtin without a signature


def _unreachable(
    controller: ControllerSpec, generators: Sequence[Generator], checkers: Sequence[Checker]
) -> collections.abc.Iterator[str]:
    for checker in checkers:
        if checker.kind != "state" and not controller.compares:
            yield (
                f"checker {checker.name!r} is unreachable: it judges across states, and {controller.name} never "
                "compares; use BeamSearch, or a checker of kind='state'"
            )
    for generator in generators:
        if generator.aggregates and not controller.aggregates:
            yield (
                f"generator {generator.name!r} is unreachable: it aggregates several states, and {controller.name} "
                "never merges thoughts"
            )
    if generators and all(g.aggregates for g in generators):
        yield "every generator aggregates: none can expand the first thought"


def _type_mismatches(
    start: type | None, generators: Sequence[Generator], checkers: Sequence[Checker]
) -> collections.abc.Iterator[str]:
    made = [(f"generator {g.name!r}", t) for g in generators if (t := state_made(g.function))]
    if start is not None:
        made.insert(0, ("start", start))
    for node in (*generators, *checkers):
        if (isinstance(node, Generator) and node.aggregates) or (isinstance(node, Checker) and node.kind == "vote"):
            continue
        wanted = state_taken(node.function)
        if wanted is None:
            continue
        for source, given in made:
            if not fits(given, wanted):
                yield (
                    f"{type(node).__name__.lower()} {node.name!r} takes {wanted.__name__}, "
                    f"but {source} makes {given.__name__}"
                )


def _template_faults(node: Node, types_known: Sequence[type]) -> collections.abc.Iterator[str]:
    if not isinstance(node.prompt, str):
        return
    try:
        used = field_names(node.prompt)
    except DeclarationError as error:
        yield f"node {node.name!r}: {error}"
        return
    kind = node.kind if isinstance(node, Checker) else "state"
    if isinstance(node, Generator) and node.aggregates:
        known: tuple[str, ...] = VOTE_FIELDS
    elif kind == "state":
        taken = state_taken(node.function)
        field_sets = [state_fields(t) for t in ([taken] if taken is not None else types_known)]
        if not field_sets or None in field_sets:
            return
        known = tuple(dict.fromkeys(name for names in field_sets if names for name in names))
        if isinstance(node, Generator):
            known += HINT_FIELDS
    else:
        known = VOTE_FIELDS if kind == "vote" else PAIRWISE_FIELDS
    for name in used:
        if name not in known:
            yield f"node {node.name!r}: its prompt uses an unknown field {{{name}}}; known fields: {', '.join(known)}"


# ---------------------------------------------------------------------------------------- graph and hash


def _graph(program: Program) -> ProgramGraph:
    controller = program.controller.name
    nodes: dict[str, dict[str, Any]] = {
        "input": {"kind": "input"},
        _START: {"kind": "start"},
        controller: {"kind": "controller"},
        _ANSWER: {"kind": "answer"},
    }
    edges = [("input", _START), (_START, controller)]
    for node in program.generators:
        nodes[node.name] = {"kind": "generator", **_node_attributes(node)}
        edges.append((controller, node.name))
    for checker in program.checkers:
        nodes[checker.name] = {"kind": "checker", "checks": checker.kind, **_node_attributes(checker)}
    sources = [g.name for g in program.generators]
    rules = [c.name for c in program.checkers if c.kind == "state" and not c.calls_model]
    judges = [c.name for c in program.checkers if c.kind != "state" or c.calls_model]
    for name in rules:  # rules run one after the other: the first that refuses ends it
        edges += [(source, name) for source in sources]
        sources = [name]
    for name in judges:  # judgements by models run side by side
        edges += [(source, name) for source in sources]
    edges += [(name, controller) for name in (judges or sources)]
    last = controller
    if program.goal is not None:
        nodes[_GOAL] = {"kind": "goal"}
        edges.append((controller, _GOAL))
        last = _GOAL
    edges.append((last, _ANSWER))
    return ProgramGraph.of(program.name, nodes, edges)


def _node_attributes(node: Node) -> dict[str, Any]:
    attributes: dict[str, Any] = {"calls_model": node.calls_model}
    if node.prompt is not None:
        attributes |= {
            "n": node.n,
            "prompt": node.prompt if isinstance(node.prompt, str) else _prompt_text(node.prompt),
        }
    return attributes


def _prompt_text(function: Callable[..., Any]) -> str:
    """What a prompt function shows of itself as ``text``, else its name."""
    text = getattr(function, "text", None)
    return text if isinstance(text, str) else function_name(function)


def _content(program: Program) -> dict[str, Any]:
    if isinstance(program, Joined):
        return joined_content(program, {name: _content(part) for name, part in program.parts.items()})

    def describe_node(node: Node) -> dict[str, Any]:
        return {
            "type": type(node).__name__,
            "name": node.name,
            "prompt": describe_function(node.prompt) if callable(node.prompt) else node.prompt,
            "n": node.n,
            "params": asdict(node.params),
            "takes": node.takes,
            "function": describe_function(node.function),
            "kind": getattr(node, "kind", None),
            "aggregates": getattr(node, "aggregates", None),
        }

    parameters = {k: describe_value(v) for k, v in program.controller.parameters().items()}
    return {
        "name": program.name,
        "nodes": [describe_node(node) for node in (*program.generators, *program.checkers)],
        "controller": [program.controller.name, parameters],
        **{
            part: describe_function(f) if (f := getattr(program, part)) is not None else None
            for part in ("start", "goal", "answer", "key")
        },
    }
