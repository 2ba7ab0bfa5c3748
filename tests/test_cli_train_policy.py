"""``llmprog train-policy`` as a contract: what it prints, exit codes, and going on with the same command."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from llmprog.cli import main
from llmprog.search import load_policy

# A shell that runs the tests in the background has its children ignore Ctrl-C.
COMMAND = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from llmprog.cli import main; main()",
]

MAZE = '''
from llmprog import Program, checker, generator
from llmprog.search import BestOfN, PolicyController, TreeOfThoughtController, load_policy

@generator
async def walk(place: str, model) -> list[str]:
    order, _, way = place.partition(":")
    return [place + "."] if way else [f"{order}:{'right' if n == order else 'wrong'}" for n in "123"]

@checker
def passable(place: str) -> bool:
    return not (":wrong" in place and place.endswith("..."))

def maze(method: str = "line", policy: str | None = None) -> Program:
    """Find the way."""
    controller = TreeOfThoughtController(max_depth=6, max_rounds=40)
    if policy is not None:
        controller = PolicyController(max_depth=6, max_rounds=40, policy=load_policy(policy))
    return Program(
        name="maze",
        start=lambda order: f"{order}:",
        generators=[walk],
        checkers=[passable],
        controller=controller if method == "line" else BestOfN(num_samples=1),
        goal=lambda place: place.endswith("..."),
    )
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MAZE)
    (tmp_path / "data.jsonl").write_text("".join(f'{{"order": "{n}", "comment": "no"}}\n' for n in (1, 2, 3)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(*more, episodes=32, program="mine.py:maze", inputs=("--data", "data.jsonl", "--input", "order")):
    given = ["--out", "maze.safetensors", "--episodes", str(episodes), "--batch-size", "8", "--hidden-size", "4"]
    return ["train-policy", program, *given, *inputs, *more]


def llmprog(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["llmprog", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_policy_is_trained_and_used(place, capsys, monkeypatch):
    code, out, _ = llmprog(capsys, monkeypatch, *arguments("--seed", "1"))
    assert code == 0
    line, where = out.splitlines()
    assert re.fullmatch(
        r"32 of 32 episodes, return 0\.\d{3}, \d+\.\d% solved, \d+\.\d\d rounds, 0 calls, 0 tokens, \$0\.0000", line
    )
    assert where == "policy: maze.safetensors, seed 1"
    policy = load_policy("maze.safetensors")
    assert (policy.program, policy.training["settings"]["batch_size"]) == ("maze", 8)
    code, out, _ = llmprog(
        capsys, monkeypatch, "run", "mine.py:maze", "1", "--set", "policy=maze.safetensors", "--quiet", "--seed", "1"
    )
    assert (code, out) == (0, "1:right...\n")


def test_the_same_command_goes_on_and_prints_json(place, capsys, monkeypatch):
    code, out, err = llmprog(capsys, monkeypatch, *arguments("--json", "--seed", "1"))
    first = json.loads(out)
    assert (code, err, first["num_episodes"], first["stopped"]) == (0, "", 32, "finished")
    _, out, _ = llmprog(capsys, monkeypatch, *arguments("--json", episodes=40))
    second = json.loads(out)
    assert (second["num_episodes"], second["seed"], second["out"]) == (40, 1, "maze.safetensors")
    assert 0 < second["mean_rounds"] < 40
    code, out, err = llmprog(capsys, monkeypatch, *arguments("--gamma", "0.9"))
    assert code == 2
    assert "'maze.safetensors' holds a policy of another training: its settings is" in err
    code, out, _ = llmprog(capsys, monkeypatch, *arguments("--gamma", "0.9", "--overwrite", "--quiet", episodes=8))
    assert (code, out) == (0, "")
    assert load_policy("maze.safetensors").training["num_episodes"] == 8


def test_every_option_of_learning_reaches_the_training(place, capsys, monkeypatch):
    given = {
        "learning_rate": 0.5, "gamma": 0.25, "round_cost": 0.125, "entropy_bonus": 2.0, "baseline": "mean",
        "batch_size": 4, "max_back": 3, "hidden_size": 5,
    }  # fmt: skip
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    llmprog(capsys, monkeypatch, *arguments(*options, episodes=4))
    assert load_policy("maze.safetensors").training["settings"] == given


def test_a_spent_budget_says_how_to_go_on(place, capsys, monkeypatch):
    code, out, err = llmprog(capsys, monkeypatch, *arguments("--budget", "thoughts=400", "--seed", "1", episodes=800))
    assert code == 5
    assert err == "llmprog: the budget is spent; what was learned is kept: the same command goes on from there\n"
    kept = load_policy("maze.safetensors").training["num_episodes"]
    assert 0 < kept < 800
    assert out.startswith(f"{kept} of 800 episodes")


def test_ctrl_c_keeps_what_was_learned(place, capsys, monkeypatch):
    process = subprocess.Popen(
        [*COMMAND, *arguments("--seed", "1", episodes=100_000)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    policy = place / "maze.safetensors"
    deadline = time.monotonic() + 200
    while not (policy.exists() and load_policy(policy).training["num_episodes"] >= 16):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "llmprog: interrupted; what was learned is kept: the same command goes on from there" in err
    kept = load_policy(policy).training["num_episodes"]
    code, _, _ = llmprog(capsys, monkeypatch, *arguments(episodes=kept + 8))
    assert code == 0
    llmprog(capsys, monkeypatch, *arguments("--seed", "1", "--out", "again.safetensors", episodes=kept + 8))
    assert load_policy("again.safetensors").digest == load_policy(policy).digest


def test_inputs_are_made_at_random_where_the_program_has_some(place, capsys, monkeypatch):
    inputs = ("--random", "size=4", "--random", "num_givens=12")
    code, out, err = llmprog(
        capsys, monkeypatch, *arguments("--seed", "1", program="sudoku", inputs=inputs, episodes=4)
    )
    assert code == 0, err
    assert re.match(r"4 of 4 episodes, .* [1-9]\d* calls, ", out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (arguments(inputs=()), "there are no random inputs for program 'mine.py:maze'"),
        (arguments(inputs=("--input", "order")), "--input has no effect without --data"),
        (arguments("--random", "size=4"), "--random has no effect with --data"),
        (arguments(inputs=("--data", "none.jsonl")), "the data file 'none.jsonl' cannot be opened"),
        (arguments(inputs=("--data", "data.jsonl")), "the input: which column is it?"),
        (arguments(inputs=("--data", "data.jsonl", "--input", "way")), "the input: no column 'way'"),
        (arguments("--set", "method=other"), "program 'maze' is controlled by BestOfN"),
        (arguments("--set", "speed=3"), "unknown key 'speed'"),
        (arguments("--learning-rate", "-1"), "learning_rate=-1.0; allowed is a number > 0"),
        (arguments("--out", "no/where"), "policy 'no/where' cannot be written"),
        (arguments(episodes=0), "num_episodes=0; allowed is a whole number >= 1"),
    ],
)
def test_what_is_wrong_is_said(place, capsys, monkeypatch, words, message):
    code, _, err = llmprog(capsys, monkeypatch, *words)
    assert code == 2
    assert err.startswith("llmprog: error: ")
    assert message in err


def test_a_file_without_rows_and_a_row_that_cannot_be_read_are_named(place, capsys, monkeypatch):
    (place / "data.jsonl").write_text("")
    _, _, err = llmprog(capsys, monkeypatch, *arguments())
    assert "the data file 'data.jsonl' has no rows" in err
    (place / "data.jsonl").write_text('{"order": "1"}\nnonsense\n')
    code, _, err = llmprog(capsys, monkeypatch, *arguments())
    assert code == 2
    assert "data.jsonl, line 2: not JSON" in err
