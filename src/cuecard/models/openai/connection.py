"""One server: requests go out, chunks come in, and no foreign error gets through."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from cuecard.domain.errors import BadInput, BrokenStream, ModelClosed, ModelError, ModelRefused
from cuecard.models.openai.faults import asks_for_too_much, fails_on_schema, refused_parameter, translated
from cuecard.models.openai.http import Answer, Server, StatusError, event, payload
from cuecard.models.openai.wire import LOSSES, Body, Chunk, chunk

_PATH = "/chat/completions"
_LISTING_S = 2.0
_ABORTS = re.compile(
    r"^(?:vllm:request_success_total\{[^}]*finished_reason=\"abort\"[^}]*\}|sglang:num_aborted_requests_total\S*)\s+(\S+)$",
    re.MULTILINE,
)
"""How vLLM and SGLang count, under /metrics, what they gave up because its client had gone."""
_LISTED = 8
_LEAST_TOKENS = 16
_DONE = "[DONE]"

Request = Callable[[frozenset[str]], Body]
"""Makes a request's body without the parameters that the server refuses."""


class Connection:
    """A server and the parameters it has refused so far, which are not sent to it again."""

    def __init__(self, base_url: str, model: str, api_key: str | None, timeout_s: float | None, key_hint: str) -> None:
        if not _is_address(base_url):
            raise BadInput(f"{base_url!r} is not the URL of a server", hint="write it like http://localhost:8000/v1")
        self.url, self._model, self._key_hint, self._key = _shown(base_url), model, key_hint, api_key
        self.refused: frozenset[str] = frozenset()
        self._server = Server(base_url, api_key, timeout_s)
        self._closed = False
        self._waits: set[asyncio.Timeout] = set()
        """What is waited for at this moment, each within a limit that closing brings forward."""
        self._no_waits = asyncio.Event()

    async def chunks(self, request: Request, deadline: float | None) -> AsyncGenerator[Chunk]:
        """An empty chunk when the server has taken the request on, then what it sends. Closing hangs up at once."""
        answer = await self._open(request, deadline)
        try:
            yield Chunk()
            finished = False
            async with aclosing(self._lines(answer, deadline)) as lines:
                async for line in lines:
                    text = payload(line)
                    if not text:
                        continue
                    if text.startswith(_DONE):
                        await answer.settle()
                        break
                    heard = chunk(self._event(text))
                    finished = finished or heard.finish_reason is not None
                    yield heard
            if not finished:
                raise BrokenStream(
                    f"the answer of {self.url} ended without a finish reason (content type: {answer.kind})"
                )
        finally:
            answer.close()

    async def whole(self, request: Request, deadline: float | None) -> object:
        """The JSON of an answer that is not streamed."""
        answer = await self._open(request, deadline)
        async with self._mapped(deadline, begun=True):
            return json.loads(await answer.whole())

    @asynccontextmanager
    async def passed(self, body: Mapping[str, Any], deadline: float | None) -> AsyncIterator[AsyncGenerator[str]]:
        """The lines of an answer to a body that is sent as it is, streamed or not."""
        async with self._mapped(deadline, begun=False):
            answer = await self._server.post(_PATH, body)
        try:
            yield self._lines(answer, deadline)
        finally:
            answer.close()

    async def _lines(self, answer: Answer, deadline: float | None) -> AsyncGenerator[str]:
        lines = answer.lines()
        while True:
            async with self._mapped(deadline, begun=True):
                data = await answer.read()
                whole = lines.take(data) if data else lines.end()
            for line in whole:
                yield line
            if not data:
                return

    def _event(self, text: str) -> object:
        try:
            return event(text)
        except Exception as error:
            raise self._translated(error, begun=True) from error

    async def listing(self) -> list[Mapping[str, Any]]:
        """The entries of the server's list of models. Raises ModelError."""
        async with self._mapped(asyncio.get_running_loop().time() + 2 * _LISTING_S, begun=False):
            data = json.loads(await self._server.page("/models", _LISTING_S))
        entries = data.get("data") if isinstance(data, Mapping) else None
        return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []

    async def aborted(self) -> float | None:
        """Requests that the server has given up because their clients had gone; None where it does not tell."""
        try:
            told = await self._server.page("/metrics", _LISTING_S, at_root=True)
        except Exception:  # many servers have no such page
            return None
        counts = [float(count) for count in _ABORTS.findall(told.decode(errors="replace"))]
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

    async def _open(self, request: Request, deadline: float | None) -> Answer:
        """The opened stream. A parameter that the server refuses and can do without is left out from then on.

        A limit of tokens that does not fit into the model's context is halved until it does. A schema that the server
        cannot enforce behind a beginning of the answer is left out of this request alone.
        """
        most: int | None = None
        left_out: frozenset[str] = frozenset()
        while True:
            known = self.refused  # other calls may find more of them while this one waits
            body = request(known | left_out)
            limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
            if most is not None:
                body = {**body, limit: most}
            async with self._mapped(deadline, begun=False):
                try:
                    return await self._server.post(_PATH, body)
                except StatusError as error:
                    if error.status == 404:
                        raise await self._not_served(error) from error
                    if asks_for_too_much(error) and body.get(limit, 0) >= 2 * _LEAST_TOKENS:
                        most = body[limit] // 2
                        continue
                    if fails_on_schema(error) and "response_format" in body:
                        left_out = frozenset({"response_format"})
                        continue
                    sent = {*body, *body.get("stream_options", ())}
                    refused = refused_parameter(error, [key for key in LOSSES if key in sent])
                    if refused is None or refused in known:
                        raise
                    self.refused |= {refused}

    async def _not_served(self, error: StatusError) -> ModelError:
        """What a 404 means, in the light of what the server says it has."""
        try:
            listing = json.loads(await self._server.page("/models", _LISTING_S))
            names = [model["id"] for model in listing["data"]]
        except Exception:  # a courtesy only: the 404 is the error
            names = []
        plain = self._translated(error, begun=False)
        if not names:
            return ModelRefused(str(plain), hint=f"is {self._model!r} its name there, and does the URL end in /v1?")
        if self._model in names:
            return plain
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        served = ", ".join(names[:_LISTED]) + more
        return ModelRefused(f"{self.url} does not serve {self._model!r}", hint=f"it serves: {served}")

    @asynccontextmanager
    async def _mapped(self, deadline: float | None, *, begun: bool) -> AsyncIterator[None]:
        """No foreign error leaves, nor waits past the deadline (a time of the event loop's clock), nor past closing."""
        try:
            if self._closed:
                raise self._was_closed()
            async with asyncio.timeout_at(deadline) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
                    if not self._waits:
                        self._no_waits.set()
        except ModelError:
            raise
        except Exception as error:
            raise (self._was_closed() if self._closed else self._translated(error, begun=begun)) from error

    def _was_closed(self) -> ModelClosed:
        return ModelClosed(f"the model at {self.url} was closed")

    def _translated(self, error: Exception, *, begun: bool) -> ModelError:
        """The error of ours, without the key, which some servers repeat when they refuse it."""
        meant = translated(error, self.url, begun=begun, key_hint=self._key_hint)
        if self._key:
            meant.args = tuple(str(part).replace(self._key, "…") for part in meant.args)
        return meant


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
