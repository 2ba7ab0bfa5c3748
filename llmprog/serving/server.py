"""Runs the server: a socket, uvicorn, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from llmprog.backends.base import Backend
from llmprog.backends.bounds import refuse_unpriced
from llmprog.errors import OptionError
from llmprog.program import Program
from llmprog.redaction import register_secret
from llmprog.runner import opened_ledger
from llmprog.runs.budget import Budget
from llmprog.runs.store import RunStore
from llmprog.serving.app import Served, make_app
from llmprog.serving.calls import Calls
from llmprog.serving.catalog import Catalog
from llmprog.serving.guard import Access, is_loopback

TOKEN_VARIABLE = "LLMPROG_SERVE_TOKEN"  # noqa: S105 - the name of a variable
_SHORTEST_TOKEN = 16
_BACKSTOP_S = 5.0  # cancelled calls have this long to let go
_BACKLOG = 2048


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


def read_token(file: Path | None) -> str | None:
    """The server's token, from a file or the environment; ``None`` where there is neither.

    Raises:
        OptionError: The file cannot be read, or the token is too short or holds what no header may.
    """
    if file is None:
        token, where = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
        if not token:
            return None
    else:
        where = f"the file {str(file)!r}"
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"no token can be read from {where}: {error}") from None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise OptionError(
            f"the token in {where} has {len(token)} characters; allowed are {_SHORTEST_TOKEN} or more, all of them "
            "printable ASCII without spaces; make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    register_secret(token)
    return token


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``.

    Raises:
        OptionError: It cannot.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise OptionError(f"cannot listen on {host}, port {port}: {error.strerror}; choose another --port") from None
    return listening


class _Uvicorn(uvicorn.Server):
    """uvicorn, which tells calls to end before it would cut them off, and ends quietly at a signal."""

    def __init__(self, config: uvicorn.Config, calls: Calls, grace_s: float) -> None:
        super().__init__(config)
        self._calls = calls
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        close = asyncio.get_running_loop().call_later(self._grace_s, self._calls.close)
        try:
            await super().shutdown(sockets)
        finally:
            close.cancel()

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.should_exit:  # asked a second time: at once
            self._calls.close()
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals to end for a request to; uvicorn's own sends them to the process once more afterwards."""
        try:
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: whoever began it ends it with should_exit
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def serve(
    backends: dict[str, Backend],
    programs: dict[str, Program] | None,
    options: ServerOptions,
    *,
    listening: socket.socket,
    store: RunStore | None = None,
    on_server: Callable[[uvicorn.Server, Calls], None] | None = None,
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
        config = uvicorn.Config(
            make_app(served),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=int(options.grace_s + _BACKSTOP_S),
        )
        server = _Uvicorn(config, calls, options.grace_s)
        if on_server is not None:
            on_server(server, calls)
        await server.serve(sockets=[listening])
