"""What the wire protocols share: reading JSON that may hold anything, provider errors, counts, request checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmprog.backends.remote import failures
from llmprog.backends.remote.profiles import Profile, built_in_profiles, merged
from llmprog.backends.remote.wire import ModelCall, TokenCounts
from llmprog.errors import (
    BackendError,
    BadResponseError,
    CapabilityError,
    TruncatedStreamError,
)
from llmprog.types import FinishReason, Logprobs


class BoundProtocol:
    """A wire protocol for one backend: what all of them are made with.

    Args:
        backend: Id of the backend, for errors.
        profile: How the endpoint deviates from the protocol.
    """

    def __init__(self, backend: str, profile: Profile) -> None:
        self._backend = backend
        self._profile = profile


def decode_json(data: str, *, backend: str) -> Any:
    """The value of an event's data, read strictly.

    Raises:
        BadResponseError: It is no JSON, names a key twice, holds NaN or Infinity, or nests too deeply.
    """
    try:
        return failures.decode_json(data)
    except ValueError as error:
        raise BadResponseError(
            f"an event of the stream is not usable JSON: {error}; it begins {shown(data)}; check the base URL",
            backend=backend,
            retryable=True,
            possibly_billed=True,
        ) from error


def shown(value: object) -> str:
    """A short repr of something an endpoint sent, on one line and without secrets."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply to be shown"
    return repr(failures.clean(text)) if isinstance(value, str) else failures.clean(text)


def not_the_protocol(what: str, value: object, *, backend: str) -> BadResponseError:
    """The error for an answer that is JSON but not what the protocol sends."""
    return BadResponseError(
        f"the answer has {what}: {shown(value)}; check the base URL and the endpoint's profile",
        backend=backend,
        retryable=True,
        possibly_billed=True,
    )


def as_object(value: object, what: str, *, backend: str) -> Mapping[str, Any]:
    """``value`` if it is a JSON object.

    Raises:
        BadResponseError: It is something else.
    """
    if not isinstance(value, dict):
        raise not_the_protocol(f"no JSON object as its {what}", value, backend=backend)
    return value


def objects(value: object) -> list[Mapping[str, Any]]:
    """The JSON objects in a list; nothing where there is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def member(value: object, key: str) -> Mapping[str, Any]:
    """The JSON object under ``key``; an empty one where there is none."""
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def text_or_none(value: object) -> str | None:
    """``value`` if it is a text that is not empty."""
    return value if isinstance(value, str) and value else None


_MOST_TOKENS = 2**53  # what JSON numbers hold exactly; sums of more would not fit into a database's integers


def count(value: object) -> int | None:
    """A count of tokens; ``None`` for anything that cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if 0 <= value <= _MOST_TOKENS else None


def token_counts(prompt: object, completion: object, cached: object = None, reasoning: object = None) -> TokenCounts:
    """Counts as the provider gave them; cached and reasoning tokens never exceed what they are part of."""
    in_all, out_all = count(prompt), count(completion)
    return TokenCounts(
        prompt=in_all,
        completion=out_all,
        cached=min(count(cached) or 0, in_all or 0),
        reasoning=min(count(reasoning) or 0, out_all or 0),
    )


def provider_error(body: Mapping[str, Any], *, backend: str, is_error: bool = False) -> BackendError | None:
    """The error that ``body`` reports in place of a reply; ``None`` where it reports none.

    Args:
        body: A decoded answer, or one event of a stream.
        backend: Id for the error.
        is_error: Whether the stream named this event an error.
    """
    if body.get("error"):
        return failures.failure_in_reply({"error": body["error"]}, backend=backend)
    if is_error or body.get("object") == "error" or body.get("type") == "error":
        return failures.failure_in_reply(body, backend=backend)
    return None


def truncated(what: str, *, backend: str) -> TruncatedStreamError:
    """The error for a reply that ended before it was complete."""
    return TruncatedStreamError(
        f"the reply ended early: {what}; what came of it is not used",
        backend=backend,
        retryable=True,
        possibly_billed=True,
    )


_FINISH: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_calls": "stop",
    "tool_use": "stop",
    "function_call": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_context_window_exceeded": "length",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "recitation": "content_filter",
    "blocklist": "content_filter",
    "prohibited_content": "content_filter",
    "spii": "content_filter",
    "language": "content_filter",
    "error": "error",
    "other": "error",
    "pause_turn": "error",
    "malformed_function_call": "error",
}
_CUT_SHORT: Final = frozenset(("abort", "cancelled", "insufficient_system_resource"))  # the server gave up midway


def finish_reason(value: object, *, backend: str) -> FinishReason | None:
    """A provider's finish reason in our words; ``None`` where there is none, ``stop`` for one nobody knows.

    Raises:
        TruncatedStreamError: The server says that it gave up midway.
    """
    if not isinstance(value, str) or not value:
        return None
    word = value.lower()
    if word in _CUT_SHORT:
        raise truncated(f"finish reason {shown(value)}", backend=backend)
    return _FINISH.get(word, "stop")


def joined_logprobs(tokens: Sequence[tuple[str, float]]) -> Logprobs | None:
    """Token log-probabilities as one value; ``None`` where there are none."""
    if not tokens:
        return None
    return Logprobs(tokens=tuple(t for t, _ in tokens), logprobs=tuple(p for _, p in tokens))


def logprob_pair(token: object, logprob: object) -> tuple[str, float] | None:
    """A token with its log-probability; ``None`` for anything that cannot be one."""
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    return (token, float(logprob)) if math.isfinite(logprob) else None


def check_call(call: ModelCall, profile: Profile, *, backend: str, is_plain_text: bool = False) -> None:
    """Refuse what the profile cannot express; a plain text can always begin with the reply's own beginning.

    Raises:
        CapabilityError: Naming the parameter and what can.
    """
    params = call.params
    for name, wanted, offered in (
        ("top_k", params.top_k != 0, profile.supports_top_k),
        ("min_p", params.min_p != 0, profile.supports_min_p),
        ("logprobs", params.logprobs, profile.supports_logprobs),
    ):
        if wanted and not offered:
            raise lacking(f"{name}={getattr(params, name)!r}", f"supports_{name}", profile, backend=backend)
    if len(params.stop) > profile.max_stop:
        raise CapabilityError(
            f"stop={params.stop!r}: profile {profile.name!r} takes at most {profile.max_stop} stop texts; "
            "use fewer, or cut the text in the program's parser",
            backend=backend,
        )
    if call.prompt.prefix and profile.prefill == "none" and not is_plain_text:
        raise lacking(
            f"a prefix ({call.prompt.prefix[:40]!r}) that the reply begins with", "prefill", profile, backend=backend
        )
    if call.num_samples > 1 and not profile.honours_n:
        raise lacking(f"num_samples={call.num_samples!r} in one request", "honours_n", profile, backend=backend)


def lacking(what: str, attribute: str, profile: Profile, *, backend: str) -> CapabilityError:
    """The error for something the profile does not offer, naming the profiles that do."""
    able = [name for name, other in built_in_profiles().items() if getattr(other, attribute) not in {False, "none"}]
    return CapabilityError(
        f"profile {profile.name!r} cannot express {what}; profiles that can: {', '.join(able)}; or leave it out",
        backend=backend,
    )


def complete_body(body: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """``body`` with the profile's own fields laid over it and without those it never sends."""
    full = merged(body, profile.extra_body) if profile.extra_body else dict(body)
    for name in profile.omit:
        full.pop(name, None)
    return full


def in_sample_order(choices: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Choices by their index; as they came where the indices say nothing."""
    if [choice.get("index") for choice in choices] == list(range(len(choices))):
        return choices
    indices = [count(choice.get("index")) for choice in choices]
    if None in indices or len(set(indices)) != len(indices):
        return choices
    return [choice for _, choice in sorted(zip(indices, choices, strict=True), key=lambda pair: pair[0] or 0)]


def content_text(content: object) -> str:
    """The text of a message's content, which some servers send in parts."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in objects(content) if isinstance(part.get("text"), str))


def reasoning_text(message: Mapping[str, Any]) -> str | None:
    """What a message or delta holds as reasoning; the names in use repeat each other, so one of them is read."""
    found = ""
    if details := objects(message.get("reasoning_details")):
        found = "".join(text_or_none(d.get("text")) or text_or_none(d.get("summary")) or "" for d in details)
    return found or text_or_none(message.get("reasoning")) or text_or_none(message.get("reasoning_content"))


def listed_logprobs(choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Token log-probabilities in the form of text completions: two lists side by side."""
    return [(token, logprob) for token, logprob in listed_logprobs_or_none(choice) if logprob is not None]


def listed_logprobs_or_none(choice: Mapping[str, Any]) -> list[tuple[str, float | None]]:
    """As they stand, with ``None`` for a token that has no likelihood, such as the first of a text."""
    listed = member(choice, "logprobs")
    tokens, logprobs = listed.get("tokens"), listed.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(logprobs, list):
        return []
    pairs = []
    for token, logprob in zip(tokens, logprobs, strict=False):
        pair = logprob_pair(token, logprob)
        pairs.append((token if isinstance(token, str) else "", pair[1] if pair else None))
    return pairs
