"""The graph of a compiled program: its declared parts, and what feeds what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llmprog.errors import DeclarationError, MissingExtraError

if TYPE_CHECKING:  # an extra: what does without it says so
    import networkx as nx


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramGraph:
    """What a program consists of, and what feeds what; nothing in it can be changed.

    Attributes:
        name: The program's.
        nodes: The attributes of each node by its name, in the order in which they were declared.
        edges: Pairs of names, from what is fed to what it feeds: each pair once, those of a node together, the nodes
            in their order.
    """

    name: str
    nodes: Mapping[str, Mapping[str, Any]]
    edges: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, name: str, nodes: Mapping[str, Mapping[str, Any]], edges: Iterable[tuple[str, str]]) -> ProgramGraph:
        """The graph of these nodes and edges, which may come in any order and more than once.

        Raises:
            DeclarationError: An edge begins or ends at what is no node.
        """
        pairs = tuple(dict.fromkeys(edges))
        unknown = [end for pair in pairs for end in pair if end not in nodes]
        if unknown:
            raise DeclarationError(
                f"program {name!r}: an edge of its graph is at {unknown[0]!r}, which is no node; nodes are "
                f"{', '.join(nodes)}"
            )
        place = {node: position for position, node in enumerate(nodes)}
        return cls(
            name=name,
            nodes=MappingProxyType({node: MappingProxyType(dict(of)) for node, of in nodes.items()}),
            edges=tuple(sorted(pairs, key=lambda pair: place[pair[0]])),
        )

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.nodes), self.edges))

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only views cannot be pickled or copied; what they show can.
        return ProgramGraph.of, (self.name, {node: dict(of) for node, of in self.nodes.items()}, self.edges)

    def to_networkx(self) -> nx.DiGraph[str]:
        """The same as a frozen ``networkx.DiGraph`` with this name, these attributes and this order.

        Raises:
            MissingExtraError: networkx is not installed.
        """
        try:
            import networkx as nx
        except ImportError as error:
            raise MissingExtraError("the graph of a program for networkx", error.name or "networkx", "graph") from error
        graph: nx.DiGraph[str] = nx.DiGraph(name=self.name)
        graph.add_nodes_from((node, dict(of)) for node, of in self.nodes.items())
        graph.add_edges_from(self.edges)
        nx.freeze(graph)
        return graph
