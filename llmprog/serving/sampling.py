"""What a body asks for, in this library's words: prompts and sampling parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llmprog.backends.base import Backend
from llmprog.serving.bodies import (
    Body,
    ChatBody,
    ChatMessage,
    ContextBody,
    ReplyBody,
    ResponseFormat,
    SamplingBody,
    StructuredOutputs,
)
from llmprog.serving.faults import RequestError
from llmprog.types import Choices, Guided, JsonSchema, Message, Prompt, Regex, SamplingParams

DEFAULT_CHAT_TOKENS = 512
"""Longest reply to a chat request that does not say; the protocol has no limit there, but a model's context does."""
DEFAULT_TEXT_TOKENS = 16
"""The same of text completions, as the protocol has it."""


def messages_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The conversation; a developer's words are the system's."""
    return tuple(Message("system" if m.role == "developer" else m.role, m.text) for m in messages)


def chat_prompt(body: ChatBody) -> Prompt:
    """The prompt of a chat request; with ``continue_final_message`` its last message is how the reply begins.

    Raises:
        RequestError: That message is not the assistant's.
    """
    messages = messages_of(body.messages)
    if not body.continue_final_message:
        if body.add_generation_prompt is False:
            raise RequestError(
                "add_generation_prompt=false: allowed with continue_final_message=true", param="add_generation_prompt"
            )
        return Prompt(messages)
    if messages[-1].role != "assistant" or len(messages) < 2:
        raise RequestError(
            "continue_final_message=true: the last of several messages must be the assistant's",
            param="continue_final_message",
        )
    if body.add_generation_prompt:
        raise RequestError(
            "add_generation_prompt=true has no effect with continue_final_message=true; leave it out",
            param="add_generation_prompt",
        )
    return Prompt(messages[:-1], messages[-1].content)


def text_prompt(backend: Backend, text: str) -> Prompt:
    """A plain text as a prompt: as it stands where the backend reads plain text, else as a user's message."""
    return Prompt((), text) if backend.capabilities.plain_text else Prompt.from_text(text)


def context_prompt(body: ContextBody) -> Prompt:
    """What stands before the text of a request that is no completion."""
    return Prompt(messages_of(body.messages), body.prefix)


def sampling_params(
    body: SamplingBody, *, max_tokens: int, stops: tuple[str, ...] = (), logprobs: bool = False
) -> SamplingParams:
    """How replies are drawn; where a body does not say, as the protocol does: at temperature 1.

    Raises:
        OptionError: A value is not allowed.
        RequestError: A field has a value that cannot be honoured.
    """
    guided = None
    if isinstance(body, ReplyBody):
        refuse_penalties(body)
        guided = _guided(body.response_format, body.structured_outputs)
    return SamplingParams(
        temperature=1.0 if body.temperature is None else float(body.temperature),
        max_tokens=max_tokens,
        top_p=1.0 if body.top_p is None else float(body.top_p),
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        stop=stops,
        seed=body.seed,
        logprobs=logprobs,
        guided=guided,
    )


def asks_for(body: Body, name: str) -> bool:
    """Whether a body has a field, and in it a value that asks for something; 0 does, ``False`` and nothing do not."""
    value = getattr(body, name, None)
    return value is not None and value is not False and value != []


def refuse_penalties(body: ReplyBody) -> None:
    """Refuse changes of the model's distribution that no backend knows.

    Raises:
        RequestError: One is asked for.
    """
    for name in ("frequency_penalty", "presence_penalty", "logit_bias"):
        if getattr(body, name):
            raise RequestError(f"{name} is not supported; leave it out", param=name, code="unsupported")


def _guided(form: ResponseFormat | None, outputs: StructuredOutputs | None) -> Guided | None:
    found: list[Guided] = []
    if form is not None and form.type == "json_object":
        found.append(JsonSchema.of({"type": "object"}))
    if form is not None and form.type == "json_schema":
        if form.json_schema is None:
            raise RequestError("response_format: type json_schema needs a json_schema", param="response_format")
        found.append(JsonSchema(json.dumps(form.json_schema.schema_)))
    if outputs is not None:
        if outputs.json_ is not None:
            found.append(JsonSchema(json.dumps(outputs.json_)))
        if outputs.regex is not None:
            found.append(Regex(outputs.regex))
        if outputs.choice is not None:
            found.append(Choices(tuple(outputs.choice)))
    if len(found) > 1:
        raise RequestError("a reply can be held to one form; give one", param="structured_outputs")
    return found[0] if found else None
