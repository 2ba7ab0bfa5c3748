"""Model calls as a search makes them: what is asked, which sample it is, and who shares the answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol

from llmprog.fingerprint import describe_value
from llmprog.nodes import Capability, Node
from llmprog.program import Program
from llmprog.templates import NO_HINT, Hint
from llmprog.types import Completion, Logprobs, Prompt, Request, SamplingParams, Scoring, Template

_asked: ContextVar[list[Request | Scoring] | None] = ContextVar("llmprog_asked", default=None)


class Caller(Protocol):
    """Sends a node's calls to its backend; the runner supplies it."""

    def can(self, node: str, capability: Capability) -> bool:
        """Whether the backend of ``node`` has a capability."""
        ...

    async def generate(self, node: str, request: Request) -> Sequence[Completion]:
        """``request.num_samples`` completions; a ``Template`` has its blanks filled."""
        ...

    async def score(self, node: str, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The log-probability of each continuation."""
        ...

    async def run_program(self, node: str, program: Program, given: Any, seed: int, place: str) -> Any:
        """The ``Result`` of a program; ``place`` is where its run is kept, within the search's own."""
        ...


@contextmanager
def noted_questions() -> Iterator[list[Request | Scoring]]:
    """What checkers and async nodes ask a model within the block, in order; a question asked again is there again."""
    questions: list[Request | Scoring] = []
    token = _asked.set(questions)
    try:
        yield questions
    finally:
        _asked.reset(token)


def _note(question: Request | Scoring) -> None:
    questions = _asked.get()
    if questions is not None:
        questions.append(question)


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all ``parts`` and on nothing else, the same in every process."""
    text = json.dumps(describe_value(parts), sort_keys=True)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Calls:
    """Numbers the samples of each question and lets identical judgements share one call.

    *Generators* never share: the next expansion that asks the same question gets the next samples of it, in
    the order of dispatch. *Checkers* do: the same question has one judgement per run, whether the first
    asking is still in flight or long settled, so results do not depend on timing.
    """

    def __init__(self, caller: Caller, seed: int) -> None:
        self.caller = caller
        self.seed = seed
        self._num_drawn: dict[tuple[str, Prompt | Template], int] = {}
        self._judgements: dict[tuple[str, Prompt | Template], asyncio.Future[Sequence[Completion]]] = {}
        self._node_params: dict[str, SamplingParams] = {}

    def params(self, node: Node) -> SamplingParams:
        """How ``node`` samples in this run: as declared, with a seed of its own."""
        params = self._node_params.get(node.name)
        if params is None:
            params = replace(node.params, seed=derive_seed(self.seed, node.name))
            self._node_params[node.name] = params
        return params

    def next_samples(self, node: Node, prompt: Prompt | Template, num_samples: int | None) -> Request:
        """The request for the next samples of a question; call in dispatch order."""
        first = self._num_drawn.get((node.name, prompt), 0)
        wanted = num_samples or node.n
        self._num_drawn[node.name, prompt] = first + wanted
        return Request(prompt=prompt, params=self.params(node), num_samples=wanted, first_sample=first)

    async def judge(self, node: Node, prompt: Prompt | Template) -> Sequence[Completion]:
        """The completions of a checker's question, shared with whoever else asks it in this run.

        The first to ask makes the call; it is cancelled only with the whole search, so the others may rely on it.
        """
        request = Request(prompt=prompt, params=self.params(node), num_samples=node.n)
        _note(request)
        shared = self._judgements.get((node.name, prompt))
        if shared is not None:
            return shared.result() if shared.done() else await asyncio.shield(shared)
        shared = self._judgements[node.name, prompt] = asyncio.get_running_loop().create_future()
        try:
            completions = await self.caller.generate(node.name, request)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                shared.cancel()
            else:
                shared.set_exception(error)
                shared.exception()  # retrieved here: perhaps nobody else asks
            raise
        shared.set_result(completions)
        return completions


class ModelHandle:
    """The ``model`` that an async node calls: every call is scheduled and counted like any other.

    Args:
        calls: The search's calls.
        node: The node it is made for.
        occasion: Which running of the node this is; with the same seed, each has draws of its own.
        hint: What the controller has to say, for prompts that the node writes itself.
    """

    def __init__(self, calls: Calls, node: Node, occasion: object, hint: Hint = NO_HINT) -> None:
        self.hint = hint
        self._calls = calls
        self._node = node
        self._seed = derive_seed(calls.params(node).seed, occasion)
        self._num_drawn: dict[tuple[Prompt | Template, SamplingParams], int] = {}
        self._occasion = occasion
        self._num_programs = 0

    def _request(self, prompt: str | Prompt | Template, n: int, sampling: dict[str, Any]) -> Request:
        params = replace(self._node.with_options(**sampling).params, seed=self._seed)
        asked = Prompt.from_text(prompt) if isinstance(prompt, str) else prompt
        first = self._num_drawn.get((asked, params), 0)
        request = Request(prompt=asked, params=params, num_samples=n, first_sample=first)
        self._num_drawn[asked, params] = first + n
        _note(request)
        return request

    def can(self, capability: Capability) -> bool:
        """Whether the node's backend has a capability: ``score``, ``infill``, ``logprobs``, ``n`` or ``seed``.

        Raises:
            DeclarationError: There is no such capability.
        """
        return self._calls.caller.can(self._node.name, capability)

    async def generate(self, prompt: str | Prompt, *, n: int = 1, **sampling: Any) -> list[Completion]:
        """``n`` completions; asked again within one running of a node, the same prompt gives further samples."""
        return list(await self._calls.caller.generate(self._node.name, self._request(prompt, n, sampling)))

    async def infill(self, template: Template, *, n: int = 1, **sampling: Any) -> list[Completion]:
        """``n`` completions whose text is the template's text with its blanks filled."""
        return list(await self._calls.caller.generate(self._node.name, self._request(template, n, sampling)))

    async def score(self, prompt: str | Prompt, continuations: Sequence[str]) -> list[Logprobs]:
        """The log-probability of each continuation given the prompt."""
        asked = Prompt.from_text(prompt) if isinstance(prompt, str) else prompt
        _note(Scoring(asked, tuple(continuations)))
        return list(await self._calls.caller.score(self._node.name, asked, continuations))

    async def run(self, program: Program, input: Any) -> Any:  # noqa: A002 - the word users expect
        """The ``Result`` of a program, run on the node's backend with the journal and the budget of the whole.

        Run again within one running of a node, a program has draws of its own. It runs to its end, as the node does,
        also where somebody stops the run meanwhile.

        Raises:
            BudgetExceededError: The budget ended before there was a solution.
        """
        number = self._num_programs
        self._num_programs += 1
        known = isinstance(self._occasion, int)
        place = f"{self._node.name}:{self._occasion if known else f'{self._seed % 2**32:08x}'}:{number}"
        seed = derive_seed(self._seed, "run", number)
        return await self._calls.caller.run_program(self._node.name, program, input, seed, place)
