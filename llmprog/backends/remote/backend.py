"""Models behind HTTP endpoints, as backends: ``openai:gpt-5-mini``, ``http://127.0.0.1:8000/v1#qwen3?server=vllm``."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from llmprog.backends.base import Capabilities, refuse_unsupported
from llmprog.backends.remote.endpoint import Endpoint, EndpointOptions
from llmprog.backends.remote.guided import violation
from llmprog.backends.remote.keys import KeySource
from llmprog.backends.remote.options import RemoteOptions
from llmprog.backends.remote.pool import LoopPool
from llmprog.backends.remote.pricing import Prices
from llmprog.backends.remote.profiles import Profile
from llmprog.backends.remote.protocols import open_infiller, open_protocol, open_scorer
from llmprog.backends.remote.streamed import StreamedReply
from llmprog.backends.remote.transport import Timeouts, Transport
from llmprog.backends.remote.wire import Choice, HttpRequest, ModelCall, OnChunk, Reply, TokenCounts
from llmprog.backends.shares import AccountShare
from llmprog.errors import BadResponseError, RequestRefusedError
from llmprog.redaction import redact
from llmprog.tasks import gather_or_cancel
from llmprog.types import (
    Completion,
    Delta,
    Logprobs,
    Prompt,
    Request,
    SamplingParams,
    Template,
    Usage,
    sample_seed,
)

T = TypeVar("T")

_SHARED_PREFIX = 256  # characters by which calls are taken for siblings: enough to tell preambles apart
_CHARACTERS_PER_TOKEN = 4  # an estimate, for limits on tokens per minute; settled with the true count
_LARGEST_SEED = 2**31  # what every server takes

_endpoints: LoopPool[Endpoint] = LoopPool()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What one cheap call showed of an endpoint.

    Attributes:
        model: The model that says it answered.
        num_asked: Samples asked for in one call.
        num_returned: Samples that came.
        has_logprobs: Whether log-probabilities came with them.
        num_pieces: In how many pieces the text came; 0 where it was not streamed.
        has_usage: Whether token counts came with them.
        usd: What the call cost; ``None`` where that is unknown.
        first_piece_s: Seconds until the first piece of text.
        total_s: Seconds until the end.
        refusal: Why the endpoint refused the full call, where it took a plainer one; empty where it did not.
    """

    model: str | None
    num_asked: int
    num_returned: int
    has_logprobs: bool
    num_pieces: int
    has_usage: bool
    usd: float | None
    first_piece_s: float | None
    total_s: float
    refusal: str


class RemoteBackend:
    """One model of one provider or server.

    Backends of one account share its connections and limits. Where a server ignores ``n``, the missing samples are
    asked for one by one from then on.

    Args:
        backend_id: The id it is opened with.
        model: The provider's model id.
        profile: How the provider is spoken to.
        base_url: Where it is.
        options: How it is called.
    """

    def __init__(self, *, backend_id: str, model: str, profile: Profile, base_url: str, options: RemoteOptions) -> None:
        self._id = backend_id
        self._model = model
        if options.reasoning_effort is not None:
            profile = profile.with_reasoning(options.reasoning_effort)
        self._profile = profile
        self._base_url = base_url.rstrip("/")
        self._options = options
        self._protocol = open_protocol(profile, backend_id)
        self._prices = Prices.load(None if options.prices is None else Path(options.prices))
        self._honours_n: bool | None = None if profile.honours_n else False
        self._key = key_source(backend_id, profile, options)
        self._share: AccountShare | None = None

    @property
    def id(self) -> str:
        """The id this backend was opened with."""
        return self._id

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the provider's profile promises."""
        profile = self._profile
        return Capabilities(
            n=profile.honours_n,
            logprobs=profile.supports_logprobs,
            score=profile.score != "none",
            infill=profile.infill != "none",
            # A seed is sent where the provider takes one. None promises the same reply for it.
            seed=False,
            stream=profile.stream_style,
            guided=frozenset(profile.guided),
            plain_text=profile.protocol == "openai_completions",
        )

    async def generate(self, request: Request) -> Sequence[Completion]:
        """``request.num_samples`` completions, in sample order.

        Raises:
            CapabilityError: The provider cannot do what is asked.
            BackendError: The call failed, after as many attempts as are allowed.
        """
        return await self._draw(request, None)

    async def stream(self, request: Request, on_delta: Callable[[Delta], None]) -> Sequence[Completion]:
        """``generate``, with every piece of text handed to ``on_delta`` as it comes."""
        return await self._draw(request, on_delta)

    async def score(self, prompt: Prompt, continuations: Sequence[str]) -> Sequence[Logprobs]:
        """The log-probability of each continuation, in the order given.

        Raises:
            CapabilityError: The provider shows no likelihoods of given texts.
            OptionError: It has no use for the option ``bos``.
        """
        scorer = open_scorer(self._profile, self._id, self._options.bos or "")

        async def one(continuation: str) -> Logprobs:
            if not continuation:
                return Logprobs(tokens=(), logprobs=())
            http = scorer.request(self._model, prompt, continuation)
            return await self._send(
                http,
                _group(prompt),
                len(prompt.text + continuation) // _CHARACTERS_PER_TOKEN,
                lambda body: scorer.parse(body, continuation),
            )

        return await gather_or_cancel(one(text) for text in continuations)

    async def infill(self, template: Template, params: SamplingParams, num_samples: int = 1) -> Sequence[Completion]:
        """``num_samples`` texts with every blank filled; given text stays as it is.

        Raises:
            CapabilityError: The provider fills no blanks, or not as many.
        """
        infiller = open_infiller(self._profile, self._id)
        refuse_unsupported(self, params)

        async def one(sample: int) -> Completion:
            seeded = replace(params, seed=_wire_seed(params.seed, sample))
            http = infiller.request(self._model, template, seeded)
            size = len(str(http.body)) // _CHARACTERS_PER_TOKEN + params.max_tokens
            reply = await self._send(http, _group(template.prompt), size, lambda body: infiller.parse(body, template))
            return self._completions(reply, params)[0]

        return await gather_or_cancel(one(i) for i in range(num_samples))

    async def probe(self, prompt: Prompt, max_tokens: int = 16) -> Probe:
        """What the endpoint does with one cheap call that asks for all its profile promises at once.

        A call that is refused is made again as plainly as can be.

        Raises:
            BackendError: That fails too.
        """
        begun = time.monotonic()
        first: list[float] = []
        params = SamplingParams(max_tokens=max_tokens, logprobs=self._profile.supports_logprobs)
        count = 2 if self._profile.honours_n else 1
        refusal = ""
        try:
            reply = await self._call(
                Request(prompt=prompt, params=params), prompt, 0, count, lambda _: first.append(time.monotonic())
            )
        except RequestRefusedError as error:
            refusal, count, first = str(error), 1, []
            begun = time.monotonic()
            reply = await self._call(Request(prompt=prompt, params=replace(params, logprobs=False)), prompt, 0, 1, None)
        ended = time.monotonic()
        usages = [completion.usage for completion in self._completions(reply, params)]
        return Probe(
            model=None if reply.model is None else redact(reply.model),
            num_asked=count,
            num_returned=len(reply.choices),
            has_logprobs=any(choice.logprobs is not None for choice in reply.choices),
            num_pieces=len(first),
            has_usage=reply.tokens.completion is not None,
            usd=None if any(usage.usd is None for usage in usages) else sum(usage.usd or 0.0 for usage in usages),
            first_piece_s=first[0] - begun if first else None,
            total_s=ended - begun,
            refusal=refusal,
        )

    def most_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """The most a call of that size can cost in US dollars; ``None`` where the model's price is unknown."""
        tokens = TokenCounts(prompt=prompt_tokens, completion=completion_tokens)
        return self._prices.usd(self._profile.name, self._model, tokens)

    @property
    def max_concurrency(self) -> int:
        """Most calls in flight that the account gets."""
        return self._options.max_concurrency

    def share_account(self, share: AccountShare) -> None:
        """Keep to a share of the account; said before the first call."""
        self._share = share

    async def aclose(self) -> None:
        """Close the connections that no other backend uses; calling it twice is harmless."""
        await _endpoints.release(self)

    async def _draw(self, request: Request, on_delta: Callable[[Delta], None] | None) -> Sequence[Completion]:
        if isinstance(request.prompt, Template):
            seed = sample_seed(request.params.seed, request.first_sample)
            return await self.infill(request.prompt, replace(request.params, seed=seed), request.num_samples)
        refuse_unsupported(self, request.params)
        return await self._samples(request, request.prompt, 0, request.num_samples, on_delta)

    async def _samples(
        self,
        request: Request,
        prompt: Prompt,
        offset: int,
        count: int,
        on_delta: Callable[[Delta], None] | None,
    ) -> list[Completion]:
        """``count`` samples of ``request`` from number ``offset`` on, in as few calls as the server allows."""
        most = 1 if self._honours_n is False else self._profile.max_n
        if count > most:
            parts = [(low, min(most, offset + count - low)) for low in range(offset, offset + count, most)]
            found = await gather_or_cancel(self._samples(request, prompt, low, size, on_delta) for low, size in parts)
            return list(itertools.chain.from_iterable(found))
        try:
            reply = await self._call(request, prompt, offset, count, on_delta)
        except RequestRefusedError:
            if count == 1 or self._honours_n:
                raise
            self._honours_n = False  # perhaps it refuses n; what else it may refuse it refuses again
            return await self._samples(request, prompt, offset, count, on_delta)
        completions = self._completions(reply, request.params)[:count]
        if not completions:
            raise BadResponseError("a reply without a single completion", backend=self._id, possibly_billed=True)
        if count > 1:
            self._honours_n = len(completions) > 1
        if len(completions) < count:
            done = len(completions)
            completions += await self._samples(request, prompt, offset + done, count - done, on_delta)
        return completions

    async def _call(
        self,
        request: Request,
        prompt: Prompt,
        offset: int,
        count: int,
        on_delta: Callable[[Delta], None] | None,
    ) -> Reply:
        seed = _wire_seed(request.params.seed, request.first_sample + offset)
        call = ModelCall(
            model=self._model,
            prompt=prompt,
            params=_seeded(request.params, seed),
            num_samples=count,
            stream=on_delta is not None,
        )
        size = len(prompt.text) // _CHARACTERS_PER_TOKEN + count * request.params.max_tokens
        http = self._protocol.request(call)
        if on_delta is None:
            return await self._send(http, _group(prompt), size, self._protocol.parse)
        streamed = StreamedReply(self._protocol, offset, on_delta)
        return await self._send(http, _group(prompt), size, streamed.finish, streamed.begin)

    async def _send(
        self,
        http: HttpRequest,
        group: Hashable,
        num_tokens: int,
        read: Callable[[Any], T],
        begin: Callable[[], OnChunk] | None = None,
    ) -> T:
        """What ``read`` makes of the answer; ``num_tokens`` is an estimate, for limits."""
        endpoint = await _endpoints.get(self._account, self, self._open_endpoint)
        return await endpoint.send(
            http,
            group=group,
            estimated_tokens=num_tokens,
            check=read,
            on_chunk_factory=begin,
            count_tokens=_num_tokens,
        )

    @cached_property
    def _account(self) -> Hashable:
        key = self._key
        limits = self._options.model_copy(update={"prices": None, "reasoning_effort": None})
        return self._base_url, key.variables, key.auth, limits

    def _open_endpoint(self) -> Endpoint:
        options, share = self._options, self._share
        max_concurrency = options.max_concurrency if share is None else share.concurrency(options.max_concurrency)
        rate = None
        if share is not None:
            account = hashlib.sha256(repr(self._account).encode()).hexdigest()
            rate = share.rate(account, options.requests_per_minute, options.tokens_per_minute)
        timeouts = Timeouts(
            connect_s=options.connect_s,
            first_byte_s=options.first_byte_s or self._profile.first_byte_s,
            idle_s=options.idle_s,
            total_s=options.total_s,
        )
        return Endpoint(
            backend=self._id,
            base_url=self._base_url,
            auth=self._key.headers,
            key_hint=self._key.hint,
            options=EndpointOptions(
                max_concurrency=max_concurrency,
                start_concurrency=min(options.start_concurrency or self._profile.start_concurrency, max_concurrency),
                requests_per_minute=options.requests_per_minute,
                tokens_per_minute=options.tokens_per_minute,
                max_attempts=options.max_attempts,
                deadline_s=options.deadline_s,
                total_s=options.total_s,
            ),
            rate=rate,
            transport=Transport(backend=self._id, max_connections=max_concurrency, timeouts=timeouts),
        )

    def _completions(self, reply: Reply, params: SamplingParams) -> list[Completion]:
        """The completions of a reply; its prompt is counted in the first of them."""
        choices = [_stopped(choice, params.stop) for choice in reply.choices] if params.stop else reply.choices
        shares = _shares(reply.tokens.completion, [len(c.text) + len(c.reasoning or "") for c in reply.choices])
        model = None if reply.model is None else redact(reply.model)
        completions = []
        for index, (choice, written) in enumerate(zip(choices, shares, strict=True)):
            whole = reply.tokens
            tokens = (
                TokenCounts(prompt=whole.prompt, completion=written, cached=whole.cached, reasoning=whole.reasoning)
                if index == 0
                else TokenCounts(prompt=0 if whole.prompt is not None else None, completion=written)
            )
            completions.append(
                Completion(
                    text=redact(choice.text),
                    finish_reason=choice.finish_reason or "stop",
                    reasoning=None if choice.reasoning is None else redact(choice.reasoning),
                    logprobs=choice.logprobs,
                    usage=Usage(
                        calls=1,
                        prompt_tokens=tokens.prompt or 0,
                        completion_tokens=tokens.completion or 0,
                        usd=self._prices.usd(self._profile.name, reply.model or self._model, tokens),
                        cached_tokens=tokens.cached,
                        reasoning_tokens=tokens.reasoning,
                    ),
                    model=model,
                    violation=None if params.guided is None else violation(choice.text, params.guided),
                )
            )
        return completions


def key_source(backend_id: str, profile: Profile, options: RemoteOptions) -> KeySource:
    """Where the key of a provider's account is found."""
    named = (options.key_env,) if options.key_env is not None else None
    return KeySource(
        backend=backend_id,
        variables=named or profile.key_env,
        auth=profile.auth,
        # A server of one's own mostly wants none; one that does says so with a 401.
        required=named is not None or (bool(profile.key_env) and bool(profile.base_url)),
    )


def _group(prompt: Prompt) -> Hashable:
    """What calls with a common beginning have in common, so that they are sent together."""
    return prompt.text[:_SHARED_PREFIX]


def _stopped(choice: Choice, stop: Sequence[str]) -> Choice:
    """A choice that ends before the first stop text, for servers that do not see to that."""
    found = [place for text in stop if (place := choice.text.find(text)) >= 0]
    if not found:
        return choice
    text, logprobs = choice.text[: min(found)], choice.logprobs
    if logprobs is not None:
        ends = itertools.accumulate(map(len, logprobs.tokens))
        kept = sum(end <= len(text) for end in ends)
        logprobs = Logprobs(tokens=logprobs.tokens[:kept], logprobs=logprobs.logprobs[:kept])
    return replace(choice, text=text, finish_reason="stop", logprobs=logprobs)


def _num_tokens(result: object) -> int | None:
    """Tokens that a call took, as far as its reply says."""
    if not isinstance(result, Reply) or result.tokens.prompt is None or result.tokens.completion is None:
        return None
    return result.tokens.prompt + result.tokens.completion


@lru_cache(maxsize=1024)
def _seeded(params: SamplingParams, seed: int | None) -> SamplingParams:
    """``params`` with another seed; remembered, as a run asks with the same few again and again."""
    return replace(params, seed=seed)


def _wire_seed(seed: int | None, sample: int) -> int | None:
    own = sample_seed(seed, sample)
    return None if own is None else own % _LARGEST_SEED


def _shares(total: int | None, weights: Sequence[int]) -> list[int | None]:
    """``total`` split in proportion to ``weights``, in whole numbers that add up to it."""
    if total is None:
        return [None] * len(weights)
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    edges = [total * sum(weights[:i]) // whole for i in range(len(weights) + 1)] if whole else []
    return [high - low for low, high in itertools.pairwise(edges)]
