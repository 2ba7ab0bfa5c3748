"""Tokens that let somebody in: where they are read from, and how they are compared."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from llmprog.errors import OptionError
from llmprog.redaction import register_secret

_SHORTEST = 16


def read_token(file: Path | None, variable: str) -> str | None:
    """A server's token, from a file or the environment; ``None`` where there is neither.

    Args:
        file: The file that holds it; ``None`` looks into the environment.
        variable: The variable of the environment.

    Raises:
        OptionError: The file cannot be read, or the token is too short or holds what no header may.
    """
    if file is None:
        token, where = os.environ.get(variable, "").strip(), variable
        if not token:
            return None
    else:
        where = f"the file {str(file)!r}"
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"no token can be read from {where}: {error}") from None
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise OptionError(
            f"the token in {where} has {len(token)} characters; allowed are {_SHORTEST} or more, all of them "
            "printable ASCII without spaces; make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    register_secret(token)
    return token


def digest_of(secret: str) -> bytes:
    """What is kept of a secret that is only ever compared."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def is_same(given: str, digest: bytes) -> bool:
    """Whether ``given`` is the secret whose digest this is; how long that takes says nothing of either."""
    return hmac.compare_digest(digest_of(given), digest)
