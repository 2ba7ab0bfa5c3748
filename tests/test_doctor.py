from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from llmprog.cli import app
from llmprog.doctor import Diagnosis, configured, examine, is_pattern, missing_extras


async def test_a_backend_that_answers_shows_what_it_can():
    found = await examine("local:puzzles?decoder=hybrid")
    assert found.ok, found.fix
    assert found.found == ("n", "score", "infill", "seed")
    assert found.latency_ms > 0
    assert found.fix == ""


@pytest.mark.parametrize(
    ("backend_id", "fix"),
    [
        ("nope:x", "unknown backend 'nope'"),
        ("local:nope", "unknown local model 'nope'"),
        ("openai:gpt-5-mini?key_env=LLMPROG_NO_SUCH_KEY", "no key is set; set LLMPROG_NO_SUCH_KEY"),
        ("http://127.0.0.1:9/v1#m?max_attempts=1", "127.0.0.1"),
        ("replay:/no/such/file", "/no/such/file"),
    ],
)
async def test_what_is_wrong_is_said_and_never_raised(backend_id, fix):
    found = await examine(backend_id)
    assert not found.ok
    assert fix in found.fix
    assert found.latency_ms is None


def test_what_is_configured_depends_on_the_keys_that_are_set(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ids = [info.id for info in configured()]
    assert "local:puzzles" in ids
    assert not any(is_pattern(backend_id) for backend_id in ids)


@pytest.mark.parametrize(
    ("extra", "package", "module"),
    [("local", "torch", "torch"), ("serve", "uvicorn", "uvicorn"), ("plot", "matplotlib", "matplotlib")],
)
def test_an_extra_is_missing_where_a_package_of_it_is(extra, package, module):
    assert (package in missing_extras().get(extra, ())) == (find_spec(module) is None)


def test_extras_for_developers_are_no_concern_of_users():
    assert not {"dev", "docs", "test"} & set(missing_extras())


def test_the_command_exits_with_4_if_one_fails():
    done = CliRunner().invoke(app, ["doctor", "--backend", "local:puzzles", "--backend", "nope:x", "--json"])
    assert done.exit_code == 4
    first, second = (Diagnosis(**found) for found in json.loads(done.stdout))
    assert (first.ok, second.ok) == (True, False)
