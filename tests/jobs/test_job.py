"""Jobs in Python: what rows come to, what ends a job, and what a resumed one does not pay for again."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from llmprog import Budget, Program, amap, generator, map, open_store  # noqa: A004 - it maps a program over rows
from llmprog.backends import ScriptedBackend
from llmprog.errors import (
    AuthenticationError,
    BackendError,
    ConnectionFailedError,
    InputError,
    LLMProgError,
    OptionError,
    ProgramChangedError,
    QuotaError,
    StoreError,
)
from llmprog.programs.self_consistency import self_consistency
from llmprog.search import BestOfN
from llmprog.types import Usage


def sum_of(prompt):
    """The right answer to the rows' questions, ``a plus b``."""
    words = prompt.rsplit("Question: ", 1)[1].split()
    return str(int(words[0]) + int(words[2]))


def questions(count):
    return [{"question": f"{n} plus {n + 1}", "sum": 2 * n + 1} for n in range(count)]


def answering(prompt, sample):
    return f"Answer: {sum_of(prompt)}"


def vote(**settings):
    return self_consistency(**{"num_samples": 3, **settings})


class Recorder(ScriptedBackend):
    """Counts what it is asked; ``fails`` may raise for a prompt."""

    def __init__(self, script=answering, fails=lambda prompt: None, **options):
        super().__init__(script, **options)
        self.asked = Counter()
        self.fails = fails

    async def generate(self, request):
        for sample in range(request.num_samples):
            self.asked[request.prompt.text, request.first_sample + sample] += 1
        self.fails(request.prompt.text)
        return await super().generate(request)


async def collected(job):
    return [result async for result in job]


async def until_error(job, kind):
    """The results that a job gives until it ends with an error of this kind, and the error."""
    results = []
    try:
        async for result in job:
            results.append(result)  # noqa: PERF401 - what came before the error is wanted
    except kind as error:
        return results, error
    raise AssertionError(f"the job ended without {kind.__name__}")


def without_recall(results):
    return [json.dumps(result.to_json()) for result in sorted(results, key=lambda result: result.index)]


def test_every_row_has_a_result_in_order():
    results = map(vote(), questions(30), gold="sum", backend=Recorder(shuffle=1), seed=1)
    assert [result.index for result in results] == list(range(30))
    assert [result.answer for result in results] == [str(2 * n + 1) for n in range(30)]
    assert all(result.correct and result.solved and result.error is None for result in results)
    assert results[3].votes == (("7", 3),)
    assert results[3].row == {"question": "3 plus 4", "sum": 7}
    assert results[3].confidence == pytest.approx(0.9375)
    assert results[3].usage.calls == 3


def test_rows_have_seeds_of_their_own_that_the_jobs_seed_repeats():
    first, again, other = (
        map(vote(), questions(4), backend=Recorder(shuffle=shuffle), seed=seed)
        for shuffle, seed in ((1, 5), (2, 5), (1, 6))
    )
    assert without_recall(first) == without_recall(again)
    assert len({result.seed for result in (*first, *other)}) == 8


@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        ("1/2", "0.5", True),
        ("$1,000", 1000, True),
        ("The  Hague", "the hague", True),
        ("0.1", 0.1, True),
        ("3", 4, False),
        ("no number", 4, False),
        ("3", None, None),
        ("3", "", None),
    ],
)
def test_answers_are_held_against_the_right_ones_in_canonical_form(answer, gold, correct):
    rows = [{"question": "?", "gold": gold}]
    backend = ScriptedBackend(lambda prompt, sample: f"Answer: {answer}")
    (result,) = map(vote(), rows, gold="gold", backend=backend)
    assert result.correct is correct


def test_a_row_without_an_answer_is_not_correct():
    (result,) = map(vote(), questions(1), gold="sum", backend=ScriptedBackend(lambda prompt, sample: "hm"))
    assert (result.answer, result.solved, result.correct, result.error) == (None, False, False, None)


async def test_texts_and_async_rows_are_rows():
    async def rows():
        for n in range(3):
            yield f"{n} plus 1"

    results = await collected(amap(vote(), rows(), backend=Recorder(), in_order=True))
    assert [(result.row, result.answer) for result in results] == [
        ({"input": f"{n} plus 1"}, str(n + 1)) for n in range(3)
    ]


async def test_rows_are_taken_no_sooner_than_they_are_needed():
    taken = 0

    def rows():
        nonlocal taken
        for n in range(10**9):
            taken += 1
            yield f"{n} plus 1"

    job = amap(vote(), rows(), backend=Recorder(), concurrency=3)
    results = job.results()
    for _ in range(10):
        await anext(results)
    await asyncio.sleep(0.05)  # a slow reader: what is in flight ends meanwhile
    assert taken <= 10 + 3 + 3 + 1 + 3  # taken, waiting to be taken, at work, looked at, and waiting to be handed on
    await results.aclose()


async def test_no_more_than_concurrency_rows_are_worked_on():
    most = 0

    def script(prompt, sample):
        nonlocal most
        most = max(most, backend.num_in_flight)
        return answering(prompt, sample)

    backend = ScriptedBackend(script, latency_s=0.001)
    await collected(amap(vote(num_samples=1), questions(30), backend=backend, concurrency=4))
    assert most == 4


async def test_in_order_one_slow_row_does_not_gather_all_others():
    taken = 0
    release = asyncio.Event()

    class SlowFirst(ScriptedBackend):
        async def generate(self, request):
            if "Question: 0 plus" in request.prompt.text:
                await release.wait()
            return await super().generate(request)

    def rows():
        nonlocal taken
        for n in range(1000):
            taken += 1
            yield f"{n} plus 1"

    results = amap(vote(num_samples=1), rows(), backend=SlowFirst(answering), concurrency=5, in_order=True).results()
    first = asyncio.create_task(anext(results))
    await asyncio.sleep(0.1)
    assert taken <= 4 * 5 + 1
    release.set()
    assert (await first).index == 0
    assert [result.index async for result in results] == list(range(1, 1000))


# ---------------------------------------------------------------------------------------------------- what goes wrong


def one_in_three_fails(prompt):
    if int(prompt.rsplit("Question: ", 1)[1].split()[0]) % 3 == 0:
        raise BackendError("this one is too much", backend="test", status=400)


def test_a_row_that_fails_is_a_result_and_the_others_go_on():
    results = map(vote(), questions(9), gold="sum", backend=Recorder(fails=one_in_three_fails))
    assert [result.error is not None for result in results] == [n % 3 == 0 for n in range(9)]
    assert results[0].error.type == "BackendError"
    assert "this one is too much" in results[0].error.message
    assert (results[0].answer, results[0].correct, results[0].stopped) == (None, None, "error")


def test_a_row_that_cannot_be_used_is_a_result():
    results = map(vote(), [{"question": "1 plus 1"}, {"other": 1}, 7, {"question": ""}], backend=Recorder())
    assert [result.error and result.error.type for result in results] == [
        None,
        "InputError",
        "InputError",
        "InputError",
    ]
    assert "no column 'question'" in results[1].error.message
    assert results[1].row == {"other": 1}
    assert results[2].row is None


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("no key", backend="test", status=401),
        QuotaError("spent", backend="test"),
        BackendError("no such model", backend="test", status=404),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.fault("provider", "401, spent quota or 404 in a job", "the job ends at once; rows that are done stay")
async def test_what_is_wrong_for_all_rows_ends_the_job(error, tmp_path):
    def fails(prompt):
        if "Question: 20 plus" in prompt:
            raise error

    backend = Recorder(fails=fails)
    job = amap(vote(), questions(1000), backend=backend, concurrency=4, store=tmp_path)
    done, raised = await until_error(job, type(error))
    assert raised is error
    assert job.stopped == "error"
    assert {result.index for result in done} >= set(range(20))
    assert len(done) < 100  # of 1,000: those that were under way when the error came
    assert len(backend.requests) < 100
    with open_store(tmp_path).open(job.progress.run_id) as run:
        assert run.status == "failed"
        assert "no key" in str(run.result) or "spent" in str(run.result) or "no such model" in str(run.result)


@pytest.mark.fault("network", "an endpoint that is gone for good, in a job", "the job ends after ten rows in a row")
async def test_an_endpoint_that_fails_row_after_row_ends_the_job(tmp_path):
    def fails(prompt):
        if int(prompt.rsplit("Question: ", 1)[1].split()[0]) >= 15:
            raise ConnectionFailedError("refused", backend="test", retryable=True)

    job = amap(vote(), questions(1000), backend=Recorder(fails=fails), concurrency=1, store=tmp_path)
    done, _ = await until_error(job, ConnectionFailedError)
    assert [result.error is None for result in done] == [True] * 15 + [False] * 9
    again = amap(vote(), questions(30), backend=Recorder(), store=tmp_path, resume=job.progress.run_id)
    healed = await collected(again)
    assert all(result.error is None for result in healed)


async def test_an_error_of_the_data_ends_the_job_after_the_rows_before_it():
    def rows():
        yield from questions(5)
        raise InputError("the data is cut")

    job = amap(vote(), rows(), backend=Recorder())
    done, error = await until_error(job, InputError)
    assert "the data is cut" in str(error)
    assert sorted(result.index for result in done) == list(range(5))
    assert job.num_rows is None


@pytest.mark.fault("concurrency", "a node of one row raises CancelledError", "the job ends with an error, not never")
async def test_a_row_that_cancels_itself_ends_the_job():
    def fails(prompt):
        if "Question: 3 plus" in prompt:
            raise asyncio.CancelledError

    job = amap(vote(), questions(20), backend=Recorder(fails=fails), concurrency=2)
    done, error = await until_error(job, LLMProgError)
    assert "cancelled from within" in str(error)
    assert len(done) < 20


async def test_a_job_that_is_cancelled_leaves_nothing_behind(tmp_path):
    asked = asyncio.Event()
    backend = Recorder(fails=lambda prompt: asked.set(), latency_s=10)
    job = amap(vote(), questions(100), backend=backend, store=tmp_path)
    task = asyncio.create_task(collected(job))
    await asked.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert backend.num_in_flight == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with open_store(tmp_path).open(job.progress.run_id) as run:
        assert run.status == "interrupted"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": 2.5}, "concurrency=2.5"),
        ({"seed": "x"}, "seed='x'"),
        ({"executor": "magic"}, "unknown executor 'magic'"),
        ({"input": "{question"}, "template"),
        ({"input": "nope"}, "no column 'nope'; columns: question, sum"),
        ({"gold": "nope"}, "no column 'nope'"),
        ({"fork": True}, "fork=True without resume="),
        ({"budget": "cals=3"}, "cals"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_is_paid(options, complaint, tmp_path):
    backend = Recorder()
    with pytest.raises(OptionError, match=complaint):
        map(vote(), questions(3), backend=backend, store=tmp_path, **options)
    assert not backend.requests
    assert not list(tmp_path.iterdir())


def test_rows_that_are_one_text_are_refused():
    with pytest.raises(OptionError, match="allowed is an iterable of rows"):
        map(vote(), "data.jsonl", backend=Recorder())


async def test_whoever_stops_reading_leaves_nothing_behind():
    backend = ScriptedBackend(answering, latency_s=0.01)
    results = amap(vote(), questions(100), backend=backend).results()
    await anext(results)
    await results.aclose()
    assert backend.num_in_flight == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


# ---------------------------------------------------------------------------------------------------- going on


@pytest.fixture(params=["directory", "memory"])
def store(request, tmp_path):
    made = open_store(tmp_path / "runs" if request.param == "directory" else "memory")
    yield made
    made.close()


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


async def test_without_a_store_a_stopped_job_finishes_the_rows_it_has_begun():
    backend = Recorder(latency_s=0.002)
    job = amap(vote(), questions(40), backend=backend, concurrency=4)
    results = []
    async for result in job:
        results.append(result)
        job.stop()
    assert job.stopped == "interrupted"
    assert 4 <= len(results) <= 9
    assert sum(backend.asked.values()) == 3 * len(results)


@pytest.mark.fault("concurrency", "two processes resume one job", "the second is refused by name of the owner")
async def test_a_job_has_one_owner(store):
    backend = ScriptedBackend(answering, latency_s=0.005)
    job = amap(vote(), questions(40), backend=backend, store=store, concurrency=2)
    results = job.results()
    await anext(results)
    with pytest.raises(StoreError, match=job.progress.run_id):
        await collected(amap(vote(), questions(40), backend=backend, store=store, resume=job.progress.run_id))
    await results.aclose()


async def test_progress_is_told_after_every_row(store):
    told = []

    def tell(progress):
        told.append((progress.num_rows, progress.num_correct, progress.usage))

    begun = []
    job = amap(
        vote(),
        questions(5),
        gold="sum",
        backend=Recorder(),
        store=store,
        concurrency=1,
        on_progress=tell,
        on_begin=lambda progress: begun.append(progress.run_id),
    )
    await collected(job)
    assert [rows for rows, _, _ in told] == [1, 2, 3, 4, 5]
    assert [correct for _, correct, _ in told] == [1, 2, 3, 4, 5]
    assert told[-1][2].calls == 15
    assert begun == [job.progress.run_id]


def test_a_program_of_plain_python_needs_no_backend():
    @generator
    def double(state: int) -> list[int]:
        return [state * 2]

    program = Program(start=int, generators=[double], controller=BestOfN(num_samples=1), name="double")
    results = map(program, [{"n": 3}, {"n": "x"}])
    assert results[0].answer == "6"
    assert results[0].usage == Usage()
    assert "invalid literal" in results[1].error.message
