"""Jobs that were stopped: what they go on with, what is not paid for again, and which are another job."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from asking_sums import Recorder, answering, collected, one_in_three_fails, questions, vote, without_recall

from llmprog import Budget, amap
from llmprog.backends import ScriptedBackend
from llmprog.errors import (
    OptionError,
    ProgramChangedError,
    StoreError,
)
from llmprog.exports import export


async def interrupted(store, num_rows, *, backend=None, **options):
    """A job of 40 rows of which about ``num_rows`` were done when somebody stopped it."""
    job = amap(vote(), questions(40), gold="sum", backend=backend or Recorder(), store=store, concurrency=4, **options)
    done = 0
    async for _ in job:
        done += 1
        if done == num_rows:
            job.stop()
    return job


async def test_a_job_that_was_stopped_is_gone_on_with_and_pays_for_nothing_twice(store):
    undisturbed = await collected(amap(vote(), questions(40), gold="sum", backend=Recorder(), seed=3))
    backend = Recorder()
    job = await interrupted(store, 11, backend=backend, seed=3)
    assert job.stopped == "interrupted"
    assert 11 <= job.progress.num_rows <= 19
    before = backend.asked.copy()
    again = amap(vote(), questions(40), gold="sum", backend=backend, store=store, resume=job.progress.run_id)
    results = await collected(again)
    assert again.stopped == "finished"
    assert without_recall(results) == without_recall(undisturbed)
    assert sum(result.is_recalled for result in results) == job.progress.num_rows
    assert set(backend.asked.values()) == {1}
    assert len(before) < len(backend.asked) == 120
    assert again.progress.usage.calls == 120
    assert again.unasked == 0
    with store.open(job.progress.run_id) as run:
        assert run.status == "finished"
        assert run.counts().rows == 40
        assert run.result["correct"] == 40


async def test_right_answers_that_json_has_no_form_for_are_kept(store):
    rows = [row | {"sum": Fraction(row["sum"])} for row in questions(3)]
    job = amap(vote(), rows, gold="sum", backend=Recorder(), store=store)
    results = await collected(job)
    assert [result.correct for result in results] == [True] * 3
    again = amap(vote(), rows, gold="sum", backend=Recorder(), store=store, resume=job.progress.run_id)
    assert without_recall(await collected(again)) == without_recall(results)
    with store.open(job.progress.run_id) as run:
        assert sorted(json.loads(line)["gold"] for line in export(run, "jsonl") if b'"type": "row"' in line) == [
            "1",
            "3",
            "5",
        ]


async def test_rows_that_failed_are_tried_again_and_only_those(store):
    backend = Recorder(fails=one_in_three_fails)
    job = amap(vote(), questions(9), backend=backend, store=store)
    await collected(job)
    assert (job.stopped, job.progress.num_failed) == ("finished", 3)
    backend = Recorder()
    again = amap(vote(), questions(9), backend=backend, store=store, resume=job.progress.run_id)
    results = await collected(again)
    assert all(result.error is None for result in results)
    assert {prompt.rsplit("Question: ", 1)[1] for prompt, _ in backend.asked} == {
        "0 plus 1",
        "3 plus 4",
        "6 plus 7",
    }
    assert again.progress.run_id == job.progress.run_id


async def test_of_rows_that_changed_only_the_changed_are_worked_on(store):
    rows = questions(9)
    job = amap(vote(), rows, backend=Recorder(), store=store)
    await collected(job)
    rows[4] = {"question": "100 plus 1", "sum": 101}
    rows.append({"question": "200 plus 1", "sum": 201})
    backend = Recorder()
    results = await collected(
        amap(vote(), rows, backend=backend, store=store, resume=job.progress.run_id, in_order=True)
    )
    assert [result.answer for result in results if not result.is_recalled] == ["101", "201"]
    assert len(backend.asked) == 6


async def test_a_row_that_was_cut_short_goes_on_with_the_calls_it_had(store):
    budget = amap(vote(num_samples=7), questions(3), backend=Recorder(), store=store, budget="calls=10", concurrency=1)
    done = await collected(budget)
    assert [result.index for result in done] == [0]
    assert budget.stopped == "budget"
    assert "calls: 10 of 10" in budget.shortfall
    backend = Recorder()
    again = amap(
        vote(num_samples=7),
        questions(3),
        backend=backend,
        store=store,
        budget=Budget(calls=21),
        resume=budget.progress.run_id,
        in_order=True,
    )
    results = await collected(again)
    assert [result.answer for result in results] == ["1", "3", "5"]
    assert again.stopped == "finished"
    assert len(backend.asked) == 11
    assert again.progress.usage.calls == 21


async def test_a_budget_is_the_jobs_not_each_rows(store):
    job = amap(vote(), questions(40), backend=Recorder(), store=store, budget=Budget(calls=30))
    results = await collected(job)
    assert job.stopped == "budget"
    assert len(results) <= 10
    assert job.progress.usage.calls == 30


async def test_a_program_that_was_edited_goes_on_only_as_a_fork(store):
    job = await interrupted(store, 10)
    run_id = job.progress.run_id
    with pytest.raises(ProgramChangedError, match="temperature"):
        await collected(
            amap(vote(temperature=0.9), questions(40), gold="sum", backend=Recorder(), store=store, resume=run_id)
        )
    backend = Recorder()
    fork = amap(vote(num_samples=5), questions(40), gold="sum", backend=backend, store=store, resume=run_id, fork=True)
    results = await collected(fork)
    assert len(results) == 40
    assert {result.votes[0][1] for result in results} == {5}
    assert fork.progress.run_id != run_id
    assert len(backend.asked) == 200 - job.progress.usage.calls


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [({"input": "{question}"}, "begun with input="), ({"gold": None}, "begun with input="), ({"seed": 99}, "seed=")],
)
async def test_what_makes_it_another_job_is_told(store, changed, complaint):
    job = await interrupted(store, 5, seed=1)
    options = {"gold": "sum", "seed": 1, **changed}
    with pytest.raises(OptionError, match=complaint):
        await collected(
            amap(vote(), questions(40), backend=Recorder(), store=store, resume=job.progress.run_id, **options)
        )


async def test_in_order_a_job_that_was_stopped_has_given_the_first_rows(store):
    job = await interrupted(store, 7, in_order=True)
    backend = Recorder()
    results = await collected(
        amap(
            vote(),
            questions(40),
            gold="sum",
            backend=backend,
            store=store,
            resume=job.progress.run_id,
            in_order=True,
        )
    )
    assert [result.index for result in results] == list(range(40))
    assert len(backend.asked) == 120 - job.progress.usage.calls


@pytest.mark.fault("concurrency", "two processes resume one job", "the second is refused by name of the owner")
async def test_a_job_has_one_owner(store):
    backend = ScriptedBackend(answering, latency_s=0.005)
    job = amap(vote(), questions(40), backend=backend, store=store, concurrency=2)
    results = job.results()
    await anext(results)
    with pytest.raises(StoreError, match=job.progress.run_id):
        await collected(amap(vote(), questions(40), backend=backend, store=store, resume=job.progress.run_id))
    await results.aclose()
