"""Requests to a backend: what each asks for, and the calls that answer it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmprog.accounting import Spending
from llmprog.backends.accounts import Accounts
from llmprog.backends.base import Backend, StreamingBackend
from llmprog.backends.local.text.infilling import INFILLING_DECODERS
from llmprog.backends.scheduler import Scheduler
from llmprog.events import CompletionDelta
from llmprog.serving.answers import Answer, ChatForm, Echo, Form, TextForm, scores_to_json
from llmprog.serving.bodies import BlankPart, ChatBody, InfillBody, ReplyBody, ScoreBody, TextBody
from llmprog.serving.exchange import Plan, StreamPlan, Tell
from llmprog.serving.faults import RequestError
from llmprog.serving.sampling import (
    DEFAULT_CHAT_TOKENS,
    DEFAULT_TEXT_TOKENS,
    asks_for,
    chat_prompt,
    context_prompt,
    sampling_params,
    text_prompt,
)
from llmprog.tasks import gather_or_cancel
from llmprog.types import Blank, Completion, Logprobs, Prompt, Request, Template, Usage, total_usage

_NODE = "serve"  # what calls are called where they are traced
MAX_ROWS = 1024
"""Most completions one request may ask for: its prompts times ``n``."""


class BackendCalls:
    """Calls of one backend for requests, paid from the server's budget.

    Args:
        backend: The backend.
        spending: The budget; ``None`` sets no limit.
    """

    def __init__(self, backend: Backend, spending: Spending | None) -> None:
        self._backend = backend
        self._accounts = None if spending is None else Accounts(None, spending)

    async def draw(self, requests: Sequence[Request], tell: Tell | None = None) -> list[Completion]:
        """The completions of all requests, those of one after those of the other; ``tell`` hears of their pieces."""

        async def one(request: Request, first: int) -> Sequence[Completion]:
            on_delta = None if tell is None else _numbered(tell, first)
            return await Scheduler(self._backend, accounts=self._accounts, on_delta=on_delta).generate(_NODE, request)

        firsts = [sum(request.num_samples for request in requests[:i]) for i in range(len(requests))]
        found = await gather_or_cancel(map(one, requests, firsts))
        return [
            completion if request.params.logprobs else replace(completion, logprobs=None)  # some report them unasked
            for request, completions in zip(requests, found, strict=True)
            for completion in completions
        ]

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The likelihoods of texts after a prompt."""
        if not self._backend.capabilities.score:
            raise RequestError(f"{self._backend.id} gives no likelihoods of given texts", code="unsupported")
        return await Scheduler(self._backend, accounts=self._accounts).score(_NODE, prompt, continuations)


def _numbered(tell: Tell, first: int) -> Callable[[CompletionDelta], None]:
    """Tells of the pieces of one request by the numbers of their choices, of which its own begin with ``first``."""

    def pass_on(event: CompletionDelta) -> None:
        tell(replace(event.delta, sample=first + event.request.first_sample + event.delta.sample))

    return pass_on


def chat_plan(body: ChatBody, backend: Backend, spending: Spending | None) -> Plan[Answer] | StreamPlan:
    """What a chat request asks of a backend.

    Raises:
        RequestError: Something that it cannot have.
        OptionError: A sampling parameter is out of range.
    """
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise RequestError("max_tokens and max_completion_tokens: give one of them", param="max_tokens")
    if body.top_logprobs:
        raise RequestError(
            f"top_logprobs={body.top_logprobs}: log-probabilities of the chosen tokens only; leave it out, or give 0",
            param="top_logprobs",
            code="unsupported",
        )
    params = sampling_params(
        body,
        max_tokens=body.max_tokens or body.max_completion_tokens or DEFAULT_CHAT_TOKENS,
        stops=body.stops,
        logprobs=bool(body.logprobs),
    )
    request = Request(prompt=chat_prompt(body), params=params, num_samples=body.num_samples)
    calls = BackendCalls(backend, spending)

    async def work(tell: Tell | None = None) -> Answer:
        return _answer(await calls.draw([request], tell))

    return _reply(body, backend, ChatForm(body.model), work)


def text_plan(body: TextBody, backend: Backend, spending: Spending | None) -> Plan[Answer] | StreamPlan:
    """What a request for text completions asks of a backend.

    Raises:
        RequestError: Something that it cannot have.
        OptionError: A sampling parameter is out of range.
    """
    _check_text(body)
    max_tokens = DEFAULT_TEXT_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and not body.echo:
        raise RequestError("max_tokens=0 without echo asks for nothing; give echo=true", param="max_tokens")
    wants_logprobs = body.logprobs is not None
    # The likelihoods of an echoed text come from scoring it; a reply of no tokens needs no call.
    params = sampling_params(
        body, max_tokens=max(1, max_tokens), stops=body.stops, logprobs=wants_logprobs and max_tokens > 0
    )
    calls = BackendCalls(backend, spending)
    if body.suffix is not None:
        return _suffix_plan(body, backend, calls, max_tokens)
    if body.echo and wants_logprobs and not backend.capabilities.plain_text:
        raise RequestError(
            f"echo with logprobs: {backend.id} reads conversations, so a plain text has no likelihood by itself; "
            "POST /v1/score takes what the text follows",
            param="echo",
            code="unsupported",
        )
    requests = [
        Request(prompt=text_prompt(backend, text), params=params, num_samples=body.num_samples) for text in body.prompts
    ]
    echoes: list[Echo] = []

    async def work(tell: Tell | None = None) -> Answer:
        if body.echo:
            scores: list[Logprobs | None] = [None] * len(body.prompts)
            if wants_logprobs:
                scores = list(await calls.score(Prompt(()), body.prompts))
            for text, score in zip(body.prompts, scores, strict=True):
                echoes.extend([Echo(text=text, logprobs=score)] * body.num_samples)
            if max_tokens == 0:
                count = sum(len(score.tokens) for score in scores if score is not None)
                none = Completion(text="", finish_reason="length")
                return Answer(completions=[none] * len(echoes), usage=Usage(prompt_tokens=count))
        return _answer(await calls.draw(requests, tell))

    return _reply(body, backend, TextForm(body.model, echoes), work)


def _check_text(body: TextBody) -> None:
    if body.logprobs is not None and body.logprobs > 1:
        raise RequestError(
            f"logprobs={body.logprobs}: log-probabilities of the chosen tokens only; give 1, or 0",
            param="logprobs",
            code="unsupported",
        )
    if body.best_of not in (None, body.num_samples):
        raise RequestError(
            f"best_of={body.best_of}: not supported; the program best_of_n chooses by a judgement", param="best_of"
        )
    if len(body.prompts) * body.num_samples > MAX_ROWS:
        raise RequestError(
            f"{len(body.prompts)} prompts times n={body.num_samples}: allowed are {MAX_ROWS} completions", param="n"
        )
    if "" in body.prompts:
        raise RequestError("prompt='': a text to go on with must not be empty", param="prompt")


def _suffix_plan(body: TextBody, backend: Backend, calls: BackendCalls, max_tokens: int) -> Plan[Answer]:
    """One blank between two plain texts."""
    for name in ("echo", "logprobs", "stream", "stream_options"):
        if asks_for(body, name):
            raise RequestError(f"{name} with suffix is not supported; leave it out", param=name, code="unsupported")
    if len(body.prompts) > 1 or body.stops or max_tokens == 0:
        raise RequestError("suffix takes one prompt, max_tokens of 1 or more, and no stop", param="suffix")
    if not backend.capabilities.plain_text:
        raise RequestError(
            f"{backend.id} reads conversations, so what stands before a blank is not known from a plain text; "
            "POST /v1/infill takes both",
            param="suffix",
            code="unsupported",
        )
    (before,), after = body.prompts, body.suffix or ""
    template = Template(Prompt(()), tuple(part for part in (before, Blank(max_tokens), after) if part))
    params = sampling_params(body, max_tokens=max_tokens)
    request = Request(prompt=template, params=params, num_samples=body.num_samples)

    async def work() -> Answer:
        answer = _answer(await calls.draw([request]))
        given = [(completion, completion.text.removeprefix(before)) for completion in answer.completions]
        middles = [replace(completion, text=text.removesuffix(after)) for completion, text in given]
        return replace(answer, completions=middles)

    return Plan(work=work, whole=TextForm(body.model).whole)


def infill_plan(body: InfillBody, backend: Backend, spending: Spending | None) -> Plan[Answer]:
    """What a request to fill blanks asks of a backend.

    Raises:
        RequestError: There is no blank, or the backend fills none.
        OptionError: A sampling parameter is out of range.
    """
    blanks = [part.blank for part in body.parts if isinstance(part, BlankPart)]
    if not blanks:
        raise RequestError('parts: none of them is a blank; write one as {"blank": NUM_TOKENS}', param="parts")
    if not backend.capabilities.infill:
        raise RequestError(
            f"{backend.id} fills no blanks; local models with decoder={' or '.join(INFILLING_DECODERS)} do",
            code="unsupported",
        )
    parts = tuple(part if isinstance(part, str) else Blank(part.blank) for part in body.parts)
    params = sampling_params(body, max_tokens=sum(blanks))
    request = Request(prompt=Template(context_prompt(body), parts), params=params, num_samples=body.num_samples)
    calls = BackendCalls(backend, spending)

    async def work() -> Answer:
        return _answer(await calls.draw([request]))

    return Plan(work=work, whole=TextForm(body.model, kind="infill").whole)


def score_plan(body: ScoreBody, backend: Backend, spending: Spending | None) -> Plan[Sequence[Logprobs]]:
    """What a request for likelihoods asks of a backend."""
    calls = BackendCalls(backend, spending)

    def whole(scores: Sequence[Logprobs]) -> Mapping[str, Any]:
        usage = Usage(prompt_tokens=sum(len(score.tokens) for score in scores))
        return scores_to_json(body.model, scores, usage)

    async def work() -> Sequence[Logprobs]:
        return await calls.score(context_prompt(body), body.continuations)

    return Plan(work=work, whole=whole)


def _answer(completions: Sequence[Completion]) -> Answer:
    return Answer(completions=completions, usage=total_usage(completions))


def _reply(body: ReplyBody, backend: Backend, form: Form, work: Callable[..., Any]) -> Plan[Answer] | StreamPlan:
    """The work as a whole or as a stream, as the body says.

    Raises:
        RequestError: It says how to stream what is not streamed, or wants to see a canvas where there is none.
    """
    check_stream_options(body)
    if not body.stream:
        return Plan(work=work, whole=form.whole)
    streams = isinstance(backend, StreamingBackend) and backend.capabilities.stream == "replace"
    if body.include_canvas and not streams:
        raise RequestError(
            f"stream_options.include_canvas: {backend.id} does not change text that it has written; leave it out",
            param="stream_options.include_canvas",
            code="unsupported",
        )
    return StreamPlan(
        work=work,
        form=form,
        stops=body.stops,
        include_usage=body.include_usage,
        include_canvas=body.include_canvas,
    )


def check_stream_options(body: ReplyBody) -> None:
    """Refuse options of a stream without one.

    Raises:
        RequestError: There are some.
    """
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options without stream=true have no effect; leave them out", param="stream_options")
