"""Attributes of spans, as OpenTelemetry's conventions for generative AI name them; ``llmprog.*`` are ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from llmprog.redaction import redact
from llmprog.types import Completion, JsonSchema, Request, Scoring, Template, Usage

_PROVIDERS = {"gemini": "gcp.gemini", "openai-responses": "openai", "mercury": "inception"}


def clean_text(text: str) -> str:
    """``text`` without secrets, and without lone surrogates, which exporters choke on."""
    return redact(text).encode("utf-8", "replace").decode()


def asked_attributes(node: str, backend: str, question: Request | Scoring) -> dict[str, Any]:
    """What is known of a call when it is sent, without what is asked."""
    found: dict[str, Any] = {
        "gen_ai.operation.name": _operation(question),
        **_place(backend),
        "llmprog.node": clean_text(node),
    }
    if isinstance(question, Scoring):
        return found
    params = question.params
    found |= {
        "gen_ai.request.temperature": float(params.temperature),
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.top_p": float(params.top_p),
        "llmprog.first_sample": question.first_sample,
    }
    optional: Mapping[str, Any] = {
        "gen_ai.request.top_k": float(params.top_k),
        "gen_ai.request.stop_sequences": params.stop,
        "gen_ai.request.choice.count": question.num_samples if question.num_samples != 1 else None,
        "gen_ai.output.type": "json" if isinstance(params.guided, JsonSchema) else None,
    }
    found |= {name: value for name, value in optional.items() if value}
    return found if params.seed is None else found | {"gen_ai.request.seed": params.seed}


def _operation(question: Request | Scoring) -> str:
    if isinstance(question, Scoring):
        return "score"
    return "text_completion" if isinstance(question.prompt, Template) else "chat"


def _place(backend: str) -> dict[str, Any]:
    """Provider, model and server of a backend's id, such as ``openai:gpt-5`` or ``http://host:8000/v1#qwen3``."""
    scheme, _, rest = backend.partition(":")
    model = rest.partition("?")[0] or scheme
    if not model.startswith("//"):
        return {"gen_ai.provider.name": _PROVIDERS.get(scheme, scheme), "gen_ai.request.model": clean_text(model)}
    parts = urlsplit(backend)
    found: dict[str, Any] = {
        "gen_ai.provider.name": "openai",  # whose protocol it speaks
        "gen_ai.request.model": clean_text(parts.fragment.partition("?")[0]),
        "server.address": parts.hostname or "",
    }
    return found if parts.port is None else found | {"server.port": parts.port}


def answered_attributes(completions: Sequence[Completion], usage: Usage) -> dict[str, Any]:
    """What is known of a call when it has been answered, without the answers."""
    found: dict[str, Any] = {
        "gen_ai.response.finish_reasons": [completion.finish_reason for completion in completions],
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
    }
    if usage.cached_tokens:
        found["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
    if usage.usd is not None:
        found["llmprog.usage.usd"] = usage.usd
    model = completions[0].model
    return found if model is None else found | {"gen_ai.response.model": clean_text(model)}


def input_attributes(question: Request | Scoring) -> dict[str, str]:
    """What is asked."""
    asked = question.prompt
    prompt = asked.prompt if isinstance(asked, Template) else asked
    messages = [
        {"role": message.role, "parts": [{"type": "text", "content": redact(message.content)}]}
        for message in prompt.messages
    ]
    return {"gen_ai.input.messages": _messages(messages)}


def output_messages(completions: Sequence[Completion]) -> str:
    """What was answered, as the convention writes messages."""
    return _messages(map(_output, completions))


def _output(completion: Completion) -> dict[str, Any]:
    parts = [{"type": "text", "content": redact(completion.text)}]
    if completion.reasoning is not None:
        parts.insert(0, {"type": "reasoning", "content": redact(completion.reasoning)})
    return {"role": "assistant", "parts": parts, "finish_reason": completion.finish_reason}


def _messages(messages: Any) -> str:
    return json.dumps(list(messages))
