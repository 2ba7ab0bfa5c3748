"""Server-sent events, byte by byte (WHATWG HTML, section 9.2.6).

Lines end at CR, LF or CRLF only: text splitters also break at U+2028, U+2029 and U+0085, which replies may contain.
``id:`` and ``retry:`` serve reconnection; a reply cannot be taken up again, so both are read over.
"""

from __future__ import annotations

from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event: its type (``message`` unless the stream names one) and its data lines, joined by LF."""

    type: str
    data: str


class SSEParser:
    """Turns the bytes of an event stream, cut anywhere, into its events.

    The time taken is linear in the bytes fed, whatever the pieces. Undecodable bytes become U+FFFD.

    Args:
        max_event_bytes: Most bytes that one event, or one line, may have.
    """

    __slots__ = ("_after_cr", "_at_start", "_data", "_line", "_line_bytes", "_max_bytes", "_num_bytes", "_type")

    def __init__(self, *, max_event_bytes: int = 16 * 2**20) -> None:
        self._max_bytes = max_event_bytes
        self._at_start = True  # nothing but a part of a byte order mark has come
        self._after_cr = False  # an LF that comes next belongs to the line end before it
        self._line: list[bytes] = []  # pieces of the line that has not ended
        self._line_bytes = 0
        self._type = b""
        self._data: list[bytes] = []
        self._num_bytes = 0  # of the event so far

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that ``chunk`` completes.

        Raises:
            ValueError: One event, or one line, has more bytes than ``max_event_bytes``.
        """
        if self._at_start:
            chunk = self._without_bom(chunk)
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        events: list[ServerSentEvent] = []
        if lines and self._line:
            self._line.append(lines[0])
            lines[0] = b"".join(self._line)
            self._line.clear()
            self._line_bytes = 0
        for line in lines:
            if line:
                self._take_line(line)
            elif self._data:
                events.append(self._dispatch())
            else:
                self._type, self._num_bytes = b"", 0
        if rest:
            self._line.append(rest)
            self._line_bytes += len(rest)
            self._check(self._num_bytes + self._line_bytes)
        return events

    def flush(self) -> list[ServerSentEvent]:
        """The event at the end of a stream that ends without the blank line; empty where there is none.

        The specification drops such an event. Endpoints do end their replies with one, and an event that was cut
        short is found out by whoever reads its data.

        Raises:
            ValueError: The event has more bytes than ``max_event_bytes``.
        """
        self._at_start = False
        if self._line:
            line = b"".join(self._line)
            self._line.clear()
            self._line_bytes = 0
            self._take_line(line)
        return [self._dispatch()] if self._data else []

    def _without_bom(self, chunk: bytes) -> bytes:
        """``chunk`` and what was held back, less a byte order mark; empty while there may be one to come."""
        chunk = b"".join((*self._line, chunk))
        self._line.clear()
        self._line_bytes = 0
        if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
            if chunk:
                self._line.append(chunk)
                self._line_bytes = len(chunk)
            return b""
        self._at_start = False
        return chunk.removeprefix(_BOM)

    def _take_line(self, line: bytes) -> None:
        """Take in one line that is not empty."""
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._num_bytes += len(value) + 1
            self._check(self._num_bytes)
        elif name == b"event":
            self._type = value.removeprefix(b" ")
            self._check(self._num_bytes + len(self._type))

    def _dispatch(self) -> ServerSentEvent:
        """The event that the lines since the last one make."""
        kind = self._type.decode("utf-8", "replace") or "message"
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._type, self._num_bytes = b"", 0
        self._data.clear()
        return ServerSentEvent(kind, data.decode("utf-8", "replace"))

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise ValueError(f"an event of more than {self._max_bytes} bytes; the limit is max_event_bytes")
