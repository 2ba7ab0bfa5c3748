"""The schemes of remote backends, as entry points: ``openai:MODEL``, ``http://HOST:PORT/v1#MODEL`` and their like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from llmprog.backends.registry import BackendInfo
from llmprog.backends.remote.backend import RemoteBackend, key_source
from llmprog.backends.remote.options import RemoteOptions, describe_options
from llmprog.backends.remote.profiles import get_profile
from llmprog.errors import OptionError


@dataclass(frozen=True, slots=True)
class RemoteModule:
    """What the entry point of a scheme provides: ids of one provider, or addresses."""

    scheme: str

    def open_backend(self, name: str, options: Mapping[str, str]) -> RemoteBackend:
        """The model called ``name``, or the one at the address ``name`` is.

        Raises:
            OptionError: The name is no address of a model, or an option is unknown or not allowed.
        """
        label = f"{self.scheme}:{name}"
        parsed = RemoteOptions.parse(label, options)
        query = "&".join(f"{key}={value}" for key, value in options.items())
        backend_id = label + (f"?{query}" if query else "")
        if self.scheme in _URL_SCHEMES:
            base_url, model = _address(label)
            profile = get_profile(parsed.server or "generic")
        else:
            profile, base_url, model = get_profile(self.scheme), "", name
            if parsed.server is not None:
                raise OptionError(f"option server={parsed.server!r} of {label}: it is for ids that are addresses")
        return RemoteBackend(
            backend_id=backend_id,
            model=model,
            profile=profile,
            base_url=parsed.base_url or base_url or profile.base_url,
            options=parsed,
        )

    def describe_options(self) -> Mapping[str, str]:
        """Option names with one line of help each."""
        return describe_options()

    def list_backends(self) -> Sequence[BackendInfo]:
        """The provider, and which key is missing."""
        if self.scheme in _URL_SCHEMES:
            summary = "any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, Ollama"
            address = "HOST:PORT" if self.scheme == "http" else "HOST"
            return [BackendInfo(id=f"{self.scheme}://{address}/v1#MODEL", summary=summary)]
        profile = get_profile(self.scheme)
        key = key_source(self.scheme, profile, RemoteOptions())
        missing = "" if key.is_found else f"set {key.hint}"
        return [BackendInfo(id=f"{self.scheme}:MODEL", summary=profile.summary, missing=missing)]


_URL_SCHEMES = ("http", "https")
openai, openai_responses, anthropic, gemini, deepseek, mercury, openrouter, http, https = (
    RemoteModule(scheme)
    for scheme in (
        *("openai", "openai-responses", "anthropic", "gemini", "deepseek", "mercury", "openrouter"),
        *_URL_SCHEMES,
    )
)


def _address(label: str) -> tuple[str, str]:
    """Base URL and model of ``http://host:port/v1#model``."""
    form = "expected http://HOST:PORT/v1#MODEL, such as http://127.0.0.1:8000/v1#qwen3"
    try:
        parts = urlsplit(label)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise OptionError(f"backend {label!r}: no address; {form}") from None
    if parts.username is not None or parts.password is not None:
        raise OptionError(
            "a backend id must not hold a key; put it into an environment variable and name that: ?key_env=NAME"
        )
    if not has_host:
        raise OptionError(f"backend {label!r}: no address; {form}")
    if not parts.fragment:
        raise OptionError(f"backend {label!r} names no model; {form}")
    return f"{parts.scheme}://{parts.netloc}{parts.path}", parts.fragment
