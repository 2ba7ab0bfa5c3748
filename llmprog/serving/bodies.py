"""The bodies of requests: which fields there are, which are known and change nothing here, which are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

IGNORED = frozenset(
    {
        "cache_prompt",
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields that say who asks, how it is billed or what is kept: none changes an answer, so all are read over."""

MAX_SAMPLES = 128
MAX_PROMPTS = 128
MAX_STOPS = 64
MAX_TEMPERATURE = 100.0  # beyond it every token is as likely as any other, and then numbers overflow
_MAX_TOKENS = 2**31
_MAX_PARTS = 1024
_MAX_BLANK_TOKENS = 2**17  # of one blank, longer than any reply

Count = Annotated[int, Field(ge=1, le=_MAX_TOKENS)]


class Body(BaseModel):
    """What all bodies have in common: unknown fields and values of other types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TextPart(Body):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    @property
    def text(self) -> str:
        """The content, its parts put together."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(Body):
    """How a reply is streamed; ``include_canvas``, an extension, shows the changing text of a diffusion model."""

    include_usage: bool | None = None
    include_canvas: bool | None = None
    include_obfuscation: Literal[False] | None = None


class NamedSchema(Body):
    """A JSON schema, as ``response_format`` has it."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What the text of a reply must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class StructuredOutputs(Body):
    """The same in vLLM's words, which know regular expressions and choices too."""

    json_: dict[str, Any] | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None


class SamplingBody(Body):
    """The fields that say how replies are drawn."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    seed: int | None = None

    @property
    def num_samples(self) -> int:
        """How many replies are wanted."""
        return self.n or 1


class ReplyBody(SamplingBody):
    """What chat and text completions have in common."""

    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    # Known, and to be had only with the value that changes nothing.
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a reply."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def include_canvas(self) -> bool:
        """Whether a stream shows the whole text of a diffusion model as it changes."""
        return bool(self.stream_options and self.stream_options.include_canvas)


class ChatBody(ReplyBody):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None


class TextBody(ReplyBody):
    """``POST /v1/completions``."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=0, le=_MAX_TOKENS)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    best_of: int | None = None

    @property
    def prompts(self) -> list[str]:
        """The prompts, of which there is one or more."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class BlankPart(Body):
    """A gap of that many tokens."""

    blank: Annotated[int, Field(ge=1, le=_MAX_BLANK_TOKENS)]


class ContextBody(Body):
    """What stands before a text: a conversation, which may be empty, and the beginning of the reply to it."""

    messages: list[ChatMessage] = Field(default_factory=list)
    prefix: str = ""


class InfillBody(ContextBody, SamplingBody):
    """``POST /v1/infill``: a text whose blanks are to be filled."""

    parts: Annotated[list[str | BlankPart], Field(min_length=1, max_length=_MAX_PARTS)]


class ScoreBody(ContextBody):
    """``POST /v1/score``: how likely each of several texts is after the same context."""

    model: str
    continuations: Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
