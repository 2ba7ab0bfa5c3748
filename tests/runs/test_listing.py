"""Long lists of runs are read again only where something has changed; a store of each kind."""

from __future__ import annotations

import pytest

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.programs import arithmetic
from llmprog.runs.store import MemoryStore
from llmprog.viewer.run_list import RunList

BACKEND = ScriptedBackend(lambda prompt, sample: "Answer: 2")


def finished(store):
    return run(arithmetic(num_samples=2), "1 + 1", backend=BACKEND, store=store).run_id


@pytest.fixture
def run_list(store):
    seconds = iter(range(0, 1_000, 10))
    return RunList(store, clock=lambda: next(seconds))


@pytest.fixture
def looked_at(store, monkeypatch):
    """The ids of the runs that are read."""
    read = []
    glance, opened = store.glance, store.open

    def seen(read_run, run_id):
        read.append(run_id)
        return read_run(run_id)

    monkeypatch.setattr(store, "glance", lambda run_id: seen(glance, run_id))
    monkeypatch.setattr(store, "open", lambda run_id: seen(opened, run_id))
    return read


def shown(run_list):
    return [
        (row["id"], row["status"], row["usage"]["completion_tokens"])
        for row in run_list.page(query="", status="", program="", offset=0, limit=100)["runs"]
    ]


def test_a_run_that_ended_is_read_once(store, run_list, looked_at):
    if isinstance(store, MemoryStore):
        pytest.skip("what is in memory is not read from anywhere")
    ids = [finished(store) for _ in range(3)]
    first = shown(run_list)
    assert sorted(looked_at) == sorted(2 * ids)  # that it is there, and what it cost
    looked_at.clear()
    assert shown(run_list) == first
    assert looked_at == []
    ids.append(finished(store))
    assert {row[0] for row in shown(run_list)} == set(ids)
    assert set(looked_at) == {ids[-1]}
    store.delete(ids[0])
    assert {row[0] for row in shown(run_list)} == set(ids[1:])


async def test_a_run_that_goes_on_is_shown_as_it_is(store, info, run_list):
    journal = store.create(info)
    assert [row[1] for row in shown(run_list)] == ["running"]
    await journal.aclose()
    assert [row[1] for row in shown(run_list)] == ["interrupted"]
    journal = store.resume(journal.id)
    assert [row[1] for row in shown(run_list)] == ["running"]
    await journal.finish("finished", {"answer": 2})
    await journal.aclose()
    (row,) = run_list.page(query="", status="", program="", offset=0, limit=100)["runs"]
    assert (row["status"], row["answer"]) == ("finished", "2")


async def test_stamps_change_when_a_run_is_written_to(store, info):
    if isinstance(store, MemoryStore):
        pytest.skip("what is in memory is not read from anywhere")
    journal = store.create(info)
    run_id = journal.id
    await journal.finish("finished", {"answer": 2})
    await journal.aclose()
    before = store.stamps()
    assert list(before) == [run_id]
    assert store.stamps() == before
    store.glance(run_id)
    assert store.stamps() == before  # reading is not writing
    journal = store.resume(run_id)
    assert store.stamps()[run_id] != before[run_id]
    await journal.aclose()
