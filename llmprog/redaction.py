"""Keeps secrets out of everything that is written: messages, logs, recordings.

A secret is known by its exact value. Whoever reads one from the environment registers it here, and whoever writes text
that an endpoint may have had a hand in passes it through ``redact``.
"""

from __future__ import annotations

import base64
from urllib.parse import quote, quote_plus

_MASK = "[redacted]"
_SHORTEST = 6  # shorter values would black out ordinary words

_forms: dict[str, tuple[str, ...]] = {}


def register_secret(value: str) -> None:
    """Have ``value`` redacted from now on, raw, URL-encoded and in base64."""
    if len(value) < _SHORTEST or value in _forms:
        return
    raw = value.encode("utf-8", "surrogatepass")
    forms = {value, quote(value, safe=""), quote_plus(value), repr(value)[1:-1]}
    for prefix in (b"", b":", b"Bearer ", b"x", b"xx"):  # base64 of the value alone, as a password, at each offset
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(prefix + raw).decode().rstrip("=")
            skip = -(-len(prefix) * 8 // 6)
            forms.add(text[skip : len(text) - 2])
    _forms[value] = tuple(sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True))


def redact(text: str) -> str:
    """``text`` with every registered secret blacked out."""
    for forms in _forms.values():
        for form in forms:
            if form in text:
                text = text.replace(form, _MASK)
    return text
