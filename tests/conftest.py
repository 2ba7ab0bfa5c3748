"""What holds for every test: no network beyond this machine, no deadline that a busy machine could miss."""

from __future__ import annotations

import ipaddress
import sys

import pytest
from hypothesis import settings

settings.register_profile("llmprog", settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("llmprog")


def is_on_this_machine(host):
    if isinstance(host, bytes):
        host = host.decode()
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def forbid_other_machines(event, arguments):
    """An audit hook, so that it holds for every library, whatever it calls the network through."""
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path or bytes is a local socket
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if not is_on_this_machine(host):
        raise ConnectionRefusedError(f"a test tried to reach {host!r}; tests talk to loopback servers only")


sys.addaudithook(forbid_other_machines)


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
