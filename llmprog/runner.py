"""The composition root: a program, its backends, a seed, a budget and a store make a run."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from uuid import uuid4

from llmprog.backends.recording import Recorder
from llmprog.background_loop import run_sync
from llmprog.compile import compile_program
from llmprog.display import check_choice, run_display
from llmprog.errors import LLMProgError, OptionError, StoreError
from llmprog.events import Event
from llmprog.joined import CUT_SHORT
from llmprog.program import Program
from llmprog.redaction import redact
from llmprog.running.chosen_backends import BackendChoice, ChosenBackends
from llmprog.running.execution import RunContext, execute, start_state
from llmprog.running.result import Result
from llmprog.runs.budget import Budget
from llmprog.runs.ledger import BudgetLedger, Ledger
from llmprog.search.controller import is_whole

if TYPE_CHECKING:
    from llmprog.runs.cache import CallCache
    from llmprog.runs.journal import RunJournal
    from llmprog.runs.store import RunStore

BudgetChoice: TypeAlias = Budget | Ledger | str
StoreChoice: TypeAlias = "str | Path | RunStore"
CacheChoice: TypeAlias = "bool | str | Path | CallCache"


async def arun(
    program: Program,
    input: Any,  # noqa: A002 - the word users expect
    *,
    backend: BackendChoice | None = None,
    seed: int | None = None,
    on_event: Callable[[Event], None] | None = None,
    max_in_flight: int = 1024,
    stream: bool = False,
    record: str | Path | None = None,
    budget: BudgetChoice | None = None,
    store: StoreChoice | None = None,
    resume: str | None = None,
    fork: bool = False,
    cache: CacheChoice = False,
    stop: threading.Event | None = None,
    labels: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Result:
    """Run a program to its end.

    Args:
        program: What to run.
        input: What the program's ``start`` takes.
        backend: An id (``local:puzzles``), a ``Backend``, or either by node name, with ``default`` for the rest.
            Programs whose nodes are all plain Python need none, and open none.
        seed: Repeats a run on backends that honour seeds; drawn at random and reported if not given.
        on_event: Called with every event in order; it must not block.
        max_in_flight: Actions the search may have under way at once.
        stream: Have backends that can send completions piece by piece do so; each piece is a ``CompletionDelta`` event.
            With a store, how diffusion models wrote their canvases is kept, step by step.
        record: A file that all calls and completions are appended to. With the same seed, the backend ``replay:FILE``
            repeats the run from it without calling a model.
        budget: The most it may spend: a ``Budget``, its text (``"usd=2,calls=200"``), or an open ledger that several
            runs share. A run that comes up against it ends with its best so far.
        store: Where every call is kept before its result is used: a directory, ``memory``, a ``postgresql://`` URL or
            an open store. By default nothing is kept but the result.
        resume: Id of an earlier run in the store (the user's own by default) to go on with; what had settled is not
            paid for again. Program, input and settings must be the same.
        fork: Resume a run whose program was edited since, as a new run that takes over the calls that still fit.
        cache: Use completions of other runs that asked the same, and keep those of this one: ``True`` for the user's
            own cache, or a file.
        stop: Once set, the search begins nothing new, takes in what is under way and ends with its best so far.
        labels: JSON values that are kept with the run.
        progress: Show how far it is: below the cell of a notebook, else on stderr. On a terminal lines are redrawn;
            elsewhere, and with ``NO_COLOR``, a line comes every ten seconds.

    Raises:
        CompileError: The program's declaration has faults.
        InputError: ``start`` refused the input.
        BackendError: A model call failed; ``.partial`` holds the ``Result`` so far.
        NodeError: A node's function raised; ``.partial`` likewise.
        BudgetExceededError: The budget was spent before the run began.
        StoreError: The run cannot be kept; ``.partial`` likewise.
    """
    compiled = compile_program(program)
    _check_options(seed, max_in_flight, resume, fork)
    check_choice(progress)
    start_state(program, input)  # what it refuses is refused before anything is opened
    with (
        nullcontext() if record is None else Recorder(record) as recorder,
        run_display(program, on_event, enabled=progress) as observe,
    ):
        backends = ChosenBackends(compiled, backend, recorder)
        config: dict[str, Any] = {"backend": backends.label, "max_in_flight": max_in_flight}
        if resume is None:
            seed = random.SystemRandom().randrange(2**31) if seed is None else seed
        if seed is not None:
            config["seed"] = seed
        open_journal = None
        if store is not None or resume is not None:
            from llmprog.running.run_records import describe_run, journal_opener

            info = describe_run(compiled, kind="run", input=input, config=config, labels=labels or {})
            open_journal = journal_opener(store, info, resume=resume, fork=fork)
        async with opened_context(backends, open_journal, budget=budget, cache=cache, stop=stop) as context:
            journal = context.journal
            seed = seed if journal is None else journal.info.config["seed"]
            result = await execute(
                compiled,
                input,
                backends=backends,
                seed=cast("int", seed),
                context=context,
                on_event=observe,
                max_in_flight=max_in_flight,
                stream=stream,
            )
            if journal is not None:
                await journal.finish("stopped" if result.stopped in CUT_SHORT else "finished", result.to_json())
    return result


@asynccontextmanager
async def opened_context(
    backends: ChosenBackends,
    open_journal: Callable[[AsyncExitStack], RunJournal] | None,
    *,
    budget: BudgetChoice | None,
    cache: CacheChoice,
    stop: threading.Event | None,
) -> AsyncIterator[RunContext[RunJournal]]:
    """What the runs of a job need around them, closed at the end.

    Args:
        backends: What they call.
        open_journal: Opens their journal, once everything else has been found to be in order; what it opens besides is
            closed with the stack it is given. ``None`` for none.
        budget: As for ``arun``.
        cache: As for ``arun``.
        stop: As for ``arun``.
    """
    if isinstance(budget, str):
        budget = Budget.parse(budget)
    if not isinstance(budget, Budget | Ledger | None):
        raise OptionError(
            f"budget={budget!r:.100}; allowed is a Budget, its text such as 'calls=200,usd=2', an open ledger, or None"
        )
    if stop is not None and not isinstance(stop, threading.Event):
        raise OptionError(f"stop={stop!r:.100}; allowed is a threading.Event, or None")
    if (
        isinstance(budget, Budget | Ledger)
        and (budget if isinstance(budget, Budget) else budget.budget).usd is not None
    ):
        backends.refuse_unpriced()
    async with AsyncExitStack() as stack:
        journal = None if open_journal is None else open_journal(stack)
        if journal is not None:
            stack.push_async_exit(_closing(journal))
        ledger = None if budget is None else await opened_ledger(budget, journal)
        if ledger is not None and ledger is not budget:
            stack.push_async_callback(ledger.aclose)
        completions = None
        if cache is not False:
            from llmprog.runs.cache import CallCache

            if not isinstance(cache, bool | str | Path | CallCache):
                raise OptionError(f"cache={cache!r:.100}; allowed is True, False, a file, or an open CallCache")
            if isinstance(cache, CallCache):
                stack.push_async_callback(asyncio.to_thread, cache.flush)  # the next run finds what this one has put
            else:
                cache = stack.enter_context(CallCache(None if cache is True else cache))
            completions = cache.for_run(uuid4().hex if journal is None else journal.id)
        try:
            yield RunContext(journal=journal, ledger=ledger, cache=completions, stop=stop)
        except LLMProgError as error:
            if journal is not None and not isinstance(error, StoreError):
                partial = error.partial.to_json() if isinstance(error.partial, Result) else None
                await journal.finish("failed", {"error": redact(str(error)), "partial": partial})
            raise


def _closing(journal: RunJournal) -> Callable[..., Awaitable[None]]:
    async def close(_type: object, error: BaseException | None, _trace: object) -> None:
        try:
            await journal.aclose()
        except StoreError:
            if error is None:  # otherwise that one is what the caller wants: it has the result so far
                raise

    return close


async def opened_ledger(budget: Budget | Ledger, journal: RunJournal | None) -> Ledger:
    """What keeps to ``budget``, less what the earlier sessions of ``journal`` have spent."""
    if isinstance(budget, Ledger):
        return budget
    if budget.file is not None:
        from llmprog.runs.shared_ledger import open_ledger

        return await open_ledger(budget.file, budget, elapsed_s=0.0 if journal is None else journal.elapsed_s)
    if journal is None:
        return BudgetLedger(budget)
    return BudgetLedger(budget, journal.spent, journal.elapsed_s)


def _check_options(seed: int | None, max_in_flight: int, resume: str | None, fork: bool) -> None:
    if seed is not None and not isinstance(seed, int):
        raise OptionError(f"seed={seed!r}; allowed is a whole number, or None")
    if not is_whole(max_in_flight, 1):
        raise OptionError(f"max_in_flight={max_in_flight!r}; allowed is a whole number >= 1")
    if fork and resume is None:
        raise OptionError("fork=True without resume=; name the run to fork")


def run(
    program: Program,
    input: Any,  # noqa: A002 - the word users expect
    *,
    on_event: Callable[[Event], None] | None = None,
    on_interrupt: Callable[[], None] | None = None,
    progress: bool = False,
    **options: Any,
) -> Result:
    """``arun`` for callers without an event loop, and for notebooks, whose loop is already running.

    Args:
        program: What to run.
        input: What the program's ``start`` takes.
        on_event: As for ``arun``.
        on_interrupt: Called at the first Ctrl-C, which otherwise cancels the run; ``stop.set`` has it come to its end.
        progress: As for ``arun``.
        options: As for ``arun``.
    """
    check_choice(progress)
    # Shown by this thread, which Ctrl-C interrupts: it gives the terminal back even where a node does not let go.
    with run_display(program, on_event, enabled=progress) as observe:
        return run_sync(arun(program, input, on_event=observe, **options), on_interrupt)
