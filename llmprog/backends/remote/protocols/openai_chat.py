"""OpenAI chat completions: ``POST /chat/completions``, which most servers speak with deviations a profile names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmprog.backends.remote.guided import guided_fields
from llmprog.backends.remote.profiles import Profile, merged
from llmprog.backends.remote.protocols.common import (
    BoundProtocol,
    as_object,
    check_call,
    complete_body,
    content_text,
    count,
    decode_json,
    finish_reason,
    in_sample_order,
    joined_logprobs,
    listed_logprobs,
    logprob_pair,
    member,
    not_the_protocol,
    objects,
    provider_error,
    reasoning_text,
    text_or_none,
    token_counts,
    truncated,
)
from llmprog.backends.remote.protocols.reasoning import ReasoningSplitter, split_reasoning
from llmprog.backends.remote.sse import ServerSentEvent
from llmprog.backends.remote.wire import Choice, HttpRequest, ModelCall, Reply, ReplyReader, TokenCounts
from llmprog.types import Delta, FinishReason, Prompt

_MOST_CHOICES = 4096  # an index beyond it is a broken answer, not a sample


class OpenAIChat(BoundProtocol):
    """Calls and replies of chat completions."""

    def request(self, call: ModelCall) -> HttpRequest:
        profile, params = self._profile, call.params
        check_call(call, profile, backend=self._backend)
        body: dict[str, Any] = {
            "model": call.model,
            "messages": chat_messages(call.prompt),
            **sampling_fields(call, profile),
        }
        path = "/chat/completions"
        if call.prompt.prefix:
            body["messages"].append(_prefix_message(call.prompt.prefix, profile))
            path = profile.prefill_path or path
            if profile.prefill == "continue_final_message":
                body |= {"add_generation_prompt": False, "continue_final_message": True}
        if params.logprobs:
            body |= {"logprobs": True, "top_logprobs": 1}  # some servers report none unless told how many
        if params.guided is not None:
            body = merged(body, guided_fields(params.guided, profile, backend=self._backend))
        if call.stream:
            body |= {"stream": True, **profile.stream_options}
        return HttpRequest(path=path, body=complete_body(body, profile), headers=profile.headers, stream=call.stream)

    def parse(self, body: Any) -> Reply:
        answer = as_object(body, "body", backend=self._backend)
        if error := provider_error(answer, backend=self._backend):
            raise error
        if not isinstance(answer.get("choices"), list):
            raise not_the_protocol("no list of choices", answer, backend=self._backend)
        choices = in_sample_order(objects(answer["choices"]))
        return Reply(
            choices=tuple(self._choice(choice) for choice in choices),
            tokens=chat_usage(answer.get("usage")),
            model=text_or_none(answer.get("model")),
            id=text_or_none(answer.get("id")),
        )

    def _choice(self, choice: Mapping[str, Any]) -> Choice:
        if error := provider_error(choice, backend=self._backend):
            raise error
        message = member(choice, "message")
        content, refusal = content_text(message.get("content")), text_or_none(message.get("refusal"))
        text, thought = split_reasoning(content)
        # A body is complete where a stream may not be: a reason that is missing here was only left out.
        finish = finish_reason(choice.get("finish_reason"), backend=self._backend) or "stop"
        return Choice(
            text=text or refusal or "",
            finish_reason="content_filter" if refusal and not text else finish,
            reasoning=reasoning_text(message) or thought,
            logprobs=joined_logprobs(chat_logprobs(choice)),
        )

    def reader(self) -> ReplyReader:
        return ChatReader(self._backend, replaces=self._profile.stream_style == "replace")


def chat_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The conversation as chat completions want it, without the prefix."""
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


def _prefix_message(prefix: str, profile: Profile) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": prefix}
    return {**message, "prefix": True} if profile.prefill == "prefix" else message


def sampling_fields(call: ModelCall, profile: Profile) -> dict[str, Any]:
    """The body fields for how completions are drawn, as all OpenAI-like completions name them."""
    params, neutral = call.params, profile.sends_neutral
    body: dict[str, Any] = {"temperature": params.temperature, profile.max_tokens_field: params.max_tokens}
    if params.top_p != 1 or neutral:
        body["top_p"] = params.top_p
    if params.top_k or (neutral and profile.supports_top_k):
        body["top_k"] = params.top_k or profile.top_k_off
    if params.min_p or (neutral and profile.supports_min_p):
        body["min_p"] = params.min_p
    if params.stop:
        body["stop"] = list(params.stop)
    if params.seed is not None and profile.supports_seed:
        body["seed"] = params.seed
    if call.num_samples > 1:
        body["n"] = call.num_samples
    if profile.cache == "cache_prompt":
        body["cache_prompt"] = True
    return body


def chat_usage(usage: object) -> TokenCounts:
    """Token counts of OpenAI-like completions."""
    if not isinstance(usage, dict):
        return TokenCounts()
    cached = member(usage, "prompt_tokens_details").get("cached_tokens")
    thought = member(usage, "completion_tokens_details").get("reasoning_tokens")
    return token_counts(
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        usage.get("prompt_cache_hit_tokens") if cached is None else cached,
        usage.get("reasoning_tokens") if thought is None else thought,
    )


def chat_logprobs(choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Token log-probabilities in the form of chat completions: one object per token."""
    found = (
        logprob_pair(item.get("token"), item.get("logprob"))
        for item in objects(member(choice, "logprobs").get("content"))
    )
    return [pair for pair in found if pair is not None]


class _StreamedChoice:
    """One choice of a streamed reply, as far as it has come."""

    def __init__(self, sample: int, replaces: bool) -> None:
        self.finish: FinishReason | None = None
        self.logprobs: list[tuple[str, float]] = []
        self._sample = sample
        self._replaces = replaces
        self._splitter = ReasoningSplitter()
        self._reasoning: list[str] = []
        self._refusal: list[str] = []

    def text(self, piece: str) -> list[Delta]:
        if not self._replaces:
            return self._deltas(self._splitter.feed(piece))
        self._splitter = ReasoningSplitter()
        pieces = self._splitter.feed(piece) + self._splitter.finish()
        whole = {
            kind: text
            for kind, text in (("text", self._splitter.text), ("reasoning", self._splitter.reasoning))
            if text
        }
        if not pieces:
            return []
        return [
            Delta(sample=self._sample, text=text, replaces=True, is_reasoning=kind == "reasoning")
            for kind, text in whole.items()
        ]

    def reasoning(self, piece: str) -> list[Delta]:
        self._reasoning.append(piece)
        return [Delta(sample=self._sample, text=piece, is_reasoning=True)]

    def refusal(self, piece: str) -> list[Delta]:
        self._refusal.append(piece)
        return [Delta(sample=self._sample, text=piece)]

    def end(self) -> list[Delta]:
        return [] if self._replaces else self._deltas(self._splitter.finish())

    def _deltas(self, pieces: Sequence[tuple[str, str]]) -> list[Delta]:
        return [
            Delta(sample=self._sample, text=text, replaces=kind == "retract", is_reasoning=kind == "reasoning")
            for kind, text in pieces
        ]

    def choice(self) -> Choice:
        self.end()
        text, refusal = self._splitter.text, "".join(self._refusal)
        return Choice(
            text=text or refusal,
            finish_reason="content_filter" if refusal and not text else self.finish,
            reasoning="".join(self._reasoning) or self._splitter.reasoning or None,
            logprobs=joined_logprobs(self.logprobs),
        )


class ChatReader:
    """Puts a streamed chat completion together.

    Args:
        backend: Id of the backend, for errors.
        replaces: Whether a piece of text replaces all that came before it.
        is_plain_text: Whether the pieces are those of text completions (``choices[].text``).
    """

    def __init__(self, backend: str, *, replaces: bool = False, is_plain_text: bool = False) -> None:
        self._backend = backend
        self._replaces = replaces
        self._is_plain_text = is_plain_text
        self._choices: dict[int, _StreamedChoice] = {}
        self._tokens = TokenCounts()
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
        if data == "[DONE]":
            self._is_complete = True
            return ()
        chunk = as_object(decode_json(data, backend=self._backend), "event", backend=self._backend)
        if error := provider_error(chunk, backend=self._backend, is_error=event.type == "error"):
            raise error
        self._model = text_or_none(chunk.get("model")) or self._model
        self._id = text_or_none(chunk.get("id")) or self._id
        choices = objects(chunk.get("choices"))
        if isinstance(chunk.get("usage"), dict):
            self._tokens = chat_usage(chunk["usage"])
            # Usage alone is the last thing before [DONE], which some servers leave out.
            if not choices and self._choices and all(c.finish for c in self._choices.values()):
                self._is_complete = True
        return [delta for choice in choices for delta in self._choice(choice)]

    def _choice(self, chunk: Mapping[str, Any]) -> list[Delta]:
        if error := provider_error(chunk, backend=self._backend):
            raise error
        index = count(chunk.get("index")) or 0
        if index >= _MOST_CHOICES:
            raise not_the_protocol("an impossible choice index", index, backend=self._backend)
        if index not in self._choices:
            self._choices[index] = _StreamedChoice(index, self._replaces)
        choice = self._choices[index]
        message = chunk if self._is_plain_text else member(chunk, "delta") or member(chunk, "message")
        deltas: list[Delta] = []
        if thought := reasoning_text(message):
            deltas += choice.reasoning(thought)
        if text := content_text(message.get("text" if self._is_plain_text else "content")):
            deltas += choice.text(text)
        if refusal := text_or_none(message.get("refusal")):
            deltas += choice.refusal(refusal)
        choice.logprobs += chat_logprobs(chunk) or listed_logprobs(chunk)
        if finish := finish_reason(chunk.get("finish_reason"), backend=self._backend):
            choice.finish = finish
            deltas += choice.end()
        return deltas

    def finish(self) -> Reply:
        if not self._choices:
            raise truncated("no choice came", backend=self._backend)
        for index, choice in self._choices.items():
            if choice.finish is None:
                raise truncated(f"choice {index} has no finish reason", backend=self._backend)
        return Reply(
            choices=tuple(self._choices[index].choice() for index in sorted(self._choices)),
            tokens=self._tokens,
            model=self._model,
            id=self._id,
        )
