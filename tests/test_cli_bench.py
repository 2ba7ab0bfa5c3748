from __future__ import annotations

import json
import sys

import pytest

from llmprog import cli
from llmprog.cli.bench_command import _values
from llmprog.errors import OptionError

DATA = """{"question": "(2 + 5) * 5 * 4", "right": "140"}
{"question": "56 - (38 + 4 - 20 + 18)", "right": "16"}
{"question": "(17 + 25) * 3 - 40", "right": "86"}
"""


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """Runs ``llmprog bench`` in this process."""
    (tmp_path / "data.jsonl").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("LLMPROG_STORE", str(tmp_path / "runs"))

    def call(*arguments, data="data.jsonl"):
        given = ["llmprog", "bench", *arguments, "--data", data, "--backend", "local:puzzles?decoder=autoregressive"]
        monkeypatch.setattr(sys, "argv", given)
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        else:
            code = 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_a_sweep_prints_its_table_and_draws_its_plot(bench, tmp_path):
    code, out, err = bench("arithmetic", "--gold", "right", "--sweep", "num_samples=1,2,...,4", "--plot", "curve.png")
    assert code == 0
    assert "3 questions; calls, tokens and dollars a question" in out
    assert "arithmetic num_samples=3" in out
    assert "made 12 calls; one by one the settings above would have made 30" in out
    assert "arithmetic num_samples=4: 3 of 3 runs, 12 calls made" in err
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_drawn_is_not_drawn_again(bench):
    _, first, _ = bench("arithmetic", "--gold", "right", "--sweep", "num_samples=1,3", "--json")
    _, again, _ = bench("arithmetic", "--gold", "right", "--sweep", "num_samples=1,3,5", "--json")
    first, again = json.loads(first), json.loads(again)
    assert (first["usage"]["calls"], again["usage"]["calls"]) == (9, 6)
    assert again["points"][:2] == first["points"]


def test_without_right_answers_it_measures_what_is_solved(bench, tmp_path):
    (tmp_path / "puzzles.csv").write_text("puzzle\n4 9 10 13\n1 1 1 1\n")
    arguments = ("--compare", "method=io,best_of_n", "--repeats", "3", "--json")
    code, out, _ = bench("game24", *arguments, data="puzzles.csv")
    report = json.loads(out)
    assert code == 0
    assert report["measure"] == "solved"
    assert [point["series"] for point in report["points"]] == ["method=io", "method=best_of_n"]
    assert [entry["k"] for entry in report["points"][0]["at_k"]] == [1, 2, 3]
    assert report["differences"][0]["baseline"] == "method=io"
    assert all(point["values"][1] == 0 for point in report["points"])  # four ones make no 24


def test_a_budget_ends_it_and_a_larger_one_goes_on(bench):
    sweep = ("arithmetic", "--gold", "right", "--sweep", "num_samples=1,4", "--json")
    code, out, err = bench(*sweep, "--budget", "calls=5")
    cut = json.loads(out)
    assert code == 5
    assert [point["setting"] for point in cut["points"]] == ["num_samples=1"]
    assert cut["usage"]["calls"] == 5
    assert "the same command goes on with the calls that were made" in err
    code, out, _ = bench(*sweep, "--budget", "calls=7")
    assert code == 0
    assert json.loads(out)["usage"]["calls"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("arithmetic", "--sweep", "num_samples"), "expected KEY=V1,V2"),
        (("arithmetic", "--sweep", "depth=1,2"), "unknown key 'depth'"),
        (("arithmetic", "--sweep", "num_samples=1,...,8"), "stands between two values or more"),
        (("arithmetic", "--plot", "curve.txt"), "allowed are files that end in .png"),
        (("arithmetic", "--plot", "nowhere/curve.png"), "its folder is not there"),
        (("arithmetic", "--budget", "thoughts=3"), "no effect on a bench"),
        (("arithmetic", "--limit", "0"), "0 questions"),
        (("nosuch",), "unknown program 'nosuch'"),
    ],
)
def test_bad_options_are_usage_errors(bench, arguments, message):
    code, out, err = bench(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_row_that_cannot_be_read_ends_it(bench, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"question": "1 + 1"}\nnot a row\n')
    code, _, err = bench("arithmetic", data="bad.jsonl")
    assert code == 2
    assert "line 2" in err


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("n=1,2,4,...,64", "1 2 4 8 16 32 64"),
        ("n=1,2,...,5", "1 2 3 4 5"),
        ("n=10,20,…,50", "10 20 30 40 50"),
        ("n=0.1,0.2,...,0.5", "0.1 0.2 0.3 0.4 0.5"),
        ("n=3", "3"),
        ("method=io, cot", "io cot"),
    ],
)
def test_values_with_steps(text, values):
    key = text.partition("=")[0]
    assert _values("--sweep", text) == [f"{key}={value}" for value in values.split()]


@pytest.mark.parametrize("text", ["n=1,2,...,2.5", "n=4,2,...,64", "n=1,2,...", "n=a,b,...,c", "n=1,1,...,9", "n=,1"])
def test_steps_that_lead_nowhere_are_refused(text):
    with pytest.raises(OptionError, match="--sweep"):
        _values("--sweep", text)
