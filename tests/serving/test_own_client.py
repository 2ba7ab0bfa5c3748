"""Our own remote backend against our own server: what a backend does in process it does through one."""

from __future__ import annotations

import asyncio

import pytest

from llmprog.backends import open_backend
from llmprog.errors import RequestRefusedError
from llmprog.programs.game24 import game24
from llmprog.runner import run
from llmprog.testing import CHECKS, Trial
from llmprog.types import Blank, Prompt, Request, SamplingParams, Template

STEPS = Prompt.from_text("Input: 4 9 10 13\nPossible next steps:")
SUDOKU = Template(
    Prompt.from_text(". 2 3 .\n3 . . .\n. 1 . 3\n4 . 2 .\nSolution:"),
    (
        *(Blank(1), " 2 3 ", Blank(1), "\n3 ", Blank(3), "\n"),
        *(Blank(1), " 1 ", Blank(1), " 3\n4 ", Blank(1), " 2 ", Blank(1)),
    ),
)


def through(backend_id, call):
    """What ``call(backend)`` comes to."""

    async def main():
        backend = open_backend(backend_id)
        try:
            return await call(backend)
        finally:
            await backend.aclose()

    return asyncio.run(main())


@pytest.fixture
def remote(url):
    return lambda model: f"{url}#{model}?server=llmprog"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_conformance(check, remote):
    if check.name == "max_tokens":
        pytest.skip("the protocol counts the tokens of all choices together; their shares are the client's estimate")
    check.test(Trial(open=lambda: open_backend(remote("puzzles")), prompts=[STEPS]))


@pytest.mark.parametrize("check", [c for c in CHECKS if c.name in ("infill", "stream")], ids=lambda check: check.name)
def test_conformance_of_a_diffusion_model(check, remote):
    check.test(Trial(open=lambda: open_backend(remote("diffusion")), prompts=[STEPS], template=SUDOKU))


def test_a_reply_is_that_of_the_backend_in_process(remote):
    request = Request(prompt=STEPS, params=SamplingParams(seed=1, logprobs=True), num_samples=1)
    (here,) = through("local:puzzles?threads=1", lambda backend: backend.generate(request))
    (there,) = through(remote("puzzles"), lambda backend: backend.generate(request))
    assert (there.text, there.finish_reason) == (here.text, here.finish_reason)
    assert there.logprobs.tokens == here.logprobs.tokens
    assert there.logprobs.logprobs == pytest.approx(here.logprobs.logprobs, abs=1e-4)
    assert there.usage.completion_tokens == here.usage.completion_tokens


@pytest.mark.parametrize("model", ["puzzles", "diffusion"])
def test_likelihoods_are_those_in_process_and_say_what_is_a_bound(remote, model):
    texts = ["13 - 9 = 4", "13 - 9 = 5", ""]
    decoder = {"puzzles": "autoregressive", "diffusion": "masked_diffusion"}[model]
    here = through(f"local:puzzles?threads=1&decoder={decoder}", lambda backend: backend.score(STEPS, texts))
    there = through(remote(model), lambda backend: backend.score(STEPS, texts))
    assert [score.total for score in there] == pytest.approx([score.total for score in here], abs=1e-3)
    assert [score.is_bound for score in there[:2]] == [score.is_bound for score in here[:2]]
    assert there[0].is_bound == (model == "diffusion")


def test_a_template_with_many_blanks_is_filled_as_in_process(remote):
    params = SamplingParams(temperature=0.0, seed=1)
    options = "?threads=1&decoder=masked_diffusion"
    (here,) = through(f"local:puzzles{options}", lambda backend: backend.infill(SUDOKU, params))
    (there,) = through(remote("diffusion"), lambda backend: backend.infill(SUDOKU, params))
    assert there.text == here.text
    assert " 2 3 " in there.text
    with pytest.raises(RequestRefusedError, match="fills no blanks"):
        through(remote("puzzles"), lambda backend: backend.infill(SUDOKU, params))


def test_a_prefix_begins_the_reply(remote):
    request = Request(prompt=Prompt(STEPS.messages, "13 - 9 ="), params=SamplingParams(temperature=0.0, max_tokens=1))
    (reply,) = through(remote("puzzles"), lambda backend: backend.generate(request))
    assert reply.text.strip() == "4"


def test_a_stream_is_the_reply(remote):
    request = Request(prompt=STEPS, params=SamplingParams(seed=5), num_samples=2)
    pieces = ["", ""]

    def add(delta):
        pieces[delta.sample] = delta.text if delta.replaces else pieces[delta.sample] + delta.text

    replies = through(remote("puzzles"), lambda backend: backend.stream(request, add))
    assert pieces == [reply.text for reply in replies]


def test_a_program_runs_through_the_server(remote):
    result = run(game24(), "4 9 10 13", backend=remote("puzzles"), seed=1)
    assert result.solved


def test_a_program_of_the_server_is_a_model(remote):
    request = Request(prompt=Prompt.from_text("1 1 1 1"), params=SamplingParams())
    with pytest.raises(RequestRefusedError, match="temperature has no effect on program:game24"):
        through(remote("program:game24"), lambda backend: backend.generate(request))
