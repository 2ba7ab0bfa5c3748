"""Pages of runs that were over and go on, and of stores that are away for a while."""

from __future__ import annotations

import asyncio
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import pytest
from looking import expect

from llmprog import Budget, run
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError
from llmprog.programs import arithmetic
from llmprog.runs.store import open_store

HERE = Path(__file__).parent


def model():
    return ScriptedBackend(lambda *_: "Answer: 42")


def resume(store, run_id, backend=None, **options):
    run(arithmetic(num_samples=5), "17 + 25", backend=backend or model(), seed=1, store=store, resume=run_id, **options)


def failed(store):
    def broken(prompt, sample):
        if sample == 3:
            raise OSError("the line is dead")
        return "Answer: 42"

    with pytest.raises(BackendError):
        run(arithmetic(num_samples=5), "17 + 25", backend=ScriptedBackend(broken), seed=1, store=store)


def interrupted(store):
    worker = subprocess.Popen([sys.executable, str(HERE / "worker.py"), str(store.directory)], stdout=subprocess.PIPE)
    try:
        assert worker.stdout.readline() == b"waits\n"
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def stopped(store):
    run(arithmetic(num_samples=5), "17 + 25", backend=model(), seed=1, store=store, budget=Budget(calls=2))


@pytest.fixture
def asked(watched):
    """The ends of the addresses that the page has asked for since the last time."""

    def ends():
        found = [url.rpartition("/")[2] for url in watched.requests]
        watched.requests.clear()
        return found

    return ends


def hide(page, is_hidden):
    page.evaluate(
        "isHidden => { Object.defineProperty(document, 'hidden', { value: isHidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )


# ------------------------------------------------------------------------------------------------ resumed


@pytest.mark.fault("Process", "a run that was over is resumed while it is looked at", "the page goes on by itself")
@pytest.mark.parametrize("end", [failed, interrupted, stopped])
def test_a_run_that_is_resumed_after_its_end_goes_on_on_its_page(open_page, store, asked, end):
    end(store)
    (kept,) = store.list()
    with open_page(store, f"#/run/{kept.id}?tab=calls") as page:
        page.get_by_test_id("run-status").get_by_text(end.__name__).wait_for()
        page.locator("[data-connection=over]").wait_for()
        with store.open(kept.id) as opened:
            before = sum(1 for _ in opened.calls())
        page.get_by_test_id("calls-row").nth(before - 1).wait_for()
        asked()
        page.evaluate("window.isTheSame = true")
        options = {stopped: {"budget": Budget(calls=20)}, interrupted: {"max_in_flight": 1}}
        resume(store, kept.id, **options.get(end, {}))
        page.get_by_test_id("run-status").get_by_text("finished").wait_for()
        page.get_by_test_id("calls-row").nth(before).wait_for()
        assert page.evaluate("isTheSame")
        page.locator("[data-connection=over]").wait_for()
        assert [end for end in asked() if end != "state"] == ["feed"]


def test_a_run_that_is_resumed_is_seen_under_way(open_page, store, under_way):
    failed(store)
    (kept,) = store.list()
    go, is_waiting = threading.Event(), threading.Event()

    class Waiting(ScriptedBackend):
        async def generate(self, request):
            is_waiting.set()
            await asyncio.to_thread(go.wait, 60)
            return await super().generate(request)

    thread = threading.Thread(target=resume, args=(store, kept.id, Waiting(lambda *_: "Answer: 42")))
    with open_page(store, f"#/run/{kept.id}") as page:
        page.get_by_test_id("run-status").get_by_text("failed").wait_for()
        page.locator("[data-connection=over]").wait_for()
        thread.start()
        try:
            assert is_waiting.wait(60)
            page.get_by_test_id("run-status").get_by_text("running").wait_for()
            page.locator("[data-connection=live]").wait_for()
        finally:
            go.set()
            thread.join(60)
        page.get_by_test_id("run-status").get_by_text("finished").wait_for()


def test_a_run_that_is_over_has_no_connection_and_is_asked_about_in_short_while_it_is_seen(open_page, store, asked):
    failed(store)
    with open_page(store, f"#/run/{store.list()[0].id}") as page:
        page.locator("[data-connection=over]").wait_for()
        asked()
        begun = time.monotonic()
        for _ in range(2):
            with page.expect_request("**/state"):
                pass
        looks = asked()
        assert set(looks) == {"state"}
        assert len(looks) <= 2 + (time.monotonic() - begun) / 3
        hide(page, True)
        asked()
        page.wait_for_timeout(4000)
        assert asked() == []
        with page.expect_request("**/state"):
            hide(page, False)
        page.evaluate("() => { location.hash = '#/' }")
        page.get_by_test_id("run-row").wait_for()
        asked()
        page.wait_for_timeout(4000)
        assert "state" not in asked()


def test_runs_that_are_compared_go_on_by_themselves(open_page, store):
    failed(store)
    stopped(store)
    ids = [kept.id for kept in store.list()]
    with open_page(store, f"#/compare/{ids[0]}/{ids[1]}") as page:
        page.get_by_test_id("compare-facts").get_by_text("failed").wait_for()
        resume(store, next(kept.id for kept in store.list() if kept.status == "failed"))
        page.locator("[data-fact=status]").get_by_text("finished").wait_for()


# ------------------------------------------------------------------------------------------------ away for a while


@contextmanager
def away(directory):
    elsewhere = directory.with_name("elsewhere")
    directory.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(directory)


@pytest.mark.fault("Users", "a store moved away and back while a run is looked at", "said; then the page goes on")
@pytest.mark.parametrize("is_under_way", [True, False])
def test_a_store_that_was_away_is_said_and_followed_again(open_page, store, under_way, is_under_way):
    if not is_under_way:
        failed(store)
    with under_way(store) if is_under_way else nullcontext() as begun:
        kept = store.list()[0]
        with open_page(store, f"#/run/{kept.id}?tab=calls") as page:
            page.locator(f"[data-connection={'live' if is_under_way else 'over'}]").wait_for()
            said = page.get_by_test_id("connection")
            page.get_by_test_id("calls-row").nth(4).wait_for()
            with away(store.directory):
                said.get_by_text(re.compile(r"Trying again in [48] s\.")).wait_for()
                expect(said).to_contain_text(kept.id, use_inner_text=True)
                expect(page.get_by_test_id("calls-row")).to_have_count(5)  # what is on screen stays
            said.wait_for(state="hidden")
            if is_under_way:
                begun[0].go.set()
                page.get_by_test_id("run-status").get_by_text("finished").wait_for()
            else:
                expect(page.locator("[data-connection=over]")).to_have_count(1)


def test_a_run_that_is_not_there_yet_is_shown_once_it_is(open_page, store, asked):
    failed(store)
    (kept,) = store.list()
    moved = store.directory.with_name("elsewhere")
    store.directory.rename(moved)
    with open_page(store, f"#/run/{kept.id}") as page:
        page.get_by_test_id("connection").get_by_text("there is no such run").wait_for()
        asked()
        for _ in range(2):
            with page.expect_request("**/state"):
                pass
        assert set(asked()) == {"state"}  # which is cheaper than all of the run
        moved.rename(store.directory)
        page.get_by_test_id("run-status").get_by_text("failed").wait_for()
        expect(page.get_by_test_id("connection")).to_be_hidden()


def test_a_file_that_was_damaged_is_read_once_it_is_whole(open_page, store):
    failed(store)
    (kept,) = store.list()
    file = Path(store.directory, f"{kept.id}.sqlite")
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:])
    with open_page(store, f"#/run/{kept.id}") as page:
        page.get_by_test_id("connection").get_by_text("damaged").wait_for()
        file.write_bytes(whole)
        page.locator("[data-connection=over]").wait_for()
        expect(page.get_by_test_id("run-status")).to_have_text("failed", use_inner_text=True)


class Server:
    """A PostgreSQL server that can be stopped and started again at the same place."""

    def __init__(self, home):
        self._parts = runpy.run_path(str(HERE.parent / "runs/conftest.py"))
        self._binaries = self._parts["postgres_binaries"]()
        if self._binaries is None:
            reason = "no PostgreSQL server on this machine; on Debian: apt-get install postgresql"
            pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
        self._user, self._home, self._process = self._parts["unprivileged"](), home, None
        if self._user:
            os.chown(home, self._user["user"], self._user["group"])
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.url = f"postgresql://{self._parts['POSTGRES_USER']}@127.0.0.1:{self._port}/postgres"
        options = ["-U", self._parts["POSTGRES_USER"], "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        subprocess.run(
            [self._binaries / "initdb", "-D", home / "data", *options],
            check=True,
            capture_output=True,
            cwd=home,
            **self._user,
        )

    def start(self):
        settings = ["listen_addresses=127.0.0.1", f"port={self._port}", f"unix_socket_directories={self._home}"]
        command = [self._binaries / "postgres", "-D", self._home / "data", "-c", "fsync=off"]
        for setting in settings:
            command += ["-c", setting]
        log = self._home / "log"
        with log.open("a") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, cwd=self._home, **self._user)
        self._parts["wait_for_server"](self._process, self._port, log)

    def stop(self):
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # at once, whoever is still connected
            self._process.wait(100)
            self._process = None


@pytest.fixture
def server():
    with tempfile.TemporaryDirectory(prefix="llmprog-postgres-") as home:  # that of pytest is closed to other users
        server = Server(Path(home))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.mark.fault("Process", "PostgreSQL restarted while a run on it is looked at", "said; then the page goes on")
def test_a_server_that_is_started_again_is_followed_again(open_page, server):
    with closing(open_store(server.url)) as store, closing(open_store(server.url)) as looked_at:
        stopped(store)
        (kept,) = store.list()
        with open_page(looked_at, f"#/run/{kept.id}") as page:
            page.locator("[data-connection=over]").wait_for()
            server.stop()
            said = page.get_by_test_id("connection")
            said.get_by_text("see whether the server is up").wait_for()
            server.start()
            said.wait_for(state="hidden")
            store.close()  # its session ended with the server
            resume(store, kept.id, budget=Budget(calls=20))
            page.get_by_test_id("run-status").get_by_text("finished").wait_for()
