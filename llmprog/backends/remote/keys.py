"""API keys: named by environment variable, read when a request is sent, never kept in an id, a message or a record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from llmprog.backends.remote.profiles import Auth
from llmprog.errors import AuthenticationError
from llmprog.redaction import register_secret


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where an endpoint's key is found and which header carries it.

    Attributes:
        backend: Id of the backend, for messages.
        variables: Environment variables; the first that is set holds the key.
        auth: The header.
        required: Whether requests without a key are refused before they are sent.
    """

    backend: str
    variables: tuple[str, ...]
    auth: Auth
    required: bool

    @property
    def is_found(self) -> bool:
        """Whether a request could be sent now."""
        return not self.required or self._key() is not None

    @property
    def hint(self) -> str:
        """What to set."""
        return " or ".join(self.variables)

    def headers(self) -> Mapping[str, str]:
        """The header with the key, read now.

        Raises:
            AuthenticationError: A key is required and none is set, or it holds characters no header may hold.
        """
        key = self._key()
        if key is None:
            if self.required:
                raise AuthenticationError(f"no key is set; set {self.hint}", backend=self.backend)
            return {}
        value = key.get_secret_value()
        if not value.isascii() or not value.isprintable():
            raise AuthenticationError(
                f"the key in {self.hint} holds line breaks or characters outside ASCII; set it anew",
                backend=self.backend,
            )
        if self.auth == "none":
            return {}
        return {"authorization": f"Bearer {value}"} if self.auth == "bearer" else {self.auth: value}

    def _key(self) -> SecretStr | None:
        for name in self.variables:
            value = os.environ.get(name, "").strip()
            if value:
                register_secret(value)
                return SecretStr(value)
        return None
