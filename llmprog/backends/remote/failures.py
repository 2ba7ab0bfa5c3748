"""What an answer that is no success means: which error it is, and whether the same call may succeed later.

The status decides, unless the provider's own error code is more precise: spent credit arrives as 400, 402, 403 or 429,
and some gateways put an error into a 200.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmprog.backends.remote.retry_after import duration_s, retry_after_s
from llmprog.backends.remote.wire import HttpResponse
from llmprog.errors import (
    AuthenticationError,
    BackendError,
    BadResponseError,
    QuotaError,
    RateLimitError,
    RequestRefusedError,
)
from llmprog.redaction import redact

_LONGEST_BODY = 16_384  # bytes of an error body that are looked at
_LONGEST_MESSAGE = 300  # characters of a provider's words in ours

_RETRYABLE = frozenset({408, 409, 425, 429})  # and 5xx
_MAYBE_BILLED = frozenset({408, 504, 524})  # a gateway gave up waiting; the model may not have

_SPENT_CODES = frozenset(
    {
        "insufficient_quota",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_funds",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "credit_balance_too_low",
        "enforced_spend_limit_reached",
        "quota_exceeded",
    }
)
_SPENT_WORDS = ("credit balance is too low", "you have reached your specified")  # a 400 of Anthropic's, without a code
# Providers' codes for what HTTP has a status for: what counts where an answer has none of its own, or hides behind 400.
_STATUS_OF_CODE = {
    code: status
    for status, codes in {
        400: "badrequesterror bad_request context_length_exceeded exceed_context_size_error failed_precondition "
        "invalid_argument invalid_prompt invalid_request_error request_too_large",
        401: "authentication_error invalid_api_key permission_denied permission_error unauthenticated",
        404: "model_not_found not_found not_found_error notfounderror",
        429: "rate_limit_error rate_limit_exceeded rate_limited resource_exhausted too_many_requests",
        500: "api_error internal internal_server_error internalservererror server_error",
        503: "deadline_exceeded engine_overloaded overloaded overloaded_error server_overloaded service_unavailable "
        "timeout timeout_error unavailable unavailable_error",
    }.items()
    for code in codes.split()
}
_REPLY_KEYS = frozenset({"choices", "candidates", "content", "output"})
_TAG = re.compile(r"<[^<>]*>")


@dataclass(frozen=True, slots=True)
class _ErrorBody:
    message: str
    number: int | None  # the error's own idea of a status
    coded: int | None  # the status its code stands for
    retry_after_s: float | None
    is_spent: bool


def decode_json(text: bytes | str) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: It is not JSON, is nested too deeply, repeats a key, or holds NaN or an infinity.
    """
    try:
        return _from_json(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"text that is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error.msg} at character {error.pos})") from None


def failure(response: HttpResponse, *, backend: str, key_hint: str, now: float) -> BackendError:
    """The error that ``response`` is, to be raised by the caller.

    Args:
        response: An answer with a status other than 2xx, or one whose body ``is_error_object``.
        backend: Id of the backend, for the message.
        key_hint: What to set to give a key, such as the name of an environment variable; empty where none is used.
        now: Wall clock, in seconds since the epoch.
    """
    body = _read(response.body)
    status = response.status
    if 200 <= status < 300:
        status = body.number or body.coded or 502
    elif status == 400 and body.coded in (429, 503):  # some gateways say 400 to everything
        status = body.coded
    wait_s = retry_after_s(response.headers, now)
    wait_s = body.retry_after_s if wait_s is None else wait_s
    said = f"status {response.status}: {body.message!r}" if body.message else f"status {response.status}"
    request_id = response.headers.get("x-request-id") or response.headers.get("request-id") or ""
    if request_id:
        said += f" (request id {_one_line(request_id, 80)})"
    if status == 402 or body.is_spent:
        return QuotaError(
            f"{said}; its credit or quota is spent: top it up, or use another key", **_of(backend, status)
        )
    if status == 429:
        return RateLimitError(said, retryable=True, retry_after_s=wait_s, **_of(backend, status))
    if status in (401, 403):
        advice = f"set {key_hint} to a key that may do this" if key_hint else "it wants a key, and none is configured"
        return AuthenticationError(f"{said}; {advice}", **_of(backend, status))
    if status in _RETRYABLE or status >= 500:
        billed = status in _MAYBE_BILLED or response.status < 300
        return BackendError(said, retryable=True, retry_after_s=wait_s, possibly_billed=billed, **_of(backend, status))
    if status < 400:
        return BadResponseError(f"{said}; allowed is 200", **_of(backend, status))
    if status == 404:
        said += "; check the model's name and the base URL"
    return RequestRefusedError(said, **_of(backend, status))


def failure_in_reply(error: Mapping[str, Any], *, backend: str) -> BackendError:
    """The error that an error object is that stands in a reply or a stream that had begun."""
    body = json.dumps(error, default=str).encode()
    found = failure(HttpResponse(status=200, headers={}, body=body), backend=backend, key_hint="", now=0.0)
    found.possibly_billed = True
    return found


def is_error_object(value: Any) -> bool:
    """Whether the decoded body of a 2xx answer is an error after all."""
    return isinstance(value, dict) and bool(value.get("error")) and _REPLY_KEYS.isdisjoint(value)


def clean(text: str) -> str:
    """``text`` from an endpoint as one short printable line without secrets and markup."""
    return _one_line(_TAG.sub(" ", text[:_LONGEST_BODY]), _LONGEST_MESSAGE)


def _of(backend: str, status: int) -> dict[str, Any]:
    return {"backend": backend, "status": status}


def _one_line(text: str, longest: int) -> str:
    # Redacted before it is cut: half a key is no longer recognised.
    line = redact(" ".join("".join(c if c.isprintable() else " " for c in text).split()))
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _read(body: bytes) -> _ErrorBody:
    text = body[:_LONGEST_BODY].decode("utf-8", "replace")
    try:
        value = decode_json(text)
    except ValueError:
        return _ErrorBody(clean(text), None, None, None, is_spent=_names_spent(text))
    while isinstance(value, list) and value:  # Gemini answers some errors as a list of one
        value = value[0]
    if not isinstance(value, dict):
        return _ErrorBody(clean(str(value)), None, None, None, is_spent=False)
    error = value.get("error")
    inner: Mapping[str, Any] = error if isinstance(error, dict) else value
    details = _details(inner.get("details"))
    message = _message(error, inner, value) or text
    codes = [inner.get(name) for name in ("code", "type", "status")]
    codes += [detail.get(name) for detail in details for name in ("reason", "error_code")]
    words = frozenset(code.lower() for code in codes if isinstance(code, str))
    return _ErrorBody(
        clean(message),
        next((number for code in codes if (number := _as_status(code)) is not None), None),
        next((_STATUS_OF_CODE[word] for word in sorted(words) if word in _STATUS_OF_CODE), None),
        next((wait for detail in details if (wait := _delay(detail)) is not None), None),
        bool(words & _SPENT_CODES) or _names_spent(message) or any(_is_daily(detail) for detail in details),
    )


def _as_status(code: Any) -> int | None:
    number = int(code) if isinstance(code, str) and re.fullmatch("[45][0-9][0-9]", code) else code
    return number if type(number) is int and 400 <= number < 600 else None


def _message(error: Any, inner: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    metadata = inner.get("metadata")
    raw = (
        metadata.get("raw") if isinstance(metadata, dict) else None
    )  # what a router was told by the provider behind it
    found = [part for part in (inner.get("message"), raw) if isinstance(part, str) and part]
    candidates = (": ".join(found), error, value.get("message"), value.get("detail"))
    return next((text for text in candidates if isinstance(text, str) and text), "")


def _details(details: Any) -> list[Mapping[str, Any]]:
    listed: Iterable[Any] = details if isinstance(details, list) else [details]
    return [detail for detail in listed if isinstance(detail, dict)]


def _delay(detail: Mapping[str, Any]) -> float | None:
    delay = detail.get("retryDelay")
    return duration_s(delay) if isinstance(delay, str) else None


def _is_daily(detail: Mapping[str, Any]) -> bool:
    violations = detail.get("violations")
    return isinstance(violations, list) and any(
        isinstance(violation, dict) and "PerDay" in str(violation.get("quotaId")) for violation in violations
    )


def _names_spent(message: str) -> bool:
    words = message.lower()
    return any(spent in words for spent in _SPENT_WORDS)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("JSON with a repeated key")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON with {name}")


_from_json = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant).decode
