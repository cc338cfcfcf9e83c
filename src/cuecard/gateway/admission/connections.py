"""Connections: clients that disconnect, are slow, send too much, or are pages of other sites."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from cuecard.domain.errors import CuecardError, Forbidden

HEAD_S, BODY_S, SEND_S = 15.0, 60.0, 60.0
"""Seconds that a client may take to send its headers, to send its body, and to read what it is sent."""
LINGER_S = 2.0
"""Seconds that a client may take to read an error, if its body was not read."""
MOST_HEAD_BYTES = 64 * 1024
"""Maximum size of the URL and the headers of one request."""


class ClientGone(Exception):
    """The client disconnected before its answer was complete."""


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncGenerator[None]:
    """Cancels the enclosed work if the client disconnects before its end. Raises ClientGone."""
    try:
        async with asyncio.timeout(None) as presence:
            watching = asyncio.create_task(_watch(receive, presence))
            try:
                yield
            finally:
                watching.cancel()
    except TimeoutError as error:
        if presence.expired():
            raise ClientGone from error
        raise


async def _watch(receive: Receive, presence: asyncio.Timeout) -> None:
    """Expire `presence` when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    presence.reschedule(asyncio.get_running_loop().time())


class CloseUnread:
    """Closes the connection after an answer that is sent before the request body was read: the rest is never read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

        async def reads() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and (message["type"] != "http.request" or message.get("more_body", False))
            return message

        async def sends(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, reads, sends)


class Lingering:
    """A transport that lets its client read the answer if it is closed while the client still sends (RFC 9112, 9.6).

    An immediate close would reset the connection, and the client's system might drop the answer. A client that does not
    read what it was sent is disconnected after SEND_S.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self.sends_on = False
        """The client has not sent its whole request yet."""
        self._ends: list[asyncio.TimerHandle] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return bool(self._ends) or self._transport.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        self._ends = [self._loop.call_later(SEND_S, self._transport.abort)]
        if self.sends_on and self._transport.can_write_eof():
            self._ends.append(self._loop.call_later(LINGER_S, self._transport.close))
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def lost(self) -> None:
        """Cancel the timers, as the connection is closed."""
        for end in self._ends:
            end.cancel()


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on the head of a request, and on how long a client reads nothing."""

    head_s, most_head_bytes = HEAD_S, MOST_HEAD_BYTES

    def connection_made(self, transport: Any) -> None:
        self._lingering = Lingering(transport, self.loop)
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        self._expect_head()
        self._taking_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The client reads nothing: disconnect it unless it reads within SEND_S."""
        super().pause_writing()
        self._taking_timer = self.loop.call_later(SEND_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_taking_timer()

    def _stop_taking_timer(self) -> None:
        if self._taking_timer is not None:
            self._taking_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.cancel()
        self._stop_taking_timer()
        self._lingering.lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._head_bytes += len(data)
        if self._in_head and self._head_bytes > self.most_head_bytes:
            self._refuse(431, b"the address or the headers are too long")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:  # a further request on the same connection
            self._expect_head()

    def _expect_head(self) -> None:
        self._head_bytes, self._in_head = 0, True
        self._head_timer = self.loop.call_later(self.head_s, self._refuse, 408, b"the headers took too long")

    def on_headers_complete(self) -> None:
        self._in_head, self._lingering.sends_on = False, True
        self._head_timer.cancel()
        super().on_headers_complete()
        if self.scope.get("http_version") == "1.0":
            _unframe(self.cycle)

    def on_message_complete(self) -> None:
        self._lingering.sends_on = False
        super().on_message_complete()

    def _refuse(self, status: int, why: bytes) -> None:
        if not self.transport.is_closing():
            head = STATUS_LINE[status] + b"content-type: text/plain\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n%s" % (len(why), why))
            self.transport.close()


def _unframe(cycle: RequestResponseCycle) -> None:
    """For HTTP/1.0, which has no chunked encoding: a body of unknown length ends with the connection."""
    framed = cycle.send

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                cycle.chunked_encoding = False
        elif cycle.expected_content_length == 0:
            cycle.expected_content_length = len(message.get("body", b""))
        await framed(message)

    cast(Any, cycle).send = send


# --- origins ----------------------------------------------------------------------------------------------------------

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
    """Refuses requests with a foreign host name, and requests of other sites' pages unless the method is SAFE."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] | None,
        origins: Collection[str],
        refuse: Callable[[str, CuecardError], ASGIApp],
    ) -> None:
        """`hosts`: accepted host names besides this machine's own, 0.0.0.0 for every address; None: any.

        `refuse`: returns the response to a refused request, from its path and error.
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
        return _address(name) is not None and not self._hosts.isdisjoint(EVERY_ADDRESS)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    return host == "localhost" or ((address := _address(host)) is not None and address.is_loopback)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address, which no DNS server can redirect; None for a host name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def same_origin(origin: str, host: str) -> bool:
    """Whether a page comes from the host that it calls. A proxy in between may have terminated TLS."""
    try:
        page, asked = urlsplit(origin), urlsplit(f"//{host}")
        port = PORTS.get(page.scheme)
        return bool(page.hostname) and (page.hostname, page.port or port) == (asked.hostname, asked.port or port)
    except ValueError:
        return False
