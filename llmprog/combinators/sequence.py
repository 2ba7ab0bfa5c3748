"""``Sequence``: programs one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmprog.joined import ANSWER, INPUT, Joined, JointOutcome, PartCall, PartRuns, part_names
from llmprog.program import Program
from llmprog.signatures import Signature, hint_name


@dataclass(frozen=True, eq=False, init=False)
class Sequence(Joined):
    """``Sequence(a, b, c)``: the answer of each program is the input of the next, that of the last is the answer.

    A program that is not solved ends it: those after it are not begun. If it is the last one, its best so far is the
    answer of the whole.

    The parts are called by their names, the second of one name with ``-2`` appended; so are their runs.

    Attributes:
        programs: The programs, in their order.
        name: For messages and records.
    """

    programs: tuple[Program, ...] = ()
    name: str = "sequence"

    def __init__(self, *programs: Program, name: str = "sequence") -> None:
        object.__setattr__(self, "programs", programs)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "_cache", {})
        self.__post_init__()

    @property
    def parts(self) -> Mapping[str, Program]:
        return part_names(self.programs, "part")

    def faults(self) -> Iterator[str]:
        if not self.programs:
            yield "no parts: give the programs to run one after the other"

    def flow(self) -> Iterator[tuple[str, str]]:
        yield from pairwise((INPUT, *self.parts, ANSWER))

    def signature(self, parts: Mapping[str, Signature]) -> Signature:
        every = list(parts.values())
        return Signature(takes=every[0].takes, gives=every[-1].gives) if every else Signature()

    def mismatches(self, parts: Mapping[str, Signature]) -> Iterator[str]:
        for (before, first), (after, second) in pairwise(parts.items()):
            wanted = second.refusal(first.gives)
            if wanted is not None:
                yield f"part {after!r} takes {hint_name(wanted)}, but part {before!r} gives {hint_name(first.gives)}"

    async def run_parts(self, given: Any, runs: PartRuns) -> JointOutcome:
        *first, last = self.parts
        source = INPUT
        for label in first:
            outcome = await runs.run(PartCall(part=label, given=given, label=label, after=(source,)))
            if not outcome.is_done:
                return JointOutcome.ended_by(outcome)
            given, source = outcome.answer, label
        return JointOutcome.of(await runs.run(PartCall(part=last, given=given, label=last, after=(source,))))
