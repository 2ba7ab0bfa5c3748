"""The command line takes joined programs as it takes any other."""

from __future__ import annotations

import json
import sys

import pytest

from llmprog import cli

FILE = '''
from llmprog import Program, generator
from llmprog.combinators import Apply, Map, Sequence, Vote
from llmprog.search import BestOfN

@generator
def double(n: int) -> list[int]:
    return [2 * n]

doubled = Program(generators=[double], controller=BestOfN(num_samples=1), start=int, name="doubled")

def total(num_samples: int = 2) -> Program:
    """Doubles numbers and adds them up.

    Args:
        num_samples: Runs of the vote.
    """
    return Sequence(Apply(str.split), Map(doubled), Vote(Apply(sum), num_samples=num_samples), name="total")
'''


@pytest.fixture
def llmprog(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMPROG_RUNS", str(tmp_path / "runs"))

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["llmprog", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        shown = capsys.readouterr()
        assert end.value.code in (0, None), shown.err
        return shown.out

    return command


def test_show_draws_the_parts_of_parts(llmprog):
    shown = llmprog("show", "mine.py:total", "--set", "num_samples=3")
    assert "map  (program, Iterable[Any] → list[int])  → vote" in shown
    assert "num_samples = 3" in shown
    assert "double  (generator)  → BestOfN" in shown
    assert "num_samples  2        Runs of the vote." in shown


def test_run_shows_the_dataflow_and_the_answer(llmprog):
    shown = llmprog("run", "mine.py:total", "1 2 3")
    assert "Answer: 12" in shown
    assert "4 thoughts" in shown
    assert llmprog("run", "mine.py:total", "1 2 3", "--quiet") == "12\n"


def test_json_has_the_parts(llmprog):
    found = json.loads(llmprog("run", "mine.py:total", "1 2 3", "--json"))
    assert found["answer"] == "12"
    assert {label: part["answer"] for label, part in found["parts"]["map"]["parts"].items()} == {
        "0": "2",
        "1": "4",
        "2": "6",
    }
