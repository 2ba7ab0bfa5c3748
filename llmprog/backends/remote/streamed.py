"""One call whose reply comes in pieces: from bytes to deltas to the whole reply, anew for every attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llmprog.backends.remote.sse import SSEParser
from llmprog.backends.remote.wire import OnChunk, Progress, Reply, ReplyReader, WireProtocol
from llmprog.redaction import redact
from llmprog.types import Delta


class StreamedReply:
    """Reads a stream, tells of its pieces, and gives the whole reply at its end.

    Args:
        protocol: Reads the events.
        first_sample: Added to the sample numbers of the deltas: the call may be one of several for a request.
        on_delta: Told of every piece.
    """

    def __init__(self, protocol: WireProtocol, first_sample: int, on_delta: Callable[[Delta], None]) -> None:
        self._protocol = protocol
        self._first_sample = first_sample
        self._on_delta = on_delta
        self._shown: set[int] = set()
        self._parser = SSEParser()
        self._reader: ReplyReader = protocol.reader()

    def begin(self) -> OnChunk:
        """Start an attempt: what an earlier one has shown is withdrawn. Returns what takes its bytes."""
        for sample in sorted(self._shown):
            self._on_delta(Delta(sample=sample, text="", replaces=True))
        self._shown.clear()
        self._parser = SSEParser()
        self._reader = self._protocol.reader()
        return self._feed

    def finish(self, body: Any) -> Reply:
        """The reply at the end of the answer; ``body`` is the decoded JSON of an endpoint that did not stream.

        Raises:
            BackendError: It is incomplete, or not what the protocol sends.
        """
        if body is None:
            for event in self._parser.flush():
                self._tell(self._reader.feed(event))
            return self._reader.finish()
        reply = self._protocol.parse(body)
        self._tell([Delta(sample=i, text=choice.text) for i, choice in enumerate(reply.choices)])
        return reply

    def _feed(self, data: bytes) -> Progress:
        events = self._parser.feed(data)
        for event in events:
            self._tell(self._reader.feed(event))
            if self._reader.is_complete:
                return Progress.DONE
        return Progress.EVENT if events else Progress.NOTHING

    def _tell(self, deltas: Any) -> None:
        for delta in deltas:
            sample = self._first_sample + delta.sample
            self._shown.add(sample)
            self._on_delta(replace(delta, sample=sample, text=redact(delta.text)))
