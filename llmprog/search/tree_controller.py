"""What tree searches share: knowing when all children of an expansion have been judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmprog.events import ControllerEvent, ThoughtChecked, ThoughtExpanded
from llmprog.search.controller import Controller
from llmprog.search.thought_graph import ThoughtGraph


@dataclass(kw_only=True)
class TreeController(Controller):
    """A controller that is handed complete families: a thought's children, all of them judged."""

    families: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)
    num_unchecked: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    family_of: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtExpanded):
            children = list(dict.fromkeys(event.children))
            new = [child for child, is_new in zip(event.children, event.is_new, strict=True) if is_new]
            if not new:
                self.tell_family(event.parents[0], children)
                return
            parent = event.parents[0]
            self.families[parent] = children
            self.num_unchecked[parent] = len(new)
            for child in new:
                self.family_of[child] = parent
        elif isinstance(event, ThoughtChecked):
            parent = self.family_of.pop(event.thought)
            self.num_unchecked[parent] -= 1
            if not self.num_unchecked[parent]:
                del self.num_unchecked[parent]
                self.tell_family(parent, self.families.pop(parent))

    def tell_family(self, parent: int, children: list[int]) -> None:
        """Take note of all distinct children of an expansion, known ones included, in the order generated."""
        raise NotImplementedError


def by_score(graph: ThoughtGraph, thoughts: Sequence[int], limit: int | None = None) -> list[int]:
    """The open ones among ``thoughts`` by descending score, ties in the order given; at most ``limit``."""
    usable = sorted((t for t in thoughts if graph.is_open(t)), key=lambda t: -graph.scores[t])
    return usable if limit is None else usable[:limit]
