"""``Map``: one program over a list of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from llmprog.joined import ANSWER, INPUT, Joined, JointOutcome, PartCall, PartRuns, items_of, part_names, side_by_side
from llmprog.program import Program
from llmprog.search.controller import is_whole
from llmprog.signatures import Signature, list_of, many_of


@dataclass(frozen=True, eq=False)
class Map(Joined):
    """``Map(p)``: a list of inputs becomes the list of their answers, in the same order.

    The inputs are worked on side by side. The runs are called ``0``, ``1`` … after the places of their inputs. Of an
    empty list the answer is an empty list. For files of rows, use ``llmprog.map``, which does not hold them all in
    memory.

    Attributes:
        program: What is run on each input.
        concurrency: Inputs worked on at once; as many as ``max_in_flight`` by default.
        on_unsolved: What becomes of an input that is not solved. ``error``: the whole is not solved; the inputs after
            it do not count, and those that were not begun yet are not begun. ``skip``: it is left out of the answer.
            ``None``: its answer is ``None``. So is, in what there is so far of a list that is not finished, what is
            missing.
        name: For messages and records.
    """

    program: Program
    _: KW_ONLY
    concurrency: int | None = None
    on_unsolved: Literal["error", "skip"] | None = "error"
    name: str = "map"

    @property
    def parts(self) -> Mapping[str, Program]:
        return part_names([self.program], "part")

    def parameters(self) -> Mapping[str, Any]:
        return {"concurrency": self.concurrency, "on_unsolved": self.on_unsolved}

    def faults(self) -> Iterator[str]:
        if self.concurrency is not None and not is_whole(self.concurrency, 1):
            yield f"concurrency={self.concurrency!r}; allowed is a whole number >= 1, or None"
        if self.on_unsolved not in ("error", "skip", None):
            yield f"on_unsolved={self.on_unsolved!r}; allowed are 'error', 'skip' and None"

    def flow(self) -> Iterator[tuple[str, str]]:
        (name,) = self.parts
        yield from ((INPUT, "Map"), ("Map", name), (name, "Map"), ("Map", ANSWER))

    def signature(self, parts: Mapping[str, Signature]) -> Signature:
        (part,) = parts.values()
        takes = tuple(many_of(wanted) for wanted in part.takes)
        return Signature(takes=takes or (many_of(Any),), gives=list_of(part.gives))

    async def run_parts(self, given: Any, runs: PartRuns) -> JointOutcome:
        (name,) = self.parts
        items = items_of(self, given)
        calls = (PartCall(part=name, given=item, label=str(i)) for i, item in enumerate(items))
        is_strict = self.on_unsolved == "error"
        outcomes = await side_by_side(
            runs, calls, self.concurrency, ends=lambda o: o.is_cut or (is_strict and not o.is_done)
        )
        failed = next((o for o in outcomes if not o.is_done and (is_strict or o.is_cut)), None)
        if failed is not None:
            if not failed.is_cut:
                outcomes = outcomes[: int(failed.label) + 1]
            so_far = [o.answer if o.solved else None for o in outcomes] + [None] * (len(items) - len(outcomes))
            last = None if failed.is_cut else failed.label
            labels = tuple(o.label for o in outcomes if o.solved)
            return JointOutcome.ended_by(failed, so_far, made_from=labels or (INPUT,), last=last)
        kept = [o for o in outcomes if o.is_done or self.on_unsolved is None]
        return JointOutcome(
            answer=[o.answer if o.is_done else None for o in kept],
            solved=True,
            stopped="finished",
            made_from=tuple(o.label for o in kept) or (INPUT,),
        )
