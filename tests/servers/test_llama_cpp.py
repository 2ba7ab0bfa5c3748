"""The server of ``llama-cpp-python`` with a real model: it reports log-probabilities and ignores ``n``."""

from __future__ import annotations

import asyncio
import math
import sys

import httpx
import pytest
import torch

from llmprog import Prompt
from llmprog.backends import Scheduler, open_backend
from llmprog.backends.local.checkpoints.loading import load_text_model
from llmprog.errors import CapabilityError
from llmprog.types import Request, SamplingParams

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]
CAPITAL = Prompt.from_text("What is the capital of France? Answer in one short sentence.")


def asking(prompt=CAPITAL, num_samples=1, **params):
    return Request(prompt=prompt, params=SamplingParams(**{"max_tokens": 16, **params}), num_samples=num_samples)


@pytest.fixture(scope="session")
def backend_id(smollm2_gguf, start_server):
    directory, name = smollm2_gguf
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(directory / name), "--model_alias", "smollm2"]
    url = start_server([*command, "--host", "127.0.0.1", "--port", "PORT", "--n_ctx", "1024", "--logits_all", "true"])
    return f"{url}#smollm2?server=llamacpp"


@pytest.fixture
async def backend(backend_id):
    backend = open_backend(backend_id)
    yield backend
    await backend.aclose()


async def test_it_answers(backend):
    (completion,) = await backend.generate(asking(temperature=0.0))
    assert "Paris" in completion.text
    assert completion.usage.completion_tokens > 0


async def test_it_streams(backend):
    deltas = []
    (streamed,) = await backend.stream(asking(temperature=0.0), deltas.append)
    assert streamed.text == "".join(delta.text for delta in deltas)
    assert "Paris" in streamed.text
    assert len(deltas) > 3


async def test_it_reports_log_probabilities(backend):
    (completion,) = await backend.generate(asking(temperature=0.0, logprobs=True))
    assert completion.logprobs is not None
    assert "".join(completion.logprobs.tokens).strip() == completion.text.strip()
    assert all(math.isfinite(value) and value <= 1e-6 for value in completion.logprobs.logprobs)


async def test_likelihoods_of_given_texts_are_those_of_what_it_writes(backend_id):
    begun = "%3C%7Cim_start%7C%3E"  # SmolLM2's tokenizer puts nothing before a text
    backend = open_backend(backend_id.replace("llamacpp", f"completions&bos={begun}"))
    try:
        prompt = Prompt.from_text("<|im_start|>The capital of France is")
        (written,) = await backend.generate(asking(prompt, max_tokens=3, temperature=0.0, logprobs=True))
        given = Prompt.from_text("The capital of France is")
        likely, odd = await backend.score(given, [written.text, " mustard"])
        with pytest.raises(CapabilityError, match=r"\?bos="):
            await open_backend(backend_id.replace("llamacpp", "llama-cpp-python")).score(given, [" Paris"])
    finally:
        await backend.aclose()
    assert likely.tokens == written.logprobs.tokens
    assert likely.logprobs == pytest.approx(written.logprobs.logprobs, abs=1e-3)
    assert odd.logprobs[0] < likely.logprobs[0] < 0


async def test_samples_are_independent(backend):
    completions = await Scheduler(backend).generate(
        "node", asking(Prompt.from_text("Name an animal."), num_samples=6, temperature=1.5, max_tokens=8, seed=1)
    )
    assert len(completions) == 6
    assert len({completion.text for completion in completions}) > 1


async def test_a_cancelled_stream_frees_the_server(backend):
    begun = asyncio.Event()
    story = asking(Prompt.from_text("Tell me a very long story."), max_tokens=400)
    task = asyncio.ensure_future(backend.stream(story, lambda _: begun.set()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (completion,) = await backend.generate(asking(temperature=0.0))
    assert "Paris" in completion.text


TEXTS = [
    "The capital of France is Paris.",
    "2026-11-22 costs 1,234.50 $",
    "  two  spaces, a\ttab\n\nand lines \n",
    "Straße, naïve, 日本語, Ελλάδα, 🙂👩‍👩‍👧",
    "def f(x):\n    return x**2  # it's 3rd",
    "I'll we've don't CAN'T",
]


def test_the_tokenizer_rebuilt_from_the_file_is_the_servers(backend_id, smollm2_gguf):
    directory, name = smollm2_gguf
    loaded = load_text_model(directory / name, backend="local:smollm2", device="cpu", dtype=torch.float32)
    url = backend_id.partition("#")[0].removesuffix("/v1")
    with httpx.Client() as client:
        for text in TEXTS:
            said = client.post(f"{url}/extras/tokenize", json={"input": text}, timeout=60).json()
            assert said["tokens"] == loaded.language.encode_text(text), text
