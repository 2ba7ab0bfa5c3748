"""What calls came to, in the forms of OpenAI's protocol: whole, or piece by piece."""

from __future__ import annotations

import json
import math
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmprog.types import Completion, Logprobs, Usage

_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_ENDS = {"\u0085": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}  # where some clients end a line
_CERTAINLY_NOT = -9999.0  # what stands for the logarithm of 0, which JSON cannot write


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a call came to.

    Attributes:
        completions: By choice: the samples of the first prompt, then those of the next.
        usage: What it cost.
        notes: What there is to say beside it, as the member ``llmprog`` of the body; ``None`` for nothing.
    """

    completions: Sequence[Completion]
    usage: Usage
    notes: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """A prompt that its completions begin with.

    Attributes:
        text: The prompt.
        logprobs: Those of its tokens, where they were asked for.
    """

    text: str
    logprobs: Logprobs | None = None


class Form(Protocol):
    """How a kind of reply is written."""

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a reply that comes at once."""
        ...

    def begin(self, index: int) -> dict[str, Any] | None:
        """The event that a streamed choice begins with, if there is one."""
        ...

    def piece(self, index: int, text: str, *, is_reasoning: bool = False) -> dict[str, Any]:
        """The event for a piece of text."""
        ...

    def canvas(self, index: int, text: str) -> dict[str, Any]:
        """The event for the whole text as it reads now, masks included."""
        ...

    def end(self, index: int, completion: Completion) -> dict[str, Any]:
        """The event that a choice ends with."""
        ...

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The event with the usage, which has no choice."""
        ...


class _Head:
    """What all bodies and events of one reply begin with."""

    def __init__(self, model: str, prefix: str, whole: str, event: str) -> None:
        self._id = f"{prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._whole = whole
        self._event = event

    def body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    def reply(self, answer: Answer, choices: list[dict[str, Any]]) -> dict[str, Any]:
        body = self.body(self._whole, choices) | {"usage": usage_to_json(answer.usage)}
        return body if answer.notes is None else body | {"llmprog": dict(answer.notes)}

    def event(self, index: int, content: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        return self.body(self._event, [{"index": index, **content, "finish_reason": finish}])

    def usage_event(self, answer: Answer) -> dict[str, Any]:
        return self.body(self._event, []) | {"usage": usage_to_json(answer.usage)}


class ChatForm:
    """Chat completions.

    Args:
        model: What the request called the model.
    """

    def __init__(self, model: str) -> None:
        self._head = _Head(model, "chatcmpl", "chat.completion", "chat.completion.chunk")

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a reply that comes at once."""
        choices: list[dict[str, Any]] = []
        for index, completion in enumerate(answer.completions):
            message = {"role": "assistant", "content": completion.text, "refusal": None}
            if completion.reasoning:
                message["reasoning_content"] = completion.reasoning
            choice = {
                "index": index,
                "message": message,
                "logprobs": _listed_by_token(completion.logprobs),
                "finish_reason": completion.finish_reason,
            }
            choices.append(choice | _violation(completion))
        return self._head.reply(answer, choices)

    def begin(self, index: int) -> dict[str, Any]:
        """The event that a choice begins with."""
        return self._head.event(index, {"delta": {"role": "assistant", "content": ""}})

    def piece(self, index: int, text: str, *, is_reasoning: bool = False) -> dict[str, Any]:
        """The event for a piece of text."""
        return self._head.event(index, {"delta": {"reasoning_content" if is_reasoning else "content": text}})

    def canvas(self, index: int, text: str) -> dict[str, Any]:
        """The event for the whole text as it reads now."""
        return self._head.event(index, {"delta": {}, "llmprog": {"canvas": text}})

    def end(self, index: int, completion: Completion) -> dict[str, Any]:
        """The event that a choice ends with; log-probabilities come with it, all at once."""
        content = {"delta": {}, "logprobs": _listed_by_token(completion.logprobs), **_violation(completion)}
        return self._head.event(index, content, completion.finish_reason)

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The event with the usage."""
        return self._head.usage_event(answer)


class TextForm:
    """Text completions.

    Args:
        model: What the request called the model.
        echoes: The prompt of each choice, where choices begin with them; filled while the call is under way.
        kind: The ``object`` of the body.
    """

    def __init__(self, model: str, echoes: Sequence[Echo] = (), kind: str = "text_completion") -> None:
        self._head = _Head(model, "cmpl", kind, kind)
        self._echoes = echoes

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of a reply that comes at once."""
        choices: list[dict[str, Any]] = []
        for index, completion in enumerate(answer.completions):
            choice = {
                "index": index,
                "text": self._echoed(index) + completion.text,
                "logprobs": self._logprobs(index, completion),
                "finish_reason": completion.finish_reason,
            }
            if completion.reasoning:
                choice["reasoning_content"] = completion.reasoning
            choices.append(choice | _violation(completion))
        return self._head.reply(answer, choices)

    def begin(self, index: int) -> dict[str, Any] | None:
        """The event with the prompt, where choices begin with it."""
        return self.piece(index, text) if (text := self._echoed(index)) else None

    def piece(self, index: int, text: str, *, is_reasoning: bool = False) -> dict[str, Any]:
        """The event for a piece of text."""
        if is_reasoning:
            return self._head.event(index, {"text": "", "reasoning_content": text, "logprobs": None})
        return self._head.event(index, {"text": text, "logprobs": None})

    def canvas(self, index: int, text: str) -> dict[str, Any]:
        """The event for the whole text as it reads now."""
        return self._head.event(index, {"text": "", "logprobs": None, "llmprog": {"canvas": text}})

    def end(self, index: int, completion: Completion) -> dict[str, Any]:
        """The event that a choice ends with; log-probabilities come with it, all at once."""
        content = {"text": "", "logprobs": self._logprobs(index, completion), **_violation(completion)}
        return self._head.event(index, content, completion.finish_reason)

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The event with the usage."""
        return self._head.usage_event(answer)

    def _echoed(self, index: int) -> str:
        return self._echoes[index].text if self._echoes else ""

    def _logprobs(self, index: int, completion: Completion) -> dict[str, Any] | None:
        echo = self._echoes[index] if self._echoes else None
        if completion.logprobs is None and (echo is None or echo.logprobs is None):
            return None
        return _listed_side_by_side(None if echo is None else echo.logprobs, completion.logprobs)


def _violation(completion: Completion) -> dict[str, Any]:
    """What is wrong with a text that was to be of a form, if anything is."""
    return {} if completion.violation is None else {"llmprog": {"violation": completion.violation}}


def _listed_by_token(logprobs: Logprobs | None) -> dict[str, Any] | None:
    """Log-probabilities as chat completions have them: one object per token."""
    if logprobs is None:
        return None
    pairs = zip(logprobs.tokens, logprobs.logprobs, strict=True)
    return {
        "content": [
            {
                "token": token,
                "logprob": _finite(value),
                "bytes": list(token.encode(errors="replace")),
                "top_logprobs": [],
            }
            for token, value in pairs
        ],
        "refusal": None,
    }


def _listed_side_by_side(prompt: Logprobs | None, reply: Logprobs | None) -> dict[str, Any]:
    """Log-probabilities as text completions have them; the first token of a prompt has none, as nothing precedes it."""
    tokens: list[str] = []
    values: list[float | None] = []
    if prompt is not None:
        tokens += prompt.tokens
        values += [None, *map(_finite, prompt.logprobs[1:])] if prompt.tokens else []
    if reply is not None:
        tokens += reply.tokens
        values += map(_finite, reply.logprobs)
    offsets: list[int] = []
    place = 0
    for token in tokens:
        offsets.append(place)
        place += len(token)
    listed: dict[str, Any] = {
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": None,
        "text_offset": offsets,
    }
    return listed | {"is_bound": True} if prompt is not None and prompt.is_bound else listed


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _CERTAINLY_NOT


def scores_to_json(model: str, scores: Sequence[Logprobs], usage: Usage) -> dict[str, Any]:
    """The body that answers a question for likelihoods."""
    data = [
        {
            "index": index,
            "tokens": list(score.tokens),
            "logprobs": [*map(_finite, score.logprobs)],
            "total": _finite(score.total),
            "is_bound": score.is_bound,
        }
        for index, score in enumerate(scores)
    ]
    return {"object": "list", "model": model, "data": data, "usage": usage_to_json(usage)}


def usage_to_json(usage: Usage) -> dict[str, Any]:
    """Token counts in OpenAI's form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def encode(value: object) -> bytes:
    """JSON as UTF-8 on one line, also in the eyes of clients that end lines at U+2028; lone surrogates are U+FFFD."""
    text = _SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    for end, escape in _LINE_ENDS.items():
        if end in text:
            text = text.replace(end, escape)
    return text.encode()
