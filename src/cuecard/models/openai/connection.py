"""The connection to one server: requests, the chunks of streamed answers, and errors as ModelError."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from cuecard.domain.errors import BadInput, BrokenStream, ModelClosed, ModelError, ModelRefused
from cuecard.models.openai.call import LOSSES, Body, client_part
from cuecard.models.openai.errors import (
    ErrorMapper,
    fails_on_schema,
    limit_that_fits,
    refused_parameter,
    refuses_schema,
)
from cuecard.models.openai.http import AnswerBody, HttpClient, HttpResponse, SentEvent, StatusError
from cuecard.models.openai.response_body import (
    DONE,
    Chunk,
    JsonSanitiser,
    StreamError,
    chunk,
    decoded,
    finishes,
    objects,
)

_PATH = "/chat/completions"
_LISTING_S = 2.0
_ABORTS = re.compile(
    r"^(?:vllm:request_success_total\{[^}]*finished_reason=\"abort\"[^}]*\}|sglang:num_aborted_requests_total\S*)\s+(\S+)$",
    re.MULTILINE,
)
"""The counts of requests aborted by clients, in the /metrics of vLLM and SGLang."""
_LISTED = 8
_MOST_LIMITS = 3
"""How many token limits are tried."""
_REST_S = 2.0
"""Seconds to wait for usage after the finish reason."""
_SESSION = ("x-session-id", "x-smg-routing-key")
"""The headers of the session: that of most routers, and that of SGLang's."""
_SESSION_KEY = os.environ.get("CUECARD_SESSION_KEY", "").encode()[:64] or os.urandom(32)
"""The key of the hash in the session header; gateways in front of one router share it through this variable."""
_PATH_HINT = "write the base URL that the server documents, mostly http://HOST:PORT/v1"
_TOOLS_HINT = "does its chat template, or its parser of tool calls, fit the model?"

Request = Callable[[frozenset[str]], Body]
"""Makes a request's body without the parameters that the server refuses."""


class Connection:
    """A server and the parameters it has refused so far, which are not sent to it again."""

    def __init__(self, base_url: str, model: str, api_key: str | None, timeout_s: float | None, key_hint: str) -> None:
        if not _is_address(base_url):
            raise BadInput(f"{base_url!r} is not the URL of a server", hint="write it like http://localhost:8000/v1")
        self.url, self._model = _shown(base_url), model
        secrets = (api_key, urlsplit(base_url).password)
        self._faults = ErrorMapper(self.url, key_hint, tuple(filter(None, secrets)))
        self.refused: frozenset[str] = frozenset()
        self.wrong_path: str | None = None
        """Why the address seems to have a wrong path; None after a successful response."""
        self._server = HttpClient(base_url, api_key, timeout_s)
        self._closed = False
        self._waits: set[asyncio.Timeout] = set()
        """The running waits; closing ends them by moving their deadlines."""
        self._no_waits = asyncio.Event()

    async def chunks(
        self, request: Request, deadline: float | None, conversation: bytes = b"", free: frozenset[str] = frozenset()
    ) -> AsyncGenerator[Chunk]:
        """An empty chunk when the server accepts the request, then its chunks. Closing disconnects at once.

        `conversation`: the identity of the request's conversation. `free`: fields with values that a client chose; if
        the server refuses one, it is left out of this request only.
        """
        answer = await self._open(request, deadline, conversation, free)
        try:
            yield Chunk()
            finished = has_text = calls_tools = False
            async with aclosing(self._events(answer, deadline)) as events:
                async for event in events:
                    parsed = chunk(event)
                    finished = finished or parsed.finish_reason is not None
                    has_text, calls_tools = has_text or parsed.has_text, calls_tools or parsed.calls_tools
                    yield parsed
            if not has_text and calls_tools:
                raise _only_tools(self.url)
            if not has_text and not finished:
                raise self._unfinished(answer)
            if not finished:
                yield Chunk(finish_reason="stop")
        finally:
            answer.close()

    async def whole(self, request: Request, deadline: float | None, conversation: bytes) -> Mapping[str, Any]:
        """The JSON of an answer that is not streamed."""
        answer = await self._open(request, deadline, conversation)
        try:
            async with aclosing(self._events(answer, deadline)) as events:
                return await anext(events, {})
        finally:
            answer.close()

    @asynccontextmanager
    async def passed(
        self, body: Mapping[str, Any], deadline: float | None, conversation: bytes
    ) -> AsyncIterator[AsyncGenerator[dict[str, Any]]]:
        """The JSON objects of the response to a body that is sent unchanged, streamed or not.

        An error response is raised on entering the context.
        """
        async with _Mapped(self, deadline, begun=False):
            answer = await self._server.post(_PATH, body, self._session(conversation))
        try:
            async with aclosing(self._events(answer, deadline)) as events:
                if (first := await anext(events, None)) is None:
                    raise self._unfinished(answer)
                yield _chained(first, events)
        finally:
            answer.close()

    async def _events(self, answer: HttpResponse, deadline: float | None) -> AsyncGenerator[Mapping[str, Any]]:
        """The JSON objects of a response. Errors after its finish reason are ignored."""
        body, finished = AnswerBody(), False
        broken: ModelError | None = None
        while broken is None:
            try:
                async with _Mapped(self, deadline, begun=True):
                    data = await answer.read()
                    sent = body.take(data) if data else body.end()
            except ModelClosed:
                raise
            except ModelError as error:
                sent, broken = body.end(), error
            for each in sent:
                if each.data.lstrip().startswith(DONE):
                    await answer.settle()
                    return
                try:
                    found = self._validated(each)
                except ModelError as error:
                    broken = broken or error
                    break
                for event in found:
                    if not finished and finishes(event):
                        finished, deadline = True, self._soon(deadline)
                    yield event
            if broken is None and not data:
                broken = None if body.is_whole else self._unfinished(answer)
                break
        if broken is not None and not finished:
            raise broken

    def _validated(self, sent: SentEvent) -> list[Mapping[str, Any]]:
        try:
            return objects(sent.data, sent.kind) if sent.data.strip() or sent.kind == "error" else []
        except (StreamError, ValueError) as error:
            raise self._faults.translated(error, begun=True) from error

    def _unfinished(self, answer: HttpResponse) -> BrokenStream:
        kind = self._faults.line(answer.kind)
        return BrokenStream(f"the answer of {self.url} ended without a finish reason (content type: {kind})")

    def _soon(self, deadline: float | None) -> float:
        """The deadline for data after the finish reason."""
        soon = asyncio.get_running_loop().time() + _REST_S
        return soon if deadline is None else min(soon, deadline)

    def _session(self, conversation: bytes) -> Mapping[str, str]:
        """The headers that let routers send all calls of one conversation to one replica."""
        if not conversation:
            return {}
        digest = hashlib.blake2b(self._model.encode() + b"\0" + conversation, key=_SESSION_KEY, digest_size=16)
        return dict.fromkeys(_SESSION, digest.hexdigest())

    async def listing(self) -> list[Mapping[str, Any]]:
        """The entries of the server's list of models. Raises ModelError."""
        async with _Mapped(self, asyncio.get_running_loop().time() + 2 * _LISTING_S, begun=False):
            text = (await self._server.page("/models", _LISTING_S)).decode("utf-8-sig", errors="replace")
            data = decoded(self._faults.scrubbed(text))
        entries = data.get("data") if isinstance(data, Mapping) else None
        listed = entries if isinstance(entries, list) else []
        return [JsonSanitiser().of(entry) for entry in listed if isinstance(entry, Mapping)]

    async def aborted(self) -> float | None:
        """The server's count of requests that clients aborted; None if it reports none."""
        try:
            page = await self._server.page("/metrics", _LISTING_S, at_root=True)
            counts = [float(count) for count in _ABORTS.findall(page.decode(errors="replace"))]
        except Exception:  # many servers have no such page
            return None
        return sum(counts) if counts else None

    async def aclose(self) -> None:
        """End every call with ModelClosed, then close the sockets."""
        self._closed = True
        self._no_waits.clear()
        if self._waits:
            for wait in self._waits:
                if not wait.expired():
                    wait.reschedule(0.0)
            await self._no_waits.wait()
        with suppress(Exception):
            await self._server.aclose()

    async def _open(
        self, request: Request, deadline: float | None, conversation: bytes, free: frozenset[str] = frozenset()
    ) -> HttpResponse:
        """The opened response. An optional parameter that the server refuses is left out from then on.

        A token limit that does not fit into the model's context is lowered, at most twice. A schema that the server
        cannot enforce after a given beginning of the answer is left out of this request only, as are fields in `free`.
        """
        most, limits = None, 1
        left_out: frozenset[str] = frozenset()
        while True:
            known = self.refused  # other calls may add to it while this one waits
            body = request(known | left_out)
            limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
            if most is not None:
                body = {**body, limit: most}
            async with _Mapped(self, deadline, begun=False):
                try:
                    answer = await self._server.post(_PATH, body, self._session(conversation))
                    self.wrong_path = None
                    return answer
                except StatusError as error:
                    if error.status == 404:
                        raise await self._not_served(error) from error
                    fits = limit_that_fits(error, body.get(limit, 0))
                    if fits is not None and limits < _MOST_LIMITS:
                        most, limits = fits, limits + 1
                        continue
                    if "response_format" in body and (
                        fails_on_schema(error) or ("response_format" in free and refuses_schema(error))
                    ):
                        left_out |= {"response_format"}
                        continue
                    sent = {*body, *body.get("stream_options", ())}
                    refused = refused_parameter(error, [key for key in dict.fromkeys((*LOSSES, *free)) if key in sent])
                    if refused is None or refused in known | left_out:
                        raise
                    if refused in free and (part := client_part(refused)) not in left_out:
                        left_out |= {part}
                        continue
                    self.refused |= {refused}

    async def _not_served(self, error: StatusError) -> ModelError:
        """The error of a 404, with the models that the server lists."""
        plain = self._faults.translated(error, begun=False)
        try:
            names = [name for model in await self.listing() if isinstance(name := model.get("id"), str)]
        except ModelError as unlisted:  # the list is optional: the 404 is the error
            names, cause = [], unlisted.__cause__
            if isinstance(cause, StatusError) and cause.status == 404 and self._model not in error.words:
                self.wrong_path = f"{self.url} has neither {_PATH} nor /models: the path of this address is wrong"
                return ModelRefused(f"{self.wrong_path} (404)", hint=_PATH_HINT)
        if not names:
            return ModelRefused(plain.message, hint=f"is {self._model!r} its name there, and does the URL end in /v1?")
        if self._model in names:
            return plain
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        served = self._faults.line(", ".join(names[:_LISTED])) + more
        return ModelRefused(f"{self.url} does not serve {self._model!r}", hint=f"it serves: {served}")

    async def entered(self, deadline: float | None) -> asyncio.Timeout:
        """A wait that ends at the deadline, or when the connection is closed. Raises ModelClosed."""
        if self._closed:
            raise self._was_closed()
        wait = asyncio.timeout_at(deadline)
        await wait.__aenter__()
        self._waits.add(wait)
        return wait

    def left(self, wait: asyncio.Timeout) -> None:
        self._waits.discard(wait)
        if not self._waits:
            self._no_waits.set()

    def translated(self, error: Exception, *, begun: bool) -> ModelError:
        """The ModelError for an error; ModelClosed if the connection is closed."""
        return self._was_closed() if self._closed else self._faults.translated(error, begun=begun)

    def _was_closed(self) -> ModelClosed:
        return ModelClosed(f"the model at {self.url} was closed")


class _Mapped:
    """Maps errors to ModelError; ends a wait at the deadline (event loop's clock) or when the connection is closed.

    A class, because it is entered several times per call and costs less than a generator.
    """

    __slots__ = ("_begun", "_connection", "_deadline", "_wait")

    def __init__(self, connection: Connection, deadline: float | None, *, begun: bool) -> None:
        self._connection, self._deadline, self._begun = connection, deadline, begun

    async def __aenter__(self) -> None:
        self._wait = await self._connection.entered(self._deadline)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.left(self._wait)
        try:
            await self._wait.__aexit__(kind, error, trace)
        except TimeoutError as late:
            error = late
        if isinstance(error, Exception) and not isinstance(error, ModelError):
            raise self._connection.translated(error, begun=self._begun) from error


async def _chained(
    first: Mapping[str, Any], others: AsyncGenerator[Mapping[str, Any]]
) -> AsyncGenerator[dict[str, Any]]:
    mended = JsonSanitiser()
    yield mended.of(first)
    async for each in others:
        yield mended.of(each)


def _only_tools(url: str) -> BrokenStream:
    error = BrokenStream(f"{url} answered with nothing but a call of a tool, and none was offered", _TOOLS_HINT)
    error.retryable = False
    return error


def _shown(url: str) -> str:
    """The address without a user and password."""
    scheme, slashes, rest = url.rstrip("/").partition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
