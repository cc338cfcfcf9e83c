"""HTTP to one server: bodies out; bytes in, and server-sent events by the HTML standard (9.2.6), within limits.

On aiohttp, whose parser is compiled: a gateway that calls two models a request pays for every tenth of a millisecond.
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
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp

from cuecard.models.openai.response_body import error_in

CONNECT_S = 10.0
_IDLE_S = 4.0
"""Less than the 5 s after which uvicorn (vLLM, SGLang) hangs up, so that no request meets a closing connection."""
_ENDING_S = 0.01
_MOST_OF_AN_ERROR, _ERROR_S = 2**16, 2.0
"""Bytes of an error's body, and how long it is waited for."""
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
    """The server answers with another status than 200. `body`: the error in its JSON, or its text."""

    def __init__(self, status: int, text: str, retry_after_s: float | None = None, location: str = "") -> None:
        super().__init__(f"status {status}")
        self.status, self.retry_after_s, self.location = status, retry_after_s, location
        self.body = error_in(text)

    @property
    def words(self) -> str:
        """What the server says, to look for words in."""
        return (self.body if isinstance(self.body, str) else json.dumps(self.body))[:_MOST_WORDS]


class Disconnected(aiohttp.ClientConnectionError):
    """The connection ended before the head of an answer was here. `answered`: a part of it was."""

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

    async def whole(self, most: int = _LONGEST_PAGE) -> bytes:
        """All of the body that has not been read. Raises TooLong."""
        data = bytearray()
        while part := await self.read():
            data += part
            if len(data) > most:
                raise TooLong(f"an answer of more than {most / _MIB:g} MiB")
        return bytes(data)

    async def settle(self) -> None:
        """After the last event: the connection is kept where the end of the body is close behind it."""
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
    """Connections to one server, kept open. Redirects are not followed: a key goes to its own server only."""

    def __init__(self, base_url: str, api_key: str | None, silence_s: float | None) -> None:
        """`silence_s`: the longest time without a byte."""
        parts = urlsplit(base_url)
        self._base = parts._replace(path=parts.path.rstrip("/"))
        # aiohttp makes a user and password of the URL into the header
        self._headers = _HEADERS | ({"authorization": f"Bearer {api_key}"} if api_key and not parts.username else {})
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s)
        self._proxy = _proxy(parts.scheme, parts.netloc.rpartition("@")[2])
        self._sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession] | None = None
        self._closed = False

    async def post(
        self, path: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] = NO_HEADERS
    ) -> HttpResponse:
        """The response once its head has arrived. Bytes go as they are. Raises StatusError and what aiohttp raises."""
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
        """The answer's head. Sent again, once and on a new connection, where a kept one turns out to be closed.

        A server may close an idle connection at any time, also while a request is on its way to it. On a new connection
        the same is the server's failure, and raised. Raises Disconnected.
        """
        for session in self._opened():
            trip = RequestTrace()
            try:
                return await session.request(
                    method,
                    url,
                    # aiohttp warns of plain bytes as large as images
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
        """A session that keeps its connections, and one that makes a new one for each request.

        Made at the first request: a session belongs to the event loop that it is made in.
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


@dataclass
class RequestTrace:
    """The state of one request, for aiohttp's trace callbacks."""

    reused: bool = False
    """It went out on a connection that an earlier request had opened."""


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """An error's body as far as it comes in time and fits."""
    data = bytearray()
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(_ERROR_S):
            while len(data) < _MOST_OF_AN_ERROR and (part := await response.content.readany()):
                data += part
    return data[:_MOST_OF_AN_ERROR].decode("utf-8-sig", errors="replace")


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """When to try again, from `retry-after-ms`, or from `retry-after` in seconds or as a date; None: not given."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if _NUMBER.fullmatch(value := headers.get(name, "").strip()):
            return float(value) * unit_s
    try:
        until = parsedate_to_datetime(headers["retry-after"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None
    try:  # by the server's own clock, which need not be ours
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
    """Raises Disconnected in place of the errors after which aiohttp sends a GET again, on a new connection too."""
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
"""Bytes of an event: room for an image in a chunk, but a bound on what a server can fill."""
LONGEST_BODY = 64 * _MIB
"""Bytes of an answer that is not streamed."""
_LONGEST_INDENT = 64
_BREAK = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SentEvent:
    """One event; `kind` is its `event` field."""

    data: str
    kind: str = "message"


class EventStream:
    """Takes bytes however they are cut into pieces, and gives back the events that they complete."""

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
        """The event that no blank line has ended: the standard drops it, but it may be the answer's last."""
        return [*self._line(), *self._dispatched()]

    def _grow(self, part: bytes) -> None:
        self._rest += part
        if self._size + len(self._rest) > self._limit:
            raise TooLong(f"an event of more than {self._limit / _MIB:g} MiB")

    def _line(self) -> list[SentEvent]:
        """Ends the present line; an event if the line is blank. Bytes that are no UTF-8 become U+FFFD."""
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
    """The events of an answer; of one that is JSON as a whole, that JSON as an event."""

    def __init__(self) -> None:
        self._stream, self._head = EventStream(), bytearray()
        self.is_whole: bool | None = None
        """It is JSON as a whole: no line of a stream begins like that. None: not known yet."""

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
        """What only the end of the answer completes."""
        if self.is_whole:
            return [SentEvent(self._head.removeprefix(_BOM).decode(errors="replace"))]
        return self._stream.end()
