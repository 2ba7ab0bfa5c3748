"""What a backend is: the protocol every model, local or remote, is called through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from llmprog.types import Completion, Logprobs, Prompt, Request, SamplingParams, Template


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do beyond ``generate``.

    Attributes:
        n: Draws several samples of one prompt in one call.
        logprobs: Reports token log-probabilities of its completions.
        score: Gives likelihoods of given continuations.
        infill: Fills blanks anywhere in a text.
        seed: The same request and seed give the same completions.
        context_length: Longest prompt plus completion in tokens; ``None`` where unknown.
    """

    n: bool = False
    logprobs: bool = False
    score: bool = False
    infill: bool = False
    seed: bool = False
    context_length: int | None = None


@runtime_checkable
class Backend(Protocol):
    """A model that can be called.

    Implementations are safe to call from many tasks at once on one event loop. A cancelled call
    leaves nothing behind. Failures are ``BackendError``; what a backend cannot do is a
    ``CapabilityError`` that names what can.
    """

    @property
    def id(self) -> str:
        """The id this backend was opened with, for messages and records; it holds no secret."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do."""
        ...

    async def generate(self, request: Request) -> Sequence[Completion]:
        """``request.num_samples`` completions, in sample order."""
        ...

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The log-probability of each continuation given the prompt, in the order given."""
        ...

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        """``num_samples`` completions whose ``text`` is the template's text with every blank filled."""
        ...

    async def aclose(self) -> None:
        """Release what the backend holds; calling it twice is harmless."""
        ...
