"""Runs that are followed: whole, live, killed, damaged, deleted; and the list of hundreds of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from llmprog import run
from llmprog.backends import ScriptedBackend
from llmprog.programs import arithmetic
from llmprog.runs.info import RunInfo
from llmprog.runs.store import DirectoryStore, MemoryStore
from llmprog.viewer.background import viewing
from llmprog.viewer.follow import MOST_FOLLOWERS, FollowedRun, Followers
from llmprog.viewer.run_list import RunList


def finished(store, given="17 + 25", answers=("Answer: 42",)):
    model = ScriptedBackend(lambda prompt, sample: answers[sample % len(answers)])
    return run(arithmetic(num_samples=3), given, backend=model, seed=1, store=store).run_id


@contextmanager
def viewer_of(store):
    with viewing(store) as url, httpx.Client(base_url=url.partition("/login")[0], timeout=60) as client:
        assert client.get(url).status_code == 303
        yield client


def batches_of(lines):
    """The batches of a stream of events, as they come."""
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def followed(client, run_id):
    answer = client.get(f"/api/runs/{run_id}/feed")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.isascii()
    return list(batches_of(answer.text.split("\n")))


def records(batches, kind):
    return [record for batch in batches for record in batch.get(kind, ())]


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def num_open(store):
    """How many files of a store this process has open."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            found += str(link.readlink()).startswith(str(store.directory))
    return found


@contextmanager
def under_way_elsewhere(store):
    """A process whose run waits for its model; it is killed in the end."""
    worker = Path(__file__).with_name("worker.py")
    with subprocess.Popen([sys.executable, worker, store.directory], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"waits\n"
            yield process
        finally:
            process.kill()


# ------------------------------------------------------------------------------------------------ whole and live


def test_a_run_is_told_from_its_beginning_to_its_end(store):
    run_id = finished(store)
    with viewer_of(store) as client:
        first, again = followed(client, run_id), followed(client, run_id)
        assert first == again
        assert first[0]["begin"]
        assert first[0]["run"]["id"] == run_id
        assert first[-1]["end"]
        assert len(records(first, "calls")) == 3
        details = client.get(f"/api/runs/{run_id}/calls/1").json()
        assert [completion["text"] for completion in details["completions"]] == ["Answer: 42"]
        assert client.get(f"/api/runs/{run_id[:-2]}/feed").status_code == 200  # how the id begins will do


def test_a_run_under_way_is_told_as_it_happens(store, under_way):
    with under_way(store) as (model, run_id), viewer_of(store) as client:
        with client.stream("GET", f"/api/runs/{run_id}/feed") as answer:
            batches = batches_of(answer.iter_lines())
            seen = [next(batches)]
            while len(records(seen, "thoughts")) < 3:  # the root and the two that are answered
                seen.append(next(batches))
            assert seen[0]["run"]["is_live"]
            assert not any("end" in batch for batch in seen)
            model.go.set()
            seen += batches
        assert seen[-1] == {"end": True}
        assert [batch["run"] for batch in seen if "run" in batch][-1]["status"] == "finished"
        assert len(records(seen, "thoughts")) == len(records(followed(client, run_id), "thoughts"))


def test_a_run_that_is_resumed_after_its_end_is_told_anew(store):
    class Dead(ScriptedBackend):
        async def generate(self, request):
            if self.requests:
                raise OSError("the line is dead")
            return await super().generate(request)

    program = arithmetic(num_samples=3)
    model = Dead(lambda *_: "Answer: 42")
    with pytest.raises(Exception, match="the line is dead"):
        run(program, "17 + 25", backend=model, seed=1, store=store)
    run_id = store.list()[0].id
    with viewer_of(store) as client:
        before = followed(client, run_id)
        assert before[-1] == {"end": True}
        run(program, "17 + 25", backend=ScriptedBackend(lambda *_: "Answer: 42"), seed=1, store=store, resume=run_id)
        after = followed(client, run_id)
    assert [batch["run"]["status"] for batch in (before[0], after[0])] == ["failed", "finished"]
    assert after[0]["begin"]
    assert len(records(after, "searches")) == 2  # the thoughts of the first are void


# ------------------------------------------------------------------------------------------------ who follows


def test_a_client_that_is_gone_lets_go_of_the_file(store):
    with under_way_elsewhere(store) as process, viewer_of(store) as client:
        url = f"/api/runs/{store.list()[0].id}/feed"
        assert num_open(store) == 0
        with client.stream("GET", url) as answer:
            lines = answer.iter_lines()  # once nobody holds it, httpx ends the answer
            next(lines)
            assert num_open(store) > 0
        until(lambda: num_open(store) == 0)
        assert process.poll() is None  # it was not the end of the run that let go of it


def test_more_followers_than_there_is_room_for_are_told_so(store, under_way):
    with under_way(store) as (_, run_id), viewer_of(store) as client, ExitStack() as stack:
        client.timeout = 60
        url = f"/api/runs/{run_id}/feed"
        cookies, base = dict(client.cookies), str(client.base_url)
        many = stack.enter_context(
            httpx.Client(base_url=base, cookies=cookies, timeout=60, limits=httpx.Limits(max_connections=100))
        )
        first = ExitStack()
        first.enter_context(many.stream("GET", url))
        for _ in range(MOST_FOLLOWERS - 1):
            assert stack.enter_context(many.stream("GET", url)).status_code == 200
        refused = many.get(url)
        assert refused.status_code == 503
        assert "too many" in refused.json()["error"]
        first.close()

        def has_room():
            with many.stream("GET", url) as answer:
                return answer.status_code == 200

        until(has_room)


def test_who_asks_for_the_head_only_is_not_told_the_run(store):
    run_id = finished(store)
    with viewer_of(store) as client:
        answer = client.head(f"/api/runs/{run_id}/feed")
        assert (answer.status_code, answer.content) == (200, b"")


async def test_where_nothing_happens_a_comment_says_that_the_line_is_alive(store, under_way):
    async def never():
        await asyncio.Event().wait()

    said = []
    beaten = asyncio.Event()

    async def send(message):
        said.append(message.get("body", b""))
        if said[-1].startswith(b":"):
            beaten.set()

    with under_way(store) as (_, run_id):
        followers = Followers(heartbeat_s=0.05)
        task = asyncio.create_task(FollowedRun(store.open(run_id), followers)({}, never, send))
        await asyncio.wait_for(beaten.wait(), 60)
        followers.close()
        await asyncio.wait_for(task, 60)
    assert said[-1] == b""


def test_followers_do_not_keep_a_viewer_from_ending(store, under_way):
    with under_way(store) as (_, run_id), ExitStack() as stack:
        with viewer_of(store) as client:
            answer = stack.enter_context(client.stream("GET", f"/api/runs/{run_id}/feed"))
            lines = answer.iter_lines()
            next(lines)
        with store.open(run_id) as kept:
            assert kept.status == "running"  # it would wait for the end of the run otherwise


# ------------------------------------------------------------------------------------------------ crashes


@pytest.fixture
def killed(store):
    """The id of a run whose process was killed while it waited for a model."""
    with under_way_elsewhere(store):
        pass
    (only,) = store.list()
    return only.id


@pytest.mark.fault("Process", "SIGKILL, then looked at", "shown as far as it came, as interrupted")
def test_a_run_whose_process_was_killed_is_shown_as_far_as_it_came(store, killed):
    log = Path(store.directory, f"{killed}.sqlite-wal")
    assert log.stat().st_size > 0
    with viewer_of(store) as client:
        (listed,) = client.get("/api/runs").json()["runs"]
        assert (listed["status"], listed["problem"]) == ("interrupted", None)
        batches = followed(client, killed)
    assert batches[0]["run"]["status"] == "interrupted"
    assert batches[-1] == {"end": True}
    assert len(records(batches, "calls")) >= 3
    assert len(records(batches, "outcomes")) == 2


@pytest.mark.fault("Process", "a truncated WAL, then looked at", "shown as far as it goes, or as unreadable")
@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.9])
def test_a_run_whose_log_is_cut_off_is_shown_as_far_as_it_goes(store, killed, share):
    log = Path(store.directory, f"{killed}.sqlite-wal")
    os.truncate(log, int(log.stat().st_size * share))
    Path(store.directory, f"{killed}.sqlite-shm").unlink(missing_ok=True)
    with viewer_of(store) as client:
        (listed,) = client.get("/api/runs").json()["runs"]
        assert listed["status"] == "interrupted"
        batches = followed(client, killed)
    assert batches[-1] == {"end": True}
    assert len(records(batches, "outcomes")) <= 2


@pytest.mark.fault("Users", "the run file deleted while it is looked at", "said; the viewer goes on")
def test_a_run_that_is_deleted_meanwhile_ends_with_the_reason(store, under_way):
    with under_way(store) as (_, run_id), viewer_of(store) as client:
        with client.stream("GET", f"/api/runs/{run_id}/feed") as answer:
            batches = batches_of(answer.iter_lines())
            next(batches)
            shutil.rmtree(store.directory)
            *_, last = batches
        assert "there is no such file" in last["problem"]
        assert client.get("/api/runs").status_code == 200
        assert client.get(f"/api/runs/{run_id}/feed").status_code == 404


@pytest.mark.fault("Hostile", "a run file with made-up contents, looked at", "said in one line")
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("thoughts", "[1]"),
        ("thoughts", '{"id": {}}'),
        ("began", "[]"),
        ("finished", "7"),
    ],
)
def test_a_file_from_elsewhere_may_hold_anything(store, kind, data):
    run_id = finished(store)
    with closing(sqlite3.connect(Path(store.directory, f"{run_id}.sqlite"))) as file:
        file.execute("UPDATE event SET data = ? WHERE kind = ?", (data.encode(), kind))
        file.commit()
    with viewer_of(store) as client:
        assert run_id in followed(client, run_id)[-1]["problem"]
        assert client.get("/api/runs").status_code == 200


@pytest.mark.fault("Process", "a damaged page in a run file that is looked at", "said in one line; the viewer goes on")
def test_a_damaged_page_is_said_wherever_it_is(store):
    run_id = finished(store, answers=(f"Answer: 42 {'x' * 9000}",))
    file = Path(store.directory, f"{run_id}.sqlite")
    whole = file.read_bytes()
    said = set()
    with viewer_of(store) as client:
        for start in range(4096, len(whole), 4096):
            file.write_bytes(whole[:start] + b"\xff" * 4096 + whole[start + 4096 :])
            for path in (f"{run_id}/feed", f"{run_id}/calls/1"):
                answer = client.get(f"/api/runs/{path}")
                assert answer.status_code in (200, 422)
                if answer.status_code == 422 or '"problem":"' in answer.text:
                    said.add(path)
                    assert "damaged" in answer.text
        assert client.get("/api/runs").status_code == 200
    assert len(said) == 2


def test_what_a_run_does_not_hold_is_said(store):
    run_id = finished(store)
    with viewer_of(store) as client:
        for path in (f"{run_id}/calls/99", f"{run_id}/canvases/1/0", "no-such-run/calls/1"):
            answer = client.get(f"/api/runs/{path}")
            assert answer.status_code in (404, 422)
            assert answer.json()["error"]
        assert client.get("/api/runs?offset=-1").status_code == 400
        assert "limit='1e3'" in client.get("/api/runs?limit=1e3").json()["error"]
        assert client.get(f"/api/runs/{run_id}/calls/x").status_code == 404


# ------------------------------------------------------------------------------------------------ the list


def test_runs_are_searched_and_given_a_page_at_a_time(store):
    ids = [finished(store, f"{i} + {i}", (f"Answer: {2 * i}",)) for i in range(5)]
    with viewer_of(store) as client:

        def listed(**asked):
            found = client.get("/api/runs", params=asked).json()
            return found["total"], [row["id"] for row in found["runs"]]

        newest_first = ids[::-1]
        assert listed() == (5, newest_first)
        assert listed(offset=1, limit=2) == (5, newest_first[1:3])
        assert listed(query="3 + 3") == (1, [ids[3]])
        assert listed(query="ARITHMETIC 8") == (1, [ids[4]])
        assert listed(status="failed") == (0, [])
        assert listed(program="arithmetic", query=ids[0]) == (1, [ids[0]])
        row = client.get("/api/runs", params={"query": ids[4]}).json()["runs"][0]
        assert (row["answer"], row["solved"], row["input"], row["usage"]["calls"]) == ("8", True, "4 + 4", 3)


@pytest.mark.fault("Process", "a damaged file among runs that are listed", "listed with the reason")
def test_a_file_that_cannot_be_read_is_a_row_with_its_problem(store):
    run_id = finished(store)
    Path(store.directory, "20000101-000000-aaaa.sqlite").write_bytes(b"no database" * 500)
    with viewer_of(store) as client:
        found = client.get("/api/runs").json()
        assert [row["id"] for row in found["runs"]] == [run_id, "20000101-000000-aaaa"]
        assert found["runs"][1]["status"] == "unreadable"
        assert "damaged" in found["runs"][1]["problem"]
        assert client.get("/api/runs/20000101-000000-aaaa/feed").status_code == 422


def listed_by_many(store, num_runs):
    """The pages that eight threads are given at once."""

    async def make():
        for number in range(num_runs):
            program = {"program": f"p{number % 3}", "program_hash": "h", "program_text": "t"}
            await store.create(RunInfo(kind="run", **program, input=number, config={})).aclose()

    asyncio.run(make())
    run_list = RunList(store)
    asked = {"query": "", "status": "", "offset": num_runs - 10, "limit": 50}

    def ask(program):
        page = run_list.page(**asked, program=program)
        assert page["programs"] == ["p0", "p1", "p2"]
        assert all(row["problem"] is None for row in page["runs"])
        return len(page["runs"]), page["total"]

    with ThreadPoolExecutor(8) as threads:
        return set(threads.map(ask, ("", "p1") * 8))


def test_a_store_of_hundreds_of_runs_is_listed():
    assert listed_by_many(MemoryStore(), 300) == {(10, 300), (0, 100)}


def test_files_of_runs_are_listed_from_several_threads(store):
    assert listed_by_many(store, 30) == {(10, 30), (0, 10)}


def test_an_empty_store_is_an_empty_list(tmp_path):
    with viewer_of(DirectoryStore(tmp_path / "none yet")) as client:
        assert client.get("/api/runs").json()["total"] == 0
    assert not (tmp_path / "none yet").exists()
