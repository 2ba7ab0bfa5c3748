"""The command line as a contract: output, exit codes and one clear line for each mistake."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

# A shell that runs the tests in the background has its children ignore Ctrl-C.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "

# Finders that do not find torch: to the interpreter it is not installed.
WITHOUT_TORCH = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "torch" else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def llmprog(*arguments: str, prelude: str = "", timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    code = f"{prelude}\nfrom llmprog.cli import main; main()"
    environment = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )
    sys.stderr.write(done.stderr)  # shown where a test fails
    return done


def test_run_solves_and_shows_tree_answer_and_spending() -> None:
    done = llmprog("run", "game24", "4", "9", "10", "13", "--seed", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 9 10 13\n")
    assert "★" in done.stdout
    assert "Answer: " in done.stdout
    assert "calls" in done.stdout
    assert "seed 1" in done.stdout


def test_json_is_one_object_with_the_promised_keys_and_repeats_under_its_seed() -> None:
    first, second = (llmprog("run", "game24", "4 9 10 13", "--seed", "7", "--json") for _ in range(2))
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert {
        "program", "input", "answer", "solved", "stopped", "votes", "usage", "thoughts", "wall_s", "seed", "backend",
    } <= set(result)  # fmt: skip
    counts = {
        "calls", "prompt_tokens", "completion_tokens", "usd", "cached_tokens", "reasoning_tokens", "cache_hits",
    }  # fmt: skip
    assert set(result["usage"]) == counts
    assert (result["program"], result["input"], result["seed"]) == ("game24", "4 9 10 13", 7)
    assert result["solved"] is True
    again = json.loads(second.stdout)
    for changing in ("wall_s", "run", "usage"):  # what is in flight when the goal is found depends on the disk
        del result[changing], again[changing]
    assert result == again


def test_quiet_prints_the_answer_alone() -> None:
    done = llmprog("run", "game24", "4 9 10 13", "--seed", "1", "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "Answer" not in done.stdout


@pytest.mark.parametrize("decoder", ["masked_diffusion", "hybrid"])
def test_set_reaches_the_backend_and_the_program(decoder: str) -> None:
    done = llmprog(
        "run", "game24", "4 9 10 13", "--set", f"decoder={decoder}", "--set", "beam_width=3", "--json", "--seed", "1"
    )
    result = json.loads(done.stdout)
    assert f"decoder={decoder}" in result["backend"]
    assert done.returncode in (0, 3)
    assert result["usage"]["calls"] > 0


def test_arithmetic_votes() -> None:
    done = llmprog("run", "arithmetic", "(17 + 25) * 3 - 40", "--set", "num_samples=5", "--json", "--seed", "1")
    result = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert result["votes"]["num_samples"] == 5
    assert sum(entry["votes"] for entry in result["votes"]["histogram"]) == result["votes"]["num_valid"]


def test_an_unsolvable_puzzle_exits_3_and_says_so() -> None:
    done = llmprog("run", "game24", "1", "1", "1", "1", "--seed", "1")
    assert done.returncode == 3, done.stderr
    assert "has no solution" in done.stdout


def test_the_version_is_that_of_the_package() -> None:
    done = llmprog("--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"llmprog {version('llmprog')}\n"


def test_the_package_runs_as_a_module_where_its_script_is_not_on_the_path() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmprog", "run", "gam24", "1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("llmprog: error: unknown program 'gam24'")


@pytest.mark.parametrize(
    ("group", "commands"),
    [
        ([], "run list show new doctor runs view map vote bench serve train-policy"),
        (["runs"], "ls show resume export gc"),
    ],
)
def test_help_lists_the_commands_in_the_order_of_use_each_with_a_whole_sentence(
    group: list[str], commands: str
) -> None:
    done = llmprog(*group, "--help", prelude="import os; os.environ['COLUMNS'] = '80'")
    listed = re.findall(r"^  (\S+) +(.+)$", done.stdout.partition("Commands:\n")[2], re.MULTILINE)
    lines = dict(listed[: len(commands.split())])
    assert list(lines) == commands.split()
    assert all(re.fullmatch(r"[A-Z][^.]+\.", line) for line in lines.values()), lines


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "game24", "abc"], "'abc' is not a whole number"),
        (["run", "game24", "7"], "1 number in '7'"),
        (["run", "game24", ""], "0 numbers in ''"),
        (["run", "game24", "4 9 10 13", "--set", "beam_width=0"], "beam_width=0; allowed is a whole number >= 1"),
        (["run", "game24", "4 9 10 13", "--set", "beam_width=x"], "beam_width='x'"),
        (["run", "game24", "4 9 10 13", "--set", "method=guess"], "method='guess'"),
        (["run", "game24", "4 9 10 13", "--set", "colour=red"], "unknown key 'colour'; known keys of game24: method, "),
        (["run", "game24", "4 9 10 13", "--set", "beam_width"], "expected KEY=VALUE"),
        (["run", "game24", "4 9 10 13", "--set", "decoder=magic"], "decoder='magic'"),
        (["run", "game24", "4 9 10 13", "--backend", "nope"], "unknown backend 'nope'; known: anthropic:"),
        (["run", "game24", "4 9 10 13", "--backend", "local:nope"], "nope"),
        (["run", "game24", "4 9 10 999"], "999"),
        (["run", "chess", "e4"], "unknown program 'chess'; known: arithmetic, best_of_n, "),
        (["run", "no/such/file.py:program", "1"], "no file 'no/such/file.py'"),
        (["show", "chess"], "unknown program 'chess'"),
        (["run", "gam24", "4 9 10 13"], "unknown program 'gam24' (did you mean 'game24'?); known: arithmetic, "),
        (["run", "game24", "4 9 10 13", "--set", "beam_widht=3"], "'beam_widht' (did you mean 'beam_width'?); known"),
        (["run", "game24", "4 9 10 13", "--backend", "opanai:x"], "unknown backend 'opanai' (did you mean 'openai'?)"),
        (["run", "game24", "4 9 10 13", "--backend", "openai"], "unknown backend 'openai'; known: anthropic:"),
        (["run", "count.py", "1"], "say which one: count.py:NAME"),
        (["run", "arithmetic", "Why is the sky blue?"], "for other questions name another backend, such as local:smol"),
        (["run", "arithmetic", "What is the capital of France?"], "for other questions name another backend"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(arguments: list[str], complaint: str) -> None:
    done = llmprog(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_missing_extra_says_what_to_install() -> None:
    done = llmprog("run", "game24", "4 9 10 13", prelude=WITHOUT_TORCH)
    assert done.returncode == 4
    assert 'pip install "llmprog[local]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_list_names_what_is_missing() -> None:
    complete = llmprog("list")
    assert complete.returncode == 0, complete.stderr
    assert "game24" in complete.stdout
    assert "arithmetic" in complete.stdout
    assert "local:puzzles" in complete.stdout
    missing = llmprog("list", prelude=WITHOUT_TORCH)
    assert missing.returncode == 0, missing.stderr
    assert 'pip install "llmprog[local]"' in missing.stdout


def test_corrupted_weights_are_one_clear_line_and_exit_code_4(tmp_path: Path) -> None:
    package = Path(importlib.import_module("llmprog_puzzles").__file__ or "").parent
    shutil.copytree(package, tmp_path / "llmprog_puzzles", ignore=shutil.ignore_patterns("__pycache__"))
    weights = tmp_path / "llmprog_puzzles" / "puzzles.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    prelude = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    done = llmprog("run", "game24", "4 9 10 13", prelude=prelude)
    assert done.returncode == 4, done.stderr
    assert "puzzles.safetensors" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_show_prints_the_program_graph() -> None:
    done = llmprog("show", "game24", "--set", "beam_width=3")
    assert done.returncode == 0, done.stderr
    for part in ("BeamSearch", "propose", "legal", "promising", "beam_width = 3", "Possible next steps:"):
        assert part in done.stdout


def test_a_program_of_ones_own_runs_by_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from llmprog import Program, generator\n"
        "from llmprog.search import BreadthFirstSearch\n"
        "@generator\n"
        "def double_or_add(state: int) -> list[int]:\n"
        "    return [state * 2, state + 1]\n"
        "def reach(goal: int = 10) -> Program:\n"
        "    '''Reach a number from 1.'''\n"
        "    return Program(name='reach', start=int, generators=[double_or_add],\n"
        "                   controller=BreadthFirstSearch(max_depth=9), goal=lambda s: s == goal)\n"
    )
    done = llmprog("run", f"{file}:reach", "1", "--set", "goal=11", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == "11"


def test_exceeding_a_declared_cap_exits_5(tmp_path: Path) -> None:
    file = tmp_path / "endless.py"
    file.write_text(
        "from llmprog import Program, generator\n"
        "from llmprog.search import BestFirstSearch\n"
        "@generator\n"
        "def more(state: int) -> list[int]:\n"
        "    return [state + 1]\n"
        "endless = Program(start=int, generators=[more], goal=lambda s: False,\n"
        "                  controller=BestFirstSearch(max_thoughts=50))\n"
    )
    done = llmprog("run", f"{file}:endless", "1", "--json")
    assert done.returncode == 5, done.stderr
    assert json.loads(done.stdout)["stopped"] == "max_thoughts"


def test_ctrl_c_exits_130(tmp_path: Path) -> None:
    file = tmp_path / "slow.py"
    file.write_text(
        "import asyncio, sys\n"
        "from llmprog import Program, generator\n"
        "from llmprog.search import BestFirstSearch\n"
        "@generator\n"
        "async def wait(state: int, model) -> list[int]:\n"
        "    sys.stderr.write('waiting\\n'); sys.stderr.flush()\n"
        "    await asyncio.sleep(600)\n"
        "    return []\n"
        "slow = Program(start=int, generators=[wait], controller=BestFirstSearch(max_thoughts=5))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE + "from llmprog.cli import main; main()", "run", f"{file}:slow", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "waiting\n"
            process.send_signal(signal.SIGINT)  # waits for what is under way, which takes ten minutes
            while "once more to abort" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
