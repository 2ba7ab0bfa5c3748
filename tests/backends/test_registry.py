from __future__ import annotations

import pytest

from llmprog import Prompt
from llmprog.backends import open_backend
from llmprog.backends.registry import describe_options, module_of, parse_id, schemes
from llmprog.errors import OptionError
from llmprog.types import Request

PLUGIN = """
from llmprog.backends import BackendInfo, ScriptedBackend
from llmprog.errors import OptionError

def open_backend(name, options):
    for key in options:
        if key not in describe_options():
            raise OptionError.unknown("option", key, describe_options())
    backend = ScriptedBackend(lambda text, sample: options.get("say", "nothing"))
    backend.id = f"echo:{name}"
    return backend

def describe_options():
    return {"say": "what it says"}

def list_backends():
    return [BackendInfo(id="echo:x", summary="says one thing")]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A third party's package, found as an installed one is."""
    (tmp_path / "echo_backend.py").write_text(PLUGIN)
    info = tmp_path / "echo_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[llmprog.backends]\necho = echo_backend\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("backend_id", "parts"),
    [
        ("local:puzzles", ("local", "puzzles", {})),
        ("local:puzzles?decoder=hybrid&alpha=0.5", ("local", "puzzles", {"decoder": "hybrid", "alpha": "0.5"})),
        ("local:puzzles?decoder=", ("local", "puzzles", {"decoder": ""})),
        ("http://127.0.0.1:8000/v1#qwen3", ("http", "//127.0.0.1:8000/v1#qwen3", {})),
        ("local:a:b", ("local", "a:b", {})),
    ],
)
def test_the_parts_of_an_id(backend_id, parts):
    assert parse_id(backend_id) == parts


@pytest.mark.parametrize("backend_id", ["", "nope", "local:", ":puzzles", "nope:x"])
def test_an_unknown_backend_names_the_known_ones(backend_id):
    with pytest.raises(OptionError, match=r"unknown backend .*; known: .*local:….*; see `llmprog list`"):
        open_backend(backend_id)


def test_the_local_scheme_is_registered():
    assert "local" in schemes()


def test_a_third_party_backend_is_found_and_its_options_are_checked(plugin):
    assert "echo" in schemes()
    assert open_backend("echo:there").id == "echo:there"
    assert describe_options("echo:there") == {"say": "what it says"}
    assert [info.id for info in module_of("echo").list_backends()] == ["echo:x"]
    with pytest.raises(OptionError, match="unknown option 'shout'; known: say"):
        open_backend("echo:there?shout=1")


async def test_the_options_of_an_id_reach_the_backend(plugin):
    backend = open_backend("echo:there?say=one")
    (completion,) = await backend.generate(Request(prompt=Prompt.from_text("?")))
    assert completion.text == "one"
