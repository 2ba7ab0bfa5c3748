"""``llmprog runs``: what is kept can be seen, gone on with and thrown away."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import sys
import time
from contextlib import closing

import pytest

from llmprog import Program, cli, generator, run
from llmprog.backends import ScriptedBackend
from llmprog.errors import BackendError
from llmprog.runs.cache import CallCache
from llmprog.runs.info import RunInfo
from llmprog.runs.store import DirectoryStore, open_store
from llmprog.search import BreadthFirstSearch, SelfConsistency
from llmprog.types import Completion, Prompt, Request, Usage

HOSTILE = "\x1b]52;c;Zm9v\x07 \u202eevil"
DAY_S = 86400


@generator(prompt="say {state}")
def say(state: str, completion: str) -> list[str]:
    return [completion]


def speech(num_samples=4):
    return Program(name="speech", generators=[say], controller=SelfConsistency(num_samples=num_samples))


def tree():
    return Program(
        name="tree",
        generators=[say],
        controller=BreadthFirstSearch(max_depth=1),
        goal=lambda state: state == "no",
        answer=str.upper,
    )


@pytest.fixture
def llmprog(monkeypatch, capsys, tmp_path):
    """Runs a command in this process; returns its exit code, output and errors."""
    monkeypatch.setenv("LLMPROG_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["llmprog", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        else:
            code = 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def store(tmp_path):
    with closing(open_store(tmp_path / "runs")) as opened:
        yield opened


def votes_of(texts):
    return ScriptedBackend(lambda prompt, sample: texts[sample % len(texts)])


def kept(store, *, began=None, texts=("yes",), program=None, given="hello"):
    """A finished run that began at the time given."""
    place = store if began is None else DirectoryStore(store.directory, clock=lambda: began)
    return run(program or speech(), given, backend=votes_of(texts), seed=1, store=place).run_id


# ------------------------------------------------------------------------------------------------ ls


def test_an_empty_store_says_where_it_looked_and_how_a_run_gets_there(llmprog, tmp_path):
    code, out, _ = llmprog("runs", "ls")
    assert code == 0
    assert str(tmp_path / "runs") in out
    assert "llmprog run" in out


def test_runs_are_listed_newest_first_with_what_they_were_and_cost(llmprog, store):
    old = kept(store, began=time.time() - 60)
    new = kept(store, given="bye", texts=["a", "b"])
    code, out, _ = llmprog("runs", "ls")
    assert code == 0
    _, first, second = out.splitlines()
    assert first.startswith(new)
    assert second.startswith(old)
    assert re.search(r"speech +bye +finished +4 +\$0\.0000", first)
    _, out, _ = llmprog("runs", "ls", "--limit", 1)
    assert old not in out
    assert "1 older" in out


def test_a_narrow_terminal_has_whole_ids_to_copy(llmprog, store, monkeypatch):
    run_id = kept(store, given="a question that is longer than what is left of a line of a terminal")
    for width in (120, 80, 60, 20):
        monkeypatch.setenv("COLUMNS", str(width))
        _, out, _ = llmprog("runs", "ls")
        heading, line = out.splitlines()
        assert line.startswith(f"{run_id}  ")
        assert "finished" in line
        assert max(map(len, (heading, line))) <= max(width, 60)


def test_a_pipe_gets_lines_as_long_as_they_are(llmprog, store, monkeypatch):
    given = "a question of under sixty letters that fills a line well"
    run_id = kept(store, given=given)
    monkeypatch.delenv("COLUMNS")
    _, out, _ = llmprog("runs", "ls")
    assert re.search(rf"^{run_id}  \d.*  {given} .*\d s$", out, re.MULTILINE)


def test_last_is_the_run_that_began_last(llmprog, store):
    kept(store, began=time.time() - 60)
    new = kept(store, given="bye")
    code, out, _ = llmprog("runs", "show", "last")
    assert (code, out.split()[0]) == (0, new)
    code, out, _ = llmprog("runs", "export", "last")
    assert json.loads(out.splitlines()[0])["run"] == new


def test_there_is_no_last_run_of_an_empty_store(llmprog):
    code, _, err = llmprog("runs", "show", "last")
    assert code == 2
    assert "there are no runs yet" in err


def test_the_list_as_json_holds_status_usage_and_reasons(llmprog, store):
    ok = kept(store)
    (store.directory / "20250101-000000-aaaa.sqlite").write_bytes(b"no database at all, but some text")
    code, out, _ = llmprog("runs", "ls", "--json")
    assert code == 0
    listed = {entry["run"]: entry for entry in json.loads(out)}
    assert listed[ok]["usage"]["calls"] == 4
    assert listed[ok]["status"] == "finished"
    broken = listed["20250101-000000-aaaa"]
    assert broken["status"] == "unreadable"
    assert broken["problem"]


@pytest.mark.fault("Hostile", "terminal escapes in a kept run", "stripped where it is shown")
def test_hostile_text_does_not_reach_the_terminal(llmprog, store):
    run_id = kept(store, given=HOSTILE, texts=[HOSTILE, "x"])
    for arguments in (["ls"], ["show", run_id, "--calls", "--thoughts"]):
        code, out, _ = llmprog("runs", *arguments)
        assert code == 0
        assert "evil" in out
        assert not any(c in out for c in "\x1b\x07\u202e")


# ------------------------------------------------------------------------------------------------ show


def test_show_says_what_a_run_was_and_what_came_of_it(llmprog, store):
    run_id = kept(store, texts=["yes", "yes", "no", "yes"])
    code, out, _ = llmprog("runs", "show", run_id[:-2])  # the beginning of an id is enough
    assert code == 0
    for part in (run_id, "finished", "speech", "hello", "scripted", "4 settled", "stopped   num_samples"):
        assert part in out
    assert "answer    yes" in out
    assert re.search(r"3 █+ yes\n +1 █+ no", out)


def test_show_groups_what_went_wrong(llmprog, store):
    class Failing(ScriptedBackend):
        async def generate(self, request):
            raise BackendError(f"overloaded after {request.first_sample + 1}.5 s", backend="b")

    with pytest.raises(BackendError) as failed:
        run(speech(), "hello", backend=Failing("x"), seed=1, store=store)
    run_id = failed.value.partial.run_id
    code, out, _ = llmprog("runs", "show", run_id)
    assert code == 0
    assert "failed" in out.splitlines()[0]
    (line,) = [line for line in out.splitlines() if "calls failed" in line]
    assert line.startswith("4 calls failed: BackendError: backend 'b': overloaded after")


def test_show_lists_calls_and_draws_thoughts(llmprog, store):
    run_id = kept(store, texts=["yes", "no"], program=tree())
    code, out, _ = llmprog("runs", "show", run_id, "--calls", "--thoughts")
    assert code == 0
    assert re.search(r"say +settled +0 ", out)
    assert out.rstrip().splitlines()[-2].startswith("hello")
    _, out, _ = llmprog("runs", "show", run_id, "--calls", "--thoughts", "--json")
    whole = json.loads(out)
    assert whole["call_list"][0]["completions"][0]["text"] == "yes"
    assert [thought["state"] for thought in whole["thoughts"]] == ["hello", "yes"]
    assert whole["thoughts"][1]["call"] == whole["call_list"][0]["call"]


def test_what_show_cannot_show_it_says_in_one_line(llmprog, store):
    run_id = kept(store)
    for arguments, exit_code, complaint in (
        (["show", "2020"], 2, f"there is no such run in {store.directory}; near: {run_id}"),
        (["show", run_id, "--row", "3"], 2, "is no job"),
    ):
        code, out, err = llmprog("runs", *arguments)
        assert (code, out) == (exit_code, "")
        assert complaint in err
        assert len(err.splitlines()) == 1


# ------------------------------------------------------------------------------------------------ resume


def test_a_run_out_of_budget_is_gone_on_with_by_its_id(llmprog, store):
    given = ("arithmetic", "(17 + 25) * 3 - 40", "--set", "num_samples=6", "--seed", 1, "--json")
    _, undisturbed, _ = llmprog("run", *given, "--store", "memory")
    code, out, err = llmprog("run", *given, "--budget", "calls=4")
    assert code == cli.EXIT_BUDGET
    stopped = json.loads(out)
    assert (stopped["stopped"], stopped["usage"]["calls"]) == ("budget", 4)
    assert f"llmprog runs resume {stopped['run']} --budget …" in err
    assert "budget    calls=4\n" in llmprog("runs", "show", "last")[1]
    code, out, _ = llmprog("runs", "resume", stopped["run"], "--json")
    assert code == cli.EXIT_BUDGET  # its budget is still the same
    code, out, _ = llmprog("runs", "resume", stopped["run"], "--budget", "calls=100", "--json")
    assert code == 0
    assert "budget    calls=4 when it was begun\n" in llmprog("runs", "show", "last")[1]
    resumed, whole = json.loads(out), json.loads(undisturbed)
    for value in (resumed, whole):
        del value["wall_s"], value["run"]
        del value["usage"]["cached_tokens"]  # what a model remembers ends with its process
    assert resumed == whole
    (listed,) = store.list()
    assert listed.usage.calls == 6  # no call was paid for twice
    listed.close()


def test_an_edited_program_is_gone_on_with_as_a_fork_only(llmprog, store, tmp_path):
    file = tmp_path / "mine.py"
    text = (
        "from llmprog import Program, generator\n"
        "from llmprog.search import BreadthFirstSearch\n"
        "@generator\n"
        "def more(state: str) -> list[str]:\n"
        "    return [state + 'a']\n"
        "mine = Program(generators=[more], controller=BreadthFirstSearch(max_depth=2))\n"
    )
    file.write_text(text)
    code, out, _ = llmprog("run", f"{file}:mine", "x", "--json")
    assert code == 0
    run_id = json.loads(out)["run"]
    file.write_text(text.replace("'a'", "'b'"))
    code, _, err = llmprog("runs", "resume", run_id)
    assert code == 2
    assert "--fork" in err
    code, out, _ = llmprog("runs", "resume", run_id, "--fork", "--json")
    assert code == 0
    assert json.loads(out)["answer"] == "xbb"
    assert {run.id: run.forked_from for run in store.list()}[json.loads(out)["run"]] == run_id


def test_a_job_is_gone_on_with_by_its_id_too(llmprog, store, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from llmprog import Program, generator\n"
        "from llmprog.search import BreadthFirstSearch\n"
        "@generator\n"
        "def more(state: str) -> list[str]:\n"
        "    return [state + 'a']\n"
        "mine = Program(generators=[more], controller=BreadthFirstSearch(max_depth=1))\n"
    )
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(f'{{"q": "{letter}"}}\n' for letter in "uvwxyz"))
    given = ("map", f"{file}:mine", "--data", data, "--out", out, "--concurrency", 1, "--json")
    code, printed, _ = llmprog(*given, "--budget", "thoughts=4")
    assert code == cli.EXIT_BUDGET
    job = json.loads(printed)["run"]
    assert len(out.read_text().splitlines()) < 6
    code, printed, _ = llmprog("runs", "show", job)
    assert "(job)" in printed
    assert "{'input'" not in printed  # what a job reads is said in words
    assert str(data) in printed
    code, printed, _ = llmprog("runs", "resume", job, "--budget", "thoughts=100", "--json")
    assert code == 0
    assert json.loads(printed)["run"] == job
    assert sorted(json.loads(line)["answer"] for line in out.read_text().splitlines()) == [f"{c}a" for c in "uvwxyz"]


def test_a_run_that_python_began_is_gone_on_with_there(llmprog, store):
    run_id = kept(store)
    code, _, err = llmprog("runs", "resume", run_id)
    assert code == 2
    assert f"resume={run_id!r}" in err


def test_a_budget_that_is_kept_at_a_url_is_asked_for_again(llmprog, store):
    command = {"program": "arithmetic", "settings": [], "backend": "local:puzzles", "cache": False}
    command["budget"] = cli.run_command.kept_budget("usd=2,file=postgresql://me:secret@here/ledger")
    assert "secret" not in command["budget"]
    result = run(speech(), "hello", backend=votes_of("y"), store=store, labels={"command": command})
    code, _, err = llmprog("runs", "resume", result.run_id)
    assert code == 2
    assert "give --budget again" in err


def test_a_command_of_another_version_is_refused_in_one_line(llmprog, store):
    command = {"program": "arithmetic", "backend": "local:puzzles", "flavour": "mint"}
    result = run(speech(), "hello", backend=votes_of("y"), store=store, labels={"command": command})
    code, _, err = llmprog("runs", "resume", result.run_id)
    assert code == 4
    assert "the command that began it cannot be read" in err


# ------------------------------------------------------------------------------------------------ gc


def ids_of(store):
    return {run.id for run in store.list()}


def test_gc_deletes_old_runs_and_says_how_much_that_was(llmprog, store):
    old, new = kept(store, began=time.time() - 40 * DAY_S), kept(store)
    code, out, _ = llmprog("runs", "gc", "--dry-run")
    assert code == 0
    assert old in out
    assert new not in out
    assert "1 runs: 0." in out
    assert ids_of(store) == {old, new}
    code, out, _ = llmprog("runs", "gc", "--yes")
    assert code == 0
    assert "deleted 1 runs" in out
    assert ids_of(store) == {new}
    assert not [path for path in store.directory.iterdir() if path.name.startswith(old)]
    assert "nothing to delete" in llmprog("runs", "gc", "--yes")[1]


def test_gc_does_not_delete_without_being_told_to(llmprog, store):
    run_id = kept(store)
    code, _, err = llmprog("runs", "gc", "--older-than", "0d")  # nobody is there to be asked
    assert code == 2
    assert "--yes" in err
    assert ids_of(store) == {run_id}


def test_gc_keeps_the_newest_and_other_statuses(llmprog, store):
    runs = [kept(store, began=time.time() - age * DAY_S) for age in (50, 40, 1)]
    llmprog("runs", "gc", "--yes", "--keep", 2)
    assert ids_of(store) == set(runs[1:])
    llmprog("runs", "gc", "--yes", "--status", "failed,interrupted")
    assert ids_of(store) == set(runs[1:])
    llmprog("runs", "gc", "--yes", "--status", "finished", "--older-than", "0s")
    assert ids_of(store) == set()


@pytest.mark.fault("Process", "a run in use is to be thrown away", "it stays")
def test_gc_never_deletes_a_run_at_work(llmprog, store):
    async def gc_meanwhile():
        info = RunInfo(kind="run", program="p", program_hash="h", program_text="t", input=1, config={})
        journal = DirectoryStore(store.directory, clock=lambda: time.time() - 90 * DAY_S).create(info)
        found = llmprog("runs", "gc", "--yes")
        assert ids_of(store) == {journal.id}
        await journal.aclose()
        return found

    assert "nothing to delete" in asyncio.run(gc_meanwhile())[1]
    llmprog("runs", "gc", "--yes")  # now it is interrupted, and old
    assert ids_of(store) == set()


@pytest.mark.fault("Hostile", "a run file of a newer version", "listed with the reason, kept by gc")
def test_gc_keeps_what_it_cannot_read_unless_it_is_named(llmprog, store):
    run_id = kept(store, began=time.time() - 90 * DAY_S)
    with closing(sqlite3.connect(store.directory / f"{run_id}.sqlite")) as file:
        file.execute("PRAGMA user_version = 99")
    assert "unreadable" in llmprog("runs", "ls")[1]
    llmprog("runs", "gc", "--yes")
    assert ids_of(store) == {run_id}
    llmprog("runs", "gc", "--yes", "--status", "unreadable")
    assert ids_of(store) == set()


def test_gc_empties_the_cache_too(llmprog, store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with CallCache() as cache:
        cache.put("b", True, Request(prompt=Prompt.from_text("p")), [Completion(text="t", usage=Usage(1))])
    code, out, _ = llmprog("runs", "gc", "--yes", "--cache")
    assert code == 0
    assert "and the cache" in out
    with CallCache() as cache:
        assert cache.get("b", True, Request(prompt=Prompt.from_text("p"))) == {}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--older-than", "soon"], "'soon': allowed is a whole number with s, m, h, d or w"),
        (["--status", "running"], "unknown --status 'running'; known: failed, finished"),
    ],
)
def test_gc_refuses_what_it_does_not_know(llmprog, arguments, complaint):
    code, _, err = llmprog("runs", "gc", *arguments)
    assert code == 2
    assert complaint in err


# ------------------------------------------------------------------------------------------------ export


def test_a_run_is_exported_to_stdout_or_to_a_file(llmprog, store, tmp_path):
    run_id = kept(store, texts=["yes", "no"])
    code, out, _ = llmprog("runs", "export", run_id)
    assert code == 0
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["run", *["call"] * 4, *["thought"] * 3]
    code, _, _ = llmprog("runs", "export", run_id, "--as", "csv", "--out", tmp_path / "calls.csv")
    assert code == 0
    assert len((tmp_path / "calls.csv").read_text().splitlines()) == 5
    code, _, _ = llmprog("runs", "export", run_id, "--as", "html", "--out", tmp_path / "page.html")
    assert code == 0
    assert (tmp_path / "page.html").read_text().endswith("</html>\n")


def test_training_data_says_how_many_lines_and_why_none(llmprog, store, tmp_path):
    out = tmp_path / "data.jsonl"
    found = kept(store, texts=["no"], program=tree())
    code, _, err = llmprog("runs", "export", found, "--as", "sft", "--out", out)
    assert (code, err) == (0, "llmprog: 1 lines\n")
    assert json.loads(out.read_text())["messages"][-1] == {"role": "assistant", "content": "no"}
    lost = kept(store, texts=["yes"], program=tree())
    code, _, err = llmprog("runs", "export", lost, "--as", "sft", "--out", out)
    assert code == 0
    assert "0 lines; none of its results is" in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--as", "html"], "add --out FILE.html"),
        (["--as", "parquet"], "unknown form of export 'parquet'; known: csv, grpo, html"),
        (["--as", "csv", "--keep-flat"], "unknown option of the export 'csv': 'keep_flat'; known: none"),
        (["--as", "sft"], "nothing says which of its results are right"),
    ],
)
def test_an_export_that_makes_no_sense_is_refused_in_one_line(llmprog, store, arguments, complaint):
    code, out, err = llmprog("runs", "export", kept(store), *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", [("show",), ("resume",), ("export", "--as", "jsonl")])
def test_a_run_that_does_not_exist_is_a_usage_error(llmprog, command):
    code, _, err = llmprog("runs", command[0], "nonesuch", *command[1:])
    assert code == 2
    assert "run 'nonesuch': there is no such run" in err
