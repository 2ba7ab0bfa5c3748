"""What goes wrong with a request, as its client is told: a status and OpenAI's error object, never a traceback."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmprog.errors import (
    BackendError,
    BudgetExceededError,
    CapabilityError,
    DeclarationError,
    InputError,
    LLMProgError,
    MissingExtraError,
    NodeError,
    OptionError,
    RateLimitError,
    RequestRefusedError,
)
from llmprog.redaction import redact

_RETRY_S = 1.0


class RequestError(LLMProgError):
    """A request that is not answered.

    Args:
        message: What is wrong with it, and what to do.
        status: The HTTP status.
        code: A word by which programs tell it from others; none by default.
        param: The field of the body that is wrong.
        retry_after_s: When the same request may succeed.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        super().__init__(message)

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "server_error" if self.status >= 500 else _KINDS.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that go with the status."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        elif self.status == 429:
            headers["x-should-retry"] = "false"  # OpenAI's clients retry this status otherwise
        return headers


_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def fault_of(error: Exception) -> RequestError:
    """What the client of a call that raised ``error`` is told; of what is no error of ours, only that it happened."""
    if isinstance(error, RequestError):
        return error
    said = redact(str(error))
    if isinstance(error, BudgetExceededError):
        return budget_spent(said)
    if isinstance(error, CapabilityError):
        return RequestError(said, code="unsupported")
    if isinstance(error, RequestRefusedError | InputError | OptionError):
        return RequestError(said)
    if isinstance(error, RateLimitError):
        wait_s = error.retry_after_s or _RETRY_S
        return RequestError(said, status=429, code="rate_limit_exceeded", retry_after_s=wait_s)
    if isinstance(error, BackendError):
        if error.retryable:
            return RequestError(
                said, status=503, code="backend_unavailable", retry_after_s=error.retry_after_s or _RETRY_S
            )
        return RequestError(said, status=502, code="backend_failed")
    if isinstance(error, DeclarationError | NodeError | MissingExtraError):
        return RequestError(said, status=500, code="program_failed")
    if isinstance(error, LLMProgError):
        return RequestError(said, status=500, code="failed")
    return RequestError("the server failed on this request; its log says where", status=500, code="internal_error")


def budget_spent(what: str) -> RequestError:
    """The fault of a call that the server's budget does not allow; ``what`` says which limit was reached."""
    return RequestError(f"the server's budget is spent: {what}", status=429, code="insufficient_quota")


def shutting_down() -> RequestError:
    """The fault of a call that the server's end cut short."""
    return RequestError("the server is shutting down", status=503, code="shutting_down", retry_after_s=_RETRY_S)
