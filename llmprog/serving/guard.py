"""Who may talk to the server: the right ``Host``, no page of another site, the token where there is one."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llmprog.log import Log
from llmprog.serving.faults import RequestError
from llmprog.web.sockets import LOOPBACK_NAMES, name_of
from llmprog.web.tokens import digest_of, is_same

OPEN_PATHS = frozenset({"/health"})
"""Paths that need no token: whether the server is alive is no secret."""

_log = Log("llmprog.serving")
_METHODS = "GET, POST, OPTIONS"
_HEADERS = "authorization, content-type"
_PREFLIGHT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may talk to the server.

    Attributes:
        token: What every request must bring; ``None`` where only this machine reaches the server.
        hosts: Names that the ``Host`` header may have, beside those of this machine; empty and ``any_host`` unset:
            those of this machine only, so that no name that a page has pointed here (DNS rebinding) is answered.
        any_host: Whether every name will do; a token is what guards the server then.
        origins: Pages that may call from a browser, such as ``https://notes.example``; by default none.
    """

    token: str | None = field(default=None, repr=False)
    hosts: frozenset[str] = frozenset()
    any_host: bool = False
    origins: frozenset[str] = frozenset()

    def fault(self, headers: Headers, path: str) -> RequestError | None:
        """Why a request is not let in."""
        if not self.any_host and name_of(headers.get("host", "")) not in LOOPBACK_NAMES | self.hosts:
            return RequestError(
                f"Host {headers.get('host', '')[:100]!r} is not served; use 127.0.0.1, or start with --allow-host NAME",
                status=403,
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins:
            return RequestError(
                f"Origin {origin[:100]!r} may not call; start with --allow-origin ORIGIN to let it",
                status=403,
                code="origin_not_allowed",
            )
        if self.token is not None and path not in OPEN_PATHS and not self._holds_token(headers):
            return RequestError(
                "a token is needed: Authorization: Bearer TOKEN (of a client: api_key=TOKEN)",
                status=401,
                code="invalid_api_key",
            )
        return None

    def _holds_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        return is_same(given.strip(), digest_of(self.token or ""))


class Guard:
    """Lets the requests through that ``access`` allows, and answers what a browser asks before it calls.

    Args:
        app: What is guarded.
        access: Who may talk to it.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        preflight = scope["method"] == "OPTIONS" and origin is not None and origin in self._access.origins
        fault = None if preflight else self._access.fault(headers, scope["path"])
        response: ASGIApp = self._app
        if preflight:
            response = Response(
                status_code=204,
                headers={
                    "access-control-allow-methods": _METHODS,
                    "access-control-allow-headers": _HEADERS,
                    "access-control-max-age": str(_PREFLIGHT_S),
                },
            )
        elif fault is not None:
            _log.info("refused", path=ascii(scope["path"])[1:-1], status=fault.status, code=fault.code)
            response = JSONResponse(fault.body, status_code=fault.status, headers=dict(fault.headers))
        if origin is None or origin not in self._access.origins:
            await response(scope, receive, send)
            return

        async def send_to_origin(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                added = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"origin")]
                given = message.get("headers")
                message["headers"] = [*(given if isinstance(given, list) else []), *added]
            await send(message)

        await response(scope, receive, send_to_origin)  # type: ignore[arg-type]  # a message is a mutable mapping
