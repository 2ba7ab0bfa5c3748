"""What every run store promises: the same tests for memory, SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from llmprog.errors import ConnectionFailedError, RunLockedError, StoreError
from llmprog.types import (
    Completion,
    Logprobs,
    Prompt,
    Request,
    SamplingParams,
    Scoring,
    Usage,
)

PARAMS = SamplingParams(seed=3, max_tokens=100)
BOUND = Usage(1, 10, 100, 0.02)
COST = Usage(1, 10, 20, 0.01)


def ask(text="2 + 2?", *, num_samples=1, first_sample=0, params=PARAMS):
    return Request(prompt=Prompt.from_text(text), params=params, num_samples=num_samples, first_sample=first_sample)


def answers(*texts, usage=COST):
    return [Completion(text=text, usage=usage) for text in texts]


async def settled(journal, request, *texts, node="think", path="", bound=BOUND):
    calls = journal.at(path)
    call = await calls.send(node, "test:model", request, bound)
    await calls.settle(
        call, answers(*texts), Usage(len(texts), 10 * len(texts), 20 * len(texts), 0.01 * len(texts)), 0.5
    )
    return call


async def test_a_fresh_run_recalls_nothing(store, info):
    journal = store.create(info)
    await settled(journal, ask(), "four")
    assert journal.at("").recall("think", ask()) == {}
    assert journal.at("").recall_scores("think", Scoring(Prompt.from_text("a"), ("b",))) is None
    assert (journal.is_resumed, journal.spent, journal.num_unknown, journal.elapsed_s) == (False, Usage(), 0, 0.0)
    await journal.aclose()


async def test_what_settled_is_recalled_when_the_run_is_resumed(store, info):
    journal = store.create(info)
    await settled(journal, ask(), "four")
    await journal.aclose()
    journal = store.resume(journal.id)
    assert journal.is_resumed
    assert journal.info == info
    assert journal.spent == COST
    assert journal.unasked == 0  # nobody has opened the path yet
    calls = journal.at("")
    assert journal.unasked == 1
    assert calls.recall("think", ask()) == {0: answers("four")[0]}
    assert journal.unasked == 0
    await journal.aclose()


async def test_a_call_is_known_by_path_node_question_and_sample(store, info):
    journal = store.create(info)
    await settled(journal, ask(first_sample=3), "four", path="12")
    await journal.aclose()
    journal = store.resume(journal.id)
    same = ask(first_sample=3)
    calls = journal.at("12")
    assert list(calls.recall("think", same)) == [3]
    assert not journal.at("").recall("think", same)
    assert not journal.at("1").recall("think", same)
    assert not calls.recall("check", same)
    assert not calls.recall("think", ask("2 + 3?", first_sample=3))
    assert not calls.recall("think", replace(same, params=replace(PARAMS, seed=4)))
    assert not calls.recall("think", replace(same, first_sample=2))
    assert not calls.recall("think", replace(same, first_sample=4))
    await journal.aclose()


async def test_samples_never_collapse_and_missing_ones_are_told_apart(store, info):
    journal = store.create(info)
    await settled(journal, ask(num_samples=3), "a", "a", "b")
    await settled(journal, ask(num_samples=3, first_sample=3), "a", "c")  # asked for three, two came
    await settled(journal, ask(num_samples=1, first_sample=7), "d")
    await journal.aclose()
    journal = store.resume(journal.id)
    found = journal.at("").recall("think", ask(num_samples=8, first_sample=1))
    assert {sample: completion.text for sample, completion in found.items()} == {1: "a", 2: "b", 3: "a", 4: "c", 7: "d"}
    assert journal.unasked == 0
    await journal.aclose()


async def test_likelihoods_are_recalled(store, info):
    scoring = Scoring(Prompt.from_text("2 + 2 ="), (" 4", " 5"))
    scores = [
        Logprobs(tokens=(" 4",), logprobs=(-0.5,)),
        Logprobs(tokens=(" ", "5"), logprobs=(-math.inf, -1.0), is_bound=True),
    ]
    journal = store.create(info)
    calls = journal.at("")
    call = await calls.send("judge", "test:model", scoring, BOUND)
    await calls.settle(call, scores, COST, 0.1)
    await journal.aclose()
    journal = store.resume(journal.id)
    calls = journal.at("")
    assert calls.recall_scores("judge", scoring) == scores
    assert calls.recall_scores("judge", scoring) == scores  # a second asking gets the same
    assert calls.recall_scores("other", scoring) is None
    assert calls.recall_scores("judge", replace(scoring, continuations=(" 4",))) is None
    assert journal.unasked == 0
    await journal.aclose()
    with store.open(journal.id) as run:
        (record,) = run.calls()
    assert (record.question, list(record.scores), record.completions) == (scoring, scores, None)


async def test_a_session_adds_to_what_earlier_ones_left(store, info):
    journal = store.create(info)
    await settled(journal, ask("a"), "1")
    await journal.aclose()
    for number in range(3):
        journal = store.resume(journal.id)
        await settled(journal, ask(f"b{number}"), "2")
        journal.event("", "note", {"number": number})
        await journal.aclose()
    journal = store.resume(journal.id)
    calls = journal.at("")
    assert [len(calls.recall("think", ask(text))) for text in ("a", "b0", "b1", "b2", "b3")] == [1, 1, 1, 1, 0]
    await journal.aclose()
    with store.open(journal.id) as run:
        assert [record.id for record in run.calls()] == [1, 2, 3, 4]
        assert [(event.seq, event.data["number"]) for event in run.events()] == [(1, 0), (2, 1), (3, 2)]
        assert run.usage == COST + COST + COST + COST


async def test_a_failed_call_is_charged_what_it_was_told_to(store, info):
    journal = store.create(info)
    calls = journal.at("")
    error = ConnectionFailedError("it broke \0 off \ud800", backend="test:model", possibly_billed=True)
    free = await calls.send("think", "test:model", ask("a"), BOUND)
    await calls.fail(free, ConnectionFailedError("refused", backend="test:model"), Usage(), 0.5)
    billed = await calls.send("think", "test:model", ask("b"), BOUND)
    await calls.fail(billed, error, BOUND, 0.5)
    cancelled = await calls.send("think", "test:model", ask("c"), BOUND)
    await calls.fail(cancelled, asyncio.CancelledError(), BOUND, 0.5)
    await journal.aclose()
    journal = store.resume(journal.id)
    assert journal.spent == BOUND + BOUND
    assert journal.num_unknown == 0
    assert journal.at("").recall("think", ask("b")) == {}
    await journal.aclose()
    with store.open(journal.id) as run:
        records = list(run.calls())
    assert [record.state for record in records] == ["failed", "failed", "unknown"]
    assert [record.duration_s for record in records] == [0.5] * 3
    assert "it broke" in records[1].error
    assert [record.usage for record in records] == [Usage(), BOUND, BOUND]


async def test_a_failed_attempt_that_may_be_billed_is_charged_too(store, info):
    journal = store.create(info)
    calls = journal.at("")
    call = await calls.send("think", "test:model", ask(), BOUND)
    calls.note_attempt(call, ConnectionFailedError("refused", backend="test:model"), 0.1)
    calls.note_attempt(call, ConnectionFailedError("cut", backend="test:model", possibly_billed=True), 0.2)
    await calls.settle(call, answers("four"), COST, 0.5)
    await journal.aclose()
    journal = store.resume(journal.id)
    assert journal.spent == COST + BOUND
    await journal.aclose()
    with store.open(journal.id) as run:
        (record,) = run.calls()
        assert record.attempts == 2
        assert run.usage == COST + BOUND


async def test_an_unknown_price_stays_unknown(store, info):
    journal = store.create(info)
    calls = journal.at("")
    call = await calls.send("think", "test:model", ask(), Usage(1, 10, 100, None))
    with store.open(journal.id) as run:
        assert run.usage == Usage(1, 10, 100, None)  # under way: at its bound
    await calls.settle(call, answers("four", usage=Usage(1, 10, 20, None)), Usage(1, 10, 20, None), 0.5)
    await journal.aclose()
    with store.open(journal.id) as run:
        assert run.usage.usd is None


async def test_what_the_cache_gave_costs_nothing_and_is_recalled_without_it(store, info):
    hit = Completion(text="four", usage=Usage(cache_hits=1))
    journal = store.create(info)
    await journal.at("").copy("think", "test:model", ask(), [hit])
    await journal.aclose()
    journal = store.resume(journal.id)
    assert journal.spent == Usage(cache_hits=1)
    assert journal.at("").recall("think", ask()) == {0: hit}
    await journal.aclose()
    with store.open(journal.id) as run:
        (record,) = run.calls()
    assert (record.source, record.state, record.usage) == ("cache", "settled", Usage(cache_hits=1))


async def test_concurrent_tasks_write_side_by_side(store, info):
    journal = store.create(info)
    numbers = await asyncio.gather(*(settled(journal, ask(f"q{i}"), f"a{i}", path=str(i % 7)) for i in range(700)))
    assert sorted(numbers) == list(range(1, 701))
    await journal.aclose()
    journal = store.resume(journal.id)
    paths = [journal.at(str(i)) for i in range(7)]
    for i in range(700):
        assert paths[i % 7].recall("think", ask(f"q{i}"))[0].text == f"a{i}"
    assert journal.unasked == 0
    assert journal.spent.calls == 700
    await journal.aclose()


async def test_calls_are_recalled_in_whatever_order_they_are_asked_for(store, info, random_order):
    journal = store.create(info)
    await asyncio.gather(*(settled(journal, ask(f"q{i}"), f"a{i}") for i in range(400)))
    await journal.aclose()
    journal = store.resume(journal.id)
    calls = journal.at("")
    for i in random_order(400):
        assert calls.recall("think", ask(f"q{i}"))[0].text == f"a{i}"
    await journal.aclose()


@pytest.fixture
def random_order():
    import random

    seed = random.SystemRandom().getrandbits(32)
    print("seed", seed)  # noqa: T201 - to run it again
    return lambda count: random.Random(seed).sample(range(count), count)


async def test_unasked_calls_of_paths_that_are_done_with_count(store, info):
    journal = store.create(info)
    for path in "012":
        await settled(journal, ask("a"), "1", path=path)
        await settled(journal, ask("b"), "2", path=path)
    await journal.aclose()
    journal = store.resume(journal.id)
    journal.at("0").recall("think", ask("a"))
    journal.at("1").recall("think", ask("a"))
    journal.at("1").recall("think", ask("b"))
    assert journal.unasked == 1  # nobody was at row 2
    await journal.aclose()


async def test_rows_of_a_job_are_kept_by_index_and_digest(store, info):
    journal = store.create(replace(info, kind="map"))
    assert journal.row(0, "d0") is None
    results = {i: {"answer": f"a{i} \ud800\0", "votes": [["x", 2]]} for i in (*range(0, 600, 2), 5000)}
    await asyncio.gather(*(journal.finish_row(i, f"d{i}", result) for i, result in results.items()))
    await journal.aclose()
    journal = store.resume(journal.id)
    for i in (0, 2, 598, 5000, 4, 300):
        assert journal.row(i, f"d{i}") == results[i]
    assert [journal.row(i, f"d{i}") for i in (1, 599, 600, 4999, 5001, 10**6)] == [None] * 6
    assert journal.row(2, "another input") is None
    await journal.finish_row(2, "another input", {"answer": "new"})
    found = {index: (digest, result) for index, digest, result in journal.rows()}
    assert list(found) == sorted(results)
    assert found[2] == ("another input", {"answer": "new"})
    await journal.aclose()
    with store.open(journal.id) as run:
        assert len(list(run.rows())) == run.counts().rows == len(results)


async def test_events_keep_their_order_and_are_found_by_path_and_kind(store, info):
    journal = store.create(info)
    for number in range(600):
        journal.event(str(number % 2), "thought" if number % 3 else "note", {"number": number, "text": "\ud800\0"})
    await journal.finish("finished", None)
    await journal.aclose()
    with store.open(journal.id) as run:
        assert [event.data["number"] for event in run.events()] == list(range(600))
        assert [event.data["number"] for event in run.events(path="1", kind="note")] == list(range(3, 600, 6))
        assert run.counts().events == {"thought": 400, "note": 200}


async def test_how_a_run_ended_is_kept(store, info):
    journal = store.create(info)
    with store.open(journal.id) as run:
        assert run.status == "running"
        assert run.owner["pid"] > 0
        assert run.result is None
    await journal.finish("stopped", {"answer": None, "stopped": "budget: calls=200"})
    await journal.aclose()
    with store.open(journal.id) as run:
        assert (run.status, run.owner) == ("stopped", None)
        assert run.result["stopped"] == "budget: calls=200"
        assert run.info == info
        assert run.elapsed_s > 0
        assert run.created_at <= run.updated_at
    journal = store.resume(journal.id)
    assert journal.elapsed_s == run.elapsed_s
    with store.open(journal.id) as run:
        assert run.status == "running"
    await journal.aclose()
    with store.open(journal.id) as run:
        assert run.status == "interrupted"


async def test_a_fork_begins_with_what_settled_and_leaves_the_old_run_alone(store, info):
    journal = store.create(info)
    await settled(journal, ask(num_samples=2), "a", "b")
    calls = journal.at("")
    failed = await calls.send("think", "test:model", ask("lost"), BOUND)
    await calls.fail(failed, ValueError("no"), BOUND, 0.5)
    await calls.send("think", "test:model", ask("under way"), BOUND)
    old_usage = None
    edited = replace(info, program_hash="hash-2")
    fork = store.fork(journal.id, edited)
    assert fork.id != journal.id
    assert fork.is_resumed
    assert fork.spent == Usage()
    calls = fork.at("")
    found = calls.recall("think", ask(num_samples=2))
    assert [found[i] for i in (0, 1)] == answers("a", "b", usage=Usage())  # what another run paid for is free
    assert calls.recall("think", ask("lost")) == calls.recall("think", ask("under way")) == {}
    await settled(fork, ask("new"), "c")
    await fork.aclose()
    await settled(journal, ask("later"), "d")
    await journal.aclose()
    with store.open(fork.id) as run:
        assert run.forked_from == journal.id
        assert run.info == edited
        assert run.usage == COST
        assert [record.source for record in run.calls()] == ["fork", "model"]
    with store.open(journal.id) as run:
        assert run.counts().calls == {"settled": 2, "failed": 1, "sent": 1}
        assert run.usage != old_usage
    again = store.resume(fork.id)
    assert again.spent == COST
    assert len(again.at("").recall("think", ask(num_samples=2))) == 2
    await again.aclose()


async def test_a_run_that_is_under_way_can_be_forked(store, info):
    journal = store.create(info)
    calls = journal.at("")
    numbers = [await calls.send("think", "test:model", ask(f"q{i}"), BOUND) for i in range(40)]
    stop = asyncio.Event()

    async def go_on():
        for number in reversed(numbers):
            await calls.settle(number, answers(f"a{number}"), COST, 0.1)
        for i in range(40, 10**6):
            if stop.is_set():
                return
            await settled(journal, ask(f"q{i}"), "later")

    working = asyncio.ensure_future(go_on())
    for _ in range(5):
        await asyncio.sleep(0.02)
        fork = await asyncio.to_thread(store.fork, journal.id, info)
        found = [i for i in range(40) if fork.at("").recall("think", ask(f"q{i}"))]
        for i in set(range(40)) - set(found):
            await settled(fork, ask(f"q{i}"), "new")  # numbers of its own
        await fork.aclose()
        with store.open(fork.id) as run:
            records = list(run.calls())
        assert {record.state for record in records} == {"settled"}
        assert {record.source for record in records} <= {"fork", "model"}
        assert run.id == fork.id
    stop.set()
    await working
    await journal.aclose()


async def test_the_newest_run_with_a_key_is_found(store, info):
    ids = []
    for key in ("job-1", "job-2", "job-1", None):
        journal = store.create(replace(info, key=key))
        ids.append(journal.id)
        await journal.aclose()
        await asyncio.sleep(0.002)
    assert store.find("job-1") == ids[2]
    assert store.find("job-2") == ids[1]
    assert store.find("job-3") is None


async def test_runs_are_listed_newest_first_and_opened_by_the_beginning_of_their_id(store, info):
    assert list(store.list()) == []
    with pytest.raises(StoreError, match="there are no runs yet"):
        store.open("nothing")
    journals = []
    for _ in range(3):
        journals.append(store.create(info))
        await asyncio.sleep(0.002)
    ids = [journal.id for journal in journals]
    assert [run.id for run in store.list()] == ids[::-1]
    with store.open(ids[1]) as run:
        assert run.id == ids[1]
    shortest = next(n for n in range(1, 30) if sum(i.startswith(ids[1][:n]) for i in ids) == 1)
    with store.open(ids[1][:shortest]) as run:
        assert run.id == ids[1]
    with pytest.raises(StoreError, match="3 runs begin so"):
        store.open(ids[1][:4])
    with pytest.raises(StoreError, match=f"no such run.*{ids[1]}"):
        store.open(ids[1][:-1] + ("x" if ids[1][-1] != "x" else "y"))
    for journal in journals:
        await journal.aclose()


async def test_a_run_has_one_owner_whom_the_refusal_names(store, info):
    import os

    journal = store.create(info)
    for refused in (store.resume, store.delete):
        with pytest.raises(RunLockedError, match=rf"{journal.id}: process {os.getpid()} on .* since \d{{4}}-"):
            refused(journal.id)
    await settled(journal, ask(), "the owner goes on")
    await journal.aclose()
    store.delete(journal.id)
    assert list(store.list()) == []
    with pytest.raises(StoreError, match="no such run"):
        store.resume(journal.id)


async def test_deleting_a_run_leaves_the_others(store, info):
    first, second = store.create(info), store.create(info)
    for journal in (first, second):
        await settled(journal, ask(), "four")
        await journal.aclose()
    store.delete(first.id)
    with store.open(second.id) as run:
        assert run.counts().calls == {"settled": 1}


async def test_a_closed_journal_says_so(store, info):
    journal = store.create(info)
    await journal.aclose()
    await journal.aclose()
    with pytest.raises(StoreError, match="closed"):
        await settled(journal, ask(), "four")


async def test_a_value_that_cannot_be_kept_ends_the_run_instead_of_hanging_it(store, info):
    journal = store.create(info)
    calls = journal.at("")
    tasks = [calls.send("think", "test:model", ask(f"q{i}"), Usage(1, 10**30 if i == 5 else 10)) for i in range(10)]
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 100)
    assert isinstance(outcomes[5], StoreError)
    with pytest.raises(StoreError):
        await settled(journal, ask(), "four")
    with pytest.raises(StoreError):
        await journal.aclose()
    journal = store.resume(journal.id)
    await settled(journal, ask(), "four")
    await journal.aclose()


async def test_a_send_that_is_cancelled_was_never_sent(store, info):
    journal = store.create(info)
    sending = asyncio.ensure_future(journal.at("").send("think", "test:model", ask(), BOUND))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await journal.aclose()
    with store.open(journal.id) as run:
        assert run.usage == Usage()
        assert run.counts().calls == {"failed": 1}
