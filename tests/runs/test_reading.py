"""What is read of a run besides its calls, in every store: what went wrong, which searches it holds, its size."""

from __future__ import annotations

import asyncio

import pytest

from llmprog.errors import BackendError
from llmprog.runs.info import RunInfo
from llmprog.runs.store import open_store
from llmprog.types import Prompt, Request, Usage

INFO = RunInfo(kind="map", program="p", program_hash="h", program_text="t", input=None, config={})


def written(store, work):
    async def write():
        journal = store.create(INFO)
        await work(journal)
        await journal.aclose()
        return journal.id

    return store.open(asyncio.run(write()))


def test_errors_that_differ_in_numbers_only_are_one_kind(store):
    async def work(journal):
        calls = journal.at("")
        for number in range(5):
            call = await calls.send("n", "b", Request(prompt=Prompt.from_text(f"q{number}")), Usage(1))
            error = BackendError(f"busy for {number}.5 s", backend="b", status=429)
            calls.note_attempt(call, error, 0.1)
            await calls.fail(call, error if number else BackendError("it is gone", backend="b"), Usage(), 0.5)
        unneeded = await calls.send("n", "b", Request(prompt=Prompt.from_text("q9")), Usage(1))
        await calls.fail(unneeded, asyncio.CancelledError(), Usage(1), 0.5)

    with written(store, work) as run:
        *failures, cancelled = run.failures()
    assert cancelled.is_cancelled
    assert not any(failure.is_cancelled for failure in failures)
    found = [(failure.of, failure.count, failure.error) for failure in failures]
    assert found == [
        ("attempt", 5, "BackendError: backend 'b': busy for 0.5 s"),
        ("call", 4, "BackendError: backend 'b': busy for 1.5 s"),
        ("call", 1, "BackendError: backend 'b': it is gone"),
    ]


def test_searches_are_listed_by_row_and_those_within_after_them(store):
    async def work(journal):
        for path in ("10", "2", "2/solve", "2/ask", "10/ask", "0", "2"):
            journal.event(path, "began", {"has_goal": False})

    with written(store, work) as run:
        assert run.paths() == ["0", "2", "2/ask", "2/solve", "10", "10/ask"]
        assert len(list(run.events("2"))) == 2


def test_the_size_of_a_run_is_told_where_it_has_one(store):
    async def work(journal):
        journal.event("", "began", "x" * 10)

    with written(store, work) as run:
        size = store.size_bytes(run.id)
    assert size is None or size > 4096


@pytest.mark.parametrize(
    "statement", ["UPDATE run SET status = 'finished'", "DELETE FROM event", "CREATE TABLE more (number INTEGER)"]
)
def test_what_a_run_is_read_through_cannot_write(where, statement):
    async def work(journal):
        journal.event("", "began", {})

    store = open_store(where)
    try:
        with written(store, work) as run:
            with pytest.raises(Exception, match=r"read-?only") as refused:
                run.reader().execute(statement)
            assert type(refused.value).__name__ in ("OperationalError", "ReadOnlySqlTransaction")
            assert [event.kind for event in run.events()] == ["began"]
    finally:
        store.close()
