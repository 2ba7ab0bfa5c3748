"""Programs compared on the same calls: each sample of each request is drawn once, whoever asks for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmprog.accounting import Spending
from llmprog.backends.accounts import Accounts, parts_of, samples_of
from llmprog.backends.base import Backend, Capabilities
from llmprog.backends.bounds import PricedBackend
from llmprog.backends.replay import ReplayBackend
from llmprog.backends.scheduler import Scheduler
from llmprog.errors import BudgetExceededError
from llmprog.types import Completion, Logprobs, Prompt, Request, SamplingParams, Template, Usage

_NODE = "bench"


class SharedCalls:
    """What a backend has answered, kept for all programs that ask the same.

    Each program gets a view of its own with ``view``. The first that asks for a sample has it drawn, the others get the
    same completion, with the usage it had: each is charged as if it had been alone. A view that asks for the same
    sample of the same request twice (two nodes, two equal rows) gets two draws, as from the backend itself.

    Args:
        backend: The backend.
        spending: Allows the calls that are really made; ``None`` allows all.
        known: A recording of calls that were made before.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        spending: Spending | None = None,
        known: ReplayBackend | None = None,
    ) -> None:
        self.backend = backend
        self.shortfall: str | None = None
        self._scheduler = Scheduler(backend, accounts=Accounts(spending=spending))
        self._draws: dict[tuple[Prompt | Template, SamplingParams], dict[tuple[int, int], Completion]] = {}
        self._scores: dict[tuple[Prompt, str], Logprobs] = {}
        if known is not None:
            for asked, samples in known.recorded_samples():
                takes = ((i, take, draw) for i, draws in samples.items() for take, draw in enumerate(draws))
                self._draws[asked] = {(i, take): draw for i, take, draw in takes}
            self._scores |= known.recorded_scores()

    @property
    def usage(self) -> Usage:
        """What the calls that were really made have cost."""
        return self._scheduler.usage

    def view(self) -> SharedCallsView:
        """The backend as one program sees it. Programs take their turns: views are not used at the same time."""
        return SharedCallsView(self)

    async def draw(self, request: Request, takes: Mapping[int, int]) -> list[Completion]:
        """The completions of ``request``, of each sample that draw which ``takes`` says.

        Raises:
            BudgetExceededError: The budget does not allow those that are missing.
        """
        drawn = self._draws.setdefault((request.prompt, request.params), {})
        missing = [i for i in takes if (i, takes[i]) not in drawn]
        parts = parts_of(request, missing)
        found = await asyncio.gather(*(self._ask(part) for part in parts), return_exceptions=True)
        for part, answer in zip(parts, found, strict=True):
            if isinstance(answer, BaseException):
                continue
            for i, completion in enumerate(answer, part.first_sample):
                drawn[i, takes[i]] = completion
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return [drawn[i, take] for i, take in takes.items()]

    async def _ask(self, request: Request) -> Sequence[Completion]:
        try:
            return await self._scheduler.generate(_NODE, request)
        except BudgetExceededError as error:
            self.shortfall = self.shortfall or str(error)
            raise

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> list[Logprobs]:
        """The log-probabilities of ``continuations``; they are no draws, so one is as good as another."""
        missing = [text for text in dict.fromkeys(continuations) if (prompt, text) not in self._scores]
        if missing:
            for text, score in zip(missing, await self._scheduler.score(_NODE, prompt, missing), strict=True):
                self._scores[prompt, text] = score
        return [self._scores[prompt, text] for text in continuations]


class SharedCallsView:
    """A backend as one program sees it that shares its calls with others.

    Args:
        shared: What all of them share.
    """

    def __init__(self, shared: SharedCalls) -> None:
        self._shared = shared
        self._asked: defaultdict[tuple[Prompt | Template, SamplingParams, int], int] = defaultdict(int)

    @property
    def id(self) -> str:
        """The backend's id."""
        return self._shared.backend.id

    @property
    def capabilities(self) -> Capabilities:
        """The backend's capabilities; several samples are asked for at once, and those missing are then drawn."""
        return replace(self._shared.backend.capabilities, n=True, stream="none")

    async def generate(self, request: Request) -> Sequence[Completion]:
        """The shared completions."""
        takes = {}
        for i in samples_of(request):
            key = request.prompt, request.params, i
            takes[i] = self._asked[key]
            self._asked[key] += 1
        return await self._shared.draw(request, takes)

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        """The shared completions; they are told apart by the seed."""
        return await self.generate(Request(prompt=template, params=params, num_samples=num_samples))

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The shared scores."""
        return await self._shared.score(prompt, continuations)

    def most_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The backend's price."""
        backend = self._shared.backend
        return backend.most_usd(prompt_tokens, completion_tokens) if isinstance(backend, PricedBackend) else None

    async def aclose(self) -> None:
        """Nothing: whoever opened the backend closes it."""
