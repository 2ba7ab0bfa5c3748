"""One run of a compiled program, a search or a joined one, within what several runs have in common."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from llmprog.accounting import Journal, Spending
from llmprog.backends.accounts import Accounts, CompletionCache
from llmprog.compile import CompiledProgram
from llmprog.errors import InputError, LLMProgError
from llmprog.events import Event
from llmprog.joined import CUT_SHORT, Joined, PartCall
from llmprog.program import Program
from llmprog.running.chosen_backends import ChosenBackends
from llmprog.running.joined_execution import CacheOfDraw, Halt, JoinedRun, execute_joined
from llmprog.running.nested_runs import NodeCalls, RunNested
from llmprog.running.result import Result
from llmprog.search.calls import derive_seed
from llmprog.search.judging import call_function
from llmprog.search.runtime import Search, SearchOutcome
from llmprog.search.thought_graph import ThoughtGraph
from llmprog.tracing import WatchedRun, thought_log

J_co = TypeVar("J_co", bound=Journal, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext(Generic[J_co]):
    """What the runs of one job have in common.

    Attributes:
        journal: Where their calls and thoughts are kept; ``None`` keeps nothing.
        ledger: What they may spend together; ``None`` sets no limit.
        cache: Completions of other runs; ``None`` where none are wanted.
        stop: Once set, they begin nothing new, take in what is under way and end.
    """

    journal: J_co | None = None
    ledger: Spending | None = None
    cache: CompletionCache | None = None
    stop: threading.Event | None = None


async def execute(
    compiled: CompiledProgram,
    input: Any,  # noqa: A002 - the word users expect
    *,
    backends: ChosenBackends,
    seed: int,
    context: RunContext[Journal],
    path: str = "",
    on_event: Callable[[Event], None] | None = None,
    max_in_flight: int = 1024,
    stream: bool = False,
    halt: Halt | None = None,
) -> Result:
    """One run of a compiled program within a context.

    Args:
        compiled: The program.
        input: What its ``start`` takes.
        backends: Of this program.
        seed: Repeats it.
        context: Its journal, ledger and cache, perhaps shared with other runs.
        path: Where in the journal it is: empty, or the number of a job's row. A part of a joined program is at
            ``PATH/LABEL``, a program that a node runs at ``PATH/NODE:OCCASION:NUMBER``.
        on_event: As for ``arun``.
        max_in_flight: As for ``arun``.
        stream: As for ``arun``.
        halt: That of the joined program which this is a part of.
    """
    halt = Halt() if halt is None else halt
    run_id = None if context.journal is None else context.journal.id
    watched = WatchedRun(compiled.name, run=run_id, path=path, backend=backends.label, seed=seed)
    go_on = functools.partial(execute, on_event=on_event, max_in_flight=max_in_flight, stream=stream, halt=halt)
    if isinstance(compiled.program, Joined):

        async def run_part(call: PartCall) -> Result:
            cache = context.cache
            if call.draw and cache is not None:
                cache = CacheOfDraw(cache, call.draw)
            return await go_on(
                compiled.parts[call.part],
                call.given,
                backends=backends.of_part(call.part),
                seed=derive_seed(seed, call.label),
                context=replace(context, cache=cache),
                path=f"{path}/{call.label}",
            )

        how = JoinedRun(
            run_part=run_part,
            halt=halt,
            ledger=context.ledger,
            stop=context.stop,
            max_in_flight=max_in_flight,
            seed=seed,
            backend=backends.label,
            run_id=run_id,
            observe_graph=None if context.journal is None else _records_of_parts(context.journal, path),
        )
        with watched:
            return watched.came_to(await execute_joined(compiled, input, how))

    async def run_nested(program: CompiledProgram, given: Any, node: str, seed: int, place: str) -> Result:
        # The node is under way, so what it runs is too: whoever stops the run waits for the node to end.
        return await go_on(
            program,
            given,
            backends=backends.of_node(node, program),
            seed=seed,
            context=replace(context, stop=None),
            path=f"{path}/{place}",
            halt=Halt(),
        )

    with watched:
        result = await _execute_search(
            compiled,
            input,
            run_nested,
            backends=backends,
            seed=seed,
            context=context,
            path=path,
            on_event=on_event,
            max_in_flight=max_in_flight,
            stream=stream,
        )
        return watched.came_to(result)


def _records_of_parts(journal: Journal, path: str) -> Callable[[ThoughtGraph], Callable[[Event], None]]:
    def records(graph: ThoughtGraph) -> Callable[[Event], None]:
        from llmprog.running.run_records import ThoughtRecords

        return ThoughtRecords(journal, path, graph, lambda answer: answer, has_goal=False)

    return records


async def _execute_search(
    compiled: CompiledProgram,
    input: Any,  # noqa: A002 - the word users expect
    run_nested: RunNested,
    *,
    backends: ChosenBackends,
    seed: int,
    context: RunContext[Journal],
    path: str,
    on_event: Callable[[Event], None] | None,
    max_in_flight: int,
    stream: bool,
) -> Result:
    program, journal, ledger = compiled.program, context.journal, context.ledger
    start = start_state(program, input)
    accounts = None
    if journal is not None or ledger is not None or context.cache is not None:
        accounts = Accounts(None if journal is None else journal.at(path), ledger, context.cache)
    observers: list[Callable[[Event], None]] = [tell for tell in (on_event, thought_log()) if tell is not None]

    def observe(event: Event) -> None:
        for tell in observers:
            tell(event)

    watch = on_event
    if stream and journal is not None:
        from llmprog.running.canvas_records import CanvasRecords

        watch = _both(CanvasRecords(journal, path), on_event)
    scheduler = backends.scheduler(accounts, watch, stream)
    search = Search(
        compiled,
        NodeCalls(scheduler, run_nested),
        seed=seed,
        max_in_flight=max_in_flight,
        observe=observe if observers or journal is not None else None,
        spending=ledger,
        stop=context.stop,
    )
    if journal is not None:
        from llmprog.running.run_records import ThoughtRecords

        observers.append(ThoughtRecords(journal, path, search.graph, search.answer, has_goal=program.goal is not None))
    begun = time.perf_counter()

    def result(outcome: SearchOutcome) -> Result:
        state = None if outcome.thought is None else outcome.graph.states[outcome.thought]
        complete = outcome.stopped != "error"
        has_answer = complete and outcome.thought is not None and (program.goal is None or outcome.reached_goal)
        answer = None if state is None else _answer_of(program, state, has_answer)
        solved = has_answer and answer is not None
        explain = program.explain if complete and not solved and outcome.stopped not in CUT_SHORT else None
        return Result(
            program=program.name,
            input=input,
            answer=answer,
            solved=solved,
            stopped=outcome.stopped,
            explanation=None if explain is None else call_function("explain", explain, start),
            votes=outcome.votes,
            usage=scheduler.usage,
            graph=outcome.graph,
            thought=None if outcome.thought is None else outcome.graph[outcome.thought],
            wall_s=time.perf_counter() - begun,
            seed=seed,
            backend=backends.label,
            run_id=None if journal is None else journal.id,
            shortfall=ledger.exhausted if ledger is not None and outcome.stopped == "budget" else None,
        )

    try:
        return result(await search.run(start))
    except LLMProgError as error:
        if len(search.graph) and error.partial is None:
            error.partial = result(_outcome_so_far(search))
        raise


def _both(first: Callable[[Event], None], second: Callable[[Event], None] | None) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        first(event)
        if second is not None:
            second(event)

    return tell


def _outcome_so_far(search: Search) -> SearchOutcome:
    try:
        return search.outcome("error")
    except LLMProgError:  # the function whose error ended the search is asked again for the outcome
        return SearchOutcome(graph=search.graph, thought=None, reached_goal=False, stopped="error", votes=None)


def start_state(program: Program, given: Any) -> Any:
    """The first state of a program for an input.

    Raises:
        InputError: ``start`` refused it.
    """
    if program.start is None:
        return given
    try:
        return program.start(given)
    except LLMProgError:
        raise
    except Exception as error:  # whatever a user's parser raises: named and raised again
        raise InputError(f"program {program.name!r} cannot use the input {given!r}: {error}") from error


def _answer_of(program: Program, state: Any, is_final: bool) -> Any:
    """The answer for a state; the best so far of an unsolved search may have none yet."""
    if program.answer is None:
        return state
    try:
        return call_function("answer", program.answer, state)
    except LLMProgError:
        if is_final:
            raise
        return None
