"""Undoing the content encoding of an answer, within a limit on what comes of it."""

from __future__ import annotations

import zlib

ACCEPTED_ENCODINGS = "gzip, deflate"

_ANY_HEADER = zlib.MAX_WBITS | 32  # gzip's or zlib's
_GZIP_MAGIC = b"\x1f\x8b"


class ContentDecoder:
    """Decodes a body piece by piece, up to a number of bytes; a bomb is not unfolded any further.

    Args:
        encoding: The answer's content encoding; empty for none.
        max_bytes: Most bytes of the decoded body.

    Raises:
        ValueError: The encoding is none of ``ACCEPTED_ENCODINGS``.
    """

    __slots__ = ("_inflate", "_left", "_max_bytes", "_tail")

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._left = max_bytes
        self._tail = b""
        self._inflate = None
        encoding = encoding.strip().lower()
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(_ANY_HEADER)
        elif encoding not in ("", "identity"):
            raise ValueError(f"an answer in the encoding {encoding[:100]!r}; asked for was {ACCEPTED_ENCODINGS}")

    def decode(self, piece: bytes) -> bytes:
        """What ``piece`` decodes to.

        Raises:
            OverflowError: The body is longer than ``max_bytes``.
            ValueError: The body is not in its encoding.
        """
        data = piece if self._inflate is None else self._inflated(self._tail + piece)
        self._left -= len(data)
        if self._left < 0:
            raise OverflowError(f"an answer of more than {self._max_bytes} bytes; the limit is max_body_bytes")
        return data

    @property
    def is_cut(self) -> bool:
        """Whether a compressed body has begun and lacks its end."""
        return self._inflate is not None and not self._inflate.eof and self._left < self._max_bytes

    def _inflated(self, data: bytes) -> bytes:
        """At most one byte more than is allowed."""
        inflate, out = self._inflate, b""
        while data and inflate is not None and len(out) <= self._left:
            if inflate.eof:
                if not data.startswith(_GZIP_MAGIC):  # padding, or too little to tell; else a further gzip member
                    data = data if data == _GZIP_MAGIC[:1] else b""
                    break
                inflate = self._inflate = zlib.decompressobj(_ANY_HEADER)
            try:
                out += inflate.decompress(data, self._left + 1 - len(out))
            except zlib.error as error:
                raise ValueError(f"a body that cannot be decompressed ({error})") from None
            data = inflate.unconsumed_tail or inflate.unused_data
        self._tail = data
        return out
