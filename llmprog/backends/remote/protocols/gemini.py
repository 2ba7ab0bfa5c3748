"""Gemini: ``POST /models/MODEL:generateContent``. Several candidates per request; thoughts are parts with a mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

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
from llmprog.types import Delta, FinishReason


class Gemini(BoundProtocol):
    """Calls and replies of generateContent."""

    def request(self, call: ModelCall) -> HttpRequest:
        profile, params, messages = self._profile, call.params, call.prompt.messages
        check_call(call, profile, backend=self._backend)
        optional = (
            ("topP", params.top_p, params.top_p != 1),
            ("topK", params.top_k, params.top_k != 0),
            ("stopSequences", list(params.stop), bool(params.stop)),
            ("seed", params.seed, params.seed is not None and profile.supports_seed),
            ("candidateCount", call.num_samples, call.num_samples > 1),
            ("responseLogprobs", True, params.logprobs),
        )
        config = {
            "temperature": params.temperature,
            profile.max_tokens_field: params.max_tokens,
            **{name: value for name, value, is_set in optional if is_set},
        }
        system = [{"text": m.content} for m in messages if m.role == "system"]
        body: dict[str, Any] = {
            **({"systemInstruction": {"parts": system}} if system else {}),
            "contents": [
                {"role": "model" if m.role == "assistant" else "user", "parts": [{"text": m.content}]}
                for m in messages
                if m.role != "system"
            ],
            "generationConfig": config,
        }
        if params.guided is not None:
            body = merged(body, guided_fields(params.guided, profile, backend=self._backend))
        method = "streamGenerateContent?alt=sse" if call.stream else "generateContent"
        model = quote(call.model if "/" in call.model else f"models/{call.model}", safe="/")
        return HttpRequest(
            path=f"/{model}:{method}", body=complete_body(body, profile), headers=profile.headers, stream=call.stream
        )

    def parse(self, body: Any) -> Reply:
        reader = _GeminiReader(self._backend)
        reader.take(as_object(body, "body", backend=self._backend))
        return reader.reply(is_whole=True)

    def reader(self) -> ReplyReader:
        return _GeminiReader(self._backend)


class _Candidate:
    """One candidate, as far as it has come."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.logprobs: list[tuple[str, float]] = []
        self.finish: FinishReason | None = None


class _GeminiReader:
    """Puts a reply together; a plain one is a stream of one piece."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._candidates: dict[int, _Candidate] = {}
        self._tokens = TokenCounts()
        self._model: str | None = None
        self._id: str | None = None
        self._is_complete = False

    @property
    def is_complete(self) -> bool:
        return self._is_complete

    def feed(self, event: ServerSentEvent) -> Sequence[Delta]:
        data = event.data.strip()
        if data == "[DONE]":
            self._is_complete = True
        if not data or data == "[DONE]":
            return ()
        return self.take(as_object(decode_json(data, backend=self._backend), "event", backend=self._backend))

    def take(self, chunk: Mapping[str, Any]) -> Sequence[Delta]:
        """Take in one decoded piece; returns the text it brought."""
        if error := provider_error(chunk, backend=self._backend):
            raise error
        candidates = objects(chunk.get("candidates"))
        if member(chunk, "promptFeedback").get("blockReason") and not candidates:
            candidates = [{"finishReason": "SAFETY"}]
        self._model = text_or_none(chunk.get("modelVersion")) or self._model
        self._id = text_or_none(chunk.get("responseId")) or self._id
        if isinstance(chunk.get("usageMetadata"), dict):
            self._tokens = _usage(chunk["usageMetadata"])
        elif not candidates:
            raise not_the_protocol("neither candidates nor usage", chunk, backend=self._backend)
        deltas: list[Delta] = []
        indices = [count(candidate.get("index")) for candidate in candidates]
        if not any(indices):  # 0 is left out, as every value that is its type's default may be
            indices = list(range(len(candidates)))
        for index, candidate in zip(indices, candidates, strict=True):
            deltas += self._candidate(index or 0, candidate)
        return deltas

    def _candidate(self, sample: int, chunk: Mapping[str, Any]) -> list[Delta]:
        candidate = self._candidates.setdefault(sample, _Candidate())
        deltas = []
        for part in objects(member(chunk, "content").get("parts")):
            if text := text_or_none(part.get("text")):
                is_thought = part.get("thought") is True
                (candidate.thoughts if is_thought else candidate.texts).append(text)
                deltas.append(Delta(sample=sample, text=text, is_reasoning=is_thought))
        chosen = objects(member(chunk, "logprobsResult").get("chosenCandidates"))
        found = (logprob_pair(entry.get("token"), entry.get("logProbability")) for entry in chosen)
        candidate.logprobs += [pair for pair in found if pair is not None]
        candidate.finish = finish_reason(chunk.get("finishReason"), backend=self._backend) or candidate.finish
        return deltas

    def finish(self) -> Reply:
        return self.reply(is_whole=False)

    def reply(self, *, is_whole: bool) -> Reply:
        """The reply so far; unless it is known to be whole, each candidate must have its finish reason."""
        if not self._candidates:
            raise truncated("no candidate came", backend=self._backend)
        if not is_whole and any(candidate.finish is None for candidate in self._candidates.values()):
            raise truncated("a candidate has no finishReason", backend=self._backend)
        return Reply(
            choices=tuple(
                Choice(
                    text="".join(candidate.texts),
                    finish_reason=candidate.finish or "stop",
                    reasoning="".join(candidate.thoughts) or None,
                    logprobs=joined_logprobs(candidate.logprobs),
                )
                for _, candidate in sorted(self._candidates.items())
            ),
            tokens=self._tokens,
            model=self._model,
            id=self._id,
        )


def _usage(usage: Mapping[str, Any]) -> TokenCounts:
    """Thoughts are counted beside the candidates here, not within them."""
    written, thought = count(usage.get("candidatesTokenCount")), count(usage.get("thoughtsTokenCount"))
    total = None if written is None and thought is None else (written or 0) + (thought or 0)
    return token_counts(usage.get("promptTokenCount"), total, usage.get("cachedContentTokenCount"), thought)
