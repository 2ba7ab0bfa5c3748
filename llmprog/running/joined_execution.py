"""One run of a joined program: its parts, as its combinator asks for them, and the result that comes of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmprog.accounting import Spending
from llmprog.backends.accounts import CompletionCache
from llmprog.compile import CompiledProgram
from llmprog.errors import BudgetExceededError, LLMProgError, StoreError
from llmprog.events import Event, RunFinished, SearchStarted, ThoughtExpanded, VotesChanged
from llmprog.joined import ANSWER, INPUT, Joined, JointOutcome, PartCall, PartOutcome
from llmprog.nodes import Verdict
from llmprog.running.result import Result
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.types import Completion, Request, Usage

_RUNS_BETWEEN_YIELDS = 16


@dataclass(slots=True)
class Halt:
    """Shared by all parts of a run, however deep: once one of them is cut short, no other is begun.

    Attributes:
        reason: Why; ``None`` as long as parts are begun.
    """

    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedRun:
    """What the run of a joined program is to be done with.

    Attributes:
        run_part: Runs a part; the runner's.
        halt: Shared with the runs around it and within it.
        ledger: What the whole may spend.
        stop: Once set, no part is begun.
        max_in_flight: Parts under way at once where a combinator sets no limit.
        seed: Repeats the run.
        backend: Ids of the backends.
        run_id: Of the run it belongs to.
        observe_graph: Told of the run's thoughts at its end: it is called with their graph, and takes their events.
    """

    run_part: Callable[[PartCall], Awaitable[Result]]
    halt: Halt
    ledger: Spending | None
    stop: threading.Event | None
    max_in_flight: int
    seed: int
    backend: str
    run_id: str | None
    observe_graph: Callable[[ThoughtGraph], Callable[[Event], None]] | None


async def execute_joined(compiled: CompiledProgram, given: Any, how: JoinedRun) -> Result:
    """The result of a joined program for ``given``.

    The thought graph of its ``Result`` has a thought for the input and one for each run of a part, which is that part's
    answer, made from the answers it was given; the searches of the parts are in ``Result.parts``.
    """
    parts = _Parts(compiled, given, how)
    try:
        return parts.result(await parts.run_all())
    except LLMProgError as error:
        outcome = JointOutcome(answer=None, solved=False, stopped="error")
        error.partial = parts.result(outcome, is_kept=not isinstance(error, StoreError))
        raise


class _Parts:
    """Implements ``llmprog.joined.PartRuns``, and remembers what came of the parts, in the order of their begin."""

    def __init__(self, compiled: CompiledProgram, given: Any, how: JoinedRun) -> None:
        self.max_in_flight = how.max_in_flight
        self._compiled = compiled
        self._given = given
        self._how = how
        self._begun: dict[str, tuple[PartCall, Result | None]] = {}
        self._usage = Usage()
        self._begun_at = time.perf_counter()

    async def run_all(self) -> JointOutcome:
        program = self._compiled.program
        if not isinstance(program, Joined):
            raise TypeError(f"{program!r} is not a joined program")
        ledger = self._how.ledger
        if program.parts or ledger is None or ledger.deadline is None:  # parts keep to the time themselves
            return await program.run_parts(self._given, self)
        limit = asyncio.timeout(ledger.deadline - time.monotonic())
        try:
            async with limit:
                return await program.run_parts(self._given, self)
        except TimeoutError:
            if not limit.expired():
                raise
            ledger.out_of_time()
            return JointOutcome(answer=None, solved=False, stopped="budget")

    async def run(self, call: PartCall) -> PartOutcome:
        reason = self._why_not_begin()
        if reason is not None:
            return PartOutcome(label=call.label, stopped=reason, was_begun=False)
        self._begun[call.label] = call, None
        try:
            result = await self._how.run_part(call)
        except BudgetExceededError as error:
            self._how.halt.reason = "budget"
            if isinstance(error.partial, Result):
                self._take_in(call, error.partial)
            return PartOutcome(label=call.label, stopped="budget", explanation=str(error))
        except LLMProgError as error:
            if isinstance(error.partial, Result):
                self._take_in(call, error.partial)
            raise
        self._take_in(call, result)
        if len(self._begun) % _RUNS_BETWEEN_YIELDS == 0:
            await asyncio.sleep(0)  # parts that wait for nothing must not keep others from their turn, nor Ctrl-C
        outcome = _outcome(call, result)
        if outcome.is_cut and self._how.halt.reason is None:
            self._how.halt.reason = outcome.stopped
        return outcome

    def _why_not_begin(self) -> str | None:
        how = self._how
        if how.halt.reason is not None:
            return how.halt.reason
        if how.stop is not None and how.stop.is_set():
            return "interrupted"
        return "budget" if how.ledger is not None and how.ledger.out_of_time() else None

    def _take_in(self, call: PartCall, result: Result) -> None:
        self._begun[call.label] = call, result
        self._usage += result.usage

    def result(self, outcome: JointOutcome, *, is_kept: bool = True) -> Result:
        how = self._how
        came = self._that_count(outcome.last)
        graph, thought = self._graph(came, outcome, is_kept)
        ledger = how.ledger
        return Result(
            program=self._compiled.name,
            input=self._given,
            answer=outcome.answer,
            solved=outcome.solved,
            stopped=outcome.stopped,
            explanation=None if outcome.solved else outcome.explanation,
            votes=outcome.votes,
            usage=self._usage,
            graph=graph,
            thought=None if thought is None else graph[thought],
            wall_s=time.perf_counter() - self._begun_at,
            seed=how.seed,
            backend=how.backend,
            run_id=how.run_id,
            shortfall=ledger.exhausted if ledger is not None and outcome.stopped == "budget" else None,
            parts={call.label: result for call, result in came},
        )

    def _that_count(self, last: str | None) -> list[tuple[PartCall, Result]]:
        counted: list[tuple[PartCall, Result]] = []
        for call, result in self._begun.values():
            if result is not None:  # otherwise it was cancelled, or failed before it had begun anything
                counted.append((call, result))
            if call.label == last:
                break
        return counted

    def _graph(
        self, came: Sequence[tuple[PartCall, Result]], outcome: JointOutcome, is_kept: bool
    ) -> tuple[ThoughtGraph, int | None]:
        graph = ThoughtGraph()
        observe = self._how.observe_graph if is_kept else None
        tell = None if observe is None else observe(graph)
        thoughts = {INPUT: graph.add(self._given, INPUT)[0]}
        if tell is not None:
            tell(SearchStarted(graph=graph))
        makers: dict[str, int] = {}

        def add(label: str, answer: Any, maker: str, sources: Sequence[str]) -> int:
            if maker not in makers:
                makers[maker] = graph.add_generator(maker)
            parents = tuple(thoughts[source] for source in sources if source in thoughts) or (0,)
            thoughts[label] = thought = graph.add(answer, label, parents, makers[maker])[0]
            if tell is not None:
                tell(
                    ThoughtExpanded(
                        parents=parents,
                        children=(thought,),
                        is_new=(True,),
                        samples=(0,),
                        completions=(),
                        tag=0,
                        nodes=(maker,),
                        graph=graph,
                    )
                )
            return thought

        for call, result in came:
            thought = add(call.label, result.answer, call.part, call.after)
            if not result.solved:
                graph.record_verdict(thought, call.part, Verdict(valid=False, reason=_outcome(call, result).failing))
        answered = None if outcome.source is None else thoughts.get(outcome.source)
        if answered is None and outcome.answer is not None:
            answered = add(ANSWER, outcome.answer, self._compiled.controller.name, outcome.made_from)
        if answered is not None and outcome.solved:
            graph.mark_goal(answered)
        if tell is not None:
            if outcome.votes is not None:
                tell(VotesChanged(outcome.votes, outcome.votes.num_samples, graph=graph))
            tell(RunFinished(outcome.stopped, answered, graph=graph))
        return graph, answered


def _outcome(call: PartCall, result: Result) -> PartOutcome:
    return PartOutcome(
        label=call.label,
        answer=result.answer,
        solved=result.solved,
        stopped=result.stopped,
        explanation=result.explanation,
    )


class CacheOfDraw:
    """A cache as one of several draws of the same questions sees it: what another draw was answered is not its answer.

    Where a backend honours seeds, the draws' seeds tell them apart; where it does not, only this does.

    Args:
        cache: The cache of the whole run.
        draw: The number of the draw.
    """

    def __init__(self, cache: CompletionCache, draw: int) -> None:
        self._cache = cache
        self._draw = draw

    def get(self, backend_id: str, honours_seed: bool, request: Request) -> Mapping[int, Completion]:
        return self._cache.get(f"{backend_id} draw {self._draw}", honours_seed, request)

    def put(self, backend_id: str, honours_seed: bool, request: Request, completions: Sequence[Completion]) -> None:
        self._cache.put(f"{backend_id} draw {self._draw}", honours_seed, request, completions)
