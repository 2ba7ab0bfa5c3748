"""``Reduce``: a list of inputs to one answer, two at a time."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from llmprog.errors import InputError
from llmprog.joined import ANSWER, INPUT, Joined, JointOutcome, PartCall, PartRuns, items_of, part_names, side_by_side
from llmprog.program import Program
from llmprog.signatures import Signature, fits, hint_name, many_of, pair_of


@dataclass(frozen=True, eq=False)
class Reduce(Joined):
    """``Reduce(p)``: ``p`` makes one of two, a tuple of both, until one is left.

    As a fold: ``p`` is run on the first two items, then on its answer and the third item, and so on; the runs are
    called ``1``, ``2`` … Where ``p`` is associative, neighbours are joined side by side, then the answers, in a tree;
    the runs are called ``1-0``, ``1-1`` … ``2-0``, by level and place. An odd item goes up a level as it is. An only
    item is the answer as it is.

    A run that is not solved ends it without an answer; what has been joined until then is in ``Result.parts``.

    Attributes:
        program: Makes one of two.
        associative: Whether it does not matter which neighbours are joined first; their order stays.
        initial: Comes before the first item; without it an empty list is refused.
        name: For messages and records.
    """

    program: Program
    _: KW_ONLY
    associative: bool = False
    initial: Any = None
    name: str = "reduce"

    @property
    def parts(self) -> Mapping[str, Program]:
        return part_names([self.program], "part")

    def parameters(self) -> Mapping[str, Any]:
        return {"associative": self.associative, "initial": self.initial}

    def faults(self) -> Iterator[str]:
        if self.associative not in (True, False):
            yield f"associative={self.associative!r}; allowed are True and False"

    def flow(self) -> Iterator[tuple[str, str]]:
        (name,) = self.parts
        yield from ((INPUT, "Reduce"), ("Reduce", name), (name, "Reduce"), ("Reduce", ANSWER))

    def signature(self, parts: Mapping[str, Signature]) -> Signature:
        (part,) = parts.values()
        return Signature(takes=(many_of(_pair(part)[1]),), gives=part.gives)

    def mismatches(self, parts: Mapping[str, Signature]) -> Iterator[str]:
        ((name, part),) = parts.items()
        given = pair_of(*_pair(part))
        wanted = part.refusal(given)
        if wanted is not None:
            yield f"part {name!r} takes {hint_name(wanted)}, but it is handed a tuple of two"
            return
        for place, wish in zip(("first", "second"), _pair(part), strict=True):
            if (place == "first" or self.associative) and not fits(part.gives, wish):
                yield (
                    f"part {name!r} takes {hint_name(wish)} as the {place} of two, but gives {hint_name(part.gives)}, "
                    "which is handed to it"
                )

    async def run_parts(self, given: Any, runs: PartRuns) -> JointOutcome:
        items = [(item, INPUT) for item in items_of(self, given)]
        if self.initial is not None:
            items.insert(0, (self.initial, INPUT))
        if not items:
            raise InputError(f"program {self.name!r}: nothing to join in an empty list; give it an initial=")
        if len(items) == 1:
            return JointOutcome(answer=items[0][0], solved=True, stopped="finished")
        return await (self._tree(items, runs) if self.associative else self._fold(items, runs))

    async def _fold(self, items: list[tuple[Any, str]], runs: PartRuns) -> JointOutcome:
        outcome = None
        left = items[0]
        for number, right in enumerate(items[1:], 1):
            outcome = await runs.run(self._call(left, right, str(number)))
            if not outcome.is_done:
                return JointOutcome.ended_by(outcome)
            left = outcome.answer, outcome.label
        return JointOutcome(answer=left[0], solved=True, stopped="finished", source=left[1])

    async def _tree(self, items: list[tuple[Any, str]], runs: PartRuns) -> JointOutcome:
        level = 0
        while len(items) > 1:
            level += 1
            pairs = zip(items[::2], items[1::2], strict=False)
            calls = (self._call(left, right, f"{level}-{i}") for i, (left, right) in enumerate(pairs))
            outcomes = await side_by_side(runs, calls, None, ends=lambda outcome: outcome.is_cut)
            failed = next((o for o in outcomes if o.is_cut), None) or next((o for o in outcomes if not o.is_done), None)
            if failed is not None:
                return JointOutcome.ended_by(failed)
            items = [(o.answer, o.label) for o in outcomes] + (items[-1:] if len(items) % 2 else [])
        return JointOutcome(answer=items[0][0], solved=True, stopped="finished", source=items[0][1])

    def _call(self, left: tuple[Any, str], right: tuple[Any, str], label: str) -> PartCall:
        (name,) = self.parts
        after = tuple(dict.fromkeys((left[1], right[1])))
        return PartCall(part=name, given=(left[0], right[0]), label=label, after=after)


def _pair(part: Signature) -> tuple[Any, Any]:
    """What a program of two takes as the first and the second, where it says so."""
    for wanted in part.takes:
        args = typing.get_args(wanted) if typing.get_origin(wanted) is tuple else ()
        if len(args) == 2:
            return (args[0], args[0]) if args[1] is Ellipsis else (args[0], args[1])
    return Any, Any
