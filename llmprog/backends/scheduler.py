"""Sends a run's calls to its backends: which node goes where, how many at once, what was spent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar, get_args

from llmprog.accounting import Question
from llmprog.backends.accounts import Accounts, attempts, parts_of, samples_of
from llmprog.backends.base import Backend, StreamingBackend, refuse_unsupported
from llmprog.backends.bounds import most_usage, times
from llmprog.errors import BackendError, BudgetExceededError, DeclarationError, LLMProgError, OptionError
from llmprog.events import CallSettled, CompletionDelta
from llmprog.nodes import Capability
from llmprog.tasks import gather_or_cancel
from llmprog.tracing import Unwatched, WatchedCall, watch_call
from llmprog.types import (
    Completion,
    Logprobs,
    Prompt,
    Request,
    Scoring,
    Template,
    Usage,
    sample_seed,
    total_usage,
)

A = TypeVar("A", Completion, Logprobs)

_ROUNDS_FOR_MISSING_SAMPLES = 3


class Scheduler:
    """Dispatches calls by node and adds up their usage.

    A backend that does not draw several samples in one call is called once per sample; one that
    returns fewer than asked is asked for the rest.

    Args:
        default: The backend of every node without one of its own.
        by_node: Backends of particular nodes.
        max_concurrency: Calls in flight per backend.
        accounts: Where calls are paid and kept; by default there is no limit and no record.
        on_settled: Told of every call that came back.
        on_delta: Told of every piece of a completion, from backends that stream; without it nothing is streamed.
    """

    def __init__(
        self,
        default: Backend | None,
        by_node: Mapping[str, Backend] | None = None,
        *,
        max_concurrency: int = 1024,
        accounts: Accounts | None = None,
        on_settled: Callable[[CallSettled], None] | None = None,
        on_delta: Callable[[CompletionDelta], None] | None = None,
    ) -> None:
        if max_concurrency < 1:
            raise OptionError(f"max_concurrency={max_concurrency!r}; allowed is a whole number >= 1")
        self.usage = Usage()
        self._default = default
        self._by_node = dict(by_node or {})
        self._accounts = accounts
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

    def can(self, node: str, capability: Capability) -> bool:
        """Whether the backend of ``node`` has a capability.

        Raises:
            DeclarationError: There is no such capability.
        """
        if capability not in get_args(Capability):
            known = ", ".join(get_args(Capability))
            raise DeclarationError(f"node {node!r}: model.can({capability!r}); allowed are {known}")
        return bool(getattr(self._backend(node).capabilities, capability))

    async def generate(self, node: str, request: Request) -> Sequence[Completion]:
        """``request.num_samples`` completions in sample order.

        Raises:
            BackendError: The backend failed, or kept returning too few samples.
            BudgetExceededError: The budget does not allow all of them; ``completions`` are those it did allow.
        """
        backend = self._backend(node)
        refuse_unsupported(backend, request.params)
        if self._accounts is not None:
            known = await self._accounts.recall(node, backend, request)
            if known:
                return await self._complete(node, backend, request, known)
        return await self._ask(node, backend, request)

    async def _complete(
        self, node: str, backend: Backend, request: Request, known: dict[int, Completion]
    ) -> Sequence[Completion]:
        """The known completions, and those that are missing among them."""
        for part in parts_of(request, known):
            usage = total_usage([known[i] for i in samples_of(part)])
            self._record(CallSettled(node, part, usage, 0.0, is_recalled=True))
        gaps = parts_of(request, [i for i in samples_of(request) if i not in known])
        drawn = await self._gather(lambda gap: self._ask(node, backend, gap), gaps)
        known.update(zip((i for gap in gaps for i in samples_of(gap)), drawn, strict=True))
        return [known[i] for i in samples_of(request)]

    async def _ask(self, node: str, backend: Backend, request: Request) -> Sequence[Completion]:
        if request.num_samples == 1 or backend.capabilities.n:
            return await self._all_samples(node, backend, request)
        singles = [replace(request, num_samples=1, first_sample=i) for i in samples_of(request)]
        return await self._gather(lambda single: self._all_samples(node, backend, single), singles)

    async def _gather(
        self, ask: Callable[[Request], Awaitable[Sequence[Completion]]], parts: Iterable[Request]
    ) -> list[Completion]:
        """What ``ask`` gives for all ``parts``, in order; where the budget ends, what is under way is not cancelled."""

        async def outcome(part: Request) -> Sequence[Completion] | BudgetExceededError:
            try:
                return await ask(part)
            except BudgetExceededError as error:
                return error

        found: list[Completion] = []
        for result in await gather_or_cancel(outcome(part) for part in parts):
            if isinstance(result, BudgetExceededError):
                result.completions = (*found, *result.completions)
                raise result
            found += result
        return found

    async def _all_samples(self, node: str, backend: Backend, request: Request) -> Sequence[Completion]:
        found: list[Completion] = []
        rest = request
        num_short = 0  # answers with fewer samples than were asked for
        while True:
            try:
                num_asked, completions = await self._settle(node, backend, rest)
            except BudgetExceededError as error:
                error.completions = tuple(found)
                raise
            found += completions
            missing = request.num_samples - len(found)
            if missing <= 0:
                return found
            num_short += len(completions) < num_asked
            if num_short > _ROUNDS_FOR_MISSING_SAMPLES:
                raise BackendError(
                    f"returned {len(found)} of {request.num_samples} samples; ask for fewer at once", backend=backend.id
                )
            rest = replace(request, num_samples=missing, first_sample=request.first_sample + len(found))

    async def score(self, node: str, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The log-probability of each continuation given the prompt."""
        backend = self._backend(node)
        accounts = self._accounts
        scoring = Scoring(prompt, tuple(continuations))
        if accounts is not None and (known := accounts.recall_scores(node, scoring)) is not None:
            self._record(CallSettled(node, None, _usage_of(known), 0.0, is_recalled=True))
            return known

        async def send() -> Sequence[Logprobs]:
            with _watched(node, backend, scoring) as call, _as_backend_error(backend):
                return call.answered(_answers(await backend.score(prompt, continuations), Logprobs, backend))

        async with self._slots[id(backend)]:
            begun = time.monotonic()
            if accounts is None:
                scores = await send()
            else:
                bound = most_usage(backend, scoring)
                await accounts.reserve(bound, 1)
                scores = await accounts.call(node, backend, scoring, bound, send)
        self._record(CallSettled(node, None, _usage_of(scores), time.monotonic() - begun))
        return scores

    async def _settle(self, node: str, backend: Backend, request: Request) -> tuple[int, Sequence[Completion]]:
        """How many samples of ``request`` the budget had room for, and those of them that came back."""
        async with self._slots[id(backend)]:
            begun = time.monotonic()
            if self._accounts is not None:
                request, completions = await self._pay(self._accounts, node, backend, request)
            else:
                completions = await self._draw(node, backend, request)
        self._record(CallSettled(node, request, total_usage(completions), time.monotonic() - begun))
        return request.num_samples, completions[: request.num_samples]

    async def _pay(
        self, accounts: Accounts, node: str, backend: Backend, request: Request
    ) -> tuple[Request, Sequence[Completion]]:
        """That part of ``request`` that the budget has room for, and its completions."""
        each = most_usage(backend, request)
        granted = await accounts.reserve(each, request.num_samples)
        part = request if granted == request.num_samples else replace(request, num_samples=granted)

        async def send() -> Sequence[Completion]:
            return (await self._draw(node, backend, part))[:granted]

        return part, await accounts.call(node, backend, part, times(each, granted), send)

    async def _draw(self, node: str, backend: Backend, request: Request) -> Sequence[Completion]:
        with _watched(node, backend, request) as call, _as_backend_error(backend):
            completions = await self._drawn(node, backend, request)
            for completion in _answers(completions, Completion, backend):
                if not isinstance(completion.text, str):
                    raise _bad_answer(backend, f"a Completion with text={completion.text!r:.100}", "a text of type str")
            return call.answered(completions)

    async def _drawn(self, node: str, backend: Backend, request: Request) -> Sequence[Completion]:
        tell, asked = self._on_delta, request
        if isinstance(request.prompt, Template):
            # infill has no sample index: later samples are told apart by their seed
            params = replace(request.params, seed=sample_seed(request.params.seed, request.first_sample))
            if backend.capabilities.stream != "replace":
                tell = None  # only what is written on a canvas can be seen while its blanks are filled
            if tell is None or not isinstance(backend, StreamingBackend):
                return await backend.infill(request.prompt, params, request.num_samples)
            asked = replace(request, params=params, first_sample=0)
        if tell is None or not isinstance(backend, StreamingBackend) or backend.capabilities.stream == "none":
            return await backend.generate(request)
        return await backend.stream(asked, lambda delta: tell(CompletionDelta(node, request, delta)))

    def _record(self, event: CallSettled) -> None:
        self.usage += event.usage
        if self._on_settled is not None:
            self._on_settled(event)


def _watched(node: str, backend: Backend, question: Question) -> WatchedCall | Unwatched:
    made = attempts.get()
    return watch_call(node, backend.id, question, None if made is None else made.call)


def _answers(answers: Sequence[A], kind: type[A], backend: Backend) -> Sequence[A]:
    """What ``backend`` answered, if it is what the protocol promises."""
    if not isinstance(answers, Sequence):
        raise _bad_answer(backend, f"{answers!r:.100}", f"a list of {kind.__name__}")
    for answer in answers:
        if not isinstance(answer, kind):
            raise _bad_answer(backend, f"{answer!r:.100} among its answers", f"a list of {kind.__name__}")
    return answers


def _bad_answer(backend: Backend, found: str, allowed: str) -> BackendError:
    return BackendError(f"it returned {found}; allowed is {allowed}", backend=backend.id, possibly_billed=True)


def _usage_of(scores: Sequence[Logprobs]) -> Usage:
    return Usage(calls=1, completion_tokens=sum(len(s.tokens) for s in scores))


@contextlib.contextmanager
def _as_backend_error(backend: Backend) -> Iterator[None]:
    """Whatever a backend raises that is no error of ours becomes one, so that the run's partial result is kept."""
    try:
        yield
    except LLMProgError:
        raise
    except Exception as error:  # a third party's code: named and raised again
        what = f"it raised {type(error).__name__}: {str(error)[:500]}"
        raise BackendError(what, backend=backend.id, possibly_billed=True) from error
