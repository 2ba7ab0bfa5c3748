"""``Loop``: a program on its own answers, until they will do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

from llmprog.joined import (
    ANSWER,
    INPUT,
    Joined,
    JointOutcome,
    PartCall,
    PartRuns,
    called,
    not_callable_with,
    part_names,
)
from llmprog.program import Program
from llmprog.search.controller import is_whole
from llmprog.signatures import Signature, hint_name


@dataclass(frozen=True, eq=False)
class Loop(Joined):
    """``Loop(p, until=good, max_rounds=5)``: the answer of each round is the input of the next.

    It ends after the first round whose answer ``until`` accepts (``stopped="goal"``). After ``max_rounds`` it is not
    solved, as it is not where a round is not; the answer is then the best so far: that of the last round that has one.
    There is at least one round. The rounds' runs are called ``1``, ``2`` …

    Attributes:
        program: What is run in each round.
        until: Whether an answer will do.
        max_rounds: Rounds at most.
        name: For messages and records.
    """

    program: Program
    _: KW_ONLY
    until: Callable[[Any], bool]
    max_rounds: int
    name: str = "loop"

    @property
    def parts(self) -> Mapping[str, Program]:
        return part_names([self.program], "part")

    def parameters(self) -> Mapping[str, Any]:
        return {"until": self.until, "max_rounds": self.max_rounds}

    def faults(self) -> Iterator[str]:
        fault = not_callable_with("until", self.until, None)
        if fault:
            yield fault
        if not is_whole(self.max_rounds, 1):
            yield f"max_rounds={self.max_rounds!r}; allowed is a whole number >= 1"

    def flow(self) -> Iterator[tuple[str, str]]:
        (name,) = self.parts
        yield from ((INPUT, name), (name, "Loop"), ("Loop", name), ("Loop", ANSWER))

    def signature(self, parts: Mapping[str, Signature]) -> Signature:
        (part,) = parts.values()
        return part

    def mismatches(self, parts: Mapping[str, Signature]) -> Iterator[str]:
        ((name, part),) = parts.items()
        wanted = part.refusal(part.gives)
        if wanted is not None:
            given = hint_name(part.gives)
            yield f"part {name!r} takes {hint_name(wanted)}, but gives {given}, which is the input of the next round"

    async def run_parts(self, given: Any, runs: PartRuns) -> JointOutcome:
        (name,) = self.parts
        answer, source = given, INPUT
        for number in range(1, self.max_rounds + 1):
            call = PartCall(part=name, given=answer, label=str(number), after=(source,), draw=number - 1)
            outcome = await runs.run(call)
            if not outcome.is_done:
                if outcome.answer is not None:
                    return replace(JointOutcome.of(outcome), solved=False)
                ended = JointOutcome.ended_by(outcome)
                return ended if source == INPUT else replace(ended, answer=answer, source=source)
            answer, source = outcome.answer, outcome.label
            if called("until", lambda given: bool(self.until(given)), answer):
                return JointOutcome(answer=answer, solved=True, stopped="goal", source=source)
        return JointOutcome(
            answer=answer,
            solved=False,
            stopped="max_rounds",
            explanation=f"the answer will not do after {self.max_rounds} rounds",
            source=source,
        )
