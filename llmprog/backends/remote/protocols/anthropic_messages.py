"""Anthropic messages: ``POST /messages``. One reply per request; a reply is a list of blocks, thinking among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmprog.backends.remote.guided import guided_fields
from llmprog.backends.remote.profiles import merged
from llmprog.backends.remote.protocols.common import (
    BoundProtocol,
    as_object,
    check_call,
    complete_body,
    count,
    decode_json,
    finish_reason,
    member,
    not_the_protocol,
    objects,
    provider_error,
    text_or_none,
    token_counts,
    truncated,
)
from llmprog.backends.remote.sse import ServerSentEvent
from llmprog.backends.remote.wire import Choice, HttpRequest, ModelCall, Reply, ReplyReader, TokenCounts
from llmprog.errors import CapabilityError
from llmprog.types import Delta, FinishReason

_HOTTEST = 1.0


class AnthropicMessages(BoundProtocol):
    """Calls and replies of the messages endpoint."""

    def request(self, call: ModelCall) -> HttpRequest:
        profile, params, prompt = self._profile, call.params, call.prompt
        check_call(call, profile, backend=self._backend)
        if params.temperature > _HOTTEST:
            raise CapabilityError(
                f"temperature={params.temperature!r}: the messages protocol takes 0 to {_HOTTEST:g}; use at most that",
                backend=self._backend,
            )
        if prompt.prefix != prompt.prefix.rstrip():
            raise CapabilityError(
                f"prefix {prompt.prefix[-40:]!r} ends in white space, which the messages protocol refuses; leave the "
                "white space to the reply",
                backend=self._backend,
            )
        messages: list[dict[str, Any]] = [
            {"role": m.role, "content": m.content} for m in prompt.messages if m.role != "system"
        ]
        system = [{"type": "text", "text": m.content} for m in prompt.messages if m.role == "system" and m.content]
        if profile.cache == "cache_control":
            _mark_shared(system, messages)
        if prompt.prefix:
            messages.append({"role": "assistant", "content": prompt.prefix})
        body: dict[str, Any] = {
            "model": call.model,
            **({"system": system} if system else {}),
            "messages": messages,
            profile.max_tokens_field: params.max_tokens,
            "temperature": params.temperature,
        }
        if params.top_p != 1:
            body["top_p"] = params.top_p
        if params.top_k:
            body["top_k"] = params.top_k
        if params.stop:
            body["stop_sequences"] = list(params.stop)
        if params.guided is not None:
            body = merged(body, guided_fields(params.guided, profile, backend=self._backend))
        if call.stream:
            body |= {"stream": True, **profile.stream_options}
        return HttpRequest(
            path="/messages", body=complete_body(body, profile), headers=profile.headers, stream=call.stream
        )

    def parse(self, body: Any) -> Reply:
        answer = as_object(body, "body", backend=self._backend)
        if error := provider_error(answer, backend=self._backend):
            raise error
        if not isinstance(answer.get("content"), list):
            raise not_the_protocol("no list of content blocks", answer, backend=self._backend)
        blocks = objects(answer["content"])
        choice = Choice(
            text="".join(text_or_none(block.get("text")) or "" for block in blocks),
            finish_reason=finish_reason(answer.get("stop_reason"), backend=self._backend) or "stop",
            reasoning="".join(text_or_none(block.get("thinking")) or "" for block in blocks) or None,
        )
        return Reply(
            choices=(choice,),
            tokens=_usage(member(answer, "usage")),
            model=text_or_none(answer.get("model")),
            id=text_or_none(answer.get("id")),
        )

    def reader(self) -> ReplyReader:
        return _MessagesReader(self._backend)


def _mark_shared(system: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
    """Mark the end of what siblings share: the system text, or the first of several messages.

    A lone message is not marked: writing a prompt to the cache costs extra, which only reading it again brings back.
    """
    mark = {"cache_control": {"type": "ephemeral"}}
    if system:
        system[-1] |= mark
    elif len(messages) > 1 and messages[0]["content"]:
        messages[0]["content"] = [{"type": "text", "text": messages[0]["content"], **mark}]


def _usage(usage: Mapping[str, Any]) -> TokenCounts:
    """Cached tokens are counted beside ``input_tokens`` here, not within them."""
    fresh, read = count(usage.get("input_tokens")), count(usage.get("cache_read_input_tokens")) or 0
    written = count(usage.get("cache_creation_input_tokens")) or 0
    return token_counts(None if fresh is None else fresh + read + written, usage.get("output_tokens"), read)


class _MessagesReader:
    """Puts a streamed message together."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._usage: dict[str, Any] = {}
        self._finish: FinishReason | None = None
        self._model: str | None = None
        self._id: str | None = None
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        return self._is_complete

    def feed(self, event: ServerSentEvent) -> Sequence[Delta]:
        data = event.data.strip()
        if not data:
            return ()
        chunk = as_object(decode_json(data, backend=self._backend), "event", backend=self._backend)
        if error := provider_error(chunk, backend=self._backend, is_error=event.type == "error"):
            raise error
        kind = chunk.get("type")
        if kind == "content_block_delta":
            return self._piece(member(chunk, "delta"))
        if kind == "content_block_start":  # a block may begin with text already in it
            return self._piece(member(chunk, "content_block"))
        if kind == "message_start":
            message = member(chunk, "message")
            self._model, self._id = text_or_none(message.get("model")), text_or_none(message.get("id"))
            self._usage |= member(message, "usage")
        elif kind == "message_delta":
            reason = finish_reason(member(chunk, "delta").get("stop_reason"), backend=self._backend)
            self._finish = reason or self._finish
            self._usage |= {key: value for key, value in member(chunk, "usage").items() if value is not None}
        elif kind == "message_stop":
            self._is_complete = True
        return ()

    def _piece(self, delta: Mapping[str, Any]) -> Sequence[Delta]:
        if thought := text_or_none(delta.get("thinking")):
            self._thoughts.append(thought)
            return (Delta(sample=0, text=thought, is_reasoning=True),)
        if text := text_or_none(delta.get("text")):
            self._texts.append(text)
            return (Delta(sample=0, text=text),)
        return ()

    def finish(self) -> Reply:
        if self._finish is None:
            raise truncated("no stop_reason came", backend=self._backend)
        choice = Choice(
            text="".join(self._texts), finish_reason=self._finish, reasoning="".join(self._thoughts) or None
        )
        return Reply(choices=(choice,), tokens=_usage(self._usage), model=self._model, id=self._id)
