"""Requests, completions and likelihoods as JSON values, and back: what recordings and journals consist of.

Every parameter is written out. Completions and log-probabilities are written with their secrets blacked out; requests
are written as they are, for ``without_secrets`` to be applied where they are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, cast

from llmprog.redaction import redact
from llmprog.types import (
    GUIDED_KINDS,
    Blank,
    Completion,
    Guided,
    Logprobs,
    Message,
    Prompt,
    Request,
    SamplingParams,
    Template,
    Usage,
    guided_kind,
)

# Words of the format itself, which no secret can black out.
_NOT_TEXT = frozenset({"kind", "role", "finish_reason", "type"})
_MOST_BITS = 10_000  # of a whole number; Python writes somewhat more in decimals
_DEEPEST = 100  # levels that a value without a JSON form is followed down


def as_json(value: Any) -> Any:
    """Any value of a user's, as JSON values: what JSON has no form for is its text, at whatever depth it stands."""
    try:
        return json.loads(json.dumps(value, default=_without_form))
    except (TypeError, ValueError, RecursionError):  # keys that are no texts, cycles, very deep or very large values
        return _followed(value, ())


def _without_form(value: Any) -> Any:
    return sorted(map(_text, value)) if isinstance(value, set | frozenset) else _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - any error of a user's class: keeping a value ends no run
        return f"<{type(value).__name__}>"


def _followed(value: Any, above: tuple[int, ...]) -> Any:
    """``value`` as JSON values; ``above`` are those that it is a part of, which tells a cycle."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < _MOST_BITS else f"{value:#x}"
    if id(value) in above or len(above) >= _DEEPEST:
        return f"<{type(value).__name__}>"
    above = (*above, id(value))
    if isinstance(value, Mapping):
        named = ((name if isinstance(name, str) else _text(name), item) for name, item in value.items())
        return {name: _followed(item, above) for name, item in named}
    if isinstance(value, list | tuple):
        return [_followed(item, above) for item in value]
    return _without_form(value)


def score_digest(prompt: Prompt, continuation: str) -> str:
    """Hex digest of a continuation to be scored."""
    return Request(prompt=Prompt((*prompt.messages, Message("assistant", continuation)), prompt.prefix)).digest()


def prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    """A prompt as JSON values."""
    return {"messages": [{"role": m.role, "content": m.content} for m in prompt.messages], "prefix": prompt.prefix}


def prompt_from_json(value: Mapping[str, Any]) -> Prompt:
    """The prompt that ``prompt_to_json`` wrote."""
    return Prompt(tuple(Message(m["role"], m["content"]) for m in value["messages"]), value["prefix"])


def request_to_json(request: Request) -> dict[str, Any]:
    """A request as JSON values, every parameter written out."""
    asked = request.prompt
    value = prompt_to_json(asked.prompt if isinstance(asked, Template) else asked)
    if isinstance(asked, Template):
        value["parts"] = [part if isinstance(part, str) else {"blank": part.num_tokens} for part in asked.parts]
    params = {f.name: getattr(request.params, f.name) for f in fields(request.params)}
    params["stop"] = list(request.params.stop)
    params["guided"] = _guided_to_json(request.params.guided)
    return value | {"params": params, "num_samples": request.num_samples, "first_sample": request.first_sample}


def request_from_json(value: Mapping[str, Any]) -> Request:
    """The request that ``request_to_json`` wrote."""
    asked = prompt_from_json(value)
    prompt: Prompt | Template = asked
    if "parts" in value:
        parts = tuple(part if isinstance(part, str) else Blank(part["blank"]) for part in value["parts"])
        prompt = Template(asked, parts)
    params = dict(value["params"])
    params |= {"stop": tuple(params["stop"]), "guided": _guided_from_json(params["guided"])}
    return Request(
        prompt=prompt,
        params=SamplingParams(**params),
        num_samples=value["num_samples"],
        first_sample=value["first_sample"],
    )


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """A completion as JSON values, secrets blacked out."""
    value = {f.name: getattr(completion, f.name) for f in fields(completion)}
    value |= {"usage": asdict(completion.usage), "logprobs": None}
    value = without_secrets(value)
    if completion.logprobs is not None:
        value["logprobs"] = logprobs_to_json(completion.logprobs)
    return cast("dict[str, Any]", value)


def completion_from_json(value: Mapping[str, Any]) -> Completion:
    """The completion that ``completion_to_json`` wrote."""
    logprobs = value["logprobs"]
    given = dict(value) | {"usage": Usage(**value["usage"])}
    given["logprobs"] = None if logprobs is None else logprobs_from_json(logprobs)
    return Completion(**given)


def logprobs_to_json(value: Logprobs) -> dict[str, Any]:
    """Log-probabilities as JSON values, secrets blacked out."""
    tokens = list(value.tokens)
    if redact(text := "".join(tokens)) != text:
        tokens = [redact("".join(tokens)), *[""] * (len(tokens) - 1)]  # a secret may be spelled over many tokens
    # JSON has no infinities: they are written as text.
    logprobs = [float(p) if math.isfinite(p) else str(float(p)) for p in value.logprobs]
    return {"tokens": tokens, "logprobs": logprobs, "is_bound": value.is_bound}


def logprobs_from_json(value: Mapping[str, Any]) -> Logprobs:
    """The log-probabilities that a recording holds."""
    return Logprobs(
        tokens=tuple(value["tokens"]),
        logprobs=tuple(float(p) for p in value["logprobs"]),
        is_bound=value["is_bound"],
    )


def _guided_to_json(guided: Guided | None) -> dict[str, Any] | None:
    if guided is None:
        return None
    given = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(guided).items()}
    return {"type": guided_kind(guided), **given}


def _guided_from_json(value: Mapping[str, Any] | None) -> Guided | None:
    if value is None:
        return None
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k != "type"}
    return GUIDED_KINDS[value["type"]](**given)


def without_secrets(value: Any) -> Any:
    """JSON values with every secret in a text blacked out."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: item if name in _NOT_TEXT else without_secrets(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value
