"""Which proxy the environment names for an address."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from llmprog.errors import OptionError


def proxy_url(scheme: str, host: str, port: int | None) -> str | None:
    """The proxy for one origin, from ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.

    This machine's own addresses have none, whatever the environment says.

    Raises:
        OptionError: The proxy is not an http or https one; the message does not show its password.
    """
    if host == "localhost":
        return None
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return None
    proxies = getproxies()
    value = proxies.get(scheme) or proxies.get("all")
    if not value or proxy_bypass(host if port is None else f"{host}:{port}"):
        return None
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        kind = url.partition("://")[0][:20]
        raise OptionError(
            f"the {kind}:// proxy that the environment names for {scheme}://{host} cannot be used; allowed are "
            "http://HOST:PORT and https://HOST:PORT, or NO_PROXY to go without"
        )
    return url
