"""The values that cross every boundary: prompts, requests, completions, usage.

All are frozen and slotted. They depend on the standard library only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Literal

from llmprog.errors import OptionError

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "content_filter", "error"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: Who speaks: ``system``, ``user`` or ``assistant``.
        content: What is said.
    """

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Blank:
    """A gap of exactly ``num_tokens`` tokens that a model fills in."""

    num_tokens: int

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise OptionError(f"Blank(num_tokens={self.num_tokens!r}): at least 1 token is needed")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked.

    Attributes:
        messages: The conversation so far; the last message is the user's.
        prefix: Text the reply must begin with (the start of the assistant's own turn).
    """

    messages: tuple[Message, ...]
    prefix: str = ""

    @classmethod
    def from_text(cls, text: str, *, system: str | None = None) -> Prompt:
        """A prompt of one user message, preceded by a system message if one is given."""
        head = (Message("system", system),) if system is not None else ()
        return cls((*head, Message("user", text)))

    @property
    def text(self) -> str:
        """The messages' contents and the prefix as one plain text, for models without chat roles."""
        return "\n".join(m.content for m in self.messages) + self.prefix


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt followed by a text with blanks: ``parts`` alternate given text and gaps.

    The given text is kept token for token; only the blanks are written by the model.
    """

    prompt: Prompt
    parts: tuple[str | Blank, ...]

    def __post_init__(self) -> None:
        if not any(isinstance(part, Blank) for part in self.parts):
            raise OptionError("Template: no Blank among the parts; nothing is left to fill in")


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """Guided output: a JSON document that satisfies ``schema``, itself a JSON text."""

    schema: str

    @classmethod
    def of(cls, schema: Mapping[str, object]) -> JsonSchema:
        """From a schema as a mapping, such as ``Model.model_json_schema()`` of a pydantic model."""
        return cls(json.dumps(schema, sort_keys=True))


@dataclass(frozen=True, slots=True)
class Regex:
    """Guided output: a text that ``pattern`` matches as a whole."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Choices:
    """Guided output: one of ``options``, word for word."""

    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise OptionError("Choices(options=()): at least one option is needed")


Guided = JsonSchema | Regex | Choices

GUIDED_KINDS: dict[str, type[Guided]] = {"json": JsonSchema, "regex": Regex, "choices": Choices}
"""The kinds of guided output, by the names they have in ``Capabilities.guided`` and in recordings."""


def guided_kind(guided: Guided) -> str:
    """The name of a kind of guided output in ``Capabilities.guided``."""
    return next(kind for kind, made in GUIDED_KINDS.items() if isinstance(guided, made))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How completions are drawn.

    Attributes:
        temperature: 0 is greedy; 1 samples the model's own distribution.
        max_tokens: Longest completion, in the model's tokens.
        top_p: Nucleus mass in (0, 1]; 1 keeps everything.
        top_k: Number of most likely tokens kept; 0 keeps all.
        min_p: Tokens less likely than ``min_p`` times the most likely one are dropped; 0 keeps all.
        stop: Texts that end a completion; the text itself is not part of it.
        seed: Fixes every draw of a backend that honours seeds; ``None`` draws afresh.
        logprobs: Whether completions must carry the log-probabilities of their tokens.
        guided: What the completion's text must be; ``None`` leaves it free.
    """

    temperature: float = 0.7
    max_tokens: int = 256
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    guided: Guided | None = None

    def __post_init__(self) -> None:
        real, whole = (int, float), (int,)
        stop = self.stop
        for name, kinds, ok, allowed in (
            ("temperature", real, lambda v: math.isfinite(v) and v >= 0, "a finite number >= 0"),
            ("max_tokens", whole, lambda v: v >= 1, "a whole number >= 1"),
            ("top_p", real, lambda v: 0 < v <= 1, "a number in (0, 1]"),
            ("top_k", whole, lambda v: v >= 0, "a whole number >= 0 (0 keeps all)"),
            ("min_p", real, lambda v: 0 <= v < 1, "a number in [0, 1)"),
            ("seed", (int, type(None)), lambda v: v is None or v >= -(2**63), "a whole number, or None"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool) or not ok(value):
                raise OptionError(f"SamplingParams({name}={value!r}): allowed is {allowed}")
        if not isinstance(stop, tuple) or not all(isinstance(text, str) and text for text in stop):
            raise OptionError(f"SamplingParams(stop={stop!r}): allowed is a tuple of non-empty texts")
        if not isinstance(self.logprobs, bool):
            raise OptionError(f"SamplingParams(logprobs={self.logprobs!r}): allowed is True or False")
        if not isinstance(self.guided, Guided | None):
            raise OptionError(
                f"SamplingParams(guided={self.guided!r}): allowed is a JsonSchema, a Regex, a Choices or None"
            )


# By identity, since equal parameters may differ in their text (1 and 1.0); kept, so that no other gets their address.
_params_texts: dict[int, tuple[SamplingParams, str]] = {}
_MAX_PARAMS_TEXTS = 1024


def _params_text(params: SamplingParams) -> str:
    """``params`` as JSON, made once: all calls of a node in a run share theirs."""
    known = _params_texts.get(id(params))
    if known is not None:
        return known[1]
    value = {f.name: getattr(params, f.name) for f in fields(params)}
    guided = params.guided
    value["guided"] = None if guided is None else [type(guided).__name__, *astuple(guided)]
    text = json.dumps(value, sort_keys=True)
    if len(_params_texts) >= _MAX_PARAMS_TEXTS:
        _params_texts.clear()
    _params_texts[id(params)] = params, text
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One model call: ``num_samples`` completions of ``prompt``.

    Attributes:
        prompt: What is asked; a ``Template`` asks for its blanks to be filled.
        params: How completions are drawn.
        num_samples: How many independent completions are wanted.
        first_sample: Index of the first of them among all samples of this prompt in a run.
            Sample 3 of a prompt is not sample 0: with a seed, each index has its own draws.
    """

    prompt: Prompt | Template
    params: SamplingParams = field(default_factory=SamplingParams)
    num_samples: int = 1
    first_sample: int = 0

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise OptionError(f"Request(num_samples={self.num_samples!r}): at least 1 is needed")

    def digest(self) -> str:
        """Hex digest of prompt and parameters, without the sample indices: equal questions, equal digests."""
        asked = self.prompt.prompt if isinstance(self.prompt, Template) else self.prompt
        parts = [p if isinstance(p, str) else p.num_tokens for p in getattr(self.prompt, "parts", ())]
        content = json.dumps([[[m.role, m.content] for m in asked.messages], asked.prefix, parts])
        text = f"{content[:-1]}, {_params_text(self.params)}]"
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Scoring:
    """A question for likelihoods: how probable each of ``continuations`` is after ``prompt``."""

    prompt: Prompt
    continuations: tuple[str, ...]

    def digest(self) -> str:
        """Hex digest of the question: equal questions, equal digests."""
        content = [[[m.role, m.content] for m in self.prompt.messages], self.prompt.prefix, self.continuations]
        return hashlib.sha256(json.dumps(content).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Usage:
    """What was spent.

    Attributes:
        calls: Completions drawn.
        prompt_tokens: Tokens read; 0 where the backend does not say.
        completion_tokens: Tokens written, reasoning included; 0 where the backend does not say.
        usd: US dollars; ``None`` where the price or the token counts are unknown, never 0 by default.
        cached_tokens: Those of ``prompt_tokens`` that came from the provider's cache.
        reasoning_tokens: Those of ``completion_tokens`` that were reasoning.
        cache_hits: Completions that came from the cache of earlier runs; they are no calls, and cost nothing.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_hits: int = 0

    def __add__(self, other: Usage) -> Usage:
        unknown = self.usd is None or other.usd is None
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            None if unknown else (self.usd or 0.0) + (other.usd or 0.0),
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cache_hits + other.cache_hits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """Log-probabilities (natural log) of a text under a model, given its prompt.

    Attributes:
        tokens: The text's tokens as text.
        logprobs: One value per token.
        is_bound: True where the sum is a lower bound on the log-likelihood (diffusion models).
    """

    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    is_bound: bool = False

    @property
    def total(self) -> float:
        """The text's log-likelihood: the sum over its tokens."""
        return math.fsum(self.logprobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled reply.

    Attributes:
        text: The reply itself, without stop texts and without reasoning.
        finish_reason: ``stop`` (the model ended it), ``length`` (cut at ``max_tokens``) or
            ``content_filter``.
        reasoning: Text a reasoning model thought aloud, kept apart from the reply.
        logprobs: Token log-probabilities where the backend reports them.
        usage: What this completion cost; a prompt shared by n samples is counted in the first.
        model: The model that answered, in the provider's own words, where it says so.
        violation: Why ``text`` is not what ``SamplingParams.guided`` asked for; ``None`` where it is.
    """

    text: str
    finish_reason: FinishReason = "stop"
    reasoning: str | None = None
    logprobs: Logprobs | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    violation: str | None = None


@dataclass(frozen=True, slots=True)
class CanvasToken:
    """One place of a canvas that a diffusion model writes on.

    Attributes:
        text: What the token there adds to the text; ``None`` is a mask: nothing is written yet. A token that is a part
            of a character reads as the replacement character.
        probability: The probability that the model gave the token when it wrote it, whatever the temperature; ``None``
            where that is not known, as for text that was given.
    """

    text: str | None
    probability: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A piece of a completion as it is written.

    Attributes:
        sample: Which of the call's completions, counted from 0.
        text: The piece.
        replaces: Whether it replaces all text of this completion so far (diffusion models) instead of following it.
        num_settled: Of a piece that replaces: how many of its first characters no later piece will change.
        is_reasoning: Whether it belongs to the reasoning instead of the reply.
        canvas: The whole canvas as it reads now, up to its first end, from models that write on one and tell of it
            (local diffusion and hybrid decoders); ``None`` from all others.
    """

    sample: int
    text: str
    replaces: bool = False
    num_settled: int = 0
    is_reasoning: bool = False
    canvas: tuple[CanvasToken, ...] | None = None


def total_usage(completions: Sequence[Completion]) -> Usage:
    """The sum of what ``completions`` cost."""
    total = Usage()
    for completion in completions:
        total += completion.usage
    return total


def sample_seed(seed: int | None, sample: int) -> int | None:
    """A seed in 0..2^63 for sample number ``sample``, for models that know seeds and no sample numbers.

    Sample 0 keeps ``seed`` itself; ``None`` stays ``None``.
    """
    return seed if seed is None or sample == 0 else (seed + sample * 0x9E3779B97F4A7C15) % 2**63
