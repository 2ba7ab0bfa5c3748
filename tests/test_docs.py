"""The pages do what they say: every snippet in README and docs is run, every link followed, every table compared.

A page's ```python blocks run in order in one namespace, in an empty folder; the ```text block right after one is what
it prints. ```console blocks hold `$ llmprog ...` commands and what they print; `$ echo $?` shows an exit code, which is
0 where it is not shown. `…` stands for any text, alone on a line for any lines. Words after the language:

* `example`: a ```text block that is not compared, or a ```console block whose commands only have to finish, solved or
  not (what a model says changes with its weights);
* `file=NAME`: the block is written to that file instead of being run. A `pyproject.toml` is also installed, as far as
  its entry points go.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from llmprog import cli, progress
from llmprog.backends import registry
from llmprog.backends.local.options import describe_options
from llmprog.programs import catalog

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(path for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts)]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
WIDTH = "100"


def name_of(path):
    return str(path.relative_to(ROOT))


# ------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``line`` is that of its first line of text."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int
    follows: bool  # nothing but blank lines lies between the block before and this one

    @property
    def file(self):
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)


def blocks_of(page):
    found: list[Block] = []
    text = page.read_text()
    end = 0
    for match in re.finditer(r"^```(\w*)([^\n`]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start(3)) + 1
        follows = bool(found) and not text[end : match.start()].strip()
        found.append(Block(match[1], tuple(match[2].split()), match[3], line, follows))
        end = match.end()
    return found


def prose_of(page):
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


# ------------------------------------------------------------------------------------------------ running


def same(expected, printed):
    """Whether ``printed`` is what a page says, lines compared without trailing blanks."""
    wanted = [line.rstrip() for line in expected.strip("\n").split("\n")]
    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + "\n"
        for line in wanted
    )
    lines = [line.rstrip() for line in printed.strip("\n").split("\n")]
    return re.fullmatch(pattern, "\n".join(lines) + "\n") is not None


class Session:
    """Runs the blocks of one page, in the folder that is current."""

    def __init__(self, page):
        self.page = page
        self.module = types.ModuleType(f"page_{page.stem}")
        self.printed = ""
        self.status = 0

    def run(self, block):
        if block.file is not None:
            self.write(block)
        elif block.language == "python":
            self.run_python(block)
        elif block.language == "console":
            self.run_console(block)

    def write(self, block):
        Path(block.file).write_text(block.text)
        if block.file == "pyproject.toml":
            project = tomllib.loads(block.text)["project"]
            folder = Path(f"{project['name']}-{project['version']}.dist-info")
            folder.mkdir()
            (folder / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
            lines = []
            for group, points in project["entry-points"].items():
                lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
            (folder / "entry_points.txt").write_text("\n".join(lines))
        importlib.invalidate_caches()

    def run_python(self, block):
        # Line numbers are the page's, so that a traceback points into it.
        code = compile("\n" * (block.line - 1) + block.text, str(self.page), "exec")
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(code, vars(self.module))  # noqa: S102 - the page's own snippet
        self.printed = output.getvalue()

    def run_console(self, block):
        for command, shown in commands_of(block):
            if command == "echo $?":
                self.printed = f"{self.status}\n"
            else:
                self.printed, self.status = llmprog(command)
                allowed = {cli.EXIT_SOLVED, cli.EXIT_UNSOLVED} if "example" in block.words else {cli.EXIT_SOLVED}
                is_shown = re.search(rf"^\$ {re.escape(command)}\n(?:[^$].*\n)*\$ echo \$\?$", block.text, re.MULTILINE)
                assert is_shown or self.status in allowed, f"{command}: exit code {self.status}\n{self.printed}"
            if shown and ("example" not in block.words or command == "echo $?"):
                assert same(shown, self.printed), f"{command} printed:\n{self.printed}"


def commands_of(block):
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command.strip(), shown


def llmprog(command):
    """What a command line prints (stdout, then stderr) and its exit code."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "llmprog", f"a console block runs {program!r}; the tests know llmprog and echo $?"
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["llmprog", *arguments])
        patch.setattr(progress, "SECONDS_BETWEEN_LINES", 3600)  # on a slow machine there would be lines more
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            structlog.reset_defaults()
    return out.getvalue() + err.getvalue(), status


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The current folder, importable, and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(ROOT / "docs/recordings", tmp_path / "docs/recordings")  # by the path they have in a checkout
    monkeypatch.setenv("COLUMNS", WIDTH)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=name_of)
def test_what_a_page_shows_is_what_happens(page, empty_folder, monkeypatch):
    session = Session(page)
    monkeypatch.setitem(sys.modules, session.module.__name__, session.module)  # dataclasses look their module up
    last = None
    for block in blocks_of(page):
        try:
            if block.language == "text" and block.follows and last == "python" and "example" not in block.words:
                assert same(block.text, session.printed), f"the snippet printed:\n{session.printed}"
            else:
                session.run(block)
        except BaseException as error:
            error.add_note(f"in the block at {name_of(page)}:{block.line}")
            raise
        last = block.language


def test_the_tutorial_can_be_followed_word_for_word(tmp_path):
    """As it says: all snippets into one file, which a new Python runs, and the commands into a shell."""
    page = ROOT / "docs/tutorial.md"
    snippets, shown, last = [], [], None
    for block in blocks_of(page):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
            assert f"`{block.file}`" in page.read_text(), "the reader has to know what to call it"
        elif block.language == "python":
            snippets.append(block.text)
        elif block.language == "text" and last == "python":
            shown.append("…\n" if "example" in block.words else block.text)
        last = block.language
    (tmp_path / "tutorial.py").write_text("\n".join(snippets))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "LLMPROG_STORE": str(tmp_path / "runs"), "COLUMNS": WIDTH}

    def do(command):
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    status, printed = do("python -W error tutorial.py")
    assert (status, same("".join(shown), printed)) == (0, True), printed
    for command, wanted in (
        pair for block in blocks_of(page) if block.language == "console" for pair in commands_of(block)
    ):
        if command == "echo $?":
            printed = f"{status}\n"
        else:
            status, printed = do(command)
        assert same(wanted, printed), f"{command} printed:\n{printed}"


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_an_example_runs_and_shows_its_result(path, empty_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 3


# ----------------------------------------------------------------------------------------------- checking


def anchors_of(page):
    """Anchors of a page's headings, by GitHub's rule."""
    headings = re.findall(r"^#{1,6} (.+?)\s*$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if linked.is_relative_to(ROOT / "llmprog") and not (ROOT / "llmprog").is_dir():
            continue  # an installed wheel is tested, without the sources
        assert linked.exists(), f"{target} leads nowhere"
        assert linked.is_relative_to(ROOT), f"{target} leads out of the repository"
        assert not anchor or anchor in anchors_of(linked), f"{target}: no such heading"


def test_every_page_can_be_reached_from_the_index():
    index = (ROOT / "docs/index.md").read_text()
    for page in PAGES[1:]:
        if page.name != "index.md":
            assert f"({page.relative_to(ROOT / 'docs')})" in index, page


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_on_pages_exist(page):
    known = set(re.findall(r"^\.PHONY: (\w+)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?=`|\s*#|\s*$)", page.read_text(), re.MULTILINE)) <= known


def test_the_readme_names_the_commands_that_run_and_test():
    readme = (ROOT / "README.md").read_text()
    assert "make run" in readme
    assert "make test" in readme


def first_column(page, heading):
    """Names in code style in the first column of the first table under a heading."""
    section = re.split(r"^#{2,3} ", (ROOT / page).read_text(), flags=re.MULTILINE)
    (text,) = [part for part in section if part.partition("\n")[0].strip() == heading]
    table = re.search(r"^\|.*?(?=^[^|]|\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `([^`]+)`", table[0], re.MULTILINE)


def test_the_table_of_local_options_is_complete():
    assert first_column("docs/local.md", "Options") == list(describe_options())


@pytest.mark.parametrize("program", catalog.names())
def test_the_tables_of_program_parameters_are_complete(program):
    assert first_column(f"docs/programs/{program}.md", "Parameters") == list(catalog.find(program).parameters)


def test_the_pages_name_every_controller():
    import llmprog.search

    known = {
        name
        for name in llmprog.search.__all__
        if isinstance(made := getattr(llmprog.search, name), type)
        and issubclass(made, llmprog.search.Controller)
        and made not in (llmprog.search.Controller, llmprog.search.TreeController)
    }
    assert set(first_column("docs/search.md", "Controllers")) == known
    assert set(first_column("README.md", "Controllers")) == known


def test_the_table_of_exit_codes_is_complete():
    codes = {value for name, value in vars(cli).items() if name.startswith("EXIT_")}
    assert {int(code) for code in first_column("docs/cli.md", "Exit codes")} == codes
    assert {int(code) for code in first_column("README.md", "Exit codes")} == codes


def test_the_pages_name_every_backend():
    ids = {info.id for scheme in registry.schemes() for info in registry.module_of(scheme).list_backends()}
    assert set(first_column("README.md", "Backends")) == ids
