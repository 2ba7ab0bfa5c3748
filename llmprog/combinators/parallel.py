"""``Parallel``: one input for several programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from llmprog.joined import (
    ANSWER,
    INPUT,
    Joined,
    JointOutcome,
    PartCall,
    PartRuns,
    called,
    is_mapping,
    not_callable_with,
    side_by_side,
)
from llmprog.program import Program
from llmprog.signatures import Signature, fits, hint_name, hints_of_parameters, returned


@dataclass(frozen=True, eq=False)
class Parallel(Joined):
    """``Parallel({"title": a, "text": b})``: each program gets the input; the answer has theirs by name.

    They run side by side. All of them have to be solved: otherwise the answer is not, and what there is of it is the
    answers that have come (none, where ``join`` needs all of them).

    Attributes:
        programs: The programs by name.
        join: Called with the answers as keyword arguments, it makes the answer; a ``dict`` of them by default. A
            dataclass with the same names will do.
        name: For messages and records.
    """

    programs: Mapping[str, Program]
    _: KW_ONLY
    join: Callable[..., Any] | None = None
    name: str = "parallel"

    def __post_init__(self) -> None:
        if isinstance(self.programs, Mapping):  # changed later, it would change what has been compiled
            object.__setattr__(self, "programs", dict(self.programs))
        super().__post_init__()

    @property
    def parts(self) -> Mapping[str, Program]:
        return self.programs if isinstance(self.programs, Mapping) else {}

    def parameters(self) -> Mapping[str, Any]:
        return {"join": self.join}

    def faults(self) -> Iterator[str]:
        if not is_mapping(self.programs):
            yield f"programs={self.programs!r:.200}; allowed is a mapping of names to programs"
        elif not self.programs:
            yield "no parts: give the programs that share the input, by name"
        elif self.join is not None:
            fault = not_callable_with("join", self.join, **dict.fromkeys(map(str, self.programs)))
            if fault:
                yield fault

    def flow(self) -> Iterator[tuple[str, str]]:
        for name in self.parts:
            yield INPUT, name
            yield name, "Parallel"
        yield "Parallel", ANSWER

    def signature(self, parts: Mapping[str, Signature]) -> Signature:
        takes = tuple(wanted for part in parts.values() for wanted in part.takes)
        if self.join is None:
            return Signature(takes=takes, gives=dict[str, Any])
        return Signature(takes=takes, gives=returned(self.join))

    def mismatches(self, parts: Mapping[str, Signature]) -> Iterator[str]:
        function = self.join
        if function is None:
            return
        wanted = hints_of_parameters(function)
        for name, part in parts.items():
            if name in wanted and not fits(part.gives, wanted[name]):
                yield f"join takes {name}: {hint_name(wanted[name])}, but part {name!r} gives {hint_name(part.gives)}"

    async def run_parts(self, given: Any, runs: PartRuns) -> JointOutcome:
        calls = [PartCall(part=name, given=given, label=name) for name in self.parts]
        outcomes = await side_by_side(runs, calls, None, ends=lambda outcome: outcome.is_cut)
        answers = {outcome.label: outcome.answer for outcome in outcomes if outcome.solved}
        made_from = tuple(answers) or (INPUT,)
        failed = next((o for o in outcomes if o.is_cut), None) or next((o for o in outcomes if not o.is_done), None)
        if failed is not None:
            so_far = answers if answers and self.join is None else None
            return JointOutcome.ended_by(failed, so_far, made_from=made_from)
        answer = answers if self.join is None else called("join", self.join, **answers)
        if answer is None:
            return JointOutcome(answer=None, solved=False, stopped="unsolved", explanation="join returned None")
        return JointOutcome(answer=answer, solved=True, stopped="finished", made_from=made_from)
