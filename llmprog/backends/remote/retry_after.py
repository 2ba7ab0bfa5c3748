"""How long an endpoint asks its callers to wait, in every form that is in use.

``Retry-After`` as seconds, HTTP date (RFC 9110, section 10.2.3) or duration (``1m30s``); ``retry-after-ms``; and the
reset headers of rate limits: durations (OpenAI and those after it), RFC 3339 times (Anthropic), seconds or epoch times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_S = 86_400.0
"""A longer wait, in seconds, is taken as this one: no process sits it out, and most are mistakes (such as 10⁹)."""

_YEAR_S = 365 * 86_400.0
_LONGEST_HEADER = 64  # characters; nothing that means a time is longer

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?", re.ASCII)
_UNITS_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ms|us|µs|ns|d|h|m|s)", re.ASCII)
_DURATION = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)

# Pairs of what tells when a limit is full again and what tells how much of it is left.
_RESETS = (
    ("x-ratelimit-reset-requests", "x-ratelimit-remaining-requests"),
    ("x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"),
    ("anthropic-ratelimit-requests-reset", "anthropic-ratelimit-requests-remaining"),
    ("anthropic-ratelimit-tokens-reset", "anthropic-ratelimit-tokens-remaining"),
    ("anthropic-ratelimit-input-tokens-reset", "anthropic-ratelimit-input-tokens-remaining"),
    ("anthropic-ratelimit-output-tokens-reset", "anthropic-ratelimit-output-tokens-remaining"),
    ("x-ratelimit-reset", "x-ratelimit-remaining"),
    ("ratelimit-reset", "ratelimit-remaining"),
)


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the endpoint asks callers to wait, in [0, ``LONGEST_S``], or ``None`` where it does not say.

    ``retry-after-ms`` comes before ``Retry-After``, and both before the reset headers. Of those, the latest of the
    limits that are used up counts; where none says that it is, the earliest reset. A time in the past is 0; what
    cannot be read is skipped.

    Args:
        headers: By lower-case name.
        now: Wall clock, in seconds since the epoch. Dates are measured from the answer's own ``Date`` where it has one,
            so that a wrong clock on either side does not matter.
    """
    sent = _date(headers.get("date", ""))
    now = now if sent is None else sent
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    if (wait := _wait(headers.get("retry-after", ""), now)) is not None:
        return wait
    used_up: list[float] = []
    known: list[float] = []
    for reset, remaining in _RESETS:
        if reset in headers and (wait := _wait(headers[reset], now)) is not None:
            known.append(wait)
            left = _number(headers.get(remaining, ""))
            if left is not None and left <= 0:
                used_up.append(wait)
    return max(used_up) if used_up else min(known, default=None)


def duration_s(text: str) -> float | None:
    """Seconds of a duration such as ``1m30.5s``, ``20ms`` or ``7.66s``; ``None`` for anything else."""
    if len(text) > _LONGEST_HEADER or not _DURATION.fullmatch(text):
        return None
    return _bounded(math.fsum(float(amount) * _UNITS_S[unit] for amount, unit in _PART.findall(text)))


def _wait(text: str, now: float) -> float | None:
    text = text.strip()
    number = _number(text)
    if number is not None:  # epoch times, in seconds or milliseconds, are far too large to be waits
        for scale in (1.0, 1e3):
            if abs(number / scale - now) < _YEAR_S < number:
                return _bounded(number / scale - now)
        return _bounded(number)
    if (duration := duration_s(text)) is not None:
        return duration
    until = _date(text)
    return None if until is None else _bounded(until - now)


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if len(text) <= _LONGEST_HEADER and _NUMBER.fullmatch(text) else None


def _date(text: str) -> float | None:
    """Seconds since the epoch of an HTTP date or an RFC 3339 time; without a zone it is UTC."""
    text = text.strip()
    if not text or len(text) > _LONGEST_HEADER:
        return None
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            time = parse(text)
            return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_S)
