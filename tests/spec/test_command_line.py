"""Program files on the command line: run, mapped, resumed, shown, written; what is trusted is kept with a run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from forms import search

from llmprog import cli
from llmprog.compile import compile_program
from llmprog.spec import form_text, load_program

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

TOOLS = """
from llmprog import Program, generator
from llmprog.search import BestOfN

def shout(text: str) -> str:
    return str(text).upper()

@generator
def twice(text: str) -> list[str]:
    return [text + text]

doubled = Program(generators=[twice], controller=BestOfN(num_samples=1), answer=shout, name="doubled")
closed = Program(generators=[twice], controller=BestOfN(num_samples=1), answer=lambda text: text, name="closed")
"""

Command = Callable[..., tuple[str, str, int]]


@pytest.fixture
def llmprog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in an empty folder; what it prints on stdout and stderr, and its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMPROG_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "my_tools.py").write_text(TOOLS)

    def command(*arguments: str) -> tuple[str, str, int]:
        monkeypatch.setattr(sys, "argv", ["llmprog", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        structlog.reset_defaults()
        shown = capsys.readouterr()
        code = end.value.code
        return shown.out, shown.err, code if isinstance(code, int) else 0

    return command


def write(file: str, form: object) -> None:
    Path(file).write_text(form_text(form, "json" if file.endswith(".json") else "yaml"))


SUMS = {
    "name": "sums",
    "description": "Adds up.",
    "parameters": {"end": {"default": "!", "help": "What the answer ends with."}},
    "sequence": [{"apply": "calculate"}, {"apply": {"template": "{input}{end}"}}],
}


def test_a_file_is_run_with_its_parameters(llmprog: Command) -> None:
    write("sums.yaml", SUMS)
    write("sums.json", SUMS)
    for file in ("sums.yaml", "sums.json"):
        assert llmprog("run", file, "1 + 2", "--quiet") == ("3!\n", "", 0)
        out, _, _ = llmprog("run", file, "1 + 2", "--set", "end=?", "--json")
        assert (json.loads(out)["answer"], json.loads(out)["program"]) == ("3?", "sums")
    _, err, code = llmprog("run", "sums.yaml", "1", "--set", "start=1")
    assert (code, err.split(";")[0]) == (2, "llmprog: error: --set: unknown key 'start'")
    assert "known keys of sums.yaml: end" in err


def test_a_file_is_mapped_over_rows_and_gone_on_with_from_another_folder(llmprog: Command, tmp_path: Path) -> None:
    write("sums.yaml", SUMS)
    Path("rows.jsonl").write_text("".join(json.dumps({"sum": f"{n} + 1"}) + "\n" for n in range(4)))
    arguments = ("map", "sums.yaml", "--data", "rows.jsonl", "--out", "out.jsonl", "--set", "end=.", "--quiet")
    assert llmprog(*arguments) == ("", "", 0)
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert sorted(row["answer"] for row in rows) == ["1.", "2.", "3.", "4."]
    (run,) = [json.loads(line)["run"] for line in Path("out.jsonl").read_text().splitlines()[:1]] or [None]
    os.chdir("/")
    out, err, code = llmprog("runs", "resume", run, "--json")
    assert code == 0, err
    assert json.loads(out)["stopped"] == "finished"


def test_functions_need_trust_which_is_kept_with_the_run(llmprog: Command, tmp_path: Path) -> None:
    form = {"name": "loud", "apply": {"function": "my_tools.py:shout"}}
    write("loud.yaml", form)
    _, err, code = llmprog("run", "loud.yaml", "a")
    assert code == 2
    assert err.startswith("llmprog: error: loud.yaml:3:13: apply.function: the function 'my_tools.py:shout' is not")
    assert "--trust my_tools.py" in err
    assert "my_tools" not in sys.modules
    out, err, code = llmprog("run", "loud.yaml", "a", "--trust", "my_tools.py", "--json")
    assert (code, json.loads(out)["answer"]) == (0, "A"), err
    out, err, code = llmprog("runs", "resume", json.loads(out)["run"], "--json")
    assert (code, json.loads(out)["answer"]) == (0, "A"), err


def test_a_file_is_shown_with_its_parameters(llmprog: Command) -> None:
    write("p.yaml", search(parameters={"n": {"default": 2, "help": "How many."}},
                           controller={"BestOfN": {"num_samples": "{n}"}}))  # fmt: skip
    out, _, code = llmprog("show", "p.yaml", "--set", "n=5")
    assert code == 0
    for part in ("small  ", "BestOfN  (controller)", "num_samples = 5", "{question}", "n      2        How many."):
        assert part in out


def test_a_prompt_of_several_messages_is_shown(llmprog: Command) -> None:
    prompt = {
        "system": "Be brief.",
        "examples": [{"user": "1+1", "assistant": "2"}],
        "user": "{question}",
        "prefix": "A:",
    }
    prompt["fill"] = ["A: ", {"blank": 4}]
    write("p.yaml", search(generators=[{"name": "g", "prompt": prompt, "parse": "text", "into": "answer"}]))
    out, _, _ = llmprog("show", "p.yaml")
    for line in (
        "system: Be brief.",
        "user: 1+1",
        "assistant: 2",
        "user: {question}",
        "assistant: A:…",
        "fill: A: <4 tok",
    ):
        assert line in out


def test_a_program_of_named_functions_is_written_and_read_back(llmprog: Command, tmp_path: Path) -> None:
    for kind in ("yaml", "json"):
        out, err, code = llmprog("show", "my_tools.py:doubled", "--as", kind)
        assert code == 0, err
        Path(f"again.{kind}").write_text(out)
        place = str(tmp_path / "my_tools.py")
        assert f"{place}:shout" in out
        assert llmprog("run", f"again.{kind}", "ab", "--trust", place, "--quiet") == ("ABAB\n", "", 0)
    _, err, code = llmprog("show", "my_tools.py:closed", "--as", "yaml")
    assert code == 2
    assert "program 'closed': answer: my_tools:<lambda> is a lambda" in err


def test_a_registered_program_is_written_with_the_parameters_that_were_set(llmprog: Command, tmp_path: Path) -> None:
    from llmprog.programs import arithmetic

    out, _, _ = llmprog("show", "arithmetic", "--as", "yaml", "--set", "num_samples=3", "--set", "stopping=window")
    assert out == "program: arithmetic\nset:\n  num_samples: 3\n  stopping: window\n"
    Path("p.yaml").write_text(out)
    built = load_program("p.yaml")
    assert compile_program(built).hash == compile_program(arithmetic(num_samples=3, stopping="window")).hash
    assert llmprog("show", "arithmetic", "--as", "yaml", "--set", "num_samples=0")[2] == 2


def test_each_fault_has_a_line(llmprog: Command) -> None:
    write("bad.yaml", search(answer="nothing", key="neither", generators=None))
    _, err, code = llmprog("run", "bad.yaml", "x")
    lines = err.splitlines()
    assert (code, lines[0]) == (2, "llmprog: error: bad.yaml: 3 faults")
    assert len(lines) == 4
    assert all(line.startswith("  bad.yaml:") for line in lines[1:])


def test_show_needs_something_to_show(llmprog: Command) -> None:
    assert llmprog("show")[2] == 2
    assert llmprog("show", "game24", "--full")[2] == 2
    assert llmprog("show", "no.yaml")[1] == "llmprog: error: no.yaml: cannot be read: No such file or directory\n"
    schema = json.loads(llmprog("show", "--schema")[0])
    assert "SearchForm" in schema["$defs"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_says_how_it_is_run_and_answers(example: Path, llmprog: Command) -> None:
    pytest.importorskip("torch")
    assert f"llmprog run examples/{example.name}" in example.read_text()
    out, err, code = llmprog("run", str(example), "4 9 10 13", "--seed", "1", "--quiet")
    assert (code, err) == (0, "")
    assert out.strip()
