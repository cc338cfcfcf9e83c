"""An HTTP server of scripted chat completions, including faults, for tests, demonstrations and CI.

server = MockServer([Completion("B", reasoning="The bar of May is the tallest."), HttpError(429)])
async with server as url:
    ...  # OpenAIModel(url, "mock")
server.received[0].body, server.received[0].gone
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from types import TracebackType
from typing import Any

from aiohttp import web

from cuecard.testing.replies import (
    BrokenConnection,
    Completion,
    HangUp,
    HttpError,
    RawResponse,
    Received,
    RenderedCompletion,
    Reply,
    Stall,
    prompt_tokens,
)

_SHUTDOWN_S = 0.01
"""Seconds that running requests may continue when the server is closed."""


@dataclass(eq=False)
class MockServer:
    """Replies come from the script in order, with the last one repeated, or from a function of the request."""

    script: Sequence[Reply] | Callable[[Received], Reply] = (Completion("A"),)
    models: Sequence[str] = ("mock",)
    refuses: Sequence[str] = ()
    """Parameters that are refused as unknown."""
    refuses_keywords: Sequence[str] = ()
    """Schemas with one of these keywords are refused, as by servers that support a subset of JSON Schema."""
    api_key: str | None = None
    prefix_cache: bool = False
    visual_px: int | None = None
    """Side in pixels of the square of an image that is one token; None: a whole image is one token."""
    running_usage: bool = False
    loading: bool = False
    """Whether /health answers 503."""
    aborts: bool = True
    """Whether /metrics, in vLLM's format, counts disconnected clients."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: a free port."""
    owner: str = "mock"
    """`owned_by` in the list of models, which identifies the kind of server."""
    pages: Mapping[str, RawResponse] = field(default_factory=dict)
    """Responses by path, in place of its own /models, /metrics and the like."""
    received: list[Received] = field(default_factory=list, init=False)
    """Requests for completions, including refused ones."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set when the first request for a completion arrives."""

    def __post_init__(self) -> None:
        self._prompts: dict[tuple[str, ...], None] = {}
        self._turn = 0
        self._runner: web.ServerRunner | None = None
        self._closing = False

    async def __aenter__(self) -> str:
        """The base URL, `http://HOST:PORT/v1`."""
        self._closing = False
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        return f"http://{self.host}:{self._runner.addresses[0][1]}/v1"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        self._closing = True
        await self._runner.cleanup()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [request.body for request in self.received]

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        at_s = asyncio.get_running_loop().time()
        headers = {name.lower(): value for name, value in http.headers.items()}
        data = await http.content.read()
        request = Received(http.method, http.raw_path, headers, json.loads(data) if data else {}, at_s)
        try:
            return await self._response(request, http)
        except BrokenConnection:
            assert http.transport is not None
            http.transport.close()
            return web.Response()
        except ConnectionError:
            request.gone.set()
            return web.Response()
        except asyncio.CancelledError:
            if not self._closing:
                request.gone.set()
            raise

    async def _response(self, request: Received, http: web.BaseRequest) -> web.StreamResponse:
        path = request.path.removeprefix("/v1")
        if path in self.pages:
            return await _send_raw(self.pages[path], http)
        match path:
            case "/health":
                return _response(503 if self.loading else 200, {})
            case "/models":
                listed = [{"id": name, "object": "model", "owned_by": self.owner} for name in self.models]
                return _response(200, {"object": "list", "data": listed})
            case "/chat/completions":
                self.received.append(request)
                self.arrived.set()
                return await self._complete(request, http)
            case "/received":
                return _response(200, {"requests": [each.as_object() for each in self.received]})
            case "/metrics":
                gone = sum(each.gone.is_set() for each in self.received) if self.aborts else 0
                return _response(200, f'vllm:request_success_total{{finished_reason="abort"}} {gone}.0\n')
            case _:
                return _response(404, {"detail": "Not Found"})

    async def _complete(self, request: Received, http: web.BaseRequest) -> web.StreamResponse:
        match reply := self._refusal(request) or self._next(request):
            case HttpError(status, error, headers):
                return _response(status, error, headers)
            case RawResponse():
                return await _send_raw(reply, http)
            case HangUp():
                raise BrokenConnection
            case Stall() | Completion(after=Stall(None)):
                return await asyncio.Future()
            case Completion():
                self._count(request)
                rendered = RenderedCompletion(reply, request, self.running_usage)
                if not request.body.get("stream"):
                    return _response(200, rendered.whole())
                response = await _started(http, 200, "text/event-stream")
                clock = asyncio.get_running_loop().time
                async for text, name, tokens in rendered.events():
                    request.sent.append((clock(), name, tokens))
                    await response.write(text.encode())
                return response

    def _refusal(self, request: Received) -> HttpError | None:
        body = request.body
        if self.api_key is not None and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return HttpError(401, {"error": {"message": "Invalid API key", "type": "invalid_request_error"}})
        if body.get("model") not in self.models:
            return HttpError(404, {"error": {"message": f"The model `{body.get('model')}` does not exist."}})
        sent = body | (body.get("stream_options") or {})
        unknown = next((key for key in self.refuses if key in sent), None)
        message = f"Unrecognized request argument supplied: {unknown}" if unknown else ""
        schema = json.dumps(sent.get("response_format"))
        if keyword := next((each for each in self.refuses_keywords if f'"{each}":' in schema), None):
            message = f"Invalid schema for response_format 'answer': '{keyword}' is not permitted"
        return HttpError(400, {"error": {"message": message, "param": None}}) if message else None

    def _next(self, request: Received) -> Reply:
        if callable(self.script):
            return self.script(request)
        reply = self.script[min(self._turn, len(self.script) - 1)]
        self._turn += 1
        return reply

    def _count(self, request: Received) -> None:
        """Count the prompt's tokens, and those that it shares with the beginning of an earlier prompt."""
        prompt = tuple(prompt_tokens(request.body, self.visual_px))
        request.prompt_tokens = len(prompt)
        if self.prefix_cache:
            # the last token is always computed: it yields the first token of the answer
            known = max((_common(prompt, other) for other in self._prompts), default=0)
            request.cached_tokens = min(known, len(prompt) - 1)
            self._prompts[prompt] = None


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _response(status: int, body: Mapping[str, Any] | str, headers: Mapping[str, str] | None = None) -> web.Response:
    kind = "text/html" if isinstance(body, str) else "application/json"
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    return web.Response(status=status, body=data, headers={"content-type": kind, **(headers or {})})


async def _started(http: web.BaseRequest, status: int, kind: str) -> web.StreamResponse:
    """A chunked response, with its head already sent."""
    response = web.StreamResponse(status=status, headers={"content-type": kind})
    await response.prepare(http)
    return response


async def _send_raw(raw: RawResponse, http: web.BaseRequest) -> web.StreamResponse:
    """Send a raw response. Raises BrokenConnection if it is cut."""
    response = await _started(http, raw.status, raw.kind)
    for part in chain(raw.parts, repeat(raw.parts[-1]) if raw.endless else ()):
        await response.write(part)
        await asyncio.sleep(0)
    if raw.cut:
        raise BrokenConnection
    return response
