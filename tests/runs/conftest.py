"""Run stores of each kind, among them a real PostgreSQL server that this session starts and stops."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from llmprog.runs.info import RunInfo
from llmprog.runs.store import DirectoryStore, MemoryStore

POSTGRES_USER = "llmprog"
_database_numbers = itertools.count(1)


def postgres_binaries():
    """The directory of the newest PostgreSQL server on this machine, if there is one."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    found = shutil.which("postgres")
    candidates = [*versions, *([Path(found).resolve().parent] if found else [])]
    return next((path for path in candidates if (path / "initdb").exists() and (path / "postgres").exists()), None)


def unprivileged():
    """How to start a process that refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_server():
    """The address of a PostgreSQL server on loopback, its data in a temporary directory."""
    binaries = postgres_binaries()
    if binaries is None:
        reason = "no PostgreSQL server on this machine; on Debian: apt-get install postgresql"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    user = unprivileged()
    home = Path(tempfile.mkdtemp(prefix="llmprog-postgres-"))
    if user:
        os.chown(home, user["user"], user["group"])
    data, log = home / "data", home / "log"
    command = [binaries / "initdb", "-D", data, "-U", POSTGRES_USER, "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, cwd=home, **user)
    assert done.returncode == 0, done.stderr
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # The server's own promise is not under test: without fsync each database takes an instant.
    settings = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={home}", "fsync=off"]
    command = [binaries / "postgres", "-D", data, *itertools.chain(*(("-c", setting) for setting in settings))]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, cwd=home, **user)
    try:
        wait_for_server(server, port, log)
        yield f"postgresql://{POSTGRES_USER}@127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGINT)  # at once, whoever is still connected
        server.wait(100)
        shutil.rmtree(home, ignore_errors=True)


def wait_for_server(server, port, log):
    import psycopg

    deadline = time.monotonic() + 100
    while True:
        assert server.poll() is None, log.read_text()
        try:
            psycopg.connect(f"postgresql://{POSTGRES_USER}@127.0.0.1:{port}/postgres").close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def postgres_url(postgres_server):
    """The URL of an empty database."""
    import psycopg

    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{postgres_server}/{name}"


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request, tmp_path):
    """A store of each kind; every promise of ``RunStore`` holds for all of them."""
    if request.param == "memory":
        store = MemoryStore()
    elif request.param == "sqlite":
        store = DirectoryStore(tmp_path / "runs")
    else:
        from llmprog.runs.postgres import PostgresStore

        store = PostgresStore(request.getfixturevalue("postgres_url"))
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request, tmp_path):
    """The address of a store that several processes can open."""
    return str(tmp_path / "runs") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def info():
    return RunInfo(
        kind="run",
        program="game24",
        program_hash="hash-1",
        program_text="program game24",
        input=[4, 9, 10, 13],
        config={"seed": 7},
    )
