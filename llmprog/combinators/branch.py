"""``Branch``: one of several programs, as a function or a program says."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from llmprog.errors import NodeError
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
)
from llmprog.program import Program
from llmprog.signatures import Signature, one_of

ON, OTHERWISE = "on", "otherwise"


@dataclass(frozen=True, eq=False)
class Branch(Joined):
    """``Branch(on, {"sum": a, "word": b}, otherwise=c)``: the input goes to the program whose key ``on`` gives for it.

    The answer is that program's. The parts are called by the texts of their keys, ``otherwise``, and ``on`` where that
    is a program; so are their runs.

    Attributes:
        on: A function of the input, or a program that is run on it: what it returns or answers is the key.
        cases: Programs by key.
        otherwise: For every other key. Without it such a key is an error that names the keys there are.
        name: For messages and records.
    """

    on: Callable[[Any], Hashable] | Program
    cases: Mapping[Any, Program]
    _: KW_ONLY
    otherwise: Program | None = None
    name: str = "branch"

    def __post_init__(self) -> None:
        if isinstance(self.cases, Mapping):  # changed later, it would change what has been compiled
            object.__setattr__(self, "cases", dict(self.cases))
        super().__post_init__()

    @property
    def parts(self) -> Mapping[str, Program]:
        parts: dict[str, Program] = {ON: self.on} if isinstance(self.on, Program) else {}
        if isinstance(self.cases, Mapping):
            parts |= {str(key): program for key, program in self.cases.items()}
        return parts if self.otherwise is None else parts | {OTHERWISE: self.otherwise}

    def parameters(self) -> Mapping[str, Any]:
        keys = [repr(key) for key in self.cases] if isinstance(self.cases, Mapping) else []
        return {"on": self.on.name if isinstance(self.on, Program) else self.on, "keys": keys}

    def faults(self) -> Iterator[str]:
        if not isinstance(self.on, Program):
            fault = not_callable_with("on", self.on, None)
            if fault:
                yield fault
        if not is_mapping(self.cases):
            yield f"cases={self.cases!r:.200}; allowed is a mapping of keys to programs"
            return
        if not self.cases:
            yield "no cases: give programs by key"
        texts = [str(key) for key in self.cases]
        for key in self.cases:
            if texts.count(str(key)) > 1 or str(key) in (ON, OTHERWISE):
                yield f"case {key!r}: another part is called {str(key)!r} too; use keys whose texts differ"

    def flow(self) -> Iterator[tuple[str, str]]:
        parts = dict(self.parts)
        if parts.pop(ON, None) is not None:
            yield INPUT, ON
            yield ON, "Branch"
        else:
            yield INPUT, "Branch"
        for name in parts:
            yield "Branch", name
            yield name, ANSWER

    def signature(self, parts: Mapping[str, Signature]) -> Signature:
        cases = [part for name, part in parts.items() if name != ON]
        takes = [part.takes[0] if len(part.takes) == 1 else Any for part in cases]
        decider = parts[ON].takes if ON in parts else ()
        return Signature(takes=(one_of(takes), *decider), gives=one_of(part.gives for part in cases))

    async def run_parts(self, given: Any, runs: PartRuns) -> JointOutcome:
        after: tuple[str, ...] = (INPUT,)
        if isinstance(self.on, Program):
            decision = await runs.run(PartCall(part=ON, given=given, label=ON))
            if not decision.is_done:
                return JointOutcome.ended_by(decision)
            key, after = decision.answer, (INPUT, ON)
        else:
            key = called(ON, self.on, given)
        name = str(key) if isinstance(key, Hashable) and key in self.cases else OTHERWISE
        if name == OTHERWISE and self.otherwise is None:
            known = ", ".join(repr(known) for known in self.cases)
            raise NodeError(
                ON, f"gave {key!r:.200}, which no case of program {self.name!r} has; cases: {known}; add otherwise="
            )
        return JointOutcome.of(await runs.run(PartCall(part=name, given=given, label=name, after=after)))
