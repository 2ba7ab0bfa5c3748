"""Values for the page as JSON: plain ASCII, without secrets, and nothing that JSON does not know."""

from __future__ import annotations

import json
import math
from typing import Any

from llmprog.redaction import redact


def encode(value: Any) -> str:
    """``value`` as JSON on one line; of ASCII, so that no text in it, however broken, is more than text.

    Numbers that JSON does not know (``inf``, ``nan``) become texts.
    """
    return json.dumps(_known(value), separators=(",", ":"), allow_nan=False)


def _known(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {redact(str(name)): _known(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return value
