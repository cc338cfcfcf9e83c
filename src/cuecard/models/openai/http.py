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
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp

CONNECT_S = 10.0
_IDLE_S = 4.0
"""Less than the 5 s after which uvicorn (vLLM, SGLang) hangs up, so that no request meets a closing connection."""
_ENDING_S = 0.01
_MOST_OF_AN_ERROR = 2**16
_LONGEST_LINE = 2**26
_COPIED = 2**20
_STALE = 3
"""Kept connections that may turn out to be closed, one after the other, before a call fails."""
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


class TooLong(Exception):
    """A line without an end."""


def _error_in(text: str) -> object:
    try:
        body = json.loads(text)
    except ValueError:
        return text
    return body.get("error", body) if isinstance(body, dict) else body


class Lines:
    """Bytes to lines, however they are cut."""

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes) -> list[str]:
        """The lines that these bytes complete. Raises TooLong, UnicodeDecodeError."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise TooLong(f"a line of more than {_LONGEST_LINE >> 20} MiB")
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
        self._session: aiohttp.ClientSession | None = None
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
        self._closed = True
        if self._session is not None:
            await self._session.close()

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
        """Once more where the kept connection was hung up on before a byte was written, so that nobody has read it."""
        for left in reversed(range(_STALE)):
            try:
                # aiohttp warns of plain bytes as large as images
                return await self._opened().request(
                    method,
                    url,
                    data=io.BytesIO(data) if data and len(data) >= _COPIED else data,
                    headers=self._headers,
                    proxy=self._proxy,
                    allow_redirects=False,
                )
            except aiohttp.ClientOSError as error:
                if not left or not isinstance(error.__cause__, aiohttp.ClientConnectionResetError):
                    raise
        raise AssertionError

    def _opened(self) -> aiohttp.ClientSession:
        """Made at the first request: a session belongs to the event loop that it is made in."""
        if self._closed:
            raise RuntimeError("it has been closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
            )
            weakref.finalize(self, _let_go, self._session)
        return self._session


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
