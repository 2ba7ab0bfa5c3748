"""Sockets that listen, and who reaches them."""

from __future__ import annotations

import ipaddress
import os
import socket

from llmprog.errors import OptionError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names that a ``Host`` header has where only this machine reaches the server."""

_BACKLOG = 2048


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def name_of(host: str) -> str:
    """The name in a ``Host`` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].rstrip(".").lower()


def in_url(host: str) -> str:
    """``host`` as a URL has it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port``.

    Args:
        host: A name or an address.
        port: 0 takes a free one.

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
