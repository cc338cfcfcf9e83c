"""HTTP client for one server: bodies, bytes, and server-sent events by the HTML standard (9.2.6), within limits.

Uses aiohttp because its parser is compiled: a gateway makes two model calls per request, so tenths of a millisecond
matter.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
import urllib.request
import weakref
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp

from cuecard.models.openai.response_body import error_in

CONNECT_S = 10.0
_IDLE_S = 4.0
"""Less than the 5 s after which uvicorn (vLLM, SGLang) closes an idle connection, so that no request meets that."""
_ENDING_S = 0.01
_MOST_OF_AN_ERROR, _ERROR_S = 2**16, 2.0
"""Maximum bytes of an error's body, and seconds to wait for it."""
_MIB = 2**20
_LONGEST_PAGE = 8 * _MIB
_COPIED = _MIB
_MOST_WORDS = 2**13
NO_HEADERS: Mapping[str, str] = {}
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?")
_HEADERS = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "cuecard"}


class TooLong(Exception):
    """More bytes than the limit."""


class StatusError(Exception):
    """A response with a status other than 200. `body`: the error in its JSON, or its text."""

    def __init__(self, status: int, text: str, retry_after_s: float | None = None, location: str = "") -> None:
        super().__init__(f"status {status}")
        self.status, self.retry_after_s, self.location = status, retry_after_s, location
        self.body = error_in(text)

    @property
    def words(self) -> str:
        """The error as text, for pattern matching."""
        return (self.body if isinstance(self.body, str) else json.dumps(self.body))[:_MOST_WORDS]


class Disconnected(aiohttp.ClientConnectionError):
    """The connection ended before the head of a response was complete. `answered`: a part of it had arrived."""

    def __init__(self, error: BaseException) -> None:
        self.answered = isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)
        super().__init__("the server closed the connection inside the head of its answer" if self.answered else error)


class HttpResponse:
    """A response whose head has arrived."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def kind(self) -> str:
        return self._response.headers.get("content-type", "none")

    async def read(self) -> bytes:
        """The bytes received since the last read, b"" at the end."""
        return await self._response.content.readany()

    async def whole(self) -> bytes:
        """The unread rest of the body. Raises TooLong."""
        data = bytearray()
        while part := await self.read():
            data += part
            if len(data) > _LONGEST_PAGE:
                raise TooLong(f"an answer of more than {_LONGEST_PAGE / _MIB:g} MiB")
        return bytes(data)

    async def settle(self) -> None:
        """After the last event: keep the connection if the end of the body follows within _ENDING_S, else close it."""
        if self._response.content.at_eof():
            return
        try:
            async with asyncio.timeout(_ENDING_S):
                while await self.read():
                    pass
        except (TimeoutError, aiohttp.ClientError):
            self.close()

    def close(self) -> None:
        """Close the connection, unless the response is complete."""
        self._response.close()


class HttpClient:
    """Connections to one server, kept open. Redirects are not followed, so that a key goes to its own server only."""

    def __init__(self, base_url: str, api_key: str | None, silence_s: float | None) -> None:
        """`silence_s`: maximum seconds without a received byte."""
        parts = urlsplit(base_url)
        self._base = parts._replace(path=parts.path.rstrip("/"))
        # aiohttp itself sends a user and password of the URL as this header
        self._headers = _HEADERS | ({"authorization": f"Bearer {api_key}"} if api_key and not parts.username else {})
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s)
        self._proxy = _proxy(parts.scheme, parts.netloc.rpartition("@")[2])
        self._sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession] | None = None
        self._closed = False

    async def post(
        self, path: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] = NO_HEADERS
    ) -> HttpResponse:
        """The response once its head has arrived. Bytes are sent unchanged. Raises StatusError, aiohttp's errors."""
        url = self._base._replace(path=self._base.path + path).geturl()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._asked("POST", url, data, headers)

    async def page(self, path: str, seconds: float, *, at_root: bool = False) -> bytes:
        """A page below the base address, or below the host's root. Raises as `post`, and TimeoutError."""
        url = self._base._replace(path=path if at_root else self._base.path + path).geturl()
        async with asyncio.timeout(seconds):
            answer = await self._asked("GET", url)
            try:
                return await answer.whole()
            finally:
                answer.close()

    async def aclose(self) -> None:
        """Close every socket, those in use too."""
        self._closed = True
        if self._sessions is not None:
            await asyncio.gather(*(session.close() for session in self._sessions))

    async def _asked(
        self, method: str, url: str, data: bytes | None = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> HttpResponse:
        response = await self._sent(method, url, data, headers)
        if response.status == 200:
            return HttpResponse(response)
        try:
            text = await _beginning(response)
        finally:
            response.close()
        raise StatusError(response.status, text, _wait_s(response.headers), response.headers.get("location", ""))

    async def _sent(
        self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """The response's head. Retries once, on a new connection, if a kept-alive one turns out to be closed.

        A server may close an idle connection at any time, also while a request is on its way. On a new connection the
        same is a failure of the server. Raises Disconnected.
        """
        for session in self._opened():
            trip = SimpleNamespace(reused=False)  # set if an earlier request had opened the connection
            try:
                return await session.request(
                    method,
                    url,
                    # aiohttp warns about large plain bytes (images)
                    data=io.BytesIO(data) if data and len(data) >= _COPIED else data,
                    headers={**self._headers, **headers},
                    proxy=self._proxy,
                    allow_redirects=False,
                    trace_request_ctx=trip,
                )
            except Disconnected as lost:
                if self._closed or not trip.reused or lost.answered:
                    raise
        raise AssertionError("a new connection is not a reused one")

    def _opened(self) -> tuple[aiohttp.ClientSession, aiohttp.ClientSession]:
        """Two sessions: one keeps its connections alive, one opens a new connection for each request.

        Created at the first request, because a session belongs to the event loop in which it is created.
        """
        if self._closed:
            raise RuntimeError("it has been closed")
        if self._sessions is None:
            kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S)
            self._sessions = self._session(kept), self._session(aiohttp.TCPConnector(limit=0, force_close=True))
            for session in self._sessions:
                weakref.finalize(self, _close_leaked, session)
        return self._sessions

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_without_resend,),
            trace_configs=[_reuse_tracing()],
        )


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """An error's body, as far as it arrives in _ERROR_S and fits into _MOST_OF_AN_ERROR."""
    data = bytearray()
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(_ERROR_S):
            while len(data) < _MOST_OF_AN_ERROR and (part := await response.content.readany()):
                data += part
    return data[:_MOST_OF_AN_ERROR].decode("utf-8-sig", errors="replace")


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until a retry, from `retry-after-ms`, or from `retry-after` in seconds or as a date; None: not given."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if _NUMBER.fullmatch(value := headers.get(name, "").strip()):
            return float(value) * unit_s
    try:
        until = parsedate_to_datetime(headers["retry-after"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None
    try:  # by the server's clock, which may differ from ours
        now = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        now = time.time()
    return max(0.0, until - now)


def _reuse_tracing() -> aiohttp.TraceConfig:
    async def reused(session: aiohttp.ClientSession, context: Any, _: aiohttp.TraceConnectionReuseconnParams) -> None:
        context.trace_request_ctx.reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(reused)
    return config


async def _without_resend(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Raises Disconnected instead of the errors after which aiohttp retries a GET, even on a new connection."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, TimeoutError):  # no connection, or silence on it
        raise
    except (aiohttp.ClientConnectionError, OSError) as error:
        raise Disconnected(error) from error


def _proxy(scheme: str, place: str) -> str | None:
    """The proxy that the environment names for this host (HTTPS_PROXY, NO_PROXY and the like), looked up once."""
    return None if urllib.request.proxy_bypass(place) else urllib.request.getproxies().get(scheme)


def _close_leaked(session: aiohttp.ClientSession) -> None:
    """Close a session that is garbage-collected unclosed: its sockets, without aiohttp's warnings."""
    if session.closed:
        return
    connector = session.connector
    session.detach()
    if connector is not None:
        closing = cast(Coroutine[object, None, None], connector.close())
        with suppress(Exception):
            closing.send(None)  # closes the sockets, and would then wait for them to be closed
        closing.close()


# --- server-sent events -----------------------------------------------------------------------------------------------

LONGEST_EVENT = 8 * _MIB
"""Maximum bytes of an event: enough for an image in a chunk, but a bound on memory."""
LONGEST_BODY = 64 * _MIB
"""Maximum bytes of a response that is not streamed."""
_LONGEST_INDENT = 64
_BREAK = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SentEvent:
    """One event; `kind` is its `event` field."""

    data: str
    kind: str = "message"


class EventStream:
    """Parses server-sent events from bytes that arrive in pieces of any size."""

    def __init__(self, limit: int = LONGEST_EVENT) -> None:
        """`limit`: bytes of one event."""
        self._limit, self._rest, self._size = limit, bytearray(), 0
        self._at_start, self._behind_cr = True, False
        self._data: list[str] = []
        self._kind = ""

    def take(self, data: bytes) -> list[SentEvent]:
        """The events that these bytes complete. Raises TooLong."""
        if not data:
            return []
        ends_in_cr = data.endswith(b"\r")
        if self._behind_cr:
            data = data.removeprefix(b"\n")
        self._behind_cr = ends_in_cr
        first, *others = _BREAK.split(data) if b"\r" in data else data.split(b"\n")
        self._grow(first)
        found: list[SentEvent] = []
        for part in others:
            found += self._line()
            self._grow(part)
        return found

    def end(self) -> list[SentEvent]:
        """The event without a blank line after it: the standard drops it, but it may be the last of the response."""
        return [*self._line(), *self._dispatched()]

    def _grow(self, part: bytes) -> None:
        self._rest += part
        if self._size + len(self._rest) > self._limit:
            raise TooLong(f"an event of more than {self._limit / _MIB:g} MiB")

    def _line(self) -> list[SentEvent]:
        """End the current line; -> an event if the line is blank. Invalid UTF-8 becomes U+FFFD."""
        line, self._rest = bytes(self._rest), bytearray()
        if self._at_start:
            line, self._at_start = line.removeprefix(_BOM), False
        if not line:
            return self._dispatched()
        name, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += len(line)
        elif name == "event":
            self._kind = value
        return []

    def _dispatched(self) -> list[SentEvent]:
        data, kind = self._data, self._kind
        self._data, self._kind, self._size = [], "", 0
        return [SentEvent("\n".join(data), kind or "message")] if data else []


class AnswerBody:
    """The events of a response; a response that is a single JSON value is one event."""

    def __init__(self) -> None:
        self._stream, self._head = EventStream(), bytearray()
        self.is_whole: bool | None = None
        """Whether the response is a single JSON value: no line of a stream begins like one. None: not known yet."""

    def take(self, data: bytes) -> list[SentEvent]:
        """The events that these bytes complete. Raises TooLong."""
        if self.is_whole is False:
            return self._stream.take(data)
        self._head += data
        if len(self._head) > LONGEST_BODY:
            raise TooLong(f"an answer of more than {LONGEST_BODY / _MIB:g} MiB")
        if self.is_whole is None:
            begun = self._head[:_LONGEST_INDENT].lstrip(_BOM + b" \t\r\n")
            if begun or len(self._head) >= _LONGEST_INDENT:
                self.is_whole = begun.startswith((b"{", b"["))
                return [] if self.is_whole else self._stream.take(bytes(self._head))
        return []

    def end(self) -> list[SentEvent]:
        """The events that the end of the response completes."""
        if self.is_whole:
            return [SentEvent(self._head.removeprefix(_BOM).decode(errors="replace"))]
        return self._stream.end()
