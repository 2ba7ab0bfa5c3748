"""Runs the viewer: what it may be told, the address that lets one in, and its server."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from llmprog.errors import OptionError
from llmprog.runs.store import RunStore
from llmprog.viewer.access import LOGIN, Access, Sessions
from llmprog.viewer.app import Viewed, make_app
from llmprog.viewer.follow import Followers
from llmprog.web.orderly import OrderlyServer
from llmprog.web.sockets import in_url, is_loopback

TOKEN_VARIABLE = "LLMPROG_VIEW_TOKEN"  # noqa: S105 - the name of a variable
_BACKSTOP_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """How a viewer is run.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        allow_remote: Whether ``host`` may be one that other machines reach, which takes a token too.
        token: What one logs in with, again and again; ``None`` makes one that works once.
        allow_hosts: Further names in the ``Host`` header, such as that of a proxy.
        run: Id of the run to open; ``None`` opens the list.
    """

    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False
    token: str | None = field(default=None, repr=False)
    allow_hosts: tuple[str, ...] = ()
    run: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port={self.port!r}; allowed is 0 (a free one) to 65535")
        if is_loopback(self.host):
            if self.allow_remote:
                raise OptionError(f"--allow-remote has no effect with host {self.host!r}; leave it out, or give --host")
        elif not self.allow_remote:
            raise OptionError(
                f"host {self.host!r} is reached from other machines, and whoever logs in reads all runs: add "
                "--allow-remote if that is wanted, or leave --host at 127.0.0.1 and come by ssh -L PORT:127.0.0.1:PORT"
            )
        elif self.token is None:
            raise OptionError(
                f"host {self.host!r} is reached from other machines, which takes a token: give --token-file or set "
                f"{TOKEN_VARIABLE}"
            )

    def access(self, port: int) -> Access:
        """Who may look at the viewer that listens on ``port``."""
        is_reached = not is_loopback(self.host)
        own = {self.host} if is_reached else set()
        return Access(
            hosts=frozenset(name.lower() for name in own.union(self.allow_hosts)),
            any_address=is_reached,
            cookie=f"llmprog-view-{port}",
            sessions=Sessions(token=self.token or secrets.token_urlsafe(32), is_spent_by_use=self.token is None),
        )


class Viewer:
    """A viewer of a store: where one logs in, and its server.

    Args:
        store: The runs; whoever opened it closes it.
        options: How it is run.
        listening: Its socket.
    """

    def __init__(self, store: RunStore, options: ViewOptions, listening: socket.socket) -> None:
        port = listening.getsockname()[1]
        self._store = store
        self._options = options
        self._listening = listening
        self._access = options.access(port)
        self.url = f"http://{in_url(options.host)}:{port}{LOGIN}?token="
        """Where one logs in: with its token where that works once; a chosen one is not repeated."""
        if options.token is None:
            self.url += self._access.sessions.token

    async def serve(self, on_server: Callable[[OrderlyServer], None] | None = None) -> None:
        """Serve until a signal, or ``should_exit`` of the server, ends it.

        Args:
            on_server: Handed the server before it begins.
        """
        followers = Followers()
        begin_at = "" if self._options.run is None else f"#/run/{quote(self._options.run, safe='')}"
        viewed = Viewed(store=self._store, access=self._access, followers=followers, begin_at=begin_at)
        server = OrderlyServer(make_app(viewed), followers.close, grace_s=0.0, backstop_s=_BACKSTOP_S)
        if on_server is not None:
            on_server(server)
        await server.serve(sockets=[self._listening])
