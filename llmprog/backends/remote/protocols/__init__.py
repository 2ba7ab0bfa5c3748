"""One file per wire protocol: what is sent for a call, and what an answer means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from llmprog.backends.remote.profiles import Profile, ProtocolName
from llmprog.backends.remote.protocols.anthropic_messages import AnthropicMessages
from llmprog.backends.remote.protocols.gemini import Gemini
from llmprog.backends.remote.protocols.infill import Infiller
from llmprog.backends.remote.protocols.openai_chat import OpenAIChat
from llmprog.backends.remote.protocols.openai_completions import OpenAICompletions, Scorer
from llmprog.backends.remote.protocols.openai_responses import OpenAIResponses
from llmprog.backends.remote.wire import WireProtocol

_PROTOCOLS: Final[Mapping[ProtocolName, Callable[[str, Profile], WireProtocol]]] = {
    "openai_chat": OpenAIChat,
    "openai_completions": OpenAICompletions,
    "openai_responses": OpenAIResponses,
    "anthropic_messages": AnthropicMessages,
    "gemini": Gemini,
}


def open_protocol(profile: Profile, backend: str) -> WireProtocol:
    """The wire protocol of ``profile``, for the backend of that id."""
    return _PROTOCOLS[profile.protocol](backend, profile)


def open_scorer(profile: Profile, backend: str, bos: str = "") -> Scorer:
    """What asks for the likelihood of given texts, each begun with ``bos``.

    Raises:
        CapabilityError: The profile shows none; the message names what does.
        OptionError: The server begins texts itself, so ``bos`` would have no effect.
    """
    return Scorer(backend, profile, bos)


def open_infiller(profile: Profile, backend: str) -> Infiller:
    """What asks for blanks to be filled.

    Raises:
        CapabilityError: The profile fills none; the message names what does.
    """
    return Infiller(backend, profile)
