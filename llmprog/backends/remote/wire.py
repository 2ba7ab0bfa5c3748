"""What passes between the parts of the remote backend: calls, HTTP exchanges, replies.

::

    RemoteBackend --ModelCall--> protocol --HttpRequest--> Endpoint (limits, retries) --> Transport --> bytes
    RemoteBackend <----Reply---- protocol <-----bytes / server-sent events-----------------------------+
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Protocol

from llmprog.backends.remote.sse import ServerSentEvent
from llmprog.types import Delta, FinishReason, Logprobs, Prompt, SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """One call of one model: what a protocol turns into a request.

    Attributes:
        model: The provider's model id.
        prompt: What is asked.
        params: How completions are drawn; ``params.seed`` is this call's own seed.
        num_samples: How many completions are asked for at once; 1 for protocols without ``n``.
        stream: Whether the reply is to come in pieces.
    """

    model: str
    prompt: Prompt
    params: SamplingParams
    num_samples: int = 1
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """What a protocol wants sent; the endpoint adds its base URL and the key.

    Attributes:
        path: Appended to the endpoint's base URL, with its query if it has one.
        body: Sent as JSON; ``None`` for none.
        headers: The protocol's own headers; none of them holds a key.
        stream: Whether server-sent events are expected.
    """

    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    method: Literal["GET", "POST"] = "POST"
    stream: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """An answer whose body is complete, decoded and within the size limit.

    Attributes:
        status: HTTP status.
        headers: By lower-case name.
        body: The decoded body; empty where a successful event stream went to the caller piece by piece.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class Progress(Enum):
    """What a piece of an event stream was to its reader."""

    NOTHING = 0  # comments, pings, half an event: the idle timer runs on
    EVENT = 1  # the idle timer starts again
    DONE = 2  # the reply is complete: the connection need not be read to its end


OnChunk = Callable[[bytes], Progress]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """The provider's own count; ``None`` where it does not say. Cached and reasoning tokens are subsets."""

    prompt: int | None = None
    completion: int | None = None
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One completion of a reply; ``finish_reason`` is ``None`` where none came, which makes a stream truncated."""

    text: str
    finish_reason: FinishReason | None
    reasoning: str | None = None
    logprobs: Logprobs | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What an endpoint answered to a call, in sample order.

    Attributes:
        choices: As many as came, which may be fewer than asked.
        tokens: Token counts of all choices together.
        model: The model that answered.
        id: The provider's id of the reply.
    """

    choices: tuple[Choice, ...]
    tokens: TokenCounts
    model: str | None = None
    id: str | None = None


class ReplyReader(Protocol):
    """Puts a streamed reply together."""

    def feed(self, event: ServerSentEvent) -> Sequence[Delta]:
        """Take in one event; returns the pieces of text it brought.

        Raises:
            BackendError: The event is an error object, or not what the protocol sends.
        """
        ...

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is to come: the connection need not be read to its end."""
        ...

    def finish(self) -> Reply:
        """The whole reply, at the end of the stream.

        Raises:
            TruncatedStreamError: A choice has no finish reason, or there is none.
        """
        ...


class WireProtocol(Protocol):
    """One wire protocol, for one backend and its profile; stateless."""

    def request(self, call: ModelCall) -> HttpRequest:
        """The request for ``call``.

        Raises:
            CapabilityError: The protocol or the provider cannot express it; the message names what can.
        """
        ...

    def parse(self, body: Any) -> Reply:
        """The reply in a decoded JSON body.

        Raises:
            BackendError: The body is an error object, or not what the protocol sends.
        """
        ...

    def reader(self) -> ReplyReader:
        """A reader for one streamed reply."""
        ...
