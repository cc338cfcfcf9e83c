"""HTTP to one server: bodies out, lines and events in.

On aiohttp, whose parser is compiled: a gateway that asks two models a request feels every tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
import io
import json
import urllib.request
import weakref
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp

CONNECT_S = 10.0
_IDLE_S = 4.0
"""Less than the 5 s after which uvicorn (vLLM, SGLang) hangs up, so that no request meets a closing connection."""
_ENDING_S = 0.01
_MOST_OF_AN_ERROR = 2**16
_MIB = 2**20
LONGEST_EVENT = 8 * _MIB
"""Bytes of a line of server-sent events: room for an image in a chunk, but a bound on what a server can fill."""
LONGEST_BODY = 64 * _MIB
"""Bytes of a line of other answers: a JSON body that is not streamed is one line."""
_COPIED = _MIB
_HEADERS = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "cuecard"}


class StatusError(Exception):
    """The server answers with another status than 200. `body`: the error in its JSON, or its text."""

    def __init__(self, status: int, text: str, retry_after: str = "", location: str = "") -> None:
        super().__init__(f"status {status}")
        self.status, self.retry_after, self.location = status, retry_after, location
        self.body = _error_in(text)

    @property
    def words(self) -> str:
        """All that the server says, to look for words in."""
        return self.body if isinstance(self.body, str) else json.dumps(self.body, default=str)


class ErrorEvent(Exception):
    """An error in the midst of a stream; `body` is its JSON."""

    def __init__(self, body: object) -> None:
        super().__init__("an error occurred in the stream")
        self.body = body


class Disconnected(aiohttp.ClientConnectionError):
    """The connection ended before the head of an answer was here. `answered`: a part of it was."""

    def __init__(self, error: BaseException) -> None:
        self.answered = isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)
        super().__init__("the server closed the connection inside the head of its answer" if self.answered else error)


class TooLong(Exception):
    """A line that is longer than the limit."""


def _error_in(text: str) -> object:
    try:
        body = json.loads(text)
    except ValueError:
        return text
    return body.get("error", body) if isinstance(body, dict) else body


class Lines:
    """Splits bytes into lines, in time linear in their number however they are cut into pieces."""

    def __init__(self, limit: int = LONGEST_EVENT) -> None:
        """`limit`: bytes of a line."""
        self._limit, self._rest = limit, bytearray()

    def take(self, data: bytes) -> list[str]:
        """The lines that these bytes complete. Raises TooLong, UnicodeDecodeError."""
        first, *others = data.split(b"\n")
        self._rest += first
        if max((len(self._rest), *map(len, others))) > self._limit:
            raise TooLong(f"a line of more than {self._limit / _MIB:g} MiB")
        if not others:
            return []
        whole = [bytes(self._rest), *others[:-1]]
        self._rest = bytearray(others[-1])
        return [line.removesuffix(b"\r").decode() for line in whole]

    def end(self) -> list[str]:
        """What came behind the last line break."""
        return self.take(b"\n") if self._rest else []


def payload(line: str) -> str | None:
    """What a line of server-sent events carries; None where it carries no data (blank, comment, other fields)."""
    return line[5:].strip() if line.startswith("data:") else None


def event(text: str) -> object:
    """The JSON of one event. Raises ErrorEvent, JSONDecodeError."""
    data = json.loads(text)
    if isinstance(data, dict) and data.get("error"):
        raise ErrorEvent(data["error"])
    return data


class Answer:
    """An answer whose head is here."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def kind(self) -> str:
        return self._response.headers.get("content-type", "none")

    def lines(self) -> Lines:
        """What splits this answer into lines."""
        return Lines(LONGEST_BODY if "json" in self.kind else LONGEST_EVENT)

    async def read(self) -> bytes:
        """What has come since, b"" at the end."""
        return await self._response.content.readany()

    async def whole(self) -> bytes:
        """All of the body."""
        return await self._response.read()

    async def settle(self) -> None:
        """After the last event: the connection is kept where the end of the body is close behind it."""
        try:
            async with asyncio.timeout(_ENDING_S):
                while await self.read():
                    pass
        except (TimeoutError, aiohttp.ClientError):
            self.close()

    def close(self) -> None:
        """Hang up, unless the whole answer is here."""
        self._response.close()


class Server:
    """Connections to one server, kept open. Redirects are not followed: a key goes where it was told to go."""

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

    async def post(self, path: str, body: Mapping[str, Any] | bytes) -> Answer:
        """The answer once its head is here. Bytes go as they are. Raises StatusError and what aiohttp raises."""
        url = self._base._replace(path=self._base.path + path).geturl()
        return await self._asked("POST", url, body if isinstance(body, bytes) else json.dumps(body).encode())

    async def page(self, path: str, seconds: float, *, at_root: bool = False) -> bytes:
        """A page below the base address, or below the host's root. Raises as `post`, and TimeoutError."""
        url = self._base._replace(path=path if at_root else self._base.path + path).geturl()
        async with asyncio.timeout(seconds):
            answer = await self._asked("GET", url)
            return await answer.whole()

    async def aclose(self) -> None:
        """Close every socket, those in use too."""
        self._closed = True
        if self._sessions is not None:
            await asyncio.gather(*(session.close() for session in self._sessions))

    async def _asked(self, method: str, url: str, data: bytes | None = None) -> Answer:
        response = await self._sent(method, url, data)
        if response.status == 200:
            return Answer(response)
        try:
            text = (await response.content.read(_MOST_OF_AN_ERROR)).decode(errors="replace")
        except aiohttp.ClientError:
            text = ""
        finally:
            response.close()
        told = response.headers
        raise StatusError(response.status, text, told.get("retry-after", ""), told.get("location", ""))

    async def _sent(self, method: str, url: str, data: bytes | None) -> aiohttp.ClientResponse:
        """The answer's head. Sent again, once and on a new connection, where a kept one turns out to be closed.

        A server may close an idle connection at any time, also while a request is on its way to it. On a new connection
        the same is the server's failure, and raised. Raises Disconnected.
        """
        kept, fresh = self._opened()
        trip = _Trip()
        try:
            return await self._send(kept, trip, method, url, data)
        except Disconnected as lost:
            if self._closed or not trip.reused or lost.answered:
                raise
        return await self._send(fresh, trip, method, url, data)

    async def _send(
        self, session: aiohttp.ClientSession, trip: _Trip, method: str, url: str, data: bytes | None
    ) -> aiohttp.ClientResponse:
        return await session.request(
            method,
            url,
            # aiohttp warns of plain bytes as large as images
            data=io.BytesIO(data) if data and len(data) >= _COPIED else data,
            headers=self._headers,
            proxy=self._proxy,
            allow_redirects=False,
            trace_request_ctx=trip,
        )

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
                weakref.finalize(self, _let_go, session)
        return self._sessions

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_sent_once,),
            trace_configs=[_noting_reuse()],
        )


@dataclass
class _Trip:
    """A request under way."""

    reused: bool = False
    """It went out on a connection that an earlier request had opened."""


def _noting_reuse() -> aiohttp.TraceConfig:
    async def reused(session: aiohttp.ClientSession, context: Any, _: aiohttp.TraceConnectionReuseconnParams) -> None:
        context.trace_request_ctx.reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(reused)
    return config


async def _sent_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
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


def _let_go(session: aiohttp.ClientSession) -> None:
    """Who forgets to close a model is spared aiohttp's complaints; the sockets are closed all the same."""
    if session.closed:
        return
    connector = session.connector
    session.detach()
    if connector is not None:
        closing = cast(Coroutine[object, None, None], connector.close())
        with suppress(Exception):
            closing.send(None)  # closes the sockets, and would then wait for them to be closed
        closing.close()
