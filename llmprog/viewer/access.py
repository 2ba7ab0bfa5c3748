"""Who may look: this machine's browser, once it has shown the token, and no page of another site.

What guards the viewer, each by itself: it listens on loopback; it answers only to names of this machine (a name that a
page has pointed here is none of them); it refuses what a browser says another site's page asked for; and everything
but the login needs a session, which one token begins. A browser that holds a session is kept from running anything but
the viewer's own script by the headers of every response.
"""

from __future__ import annotations

import ipaddress
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmprog.errors import LLMProgError
from llmprog.log import Log
from llmprog.web.sockets import LOOPBACK_NAMES, name_of
from llmprog.web.tokens import digest_of, is_same

LOGIN = "/login"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_METHODS = ("GET", "HEAD")
_OWN_SITES = ("none", "same-origin")  # typed in or opened from outside a browser; a request of the viewer's own page
_MAX_SESSIONS = 64

_log = Log("llmprog.viewer")


class RefusedError(LLMProgError):
    """A request that is not answered: the status, and what to do."""

    def __init__(self, message: str, status: int = 403) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Which requests are let in.

    Attributes:
        hosts: Names that the ``Host`` header may have, beside those of this machine.
        any_address: Whether every IP address will do as the ``Host``: where other machines reach the viewer. No page
            can point an address at another machine, as it can a name.
        cookie: Name of the session's cookie. It holds the port: cookies are shared by all ports of a machine.
        sessions: Those that are logged in.
    """

    hosts: frozenset[str] = frozenset()
    any_address: bool = False
    cookie: str = "llmprog-view"
    sessions: Sessions

    def check(self, method: str, path: str, headers: Headers) -> None:
        """Refuse what may not be answered.

        Raises:
            RefusedError: Why, and what to do.
        """
        host = headers.get("host", "")
        if not self._is_served(name_of(host)):
            raise RefusedError(f"Host {host[:100]!r} is not served; use 127.0.0.1, or start with --allow-host NAME")
        site = headers.get("sec-fetch-site")
        if site is not None and site not in _OWN_SITES:
            raise RefusedError("a page of another site asked for this; paste the address into the address bar instead")
        origin = headers.get("origin")
        if origin is not None and not _is_origin_of(origin, host):
            raise RefusedError(f"Origin {origin[:100]!r} may not ask here; only the viewer's own pages may")
        if method not in _METHODS:
            raise RefusedError(f"{method[:20]} is not allowed: a viewer changes nothing; allowed are GET and HEAD", 405)
        if path != LOGIN and not self.sessions.knows(session_in(headers, self.cookie)):
            raise RefusedError("not logged in, or no longer: open the address that `llmprog view` has printed", 401)

    def _is_served(self, name: str) -> bool:
        if name in LOOPBACK_NAMES or name in self.hosts:
            return True
        if not self.any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


@dataclass(slots=True, kw_only=True)
class Sessions:
    """Browsers that are logged in, and the token by which one logs in.

    Args:
        token: The token.
        is_spent_by_use: Whether it works once only: one that is printed, and so may be seen or kept somewhere. One
            that the user has chosen works again.
    """

    token: str = field(repr=False)
    is_spent_by_use: bool
    _token_digest: bytes | None = field(default=None, init=False, repr=False)
    _known: OrderedDict[bytes, None] = field(default_factory=OrderedDict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._token_digest = digest_of(self.token)

    def begin(self, token: str) -> str:
        """The id of a new session.

        Raises:
            RefusedError: The token is wrong or spent.
        """
        with self._lock:
            if self._token_digest is None:
                raise RefusedError(
                    "this address has been used, and works once: go on in the browser that opened it, or start "
                    "`llmprog view` again"
                )
            if not is_same(token, self._token_digest):
                what = "open the address that `llmprog view` has printed, whole"
                raise RefusedError(f"the token is wrong: {what}" if token else f"there is no token: {what}")
            if self.is_spent_by_use:
                self._token_digest = None
            session = secrets.token_urlsafe(32)
            self._known[digest_of(session)] = None
            while len(self._known) > _MAX_SESSIONS:
                self._known.popitem(last=False)
            return session

    def knows(self, session: str) -> bool:
        """Whether a session with this id is logged in."""
        return digest_of(session) in self._known  # of digests: how long it takes says nothing of the ids


def session_in(headers: Headers, cookie: str) -> str:
    """The session that a request says it belongs to; empty where it says none."""
    for line in headers.getlist("cookie"):
        for pair in line.split(
            ";"
        ):  # leniently: cookies of other servers on this machine come along, whatever is in them
            name, _, value = pair.partition("=")
            if name.strip() == cookie:
                return value.strip()
    return ""


def _is_origin_of(origin: str, host: str) -> bool:
    """Whether pages at ``origin`` are those of the server that is called ``host``, by whatever scheme it is reached."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower() and not parts.path


class Gate:
    """Lets in what ``access`` allows, and has every response keep the browser to the viewer's own.

    Args:
        app: What is behind it.
        access: Who may look.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":  # websockets do not exist here
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._access.check(scope["method"], scope["path"], Headers(scope=scope))
        except RefusedError as refusal:
            _log.info("refused", path=ascii(scope["path"])[1:-1], status=refusal.status, why=str(refusal))
            await refused(refusal)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def refused(refusal: RefusedError) -> PlainTextResponse:
    """The response to a request that is refused."""
    headers = {"allow": ", ".join(_METHODS)} if refusal.status == 405 else None
    return PlainTextResponse(f"llmprog view: {refusal}\n", status_code=refusal.status, headers=headers)
