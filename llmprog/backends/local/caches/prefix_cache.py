"""Keys and values of texts read before, in a radix tree over tokens: what begins alike is computed once.

Sibling thoughts share long beginnings: instructions, examples, the problem, the steps so far. Causal attention makes
their keys and values equal, so a prompt is fed only from where it first differs from everything read before
(RadixAttention, arXiv 2312.07104). What was used longest ago is forgotten when the bound is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmprog.backends.local.caches.slot_cache import KVSegment

_KEPT_SHARE = 0.9  # of the bound, once it has been exceeded: forgetting looks at all ends of texts


class _Node:
    """A run of tokens that follows its parent's."""

    __slots__ = ("children", "last_use", "parent", "segment", "tokens")

    def __init__(self, tokens: tuple[int, ...], segment: KVSegment, parent: _Node | None) -> None:
        self.tokens = tokens
        self.segment = segment
        self.parent = parent
        self.children: dict[int, _Node] = {}
        self.last_use = 0


class PrefixCache:
    """Beginnings of texts with their keys and values, bounded in memory.

    Attributes:
        num_bytes: Memory the segments take.
    """

    def __init__(self, max_bytes: int) -> None:
        """An empty cache; 0 bytes keep nothing."""
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._clock = 0
        self._roots: dict[int, _Node] = {}

    def longest(self, tokens: Sequence[int]) -> list[KVSegment]:
        """The segments of the longest beginning of ``tokens`` that is known, one behind the other."""
        self._clock += 1
        segments: list[KVSegment] = []
        children, start = self._roots, 0
        while start < len(tokens):
            node = children.get(tokens[start])
            if node is None:
                break
            node.last_use = self._clock
            shared = _num_shared(node.tokens, tokens, start)
            if shared < len(node.tokens):
                segments.append(KVSegment(node.segment.keys[:, :, :shared], node.segment.values[:, :, :shared]))
                break
            segments.append(node.segment)
            children, start = node.children, start + shared
        return segments

    def insert(self, tokens: Sequence[int], segment: Callable[[int, int], KVSegment]) -> None:
        """Keep ``tokens``; ``segment(start, end)`` copies the part of them that is new."""
        if not self._max_bytes:
            return
        self._clock += 1
        parent: _Node | None = None
        children, start = self._roots, 0
        while start < len(tokens):
            node = children.get(tokens[start])
            if node is None:
                new = _Node(tuple(tokens[start:]), segment(start, len(tokens)), parent)
                new.last_use = self._clock
                children[tokens[start]] = new
                self.num_bytes += new.segment.num_bytes
                break
            node.last_use = self._clock
            shared = _num_shared(node.tokens, tokens, start)
            if shared < len(node.tokens) and start + shared < len(tokens):
                node = self._split(node, shared, children)
            elif shared < len(node.tokens):
                break
            parent, children, start = node, node.children, start + shared
        self._forget()

    def _split(self, node: _Node, at: int, siblings: dict[int, _Node]) -> _Node:
        """Cut a node in two; the first part, which takes its place."""
        first = _Node(node.tokens[:at], node.segment.part(0, at), node.parent)
        first.last_use = node.last_use
        siblings[node.tokens[0]] = first
        node.segment = node.segment.part(at, len(node.tokens))
        node.tokens, node.parent = node.tokens[at:], first
        first.children[node.tokens[0]] = node
        return first

    def _forget(self) -> None:
        """Once the bound is exceeded, forget ends of texts, those used longest ago first, until there is some room."""
        if self.num_bytes <= self._max_bytes:
            return
        while self.num_bytes > self._max_bytes * _KEPT_SHARE:
            for leaf in sorted(self._leaves(), key=lambda leaf: leaf.last_use):
                siblings = self._roots if leaf.parent is None else leaf.parent.children
                del siblings[leaf.tokens[0]]
                self.num_bytes -= leaf.segment.num_bytes
                if self.num_bytes <= self._max_bytes * _KEPT_SHARE:
                    return

    def _leaves(self) -> list[_Node]:
        found: list[_Node] = []
        left = list(self._roots.values())
        while left:
            node = left.pop()
            if node.children:
                left += node.children.values()
            else:
                found.append(node)
        return found


def _num_shared(run: tuple[int, ...], tokens: Sequence[int], start: int) -> int:
    """How many tokens of ``run`` equal those of ``tokens`` from ``start`` on."""
    end = min(len(run), len(tokens) - start)
    if tuple(tokens[start : start + end]) == run[:end]:
        return end
    return next(i for i in range(end) if run[i] != tokens[start + i])
