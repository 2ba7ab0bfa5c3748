"""Run files from elsewhere: newer, older, of another application, hostile. None is changed, none runs anything."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import pytest

from llmprog.errors import StoreError
from llmprog.runs.database import SqliteFile
from llmprog.runs.encoding import encode
from llmprog.runs.schema import APPLICATION_ID, VERSION
from llmprog.runs.store import DirectoryStore, MemoryStore, default_store, open_store
from llmprog.types import Completion, Prompt, Request, SamplingParams, Usage

COST = Usage(1, 10, 20, 0.01)
ASKED = Request(prompt=Prompt.from_text("2 + 2?"), params=SamplingParams(seed=1))


@pytest.fixture
async def kept(tmp_path, info):
    """A store with one run in it, of one call."""
    store = DirectoryStore(tmp_path / "runs")
    journal = store.create(info)
    calls = journal.at("")
    call = await calls.send("think", "test:model", ASKED, COST)
    await calls.settle(call, [Completion(text="four", usage=COST)], COST, 0.1)
    await journal.aclose()
    return store, journal.id


def path_of(store, run_id):
    return store.directory / f"{run_id}.sqlite"


def change(path, *statements):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def assert_refused(store, run_id, message):
    """It is refused for reading and for writing, listed with the reason, and left as it is."""
    before = path_of(store, run_id).read_bytes()
    for use in (store.open, store.resume, lambda run_id: store.fork(run_id, None)):
        with pytest.raises(StoreError, match=message):
            use(run_id)
    (run,) = store.list()
    assert (run.id, run.status) == (run_id, "unreadable")
    assert run.problem.startswith(f"run file {path_of(store, run_id)}")
    with pytest.raises(StoreError, match="cannot be read"):
        list(run.calls())
    assert path_of(store, run_id).read_bytes() == before
    assert store.find("job") is None
    store.delete(run_id)
    assert list(store.list()) == []


@pytest.mark.fault("hostile", "a run file of a newer version", "refused with what to do; not changed")
async def test_a_newer_version(kept):
    store, run_id = kept
    change(path_of(store, run_id), f"PRAGMA user_version = {VERSION + 1}")
    assert_refused(store, run_id, rf"version {VERSION + 1}, .*pip install --upgrade llmprog")


@pytest.mark.fault("hostile", "a run file with triggers, views or virtual tables", "refused; nothing of it is run")
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM call; END",
        "CREATE TRIGGER t AFTER INSERT ON outcome BEGIN UPDATE run SET program = 'other'; END",
        "CREATE VIEW v AS SELECT * FROM call",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
    ],
)
async def test_a_file_that_would_run_statements_of_its_own(kept, statement):
    store, run_id = kept
    change(path_of(store, run_id), statement)
    assert_refused(store, run_id, "take it for hostile and delete it")


async def test_a_database_of_another_application(kept):
    store, run_id = kept
    change(path_of(store, run_id), "PRAGMA application_id = 1196444487")
    assert_refused(store, run_id, "another application")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, its creation was interrupted"),
        (b"not a database at all " * 100, "damaged"),
        (b"SQLite format 3\0" + b"\xff" * 4000, "damaged|disk"),
    ],
)
async def test_a_file_that_is_no_database(kept, content, message):
    store, run_id = kept
    path_of(store, run_id).write_bytes(content)
    assert_refused(store, run_id, message)


async def test_a_file_whose_making_was_interrupted(kept):
    store, run_id = kept
    path = path_of(store, run_id)
    path.unlink()
    change(path, f"PRAGMA application_id = {APPLICATION_ID}", "CREATE TABLE t (x)")
    assert_refused(store, run_id, "no version, its creation was interrupted")


async def test_a_file_under_the_name_of_another_run(kept):
    store, run_id = kept
    shutil.copy(path_of(store, run_id), store.directory / "another.sqlite")
    with pytest.raises(StoreError, match="run another: there is no such run"):
        store.open("another")
    with pytest.raises(StoreError, match="run another: there is no such run"):
        store.resume("another")
    assert {run.id: run.status for run in store.list()} == {run_id: "interrupted", "another": "unreadable"}


def test_files_that_are_no_runs_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "directory.sqlite").mkdir()
    store = DirectoryStore(tmp_path)
    (run,) = store.list()
    assert (run.id, run.status) == ("directory", "unreadable")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.fault("hostile", "values of a run file that cannot be read", "a StoreError that names the call")
@pytest.mark.parametrize(
    "value",
    [b"", b"{", b"[" * 10**5, b"x\x9c junk", b"\xff\xfe", b'[{"no": "completion"}]', b'{"text": 1}', b"null", b"[NaN]"],
)
async def test_values_that_cannot_be_read(kept, value):
    store, run_id = kept
    with contextlib.closing(sqlite3.connect(path_of(store, run_id), isolation_level=None)) as connection:
        connection.execute("UPDATE outcome SET answers = ?", (value,))
    with store.open(run_id) as run, pytest.raises(StoreError, match=f"run {run_id}: call 1 cannot be read"):
        list(run.calls())
    journal = store.resume(run_id)
    with pytest.raises(StoreError, match="call 1 cannot be read"):
        journal.at("").recall("think", ASKED)
    await journal.aclose()


@pytest.mark.fault("hostile", "a value that unpacks to far more than it is", "refused at a limit")
def test_a_value_that_unpacks_to_far_more_than_it_is():
    import zlib

    from llmprog.runs import encoding

    packing = zlib.compressobj(9)
    chunk = b"0" * 2**24
    bomb = b"".join([packing.compress(b"["), *(packing.compress(chunk) for _ in range(40)), packing.flush()])
    assert len(bomb) < 2**20
    with pytest.raises(StoreError, match="larger than 536,870,912 bytes"):
        encoding.decode(bomb)
    with pytest.raises(StoreError, match="cut off"):
        encoding.decode(encode("x" * 5000)[:-20])


class TestMigrations:
    """A file of version 1 becomes one of version 2, when there is a version 2."""

    def test_an_older_file_is_brought_up_to_date_when_it_is_resumed(self, kept):
        store, run_id = kept
        path = path_of(store, run_id)

        def to_version_2(connection):
            connection.execute("ALTER TABLE call ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'")

        def to_version_3(connection):
            connection.execute("UPDATE call SET colour = 'green' WHERE colour = 'blue'")

        newer = SqliteFile(path, migrations={1: to_version_2, 2: to_version_3}, version=3)
        with pytest.raises(StoreError, match=r"of version 1, .* version 3; resume the run once"):
            newer.reader()
        newer.closing(newer.writer())
        with contextlib.closing(newer.reader()) as connection:
            assert connection.execute("SELECT colour FROM call").fetchall() == [("green",)]
            assert connection.execute("PRAGMA user_version").fetchone() == (3,)
        newer.closing(newer.writer())  # once is enough
        with pytest.raises(StoreError, match="newer llmprog"):
            store.open(run_id)

    def test_one_that_fails_changes_nothing(self, kept):
        store, run_id = kept
        path = path_of(store, run_id)

        def half_done(connection):
            connection.execute("ALTER TABLE call ADD COLUMN colour TEXT")
            connection.execute("UPDATE no_such_table SET x = 1")

        with pytest.raises(StoreError, match="no_such_table"):
            SqliteFile(path, migrations={1: half_done}, version=2).writer()
        with store.open(run_id) as run:
            assert run.counts().calls == {"settled": 1}

    def test_a_version_that_nothing_leads_on_from_is_refused(self, kept):
        store, run_id = kept
        with pytest.raises(StoreError, match="nothing brings version 1 to version 3"):
            SqliteFile(path_of(store, run_id), migrations={2: lambda _: None}, version=3).writer()

    def test_a_server_is_brought_up_to_date(self, postgres_url, info):
        from llmprog.runs.postgres import PostgresStore

        old = PostgresStore(postgres_url)
        assert list(old.list()) == []
        added = []

        def to_version_2(connection):
            added.append(connection.execute("ALTER TABLE call ADD COLUMN colour TEXT DEFAULT 'blue'"))

        for _ in range(2):
            newer = PostgresStore(postgres_url, migrations={1: to_version_2}, version=2)
            assert list(newer.list()) == []
            newer.close()
        assert len(added) == 1
        with pytest.raises(StoreError, match="nothing brings version 2 to version 3"):
            PostgresStore(postgres_url, migrations={}, version=3).list()
        again = PostgresStore(postgres_url)
        with pytest.raises(StoreError, match=r"version 2, .*pip install --upgrade llmprog"):
            again.create(info)
        old.close()
        again.close()


class TestWhere:
    def test_memory_a_directory_and_a_store(self, tmp_path):
        assert isinstance(open_store("memory"), MemoryStore)
        store = open_store(tmp_path / "runs")
        assert isinstance(store, DirectoryStore)
        assert not (tmp_path / "runs").exists()  # until there is a run
        assert open_store(store) is store

    def test_runs_are_readable_by_their_user_alone(self, tmp_path, info):
        store = DirectoryStore(tmp_path / "deep" / "runs")
        store.create(info)
        assert (tmp_path / "deep" / "runs").stat().st_mode & 0o777 == 0o700

    def test_a_file_is_no_store(self, tmp_path):
        (tmp_path / "run.sqlite").write_text("")
        with pytest.raises(StoreError, match="it is a file; a store is a directory"):
            open_store(tmp_path / "run.sqlite")

    @pytest.mark.parametrize("name", ["a b", "100%", "what?", "no#1", "ü"])
    async def test_names_that_a_url_would_not_take(self, tmp_path, info, name):
        store = open_store(tmp_path / name)
        journal = store.create(info)
        await journal.aclose()
        assert store.list()[0].status == "interrupted"
        assert sorted(path.suffix for path in (tmp_path / name).iterdir()) == [".lock", ".sqlite"]

    def test_a_store_that_is_named_in_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.delenv("LLMPROG_STORE", raising=False)
        assert default_store().endswith("runs")
        monkeypatch.setenv("LLMPROG_STORE", str(tmp_path))
        assert default_store() == str(tmp_path)

    def test_a_server_that_cannot_be_reached(self):
        with pytest.raises(StoreError, match=r"postgresql://127\.0\.0\.1/x: .*see whether the server is up") as error:
            open_store("postgresql://me:very-secret-word@127.0.0.1:9/x").list()
        assert "very-secret-word" not in str(error.value)

    def test_a_url_that_cannot_be_understood(self):
        with pytest.raises(StoreError, match="allowed is postgresql://user@host:port/database") as error:
            open_store("postgresql://me:very-secret-word@host:port:x/?what=no")
        assert "very-secret-word" not in str(error.value)
