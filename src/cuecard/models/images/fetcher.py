"""Images from the web, for clients that send URLs: off unless configured, and never from inside the network.

Every address that a name resolves to is checked, and the connection uses only checked addresses. The same holds for
each redirect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from cuecard.domain.errors import BadInput
from cuecard.models.images.decoding import MOST_BYTES

PORTS = (80, 443)
ASCII = "%/:=&?~#+!$,;'@()*[]|"
"""Characters of a URL that are not percent-encoded."""
REDIRECTS = 3
SECONDS = 10.0
HEADERS = {"accept": "image/*", "user-agent": "cuecard", "accept-encoding": "identity"}
UNICAST = ipaddress.IPv6Network("2000::/3")
"""The IPv6 addresses allocated for public use."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses in a network without IPv4 (RFC 6052); DNS64 resolves names to them."""
ISATAP = (0x00005EFE, 0x02005EFE)
"""Bits 64 to 95 of an IPv6 address that ends in an IPv4 address (RFC 5214)."""
CLOSED = [
    ipaddress.ip_network(network)
    for network in (
        "2002::/16",  # 6to4, with an IPv4 address inside
        "2001::/23",  # Teredo, with an IPv4 address inside; and other protocols
        "3fff::/20",  # documentation
        "192.0.0.0/24",  # IETF protocol assignments, and Oracle's former metadata service
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's own services, for its machines only
        "192.80.8.124/32",  # Equinix Metal's metadata
        "161.26.0.0/16",  # IBM Cloud's services, for its machines only
        "166.8.0.0/14",
    )
]
"""Networks with public numbers that are not used to serve images."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolved(host: str, port: int) -> Sequence[str]:
    """All addresses of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Whether an IP address is public, in any notation; False if the text is not an address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        last = str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if ip.ipv4_mapped is not None or ip in NAT64:
            return is_public(last)
        if ip not in UNICAST or (int(ip) >> 32 & 0xFFFFFFFF in ISATAP and not is_public(last)):
            return False
    shut = any(ip in network for network in CLOSED if network.version == ip.version)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or shut)


class _CheckedResolver(AbstractResolver):
    """Resolves a name to its addresses. Raises BadInput unless all of them are allowed."""

    def __init__(self, resolve: Resolve, is_allowed: Callable[[str], bool]) -> None:
        self._resolve, self._is_allowed = resolve, is_allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot find the host {host}", "is the URL right?") from error
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise BadInput(f"{host} is not a public address", "send the image itself, as a data URL")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Fetcher:
    """Fetches images by URL."""

    def __init__(
        self,
        *,
        hosts: Sequence[str] = (),
        resolve: Resolve = resolved,
        is_allowed: Callable[[str], bool] = is_public,
        ports: Sequence[int] = PORTS,
        most_bytes: int = MOST_BYTES,
        seconds: float = SECONDS,
        trust_env: bool = False,
    ) -> None:
        """`hosts`: allowed hosts, with their subdomains; all if empty. `trust_env`: use the environment's proxies."""
        self._hosts, self._ports, self._most = tuple(map(_ascii, hosts)), ports, most_bytes
        self._seconds, self._trust_env = seconds, trust_env
        self._resolver = _CheckedResolver(resolve, is_allowed)
        self._session: aiohttp.ClientSession | None = None

    async def data(self, url: str) -> bytes:
        """The bytes at a URL. Raises BadInput."""
        name = url if len(url) <= 200 else f"{url[:199]}…"
        try:
            async with asyncio.timeout(self._seconds):
                return await self._bytes(url)
        except TimeoutError as late:
            message = f"{name} took longer than {self._seconds:g} s"
            raise BadInput(message, "send the image itself, as a data URL") from late
        except (aiohttp.ClientError, OSError) as error:
            raise BadInput(f"cannot fetch {name}: {type(error).__name__}", "is the URL right?") from error

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _bytes(self, url: str) -> bytes:
        if self._session is None:  # it belongs to the event loop in which it is created
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=self._resolver, use_dns_cache=False),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(),
                headers=HEADERS,
                auto_decompress=False,
                trust_env=self._trust_env,
            )
        for _ in range(REDIRECTS + 1):
            target = self._checked(url)
            if _is_number(target.host or ""):  # aiohttp does not pass these to the resolver
                await self._resolver.resolve(target.host or "", target.port or 0)
            async with self._session.get(target, allow_redirects=False) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    url = _redirected(url, answer.headers.get("location", ""))
                    continue
                if answer.status != 200:
                    raise BadInput(f"{url[:200]} answers with {answer.status}", "is the URL right?")
                data = bytearray()
                async for part in answer.content.iter_any():
                    data += part
                    if len(data) > self._most:
                        raise BadInput(f"{url[:200]} is larger than {self._most / 2**20:.0f} MiB", "make it smaller")
                return bytes(data)
        raise BadInput(f"{url[:200]} redirects too often")

    def _checked(self, url: str) -> URL:
        """The URL to request, in ASCII. Raises BadInput if it is not allowed."""
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
            host = _ascii(parts.hostname or "")
            target = quote(parts.path or "/", ASCII) + (f"?{quote(parts.query, ASCII)}" if parts.query else "")
            authority = (f"[{host}]" if ":" in host else host) + ("" if parts.port is None else f":{port}")
            address = URL(f"{parts.scheme}://{authority}{target}", encoded=True)
        except ValueError as error:
            raise BadInput(f"{url[:200]!r} is not a URL", "write it like https://host/image.png") from error
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise BadInput(f"{url[:200]!r} is not the plain URL of an image", "write it like https://host/image.png")
        if port not in self._ports:
            raise BadInput(f"images are not fetched from port {port}", "send the image itself, as a data URL")
        if self._hosts and not any(host == allowed or host.endswith(f".{allowed}") for allowed in self._hosts):
            raise BadInput(f"images are not fetched from {host}", f"they are from: {', '.join(self._hosts)}")
        return address


def _ascii(host: str) -> str:
    """A host name in the form for look-up: ASCII, lower case. Raises ValueError."""
    return host.encode("idna").decode().lower()


def _is_number(host: str) -> bool:
    """Whether a host is an IP address, in any notation, and not a name."""
    return ":" in host or host.rstrip(".").rpartition(".")[2][:1].isdigit()


def _redirected(url: str, location: str) -> str:
    """The URL that a redirect leads to. Raises BadInput."""
    try:
        if not location:
            raise ValueError("it names no place")
        return urljoin(url, location.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    except ValueError as error:
        raise BadInput(f"{url[:200]} redirects to what is not a URL", "send the image itself, as a data URL") from error
