from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from llmprog.cli import app
from llmprog.doctor import Diagnosis, configured, examine, is_pattern


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


def test_the_command_exits_with_4_if_one_fails():
    done = CliRunner().invoke(app, ["doctor", "--backend", "local:puzzles", "--backend", "nope:x", "--json"])
    assert done.exit_code == 4
    first, second = (Diagnosis(**found) for found in json.loads(done.stdout))
    assert (first.ok, second.ok) == (True, False)
