"""Images from the web, for clients that send URLs: off unless configured, and never from inside the network.

The gateway fetches, once, and both models get the same bytes. Every address that a name resolves to is checked, and the
connection goes to the very address that was checked; so it is on each redirect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from urllib.parse import quote, urljoin, urlsplit

import httpcore

from cuecard.domain.errors import BadInput
from cuecard.models.images.images import MOST_BYTES

PORTS = (80, 443)
ASCII = "%/:=&?~#+!$,;'@()*[]|"
"""Of an address: what stays as it is written."""
REDIRECTS = 3
SECONDS = 10.0
UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is given out to anybody."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as a network without IPv4 reaches them (RFC 6052): names lead here through DNS64."""
ISATAP = (0x00005EFE, 0x02005EFE)
"""The middle of an IPv6 address whose end is an IPv4 address (RFC 5214)."""
CLOSED = [
    ipaddress.ip_network(network)
    for network in (
        "2002::/16",  # 6to4, an IPv4 address within
        "2001::/23",  # Teredo, an IPv4 address within; and other protocols
        "3fff::/20",  # documentation
        "192.0.0.0/24",  # protocols between networks, and Oracle's metadata of old
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # Azure's own services, for its machines only
        "192.80.8.124/32",  # Equinix Metal's metadata
        "161.26.0.0/16",  # IBM Cloud's services, for its machines only
        "166.8.0.0/14",
    )
]
"""Public by their number, and no place for images."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


async def resolved(host: str, port: int) -> Sequence[str]:
    """All addresses of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Whether an address is public, in any form of writing it."""
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


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects only to public addresses, and to those that were looked at."""

    def __init__(self, resolve: Resolve, is_allowed: Callable[[str], bool]) -> None:
        self._resolve, self._is_allowed, self._backend = resolve, is_allowed, httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot find the host {host}", "is the URL right?") from error
        if not addresses or not all(map(self._is_allowed, addresses)):
            raise BadInput(f"{host} is not a public address", "send the image itself, as a data URL")
        return await self._backend.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Fetcher:
    """Gets images by URL."""

    def __init__(
        self,
        *,
        hosts: Sequence[str] = (),
        resolve: Resolve = resolved,
        is_allowed: Callable[[str], bool] = is_public,
        ports: Sequence[int] = PORTS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """`hosts`: only these, and what is under them; all if empty."""
        self._hosts, self._ports, self._most = tuple(map(_ascii, hosts)), ports, most_bytes
        backend = _Checked(resolve, is_allowed)
        self._pool = httpcore.AsyncConnectionPool(ssl.create_default_context(), network_backend=backend, retries=0)

    async def data(self, url: str) -> bytes:
        """What is at a URL. Raises BadInput."""
        name = url if len(url) <= 200 else f"{url[:199]}…"
        try:
            async with asyncio.timeout(SECONDS):
                return await self._bytes(url)
        except TimeoutError as late:
            raise BadInput(f"{name} took longer than {SECONDS:g} s", "send the image itself, as a data URL") from late
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise BadInput(f"cannot fetch {name}: {type(error).__name__}", "is the URL right?") from error

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def _bytes(self, url: str) -> bytes:
        for _ in range(REDIRECTS + 1):
            target = self._checked(url)
            headers = {"accept": "image/*", "user-agent": "cuecard", "accept-encoding": "identity"}
            headers["host"] = _authority(target)
            async with self._pool.stream("GET", target, headers=list(headers.items())) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    url = _redirected(url, answer.headers)
                    continue
                if answer.status != 200:
                    raise BadInput(f"{url[:200]} answers with {answer.status}", "is the URL right?")
                data = bytearray()
                async for part in answer.aiter_stream():
                    data += part
                    if len(data) > self._most:
                        raise BadInput(f"{url[:200]} is larger than {self._most / 2**20:.0f} MiB", "make it smaller")
                return bytes(data)
        raise BadInput(f"{url[:200]} redirects too often")

    def _checked(self, url: str) -> httpcore.URL:
        """The address as it is asked for, in ASCII. Raises BadInput."""
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
            host = _ascii(parts.hostname or "")
        except ValueError as error:
            raise BadInput(f"{url[:200]!r} is not a URL", "write it like https://host/image.png") from error
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise BadInput(f"{url[:200]!r} is not the plain URL of an image", "write it like https://host/image.png")
        if port not in self._ports:
            raise BadInput(f"images are not fetched from port {port}", "send the image itself, as a data URL")
        if self._hosts and not any(host == allowed or host.endswith(f".{allowed}") for allowed in self._hosts):
            raise BadInput(f"images are not fetched from {host}", f"they are from: {', '.join(self._hosts)}")
        target = quote(parts.path or "/", ASCII) + (f"?{quote(parts.query, ASCII)}" if parts.query else "")
        return httpcore.URL(scheme=parts.scheme, host=host, port=parts.port, target=target)


def _ascii(host: str) -> str:
    """The name of a host as it is looked up. Raises ValueError."""
    return host.encode("idna").decode().lower()


def _authority(url: httpcore.URL) -> str:
    host = url.host.decode()
    return (f"[{host}]" if ":" in host else host) + ("" if url.port is None else f":{url.port}")


def _redirected(url: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Where an answer leads. Raises BadInput."""
    location = next((value for name, value in headers if name.lower() == b"location"), b"")
    try:
        if not location:
            raise ValueError("it names no place")
        return urljoin(url, location.decode("utf-8", "replace"))
    except ValueError as error:
        raise BadInput(f"{url[:200]} redirects to what is not a URL", "send the image itself, as a data URL") from error
