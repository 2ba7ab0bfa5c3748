"""What a conformance check is, and what a backend is tried on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmprog.backends.base import Backend
from llmprog.errors import OptionError
from llmprog.types import Prompt, Request, SamplingParams, Template


class ConformanceError(AssertionError):
    """A backend does not keep to the protocol; the message says what was expected and what came."""


class NotApplicable(Exception):  # noqa: N818 - an outcome, not a fault
    """A check has nothing to check: the backend does not claim the capability, or the trial gives no material."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a backend is tried on.

    Attributes:
        open: Opens a fresh backend; called once per check, and the backend is closed afterwards.
        prompts: One or more prompts that the model understands, each answered with a few words at least.
        params: How completions are drawn in all checks: with a seed, so that backends that honour seeds can be held to
            it, and with ``max_tokens`` small enough to be quick.
        template: A template for backends that fill blanks; without one they are not checked for it.
        timeout_s: Seconds that one check may take.
    """

    open: Callable[[], Backend]
    prompts: Sequence[str | Prompt]
    params: SamplingParams = field(default_factory=lambda: SamplingParams(max_tokens=32, seed=1, temperature=1.0))
    template: Template | None = None
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.prompts, str) or not self.prompts:
            raise OptionError(f"Trial(prompts={self.prompts!r}): allowed is a sequence of one or more prompts")

    def prompt(self, number: int = 0) -> Prompt:
        """One of the prompts, beginning again after the last."""
        given = self.prompts[number % len(self.prompts)]
        return Prompt.from_text(given) if isinstance(given, str) else given

    def request(self, *, n: int = 1, first: int = 0, prompt: int = 0, **params: Any) -> Request:
        """A request for ``n`` completions of one of the prompts, from sample ``first`` on."""
        changed = replace(self.params, **params)
        return Request(prompt=self.prompt(prompt), params=changed, num_samples=n, first_sample=first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that every backend is held to.

    Attributes:
        name: A word or two, for test ids and ``skip``.
        summary: What is checked, in one sentence.
        function: Checks an open backend; raises ``ConformanceError`` or ``NotApplicable``.
    """

    name: str
    summary: str
    function: Callable[[Backend, Trial], Awaitable[None]]

    async def run(self, trial: Trial) -> None:
        """Check a backend that is opened for it and closed afterwards.

        Raises:
            ConformanceError: It does not keep to the protocol, or takes longer than the trial allows.
            NotApplicable: There is nothing to check.
            LLMProgError: A call failed that had no reason to.
        """
        backend = trial.open()
        limit = asyncio.timeout(trial.timeout_s)
        try:
            async with limit:
                await self.function(backend, trial)
        except TimeoutError as error:
            if limit.expired():
                raise ConformanceError(f"{self.name}: not done within {trial.timeout_s} s") from error
            raise
        finally:
            await backend.aclose()

    def test(self, trial: Trial) -> None:
        """``run`` as a pytest test, in an event loop of its own: what is not applicable is skipped."""
        import pytest

        try:
            asyncio.run(self.run(trial))
        except NotApplicable as reason:
            pytest.skip(str(reason))
