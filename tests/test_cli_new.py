"""``llmprog new``: what it writes runs and passes its tests; what is there stays; what is no name is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, env=environment, check=False, timeout=110
    )


def llmprog(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run("-c", "from llmprog.cli import main; main()", *arguments, cwd=cwd)


@pytest.mark.parametrize("options", [[], ["--yaml"]], ids=["python", "yaml"])
def test_the_tests_of_a_new_program_pass_and_it_runs(options: list[str], tmp_path: Path) -> None:
    pytest.importorskip("torch")  # one of its tests runs on local:puzzles
    made = llmprog("new", "my_program", *options, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    program = "my_program.yaml" if options else "my_program.py:my_program"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([program.partition(":")[0], "test_my_program.py"])
    assert f"llmprog run {program}" in made.stdout

    tested = run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert f"{4 if options else 5} passed" in tested.stdout

    ran = llmprog(
        "run", program, "What is (17 + 25) * 3 - 40?", "--seed", "1", "--set", "num_samples=7", "--json", cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["answer"] == "86"


@pytest.mark.parametrize("options", [[], ["--yaml"]], ids=["python", "yaml"])
def test_a_new_program_passes_the_linter_with_its_default_rules(options: list[str], tmp_path: Path) -> None:
    assert llmprog("new", "mine", *options, "--dir", "deep/folder", cwd=tmp_path).returncode == 0
    for command in (
        ["check", "--select", "E,F,W,B,UP,N,D1", "--ignore", "D103,D100", "--line-length", "120"],
        ["format", "--check", "--line-length", "120"],
    ):
        checked = run("-m", "ruff", *command, "--no-cache", "--isolated", "deep/folder", cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("kept")
    done = llmprog("new", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert "test_mine.py: already there, and nothing is overwritten" in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("test_mine.py", "kept")]


@pytest.mark.parametrize("name", ["my-program", "2nd", "class", "a b", "../up", "", "_x", "x.py"])
def test_a_name_that_is_no_word_is_refused(name: str, tmp_path: Path) -> None:
    done = llmprog("new", "--", name, cwd=tmp_path)
    assert done.returncode == 2
    assert "is no name for a program" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_would_hide_a_module_is_refused(tmp_path: Path) -> None:
    done = llmprog("new", "llmprog", cwd=tmp_path)
    assert done.returncode == 2
    assert "choose another" in done.stderr
