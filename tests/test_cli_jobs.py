"""``llmprog map`` and ``llmprog vote`` as a contract: output, exit codes, and going on with the same command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from llmprog.cli import main

# A shell that runs the tests in the background has its children ignore Ctrl-C.
COMMAND = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from llmprog.cli import main; main()",
]

DOUBLE = """
import asyncio, os, pathlib
from llmprog import Program, generator
from llmprog.search import BestOfN

@generator
async def double(state: int, model) -> list[int]:
    with open(pathlib.Path(__file__).with_name("worked.txt"), "a") as file:
        file.write(f"{state}\\n")
    await asyncio.sleep(float(os.environ.get("PAUSE_S", "0")))
    return [state * 2]

def doubled(times: int = 1) -> Program:
    '''Double a number.'''
    return Program(name="doubled", start=int, generators=[double], controller=BestOfN(num_samples=1, max_depth=times))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(DOUBLE)
    (tmp_path / "data.jsonl").write_text("".join(f'{{"n": {n}, "right": {2 * n}}}\n' for n in range(20)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(*more, program="mine.py:doubled", data="data.jsonl", gold="right"):
    given = ["--data", data, "--out", "out.jsonl", "--store", "runs", *(["--gold", gold] if gold else [])]
    return ["map", program, *given, *more] if program else ["vote", *given, *more]


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def llmprog_map(monkeypatch, capsys):
    """Runs ``llmprog map`` in this process."""
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*more, **options):
        monkeypatch.setattr(sys, "argv", ["llmprog", *arguments(*more, **options)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        return Done(code, *capsys.readouterr())

    return call


def rows(place, name="out.jsonl"):
    return [json.loads(line) for line in (place / name).read_text().splitlines()]


def worked(place):
    path = place / "worked.txt"
    return sorted(int(line) for line in path.read_text().splitlines()) if path.exists() else []


def started(place, *more, pause_s):
    """The command in a process of its own, to be killed."""
    pytest.importorskip("torch")  # of the backend that it opens without being told another
    return subprocess.Popen(
        [*COMMAND, *arguments(*more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        env={**os.environ, "PAUSE_S": str(pause_s), "NO_COLOR": "1"},
    )


def wait_until(condition, timeout_s=90):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not so after {timeout_s} s"
        time.sleep(0.01)


def wait_for_rows(place, count):
    out = place / "out.jsonl"
    wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= count)


def test_every_row_is_in_the_output_and_the_summary_says_what_came_of_them(place, llmprog_map):
    done = llmprog_map("--input", "n")
    assert done.returncode == 0, done.stderr
    found = rows(place)
    assert sorted(row["index"] for row in found) == list(range(20))
    assert all(row["answer"] == str(row["row"]["n"] * 2) and row["correct"] for row in found)
    assert "20 rows: 20 answered, 0 failed" in done.stdout
    assert "20 of 20 correct: 100.0% (95 % interval 83.9% to 100.0%)" in done.stdout
    run_id = found[0]["run"]
    assert f"run: {run_id}" in done.stdout
    assert (place / "runs" / f"{run_id}.sqlite").exists()


def test_the_same_command_again_costs_nothing_and_says_the_same(place, llmprog_map):
    first = llmprog_map("--input", "n", "--json", "--in-order")
    before = (place / "out.jsonl").read_bytes()
    (place / "out.jsonl").write_bytes(before[:700])
    again = llmprog_map("--input", "n", "--json", "--in-order")
    assert (first.returncode, again.returncode) == (0, 0), again.stderr
    assert (place / "out.jsonl").read_bytes() == before
    assert worked(place) == list(range(20))
    told, told_again = json.loads(first.stdout), json.loads(again.stdout)
    assert (told["recalled"], told_again["recalled"]) == (0, 20)
    assert {name: told[name] for name in ("run", "rows", "correct", "failed", "stopped", "accuracy")} == {
        name: told_again[name] for name in ("run", "rows", "correct", "failed", "stopped", "accuracy")
    }
    assert f"going on with run {told['run']}" in again.stderr


def test_bad_rows_are_reported_and_the_exit_code_is_3(place, llmprog_map):
    data = place / "data.jsonl"
    data.write_text(data.read_text() + '{"n": "x", "right": 0}\nnot json\n')
    done = llmprog_map("--input", "n")
    assert done.returncode == 3, done.stderr
    assert "22 rows: 20 answered, 2 failed" in done.stdout
    by_index = {row["index"]: row for row in rows(place)}
    assert "invalid literal" in by_index[20]["error"]["message"]
    assert by_index[21]["error"] == {
        "type": "InputError",
        "message": "data.jsonl, line 22: not JSON: Expecting value at character 0",
    }
    data.write_text(data.read_text().replace("not json", '{"n": 50, "right": 100}').replace('"x"', "40"))
    done = llmprog_map("--input", "n")
    assert done.returncode == 0, done.stderr
    assert sorted(row["answer"] for row in rows(place) if row["index"] >= 20) == ["100", "80"]
    assert worked(place) == [*range(20), 40, 50]
    assert len(rows(place)) == 22


def test_rows_that_changed_are_worked_on_anew_and_lines_of_rows_that_are_gone_go(place, llmprog_map):
    assert llmprog_map("--input", "n").returncode == 0
    data = place / "data.jsonl"
    lines = data.read_text().splitlines()[:19]
    lines[5] = '{"n": 500, "right": 1000}'
    data.write_text("\n".join(lines))
    done = llmprog_map("--input", "n", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recalled"] == 18
    assert sorted(row["index"] for row in rows(place)) == list(range(19))
    assert [row["answer"] for row in rows(place) if row["index"] == 5] == ["1000"]
    assert worked(place) == [*range(20), 500]


def test_a_csv_file_and_a_template(place, llmprog_map):
    (place / "data.csv").write_text("a,b\n1,2\n3,4\n")
    done = llmprog_map("--input", "{a}{b}", data="data.csv", gold=None)
    assert done.returncode == 0, done.stderr
    assert sorted(row["answer"] for row in rows(place)) == ["24", "68"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.fault("process", "Ctrl-C or SIGTERM in a job", "drains, exit code 130, and the same command goes on")
def test_one_interrupt_drains_and_the_same_command_goes_on(place, llmprog_map, number):
    with started(place, "--input", "n", "--concurrency", "2", pause_s=2) as process:
        wait_for_rows(place, 4)
        process.send_signal(number)
        out, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "waiting for what is under way" in errors
    assert re.search(r"interrupted; what is done is kept: the same command goes on with run 2\S+", errors)
    assert "Traceback" not in errors
    assert 4 <= len(rows(place)) < 20
    assert f"{len(rows(place))} of 20 rows" in out
    done = llmprog_map("--input", "n")
    assert done.returncode == 0, done.stderr
    assert sorted(row["index"] for row in rows(place)) == list(range(20))
    assert len({row["run"] for row in rows(place)}) == 1
    assert len(worked(place)) <= 20 + 2  # those cut short in the middle were plain Python, which nobody pays for


def test_a_second_interrupt_aborts(place, llmprog_map):
    with started(place, "--input", "n", "--concurrency", "2", pause_s=600) as process:
        wait_until(lambda: len(worked(place)) == 2)
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"  # the first was heard
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "the same command goes on with run" in errors
    assert "Traceback" not in errors
    assert llmprog_map("--input", "n").returncode == 0
    assert sorted(row["index"] for row in rows(place)) == list(range(20))


@pytest.mark.fault("process", "SIGKILL in a job", "the same command goes on; finished rows are not worked on again")
def test_a_killed_job_goes_on(place, llmprog_map):
    with started(place, "--input", "n", "--concurrency", "1", pause_s=0.05) as process:
        wait_for_rows(place, 5)
        process.kill()
    kept = len(rows(place))
    done = llmprog_map("--input", "n", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recalled"] >= kept
    assert sorted(row["index"] for row in rows(place)) == list(range(20))
    assert len(worked(place)) <= 21


def test_a_spent_budget_exits_5_and_more_of_it_goes_on(place, llmprog_map):
    done = llmprog_map("--input", "n", "--budget", "thoughts=11", "--concurrency", "1")
    assert done.returncode == 5, done.stderr
    assert "the budget is spent (thoughts: 11 of 11 made); with a larger --budget the same command" in done.stderr
    assert len(rows(place)) == 6  # of 11 thoughts: doubling 0 makes no new one
    done = llmprog_map("--input", "n", "--budget", "thoughts=1000", "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    assert len(rows(place)) == 20


@pytest.mark.fault("users", "a program edited before its job is resumed", "refused with the difference; --fork goes on")
def test_an_edited_program_shows_the_difference_and_asks_for_a_fork(place, llmprog_map):
    data = place / "data.jsonl"
    data.write_text(data.read_text() + '{"n": "x", "right": 0}\n')
    assert llmprog_map("--input", "n").returncode == 3
    before = (place / "out.jsonl").read_bytes()
    program = place / "mine.py"
    program.write_text(DOUBLE.replace("state * 2", "state * 3"))
    done = llmprog_map("--input", "n")
    assert done.returncode == 2
    assert "is not what run 2" in done.stderr
    assert "--fork" in done.stderr
    assert (place / "out.jsonl").read_bytes() == before
    done = llmprog_map("--input", "n", "--fork")
    assert done.returncode == 3, done.stderr
    assert {row["answer"] for row in rows(place) if row["row"]["n"] == 5} == {"15"}
    assert len(rows(place)) == 21
    assert len({row["run"] for row in rows(place)}) == 1


def test_fresh_begins_anew(place, llmprog_map):
    first = json.loads(llmprog_map("--input", "n", "--json").stdout)
    done = llmprog_map("--input", "n", "--json", "--fresh")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["run"] != first["run"]
    assert told["recalled"] == 0
    assert {row["run"] for row in rows(place)} == {told["run"]}
    assert len(rows(place)) == 20
    again = json.loads(llmprog_map("--input", "n", "--json").stdout)
    assert (again["run"], again["recalled"]) == (told["run"], 20)


def test_an_output_of_something_else_is_not_overwritten(place, llmprog_map):
    (place / "out.jsonl").write_text("my notes\n")
    done = llmprog_map("--input", "n")
    assert done.returncode == 2
    assert "holds something already; give another --out, or --overwrite to replace it" in done.stderr
    assert (place / "out.jsonl").read_text() == "my notes\n"
    assert not (place / "runs").exists()
    assert llmprog_map("--input", "n", "--overwrite").returncode == 0
    assert len(rows(place)) == 20
    other = llmprog_map("--input", "n", "--set", "times=2")
    assert other.returncode == 2
    assert "--overwrite" in other.stderr


def test_the_data_is_never_overwritten(place, llmprog_map):
    (place / "out.jsonl").symlink_to(place / "data.jsonl")
    before = (place / "data.jsonl").read_text()
    done = llmprog_map("--input", "n", "--overwrite")
    assert done.returncode == 2
    assert "is the data file; give another --out" in done.stderr
    assert (place / "data.jsonl").read_text() == before


def test_two_at_once_are_refused_by_name_of_the_owner(place, llmprog_map):
    with started(place, "--input", "n", "--concurrency", "1", pause_s=3) as process:
        wait_for_rows(place, 2)
        second = llmprog_map("--input", "n")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=100)
    assert second.returncode == 2
    assert str(process.pid) in second.stderr
    done = llmprog_map("--input", "n")
    assert done.returncode == 0, done.stderr
    assert sorted(row["index"] for row in rows(place)) == list(range(20))


@pytest.mark.parametrize(
    ("more", "options", "complaint"),
    [
        ([], {}, "which column is it? name it, or give a template such as '{question}'; columns: n, right, more"),
        (["--input", "m"], {}, "no column 'm'; columns: n, right"),
        (["--input", "n"], {"gold": "g"}, "no column 'g'"),
        (["--input", "n"], {"data": "data.txt"}, "of no known format; allowed are .jsonl and .csv"),
        (["--input", "n"], {"data": "none.csv"}, "cannot be opened: No such file or directory"),
        (["--input", "n", "--budget", "cals=1"], {}, "cals"),
        (["--input", "n", "--executor", "magic"], {}, "unknown executor 'magic'"),
        (["--input", "n", "--set", "often=2"], {}, "unknown key 'often'"),
        (["--input", "n", "--concurrency", "0"], {}, "concurrency=0"),
        (["--input", "n"], {"program": "chess"}, "unknown program 'chess'"),
    ],
)
def test_a_mistake_is_one_clear_line_and_leaves_nothing(place, llmprog_map, more, options, complaint):
    (place / "data.txt").touch()
    data = place / "data.jsonl"
    data.write_text(data.read_text().replace("}", ', "more": 1}'))
    done = llmprog_map(*more, **options)
    assert done.returncode == 2, done.stderr
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
    assert not (place / "out.jsonl").exists()
    assert not list(Path(place / "runs").glob("*"))


def test_an_endpoint_that_is_not_there_exits_4_and_keeps_what_it_has(place, llmprog_map):
    (place / "data.jsonl").write_text("".join(f'{{"question": "how many is {n}?"}}\n' for n in range(12)))
    backend = ["--backend", "http://127.0.0.1:9/v1#m?max_attempts=1", "--set", "num_samples=1"]
    done = llmprog_map(*backend, program=None, gold=None)
    assert done.returncode == 4, done.stderr
    assert "127.0.0.1:9" in done.stderr
    assert "the same command goes on with run" in done.stderr
    assert all(row["error"]["type"] == "ConnectionFailedError" for row in rows(place))


def test_vote_answers_on_the_embedded_model(place, llmprog_map):
    (place / "data.jsonl").write_text('{"question": "(17 + 25) * 3 - 40", "right": 86}\n')
    done = llmprog_map("--set", "num_samples=5", "--seed", "1", program=None)
    assert done.returncode == 0, done.stderr
    (row,) = rows(place)
    assert row["usage"]["calls"] == 5
    assert row["votes"] is not None
    assert "5 calls" in done.stdout
