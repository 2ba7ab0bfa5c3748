"""``ScriptedBackend``: answers written beforehand, to test programs and search logic without a model."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from llmprog.backends.base import Capabilities
from llmprog.errors import BackendError, CapabilityError
from llmprog.types import Completion, Logprobs, Prompt, Request, SamplingParams, Template, Usage

Script = Callable[[str, int], str | Completion] | Mapping[str, str | Sequence[str]]

_TURNS = 24  # a shuffled call waits fewer turns of the event loop than this


class ScriptedBackend:
    """Replies by a function of ``(prompt text, sample index)``, or from a mapping of prompt text to replies.

    Of several replies to one prompt, sample i gets number i, beginning again after the last.

    Args:
        script: The replies.
        latency_s: Seconds each call takes.
        n: Whether several samples per call are supported.
        shuffle: Seed of a random order in which concurrent calls are answered; in order of arrival by default.

    Attributes:
        requests: Every request received, in order.
        num_in_flight: Calls received and neither answered nor cancelled.
    """

    def __init__(self, script: Script, *, latency_s: float = 0.0, n: bool = True, shuffle: int | None = None) -> None:
        self._order = None if shuffle is None else random.Random(shuffle)
        self._script = script
        self._latency_s = latency_s
        self.id = "scripted"
        self.capabilities = Capabilities(n=n, seed=True)
        self.requests: list[Request] = []
        self.num_in_flight = 0

    async def generate(self, request: Request) -> Sequence[Completion]:
        """The scripted replies."""
        self.requests.append(request)
        self.num_in_flight += 1
        try:
            if self._latency_s:
                await asyncio.sleep(self._latency_s)
            if self._order is not None:
                for _ in range(self._order.randrange(_TURNS)):
                    await asyncio.sleep(0)
            asked = request.prompt
            text = asked.prompt.text if isinstance(asked, Template) else asked.text
            return [self._reply(text, request.first_sample + i) for i in range(request.num_samples)]
        finally:
            self.num_in_flight -= 1

    def _reply(self, text: str, sample: int) -> Completion:
        if callable(self._script):
            reply = self._script(text, sample)
        else:
            replies = self._script.get(text)
            if replies is None:
                raise BackendError(f"no reply is scripted for the prompt {text!r}", backend=self.id)
            reply = replies if isinstance(replies, str) else replies[sample % len(replies)]
        if isinstance(reply, Completion):
            return reply
        usage = Usage(1, len(text.split()) if sample == 0 else 0, len(reply.split()), 0.0)
        return Completion(text=reply, usage=usage)

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """Refused: a script has no likelihoods."""
        raise CapabilityError("a script has no likelihoods; score with a local model instead", backend=self.id)

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        """Refused: a script fills no blanks."""
        raise CapabilityError("a script fills no blanks; use a diffusion decoder of a local model", backend=self.id)

    def most_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Nothing: a script is free."""
        return 0.0

    async def aclose(self) -> None:
        """Nothing to release."""
