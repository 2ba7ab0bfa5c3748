"""``Apply``: a plain function or tool as a program."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from llmprog.errors import LLMProgError
from llmprog.joined import ANSWER, INPUT, Joined, JointOutcome, PartRuns, called, function_error, not_callable_with
from llmprog.program import Program
from llmprog.signatures import Signature, returned, taken


@dataclass(frozen=True, eq=False)
class Apply(Joined):
    """The answer is what ``function`` returns for the input; ``None`` is no answer.

    It is called with the input alone. A coroutine function is awaited, and ends with the time of the budget; any other
    runs in the event loop, so one that waits for something should be ``async``. Nothing of it is kept in the journal: a
    run that is resumed calls it again, so it should return the same for the same input, and do no harm when it is
    called twice.

    Attributes:
        function: A function of one argument, a class, or any callable object.
        name: The function's own name by default.
    """

    function: Callable[[Any], Any]
    _: KW_ONLY
    name: str = ""

    def __post_init__(self) -> None:
        if self.name == "":
            own = getattr(self.function, "__name__", "")
            object.__setattr__(self, "name", own if own.isidentifier() else "apply")
        super().__post_init__()

    @property
    def parts(self) -> Mapping[str, Program]:
        return {}

    def parameters(self) -> Mapping[str, Any]:
        return {"function": self.function}

    def faults(self) -> Iterator[str]:
        fault = not_callable_with("function", self.function, None)
        if fault:
            yield fault

    def flow(self) -> Iterator[tuple[str, str]]:
        yield INPUT, "Apply"
        yield "Apply", ANSWER

    def signature(self, parts: Mapping[str, Signature]) -> Signature:
        return Signature(takes=(taken(self.function),), gives=returned(self.function))

    async def run_parts(self, given: Any, runs: PartRuns) -> JointOutcome:
        answer = called(self.name, self.function, given)
        if inspect.isawaitable(answer):
            try:
                answer = await answer
            except LLMProgError:
                raise
            except Exception as error:  # any error of a user's function: named and raised again
                raise function_error(self.name, error) from error
        if answer is None:
            return JointOutcome(answer=None, solved=False, stopped="unsolved", explanation=f"{self.name} returned None")
        return JointOutcome(answer=answer, solved=True, stopped="finished")
