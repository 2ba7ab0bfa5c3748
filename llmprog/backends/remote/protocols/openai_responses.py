"""OpenAI responses: ``POST /responses``. One reply per request; a reply is a list of items, reasoning among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmprog.backends.remote.guided import guided_fields
from llmprog.backends.remote.profiles import merged
from llmprog.backends.remote.protocols.common import (
    BoundProtocol,
    as_object,
    check_call,
    complete_body,
    decode_json,
    finish_reason,
    joined_logprobs,
    logprob_pair,
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
from llmprog.types import Delta

_TEXT: Final = frozenset(("response.output_text.delta", "response.refusal.delta"))
_REASONING: Final = frozenset(("response.reasoning_summary_text.delta", "response.reasoning_text.delta"))
_END: Final = frozenset(("response.completed", "response.incomplete", "response.failed", "response.cancelled"))


class OpenAIResponses(BoundProtocol):
    """Calls and replies of the responses endpoint."""

    def request(self, call: ModelCall) -> HttpRequest:
        profile, params = self._profile, call.params
        check_call(call, profile, backend=self._backend)
        body: dict[str, Any] = {
            "model": call.model,
            "input": [{"role": message.role, "content": message.content} for message in call.prompt.messages],
            "temperature": params.temperature,
            profile.max_tokens_field: params.max_tokens,
        }
        if params.top_p != 1:
            body["top_p"] = params.top_p
        if params.logprobs:
            body["include"] = ["message.output_text.logprobs"]
        if params.guided is not None:
            body = merged(body, guided_fields(params.guided, profile, backend=self._backend))
        if call.stream:
            body |= {"stream": True, **profile.stream_options}
        return HttpRequest(
            path="/responses", body=complete_body(body, profile), headers=profile.headers, stream=call.stream
        )

    def parse(self, body: Any) -> Reply:
        answer = as_object(body, "body", backend=self._backend)
        if error := provider_error(answer, backend=self._backend, is_error=answer.get("status") == "failed"):
            raise error
        if not isinstance(answer.get("output"), list):
            raise not_the_protocol("no list of output items", answer, backend=self._backend)
        reason = member(answer, "incomplete_details").get("reason")
        finish = finish_reason(reason, backend=self._backend)
        status = answer.get("status") or "completed"
        if finish is None and status != "completed":
            raise truncated(f"status {status!r:.40} without a reason", backend=self._backend)
        return Reply(
            choices=(_choice(objects(answer["output"]), finish or "stop"),),
            tokens=_usage(answer.get("usage")),
            model=text_or_none(answer.get("model")),
            id=text_or_none(answer.get("id")),
        )

    def reader(self) -> ReplyReader:
        return _ResponsesReader(self._backend, self)


def _choice(items: Sequence[Mapping[str, Any]], finish: Any) -> Choice:
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[str] = []
    logprobs: list[tuple[str, float]] = []
    for item in items:
        if item.get("type") == "reasoning":
            parts = objects(item.get("content")) or objects(item.get("summary"))
            thoughts += [part["text"] for part in parts if text_or_none(part.get("text"))]
            continue
        for part in objects(item.get("content")):
            texts.append(text_or_none(part.get("text")) or "")
            refusals.append(text_or_none(part.get("refusal")) or "")
            found = (logprob_pair(entry.get("token"), entry.get("logprob")) for entry in objects(part.get("logprobs")))
            logprobs += [pair for pair in found if pair is not None]
    text, refusal = "".join(texts), "".join(refusals)
    return Choice(
        text=text or refusal,
        finish_reason="content_filter" if refusal and not text else finish,
        reasoning="\n\n".join(thoughts) or None,
        logprobs=joined_logprobs(logprobs),
    )


def _usage(usage: object) -> TokenCounts:
    if not isinstance(usage, dict):
        return TokenCounts()
    return token_counts(
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        member(usage, "input_tokens_details").get("cached_tokens"),
        member(usage, "output_tokens_details").get("reasoning_tokens"),
    )


class _ResponsesReader:
    """The last event holds the whole reply, so the pieces before it are only passed on."""

    def __init__(self, backend: str, protocol: OpenAIResponses) -> None:
        self._backend = backend
        self._protocol = protocol
        self._reply: Reply | None = None

    @property
    def is_complete(self) -> bool:
        return self._reply is not None

    def feed(self, event: ServerSentEvent) -> Sequence[Delta]:
        data = event.data.strip()
        if not data or data == "[DONE]":
            return ()
        chunk = as_object(decode_json(data, backend=self._backend), "event", backend=self._backend)
        kind = chunk.get("type")
        if error := provider_error(chunk, backend=self._backend, is_error="error" in {event.type, kind}):
            raise error
        if kind in _END:
            self._reply = self._protocol.parse(chunk.get("response"))
            return ()
        piece = text_or_none(chunk.get("delta"))
        if piece is None or kind not in _TEXT | _REASONING:
            return ()
        return (Delta(sample=0, text=piece, is_reasoning=kind in _REASONING),)

    def finish(self) -> Reply:
        if self._reply is None:
            raise truncated("no event response.completed came", backend=self._backend)
        return self._reply
