"""Guards on the package as a whole: what importing it loads, its public names, its extras."""

from __future__ import annotations

import ast
import itertools
import json
import re
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

import llmprog

ROOT = Path(__file__).parent.parent
PACKAGE = Path(llmprog.__file__).parent  # of the sources, or of the installed wheel
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRY_POINTS = [
    EntryPoint(name, value, group)
    for group, points in {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}.items()
    for name, value in points.items()
]

PUBLIC_NAMES = [
    "Blank",
    "Budget",
    "Checker",
    "Choices",
    "CompiledProgram",
    "Completion",
    "Generator",
    "JsonSchema",
    "Message",
    "Model",
    "Program",
    "Prompt",
    "Regex",
    "Result",
    "SamplingParams",
    "Template",
    "Usage",
    "Verdict",
    "__version__",
    "amap",
    "arun",
    "checker",
    "compile_program",
    "generator",
    "map",
    "open_store",
    "run",
]

LOADED_BY_IMPORT = """
import json, sys
before = set(sys.modules)
import llmprog
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def python(*arguments, cwd):
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def normalised(requirement):
    """The name of a requirement or pin, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_importing_llmprog_loads_the_standard_library_only():
    loaded = set(json.loads(python("-c", LOADED_BY_IMPORT, cwd=ROOT)))
    assert "llmprog" in loaded
    assert loaded - sys.stdlib_module_names == {"llmprog"}


def test_the_public_names_are_these():
    assert sorted(llmprog.__all__) == PUBLIC_NAMES


def test_every_public_name_loads():
    for name in llmprog.__all__:
        assert getattr(llmprog, name) is not None
        assert name in dir(llmprog)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = llmprog.no_such_name


@pytest.mark.parametrize("point", ENTRY_POINTS, ids=lambda point: f"{point.group}:{point.name}")
def test_entry_points_load(point):
    loaded = point.load()
    if point.group == "llmprog.backends":
        assert all(callable(getattr(loaded, name)) for name in ("open_backend", "describe_options", "list_backends"))
    else:
        assert callable(loaded)


def extras_named_in_code():
    """The extras that ``MissingExtraError(feature, package, extra)`` promises, with where it does."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or ast.unparse(node.func).split(".")[-1] != "MissingExtraError":
                continue
            arguments = dict(zip(("feature", "package", "extra"), node.args, strict=False))
            arguments |= {keyword.arg: keyword.value for keyword in node.keywords}
            yield f"{path.relative_to(PACKAGE)}:{node.lineno}", ast.literal_eval(arguments["extra"])


def test_every_extra_that_errors_name_exists():
    named = dict(extras_named_in_code())
    assert named
    assert {where: extra for where, extra in named.items() if extra not in PROJECT["optional-dependencies"]} == {}


def test_every_extra_that_pages_name_exists():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for names in re.findall(r"llmprog\[([\w, -]+)\]", page.read_text()):
            assert {name.strip() for name in names.split(",")} <= set(PROJECT["optional-dependencies"]), page


def test_constraints_pin_every_direct_requirement():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    required = [*PROJECT["dependencies"], *itertools.chain(*PROJECT["optional-dependencies"].values())]
    assert {normalised(name) for name in required} - {"llmprog", "llmprog-puzzles"} <= {normalised(pin) for pin in pins}


def test_what_is_pinned_can_be_installed_on_the_first_python_that_is_promised():
    # Releases of Linux keep the patch version they came with; some packages refuse early ones.
    first = f"{PROJECT['requires-python'].removeprefix('>=')}.0"
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    wanted = {
        found.name: found.metadata.get("Requires-Python")
        for found in distributions()
        if found.version == pins.get(found.name) and found.metadata.get("Requires-Python")
    }
    assert len(wanted) > 50
    assert {name: allowed for name, allowed in wanted.items() if first not in SpecifierSet(allowed)} == {}


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "2001:db8::1"])
def test_tests_cannot_reach_other_machines(host):
    with pytest.raises(ConnectionRefusedError, match="loopback"):
        socket.create_connection((host, 9), timeout=1)


def test_tests_can_reach_loopback_servers():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
