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
from urllib.parse import urljoin, urlsplit

import httpcore

from cuecard.domain.errors import BadInput
from cuecard.models.images import MOST_BYTES

PORTS = (80, 443)
REDIRECTS = 3
SECONDS = 10.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


async def resolved(host: str, port: int) -> Sequence[str]:
    """Every address of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Whether an address is somebody's on the Internet, in whatever form it is written."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


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
        except OSError as error:
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
        self._hosts, self._ports, self._most = tuple(host.lower() for host in hosts), ports, most_bytes
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
            self._check(url)
            headers = {"accept": "image/*", "user-agent": "cuecard", "accept-encoding": "identity"}
            async with self._pool.stream("GET", url, headers=list(headers.items())) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    told = dict(answer.headers).get(b"location", dict(answer.headers).get(b"Location", b""))
                    url = urljoin(url, told.decode("latin-1"))
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

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        except ValueError as error:
            raise BadInput(f"{url[:200]!r} is not a URL") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise BadInput(f"{url[:200]!r} is not the plain URL of an image", "write it like https://host/image.png")
        if port not in self._ports:
            raise BadInput(f"images are not fetched from port {port}", "send the image itself, as a data URL")
        host = parts.hostname.lower()
        if self._hosts and not any(host == allowed or host.endswith(f".{allowed}") for allowed in self._hosts):
            raise BadInput(f"images are not fetched from {host}", f"they are from: {', '.join(self._hosts)}")
