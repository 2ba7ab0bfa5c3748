"""Recording what a backend answers and replaying it: what tests of recordings have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llmprog.backends import Capabilities, ScriptedBackend
from llmprog.backends.base import Backend
from llmprog.backends.replay import (
    Recorder,
    RecordingBackend,
    ReplayBackend,
)
from llmprog.types import (
    Blank,
    Completion,
    Delta,
    Logprobs,
    Prompt,
    Request,
    SamplingParams,
    Template,
)

PARAMS = SamplingParams(seed=7)


def ask(text: str = "What is 2 + 2?", *, n: int = 1, first: int = 0, **params: object) -> Request:
    given_params = replace(PARAMS, **params)
    return Request(prompt=Prompt.from_text(text), params=given_params, num_samples=n, first_sample=first)


class Able(ScriptedBackend):
    """A scripted backend that also streams, scores and fills blanks."""

    def __init__(self, script: Callable[[str, int], str | Completion] = lambda prompt, sample: f"{prompt} {sample}"):
        super().__init__(script)
        self.capabilities = Capabilities(
            n=True,
            seed=True,
            score=True,
            infill=True,
            logprobs=True,
            context_length=99,
            stream="append",
            guided=frozenset({"json", "regex"}),
        )

    async def stream(self, request: Request, on_delta: Callable[[Delta], None]) -> Sequence[Completion]:
        completions = await self.generate(request)
        for sample, completion in enumerate(completions):
            for letter in completion.text:
                on_delta(Delta(sample=sample, text=letter))
        return completions

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        return [Logprobs(tokens=tuple(text), logprobs=(-0.1,) * len(text), is_bound=True) for text in continuations]

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        texts = ["".join("_" if isinstance(part, Blank) else part for part in template.parts)] * num_samples
        return [Completion(text=f"{text}{i}") for i, text in enumerate(texts)]


def record(path: Path, backend: Backend, *requests: Request) -> list[Sequence[Completion]]:
    async def run() -> list[Sequence[Completion]]:
        with Recorder(path) as recorder:
            recording = RecordingBackend(backend, recorder)
            return [await recording.generate(request) for request in requests]

    return asyncio.run(run())


def replayed(path: Path, *requests: Request) -> list[Sequence[Completion]]:
    async def run() -> list[Sequence[Completion]]:
        backend = ReplayBackend(path)
        return [await backend.generate(request) for request in requests]

    return asyncio.run(run())


def content_of(path: Path) -> str:
    return path.read_text()
