"""Refuses requests under a foreign host name, and requests of other sites' pages.

A browser sends requests for any page: one of another site may post to this machine, and a name whose address changes to
this machine's (DNS rebinding) makes the page one of the gateway's own. `Host`, `Origin` and `Sec-Fetch-Site` show it;
no page can set them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cuecard.domain.errors import CuecardError, Forbidden

ANY = "*"
EVERY_ADDRESS = ("0.0.0.0", "::")
SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing and cost nothing."""
PORTS = {"http": 80, "https": 443}
EXPOSED = (
    *("x-request-id", "request-id", "x-cuecard-route", "x-cuecard-latency-ms", "x-cuecard-overhead-ms", "retry-after"),
    "x-cuecard-ignored",
    *(f"x-ratelimit-{which}-{what}" for which in ("limit", "remaining", "reset") for what in ("requests", "tokens")),
)
"""Headers that pages of other sites may read."""
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d*)?")


class OriginCheck:
    """Refuses requests under a foreign name, and requests of other sites' pages that cost or change anything."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] | None,
        origins: Collection[str],
        refuse: Callable[[str, CuecardError], ASGIApp],
    ) -> None:
        """`hosts`: names besides this machine's own, 0.0.0.0 standing for every address; None: any.

        `refuse`: the response to a request that is refused, from its path.
        """
        self._app, self._origins, self._refuse = app, origins, refuse
        self._hosts = None if hosts is None or ANY in hosts else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._objection(Headers(scope=scope), scope["method"]) if scope["type"] == "http" else None
        answer = self._app if error is None else self._refuse(scope["path"], error)
        await answer(scope, receive, send)

    def _objection(self, headers: Headers, method: str) -> Forbidden | None:
        for host in headers.getlist("host"):
            if not self._is_named(host):
                hint = "call it by its own address, or add the name to hosts under [server]"
                return Forbidden(f"this gateway does not go by the name {host[:100]!r}", hint)
        if method in SAFE:
            return None
        for origin in headers.getlist("origin"):
            if not (origin in self._origins or ANY in self._origins or same_origin(origin, headers.get("host", ""))):
                return Forbidden(f"pages of {origin[:100]!r} may not ask here", "add it to origins under [server]")
        if "origin" not in headers and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return Forbidden("pages of other sites may not ask here", "add the site to origins under [server]")
        return None

    def _is_named(self, host: str) -> bool:
        if self._hosts is None:
            return True
        found = _HOST.fullmatch(host.lower())
        name = found["name"].strip("[]").removesuffix(".") if found else ""
        if name in self._hosts or is_loopback(name):
            return True
        return is_address(name) and not self._hosts.isdisjoint(EVERY_ADDRESS)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_address(name: str) -> bool:
    """An IP address, which no one can make lead elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def same_origin(origin: str, host: str) -> bool:
    """Whether a page comes from the host that it asks. A proxy in between may have taken TLS off."""
    try:
        page, asked = urlsplit(origin), urlsplit(f"//{host}")
        port = PORTS.get(page.scheme)
        return bool(page.hostname) and (page.hostname, page.port or port) == (asked.hostname, asked.port or port)
    except ValueError:
        return False
