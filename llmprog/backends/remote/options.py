"""The options of a remote backend, from an id's query string: ``openai:gpt-5-mini?max_concurrency=20``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmprog.errors import OptionError

Server = Literal[
    "generic",
    "llmprog",
    "vllm",
    "sglang",
    "llamacpp",
    "llama-cpp-python",
    "ollama",
    "completions",
    "vllm-completions",
]


class RemoteOptions(BaseModel):
    """How an endpoint is called. ``None`` is the default of the provider's profile."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    server: Server | None = Field(default=None, description=f"what serves a URL: {' | '.join(get_args(Server))}")
    base_url: str | None = Field(default=None, description="another address of the same protocol, such as a proxy's")
    key_env: str | None = Field(default=None, description="environment variable that holds the key")
    max_concurrency: int = Field(default=100, ge=1, description="most calls in flight, >= 1 (default 100)")
    start_concurrency: int | None = Field(
        default=None, ge=1, description="calls in flight before the endpoint is known, >= 1"
    )
    requests_per_minute: float | None = Field(default=None, gt=0, description="limit on requests, > 0 (default none)")
    tokens_per_minute: float | None = Field(default=None, gt=0, description="limit on tokens, > 0 (default none)")
    max_attempts: int = Field(default=6, ge=1, description="attempts of one call, >= 1 (default 6)")
    deadline_s: float = Field(
        default=900.0, gt=0, description="seconds for a call with all its attempts, > 0 (default 900)"
    )
    connect_s: float = Field(default=5.0, gt=0, description="seconds to connect, > 0 (default 5)")
    first_byte_s: float | None = Field(default=None, gt=0, description="seconds to the first byte of an answer, > 0")
    idle_s: float = Field(default=120.0, gt=0, description="seconds between two events of a stream, > 0 (default 120)")
    total_s: float = Field(default=600.0, gt=0, description="seconds for one attempt, > 0 (default 600)")
    bos: str | None = Field(
        default=None, description="text put before texts whose likelihood is asked for, if the server adds none"
    )
    reasoning_effort: str | None = Field(
        default=None, description="how long a reasoning model thinks, in the provider's words"
    )
    prices: str | None = Field(default=None, description="a file of prices in the form of prices.toml, instead of ours")

    @classmethod
    def parse(cls, backend: str, texts: Mapping[str, str]) -> RemoteOptions:
        """The options of an id's query string.

        Args:
            backend: The id without its query, for messages.
            texts: Option names and their values as text.

        Raises:
            OptionError: A name is unknown, or a value is not of its type or not allowed.
        """
        for name in texts:
            if name not in cls.model_fields:
                raise OptionError.unknown(f"option of {backend}", name, cls.model_fields)
        try:
            return cls.model_validate(dict(texts))
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            allowed = cls.model_fields[name].description
            raise OptionError(f"option {name}={texts[name]!r} of {backend}; allowed is {allowed}") from error


def describe_options() -> Mapping[str, str]:
    """Option names with one line of help each."""
    return {name: field.description or "" for name, field in RemoteOptions.model_fields.items()}
