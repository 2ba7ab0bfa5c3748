"""Sends a run's calls to its backends: which node goes where, how many at once, what was spent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from llmprog.backends.base import Backend, StreamingBackend, refuse_unsupported
from llmprog.errors import BackendError, LLMProgError, OptionError
from llmprog.events import CallSettled, CompletionDelta
from llmprog.tasks import gather_or_cancel
from llmprog.types import Completion, Logprobs, Prompt, Request, Template, Usage, sample_seed, total_usage

_ROUNDS_FOR_MISSING_SAMPLES = 3


class Scheduler:
    """Dispatches calls by node and adds up their usage.

    A backend that does not draw several samples in one call is called once per sample; one that
    returns fewer than asked is asked for the rest.

    Args:
        default: The backend of every node without one of its own.
        by_node: Backends of particular nodes.
        max_concurrency: Calls in flight per backend.
        on_settled: Told of every call that came back.
        on_delta: Told of every piece of a completion, from backends that stream; without it nothing is streamed.
    """

    def __init__(
        self,
        default: Backend | None,
        by_node: Mapping[str, Backend] | None = None,
        *,
        max_concurrency: int = 1024,
        on_settled: Callable[[CallSettled], None] | None = None,
        on_delta: Callable[[CompletionDelta], None] | None = None,
    ) -> None:
        if max_concurrency < 1:
            raise OptionError(f"max_concurrency={max_concurrency!r}; allowed is a whole number >= 1")
        self.usage = Usage()
        self._default = default
        self._by_node = dict(by_node or {})
        self._on_settled = on_settled
        self._on_delta = on_delta
        backends = [b for b in (default, *self._by_node.values()) if b is not None]
        self._slots = {id(backend): asyncio.Semaphore(max_concurrency) for backend in backends}

    def _backend(self, node: str) -> Backend:
        backend = self._by_node.get(node, self._default)
        if backend is None:
            raise OptionError(
                f"node {node!r} calls a model, but no backend was given; pass backend='local:puzzles', for one"
            )
        return backend

    async def generate(self, node: str, request: Request) -> Sequence[Completion]:
        """``request.num_samples`` completions in sample order.

        Raises:
            BackendError: The backend failed, or kept returning too few samples.
        """
        backend = self._backend(node)
        refuse_unsupported(backend, request.params)
        if request.num_samples == 1 or backend.capabilities.n:
            return await self._all_samples(node, backend, request)
        singles = await gather_or_cancel(
            self._all_samples(node, backend, replace(request, num_samples=1, first_sample=request.first_sample + i))
            for i in range(request.num_samples)
        )
        return [completion for single in singles for completion in single]

    async def _all_samples(self, node: str, backend: Backend, request: Request) -> Sequence[Completion]:
        found = list(await self._settle(node, backend, request))
        for _ in range(_ROUNDS_FOR_MISSING_SAMPLES):
            missing = request.num_samples - len(found)
            if missing <= 0:
                break
            rest = replace(request, num_samples=missing, first_sample=request.first_sample + len(found))
            found += await self._settle(node, backend, rest)
        if len(found) < request.num_samples:
            raise BackendError(
                f"returned {len(found)} of {request.num_samples} samples; ask for fewer at once", backend=backend.id
            )
        return found[: request.num_samples]

    async def score(self, node: str, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The log-probability of each continuation given the prompt."""
        backend = self._backend(node)
        async with self._slots[id(backend)]:
            begun = time.monotonic()
            with _as_backend_error(backend):
                scores = await backend.score(prompt, continuations)
        usage = Usage(calls=1, completion_tokens=sum(len(s.tokens) for s in scores))
        self._record(CallSettled(node, None, usage, time.monotonic() - begun))
        return scores

    async def _settle(self, node: str, backend: Backend, request: Request) -> Sequence[Completion]:
        async with self._slots[id(backend)]:
            begun = time.monotonic()
            with _as_backend_error(backend):
                completions = await self._draw(node, backend, request)
        self._record(CallSettled(node, request, total_usage(completions), time.monotonic() - begun))
        return completions

    async def _draw(self, node: str, backend: Backend, request: Request) -> Sequence[Completion]:
        if isinstance(request.prompt, Template):
            # infill has no sample index: later samples are told apart by their seed
            params = replace(request.params, seed=sample_seed(request.params.seed, request.first_sample))
            return await backend.infill(request.prompt, params, request.num_samples)
        tell = self._on_delta
        if tell is None or not isinstance(backend, StreamingBackend) or backend.capabilities.stream == "none":
            return await backend.generate(request)
        return await backend.stream(request, lambda delta: tell(CompletionDelta(node, request, delta)))

    def _record(self, event: CallSettled) -> None:
        self.usage += event.usage
        if self._on_settled is not None:
            self._on_settled(event)


@contextlib.contextmanager
def _as_backend_error(backend: Backend) -> Iterator[None]:
    """Whatever a backend raises that is no error of ours becomes one, so that the run's partial result is kept."""
    try:
        yield
    except LLMProgError:
        raise
    except Exception as error:  # a third party's code: named and raised again
        raise BackendError(f"it raised {type(error).__name__}: {str(error)[:500]}", backend=backend.id) from error
