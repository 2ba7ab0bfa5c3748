"""Server-sent events, byte by byte (WHATWG HTML, section 9.2.6).

Lines end at CR, LF or CRLF only: text splitters also break at U+2028, U+2029 and U+0085, which replies may contain.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event: its type (``message`` unless the stream names one) and its data lines, joined by LF."""

    type: str
    data: str
