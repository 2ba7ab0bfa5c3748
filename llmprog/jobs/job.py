"""One program over many rows: ``llmprog.map`` and ``llmprog.amap``."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sized
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from llmprog.background_loop import run_sync
from llmprog.compile import compile_program
from llmprog.display import check_choice
from llmprog.errors import InputError, OptionError
from llmprog.jobs.executor import Executor, LocalExecutor
from llmprog.jobs.inputs import InputOf
from llmprog.jobs.progress import JobProgress
from llmprog.jobs.ray.options import RayOptions, refuse_without_ray
from llmprog.jobs.result import RowResult
from llmprog.jobs.rows import Row, rows_of
from llmprog.jobs.session import Session
from llmprog.program import Program
from llmprog.runner import BudgetChoice, CacheChoice, StoreChoice, opened_context
from llmprog.running.chosen_backends import BackendChoice, ChosenBackends
from llmprog.running.execution import RunContext
from llmprog.search.controller import is_whole

if TYPE_CHECKING:
    from llmprog.runs.journal import RunJournal
    from llmprog.runs.store import RunStore

ExecutorChoice: TypeAlias = str | RayOptions

DEFAULT_CONCURRENCY = 64
"""Rows worked on at once: with a few calls under way for each, enough to keep an endpoint busy."""

_LOOKED_AT = 1000  # rows, at most, in search of the first that can be read


class Job:
    """Runs a program on every row, and is iterated over for the results: ``async for result in amap(program, rows)``.

    What one row's run raises is part of that row's result. What concerns all rows (an endpoint that is down, a key that
    is not accepted, a store that cannot be written) ends the job, after the rows in flight. With a store, everything is
    kept as it comes, and a job that ended early is gone on with where it was.

    Args:
        program: What to run.
        rows: Mappings by column name, or texts (a column ``input``); taken one by one, as they are needed.
        backend: As for ``arun``.
        input: What of a row the program is run on: a column's name (its value is handed over as it is), or a template
            over columns such as ``"{question}"``. By default the only column, else the one called ``input``,
            ``question``, ``puzzle`` or ``prompt``.
        gold: The column that holds the right answer, which answers are then held against.
        seed: Repeats the job; each row's run gets a seed of its own from it. Drawn at random if not given.
        concurrency: Rows worked on at once; by default 64.
        budget: The most the whole job may spend, as for ``arun``.
        store: Where calls and finished rows are kept, as for ``arun``; by default nowhere.
        resume: Id of an earlier job in the store to go on with: rows that have a result keep it, rows that failed are
            tried again. Rows that have changed are worked on anew.
        fork: Resume a job whose program was edited since, as a new one that takes over the calls that still fit.
        cache: As for ``arun``.
        in_order: Have results come in the order of the rows instead of that in which they are done.
        max_in_flight: Actions that the search of one row may have under way at once.
        executor: Where rows are worked on: ``local`` is this process, ``ray`` the processes of a Ray on this machine, a
            ``RayOptions`` those of any Ray cluster.
        on_begin: Called with the attribute ``progress`` once the job's store and budget are open, before any row is
            worked on; an error that it raises ends the job.
        key: Finds the job again in its store; two commands that are the same job have the same.
        labels: JSON values that are kept with the job.
        on_progress: Called with the attribute ``progress`` after every row; it must not block.
        progress: Show how far the job is, as for ``arun``.

    Attributes:
        progress: How far the job has come; brought up to date all the time.
        stopped: Why it ended: ``finished``, ``budget``, ``interrupted`` or ``error``; ``None`` until it has.
        shortfall: Which limit of the budget ended it, and how much of that was spent.
        num_rows: How many rows there are, once all have been read.
        unasked: Calls that earlier sessions had settled and that nobody asked for again: where data and program are
            the same, a sign of a program that does not do the same with the same seed.
    """

    def __init__(
        self,
        program: Program,
        rows: Iterable[Any] | AsyncIterable[Any],
        *,
        backend: BackendChoice | None = None,
        input: str | None = None,  # noqa: A002 - the word users expect
        gold: str | None = None,
        seed: int | None = None,
        concurrency: int | None = None,
        budget: BudgetChoice | None = None,
        store: StoreChoice | None = None,
        resume: str | None = None,
        fork: bool = False,
        cache: CacheChoice = False,
        in_order: bool = False,
        max_in_flight: int = 1024,
        executor: ExecutorChoice = "local",
        key: str | None = None,
        labels: Mapping[str, Any] | None = None,
        on_begin: Callable[[JobProgress], None] | None = None,
        on_progress: Callable[[JobProgress], None] | None = None,
        progress: bool = False,
    ) -> None:
        if seed is not None and not isinstance(seed, int):
            raise OptionError(f"seed={seed!r}; allowed is a whole number, or None")
        concurrency = DEFAULT_CONCURRENCY if concurrency is None else concurrency
        for name, value in (("concurrency", concurrency), ("max_in_flight", max_in_flight)):
            if not is_whole(value, 1):
                raise OptionError(f"{name}={value!r}; allowed is a whole number >= 1")
        if fork and resume is None:
            raise OptionError("fork=True without resume=; name the job to fork")
        if executor == "ray":
            executor = RayOptions()
        if not isinstance(executor, RayOptions) and executor != "local":
            raise OptionError.unknown("executor", str(executor), ["local", "ray"])
        if isinstance(executor, RayOptions):
            refuse_without_ray()
        if not _are_rows(rows):
            raise OptionError(
                f"rows={rows!r:.100}; allowed is an iterable of rows: mappings by column name, or texts; "
                "of a table of pandas, table.to_dict('records')"
            )
        check_choice(progress)
        self.compiled = compile_program(program)
        self.progress = JobProgress(total=_length_of(rows))
        self.stopped: str | None = None
        self.shortfall: str | None = None
        self.num_rows: int | None = None
        self.unasked = 0
        self._rows = rows
        self._given_input = input
        self._inputs = InputOf(input, gold=gold)
        self._backend = backend
        self._seed = seed
        self._concurrency = concurrency
        self._budget = budget
        self._store = store
        self._resume = resume
        self._fork = fork
        self._cache = cache
        self._in_order = in_order
        self._max_in_flight = max_in_flight
        self._executor = executor
        self._key = key
        self._labels = labels or {}
        self.on_begin = on_begin
        self._on_progress = on_progress
        self._is_shown = progress
        self._stop = threading.Event()

    def __aiter__(self) -> AsyncIterator[RowResult]:
        return self.results()

    def stop(self) -> None:
        """Begin no further row. Rows in flight take in the calls they have under way, which are paid for.

        With a store these rows are gone on with when the job is resumed; without one they run to their ends.
        """
        self._stop.set()

    async def results(self) -> AsyncGenerator[RowResult]:
        """The rows' results; those of earlier sessions among them, as recalled.

        Raises:
            OptionError: The input cannot be told from the columns, or the job to resume was another.
            InputError: The data cannot be read to its end.
            BackendError: No row can be worked on.
            StoreError: The job cannot be kept.
        """
        self.progress.begin()  # the job may have been made long before
        backends = ChosenBackends(self.compiled, self._backend)
        rows = await self._resolved(rows_of(self._rows))
        with ExitStack() as stack:
            if self._is_shown:
                from llmprog.jobs.display import job_display

                stack.enter_context(job_display(self.progress, name=self.compiled.name))
            store = self._opened_store(stack)
            seed, open_journal = self._job_seed(store), None
            if store is not None:
                from llmprog.running.run_records import describe_run, journal_opener

                info = describe_run(
                    self.compiled,
                    kind="map",
                    input={"input": self._given_input, "gold": self._inputs.gold},
                    config={"backend": backends.label, "max_in_flight": self._max_in_flight, "seed": seed},
                    labels=self._labels,
                    key=self._key,
                )
                open_journal = journal_opener(store, info, resume=self._resume, fork=self._fork)
            async with (
                opened_context(
                    backends,
                    open_journal,
                    budget=self._budget,
                    cache=self._cache,
                    stop=None if store is None else self._stop,  # without a store, what a row has spent would be lost
                ) as context,
                self._opened_executor(backends, context) as executor,
                aclosing(self._session(rows, executor, context, seed)) as results,
            ):
                async for result in results:
                    yield result

    @asynccontextmanager
    async def _opened_executor(
        self, backends: ChosenBackends, context: RunContext[RunJournal]
    ) -> AsyncIterator[Executor]:
        if not isinstance(self._executor, RayOptions):
            yield LocalExecutor(
                self.compiled,
                backends,
                context,
                max_in_flight=self._max_in_flight,
                on_event=self.progress.take_event,
            )
            return
        from llmprog.jobs.ray.executor import RayExecutor

        async with RayExecutor(
            self.compiled,
            self._backend,
            backends,
            context,
            options=self._executor,
            max_in_flight=self._max_in_flight,
            on_spent=self.progress.take_usage,
        ) as executor:
            yield executor

    def _opened_store(self, stack: ExitStack) -> RunStore | None:
        if self._store is None and self._resume is None:
            return None
        from llmprog.runs.store import default_store, open_store

        store = open_store(default_store() if self._store is None else self._store)
        if store is not self._store:
            stack.callback(store.close)
        return store

    async def _session(
        self, rows: AsyncIterator[Row], executor: Executor, context: RunContext[RunJournal], seed: int
    ) -> AsyncGenerator[RowResult]:
        journal, progress = context.journal, self.progress
        if journal is not None:
            progress.run_id, progress.is_resumed = journal.id, journal.is_resumed
            progress.usage, progress.earlier_s = journal.spent, journal.elapsed_s
        if self.on_begin is not None:
            self.on_begin(progress)
        session = Session(
            rows,
            self._inputs,
            executor,
            journal,
            seed=seed,
            concurrency=self._concurrency,
            in_order=self._in_order,
            stop=self._stop,
        )
        try:
            async with aclosing(session.results()) as results:
                async for result in results:
                    progress.take_row(result)
                    if self._on_progress is not None:
                        self._on_progress(progress)
                    yield result
        finally:
            self.stopped, self.num_rows = session.stopped, session.num_rows
            self.shortfall = context.ledger.exhausted if context.ledger is not None else None
            self.unasked = journal.unasked if journal is not None else 0
        if journal is not None:
            came_to = progress.to_json() | {"stopped": session.stopped, "shortfall": self.shortfall}
            await journal.finish("finished" if session.stopped == "finished" else "stopped", came_to)

    async def _resolved(self, rows: AsyncIterator[Row]) -> AsyncIterator[Row]:
        """The rows, after the first that can be read has shown which column is the input."""
        seen: list[Row] = []
        async for row in rows:
            seen.append(row)
            if row.fault is None:
                self._inputs.resolve(row.values)
                break
            if len(seen) == _LOOKED_AT:
                raise InputError(f"none of the first {_LOOKED_AT} rows can be read; the first: {seen[0].fault}")

        async def all_rows() -> AsyncIterator[Row]:
            for row in seen:
                yield row
            seen.clear()
            async for row in rows:
                yield row

        return all_rows()

    def _job_seed(self, store: RunStore | None) -> int:
        if self._seed is not None:
            return self._seed
        if self._resume is None or store is None:
            return random.SystemRandom().randrange(2**31)
        with store.open(self._resume) as run:
            seed: int = run.info.config["seed"]
            return seed


def _are_rows(rows: object) -> bool:
    if isinstance(rows, str | bytes | Mapping) or hasattr(rows, "itertuples"):  # that one gives its columns' names
        return False
    return isinstance(rows, Iterable | AsyncIterable) or hasattr(rows, "__getitem__")


def _length_of(rows: Iterable[Any] | AsyncIterable[Any]) -> int | None:
    """How many rows there are, where they can tell: some have a ``__len__`` that refuses."""
    try:
        return len(rows) if isinstance(rows, Sized) else None
    except TypeError:
        return None


amap = Job
"""A ``Job``, to be iterated over; called like a function, it reads as what it does."""


def map(  # noqa: A001 - it maps a program over rows
    program: Program, rows: Iterable[Any] | AsyncIterable[Any], *, progress: bool = False, **options: Any
) -> list[RowResult]:
    """``amap`` for callers without an event loop, and for notebooks: all results at once, in the order of the rows.

    Args:
        program: What to run.
        rows: As for ``amap``.
        progress: As for ``amap``.
        options: As for ``amap``.
    """
    check_choice(progress)
    job = Job(program, rows, **{"in_order": True, **options})

    async def collect() -> list[RowResult]:
        return [result async for result in job]

    if not progress:
        return run_sync(collect())
    from llmprog.jobs.display import job_display

    # Shown by this thread, which Ctrl-C interrupts.
    with job_display(job.progress, name=job.compiled.name):
        return run_sync(collect())
