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

    families: dict[int, tuple[int, list[int]]] = field(default_factory=dict, init=False, repr=False)
    num_unchecked: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    waited_for: dict[int, list[int]] = field(default_factory=dict, init=False, repr=False)
    num_families: int = field(default=0, init=False, repr=False)

    def tell(self, event: ControllerEvent) -> None:
        if isinstance(event, ThoughtExpanded):
            parent, children = event.parents[0], list(dict.fromkeys(event.children))
            for child, is_new in zip(event.children, event.is_new, strict=True):
                if is_new:
                    self.waited_for[child] = []
            # A child that another family found first may still be with its judges.
            unchecked = [child for child in children if child in self.waited_for]
            if not unchecked:
                self.tell_family(parent, children)
                return
            number = self.num_families
            self.num_families += 1
            self.families[number] = (parent, children)
            self.num_unchecked[number] = len(unchecked)
            for child in unchecked:
                self.waited_for[child].append(number)
        elif isinstance(event, ThoughtChecked):
            for number in self.waited_for.pop(event.thought):
                self.num_unchecked[number] -= 1
                if not self.num_unchecked[number]:
                    del self.num_unchecked[number]
                    self.tell_family(*self.families.pop(number))

    def tell_family(self, parent: int, children: list[int]) -> None:
        """Take note of all distinct children of an expansion, known ones included, in the order generated."""
        raise NotImplementedError


def by_score(graph: ThoughtGraph, thoughts: Sequence[int], limit: int | None = None) -> list[int]:
    """The open ones among ``thoughts`` by descending score, ties in the order given; at most ``limit``."""
    usable = sorted((t for t in thoughts if graph.is_open(t)), key=lambda t: -graph.scores[t])
    return usable if limit is None else usable[:limit]
