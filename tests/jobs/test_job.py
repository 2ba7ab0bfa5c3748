"""Jobs in Python: what rows come to, what goes wrong, what ends a job."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from asking_sums import Recorder, answering, collected, one_in_three_fails, questions, until_error, vote, without_recall

from llmprog import Program, amap, generator, map, open_store  # noqa: A004 - it maps a program over rows
from llmprog.backends import ScriptedBackend
from llmprog.errors import (
    AuthenticationError,
    BackendError,
    ConnectionFailedError,
    InputError,
    LLMProgError,
    OptionError,
    QuotaError,
)
from llmprog.search import BestOfN
from llmprog.types import Usage


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
    are_four = asyncio.Event()

    class Counting(ScriptedBackend):
        async def generate(self, request):
            nonlocal most
            most = max(most, self.num_in_flight + 1)
            if most == 4:
                are_four.set()
            self.num_in_flight += 1
            await asyncio.wait_for(are_four.wait(), 60)  # however slowly rows are begun
            self.num_in_flight -= 1
            return await super().generate(request)

    backend = Counting(answering, latency_s=0.001)
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
        ({"budget": 3}, "budget=3; allowed is a Budget"),
        ({"input": 5}, "input=5; allowed is a column's name"),
        ({"gold": 5}, "gold=5; allowed is a column's name"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_is_paid(options, complaint, tmp_path):
    backend = Recorder()
    with pytest.raises(OptionError, match=complaint):
        map(vote(), questions(3), backend=backend, store=tmp_path, **options)
    assert not backend.requests
    assert not list(tmp_path.iterdir())


class Table(list):
    """Gives the names of its columns where it is iterated over, as tables of pandas do."""

    def itertuples(self):
        return iter([("1 plus 2",)])


@pytest.mark.parametrize("rows", ["data.jsonl", b"1 plus 2", {"question": "1 plus 2"}, None, 5, Table(["question"])])
def test_rows_that_are_no_rows_are_refused(rows):
    with pytest.raises(OptionError, match=r"allowed is an iterable of rows: .*to_dict\('records'\)"):
        map(vote(), rows, backend=Recorder())


def test_a_right_answer_that_cannot_be_compared_fails_its_row_alone(tmp_path):
    rows = questions(3)
    rows[1]["sum"], rows[0]["sum"], rows[2]["sum"] = 3, "1", "6"
    programs = vote(num_samples=2)
    programs = replace(programs, controller=replace(programs.controller, canonical=str.strip))
    results = map(programs, rows, gold="sum", backend=Recorder(), store=tmp_path)
    assert [result.correct for result in results] == [True, None, False]
    assert "canonical" in results[1].error.message
    assert "for 3" in results[1].error.message
    assert results[1].usage.calls == 2


async def test_whoever_stops_reading_leaves_nothing_behind():
    backend = ScriptedBackend(answering, latency_s=0.01)
    job = amap(vote(), questions(1000), backend=backend)
    results = job.results()
    await anext(results)
    await results.aclose()
    assert job.stopped == "interrupted"
    assert backend.num_in_flight == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_its_time_counts_from_when_it_is_begun_not_from_when_it_is_made():
    job = amap(vote(), questions(2), backend=Recorder(), seed=1)
    job.progress.clock = lambda: job.progress.num_rows + 7000.0
    await collected(job)
    assert job.progress.session_s == 2
    assert job.progress.rows_per_s == 1
    assert job.progress.to_json()["wall_s"] == 2


async def test_rows_that_refuse_to_tell_how_many_they_are_are_worked_on():
    class Unsized:
        def __len__(self):
            raise TypeError("this kind of rows has no length")

        def __iter__(self):
            return iter(questions(2))

    job = amap(vote(), Unsized(), backend=Recorder(), seed=1)
    assert job.progress.total is None
    assert len(await collected(job)) == 2


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
