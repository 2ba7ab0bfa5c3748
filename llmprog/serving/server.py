"""Runs the server: a socket, uvicorn, and an orderly end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from llmprog.backends.base import Backend
from llmprog.backends.bounds import refuse_unpriced
from llmprog.errors import OptionError
from llmprog.program import Program
from llmprog.runner import opened_ledger
from llmprog.runs.budget import Budget
from llmprog.runs.store import RunStore
from llmprog.serving.app import Served, make_app
from llmprog.serving.calls import Calls
from llmprog.serving.catalog import Catalog
from llmprog.serving.guard import Access
from llmprog.web.orderly import OrderlyServer
from llmprog.web.sockets import is_loopback

TOKEN_VARIABLE = "LLMPROG_SERVE_TOKEN"  # noqa: S105 - the name of a variable
_BACKSTOP_S = 5.0  # cancelled calls have this long to let go


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How a server is run.

    Attributes:
        host: Address to listen on; one that other machines reach needs a token.
        port: Port to listen on; 0 takes a free one.
        token: What requests must bring; ``None`` for none.
        allow_hosts: Further names in the ``Host`` header, such as that of a proxy. Where other machines reach the
            server and there is none, any name will do.
        allow_origins: Pages that may call from a browser.
        max_concurrency: Most calls in flight; those beyond are told to try again.
        grace_s: Seconds that calls have to end once the server is to stop.
        budget: The most to spend while it runs.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    max_concurrency: int = 256
    grace_s: float = 10.0
    budget: Budget | None = None

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and self.token is None:
            raise OptionError(
                f"host {self.host!r} is reached from other machines, which takes a token: give --token-file or set "
                f"{TOKEN_VARIABLE}; or leave --host at 127.0.0.1"
            )
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port={self.port!r}; allowed is 0 (a free one) to 65535")
        if self.max_concurrency < 1:
            raise OptionError(f"max_concurrency={self.max_concurrency!r}; allowed is a whole number >= 1")
        if not 0 <= self.grace_s <= 86400:
            raise OptionError(f"grace={self.grace_s!r}; allowed are 0 to 86400 seconds")
        for origin in self.allow_origins:
            if "://" not in origin or origin.endswith("/"):
                raise OptionError(f"origin {origin!r}; allowed is SCHEME://HOST[:PORT], such as https://notes.example")

    @property
    def access(self) -> Access:
        """Who may talk to the server."""
        return Access(
            token=self.token,
            hosts=frozenset(host.lower() for host in self.allow_hosts),
            any_host=not is_loopback(self.host) and not self.allow_hosts,
            origins=frozenset(self.allow_origins),
        )


async def serve(
    backends: dict[str, Backend],
    programs: dict[str, Program] | None,
    options: ServerOptions,
    *,
    listening: socket.socket,
    store: RunStore | None = None,
    on_server: Callable[[OrderlyServer, Calls], None] | None = None,
) -> None:
    """Serve until a signal, or ``should_exit`` of the server, ends it; backends are closed then.

    Args:
        backends: By name; the first is that of programs.
        programs: By name; ``None`` serves all that are registered.
        options: How.
        listening: The socket.
        store: Where runs of programs are kept.
        on_server: Handed the server and its calls before it begins.

    Raises:
        OptionError: A budget in dollars, and a backend whose price is unknown.
    """
    async with AsyncExitStack() as stack:
        for backend in backends.values():
            stack.push_async_callback(backend.aclose)
        ledger = None
        if options.budget is not None:
            if options.budget.usd is not None:
                for backend in backends.values():
                    refuse_unpriced(backend)
            ledger = await opened_ledger(options.budget, None)
            stack.push_async_callback(ledger.aclose)
        calls = Calls(options.max_concurrency)
        served = Served(
            catalog=Catalog(backends, programs), calls=calls, access=options.access, ledger=ledger, store=store
        )
        server = OrderlyServer(make_app(served), calls.close, grace_s=options.grace_s, backstop_s=_BACKSTOP_S)
        if on_server is not None:
            on_server(server, calls)
        await server.serve(sockets=[listening])
