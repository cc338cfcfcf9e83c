"""The HTTP application: routes, errors, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import cuecard
from cuecard.domain.errors import BadInput, CuecardError, TooLarge
from cuecard.domain.outcome import Outcome
from cuecard.gateway import chat, names
from cuecard.gateway.chat import Asked, Json
from cuecard.gateway.service import Plan, Said, Service
from cuecard.models import images

T = TypeVar("T")
MOST_BYTES = 48 * 2**20
PING_S = 10.0
log = logging.getLogger("cuecard.gateway")


def application(service: Service, *, most_bytes: int = MOST_BYTES, ping_s: float = PING_S) -> Starlette:
    """The gateway as an ASGI application."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.aclose()

    async def completions(request: Request) -> Response:
        asked = await _asked(request, most_bytes)
        plan = service.plan(asked)
        if asked.stream:
            return Events(asked, plan, service, ping_s)
        outcome, reasoning = await unless_gone(request.receive, _whole(service, asked, plan))
        return JSONResponse(chat.completion(asked, outcome, reasoning), headers=chat.headers(asked, outcome))

    async def models(request: Request) -> Response:
        served = [*names.VIRTUAL, *service.concrete]
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "cuecard"} for name in served]
        return JSONResponse({"object": "list", "data": listed})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in names.VIRTUAL and name not in service.concrete:
            raise names.unknown(name, service.concrete)
        return JSONResponse({"id": name, "object": "model", "created": 0, "owned_by": "cuecard"})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": cuecard.__version__})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/health", health),
        ],
        exception_handlers={
            CuecardError: _refused,
            ClientGone: partial(_silent),
            404: partial(_http_error, message="there is no such path", hint="the API is under /v1"),
            405: partial(_http_error, message="this path does not take that method", hint="see the documentation"),
            Exception: _broken,
        },
        lifespan=lifespan,
    )


class ClientGone(Exception):
    """The client left before its answer was whole."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which is cancelled, and over, when the client leaves first. Raises ClientGone."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _asked(request: Request, most_bytes: int) -> Asked:
    """Read, decode and understand a request; what needs a decoder of images does not hold up the event loop."""
    data = await _body(request, most_bytes)
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is not JSON: {error}", "is Content-Type application/json?") from error
    fetch = partial(images.load, allow_urls=False)
    if b"image" in data:
        return await asyncio.to_thread(chat.parse, body, _as_url(fetch))
    return chat.parse(body, _as_url(fetch))


def _as_url(load: chat.Fetch) -> chat.Fetch:
    """URLs only: the path of a file is none, whatever the loader can do."""

    def fetch(url: str) -> Any:
        if not url.startswith(("data:", "http://", "https://")):
            raise BadInput("an image is neither a data URL nor a web address", "send data:image/png;base64,…")
        return load(url)

    return fetch


async def _body(request: Request, most_bytes: int) -> bytes:
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > most_bytes:
        raise _too_large(most_bytes)
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > most_bytes:
            raise _too_large(most_bytes)
    return bytes(data)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body is larger than {most / 2**20:.0f} MiB", "send fewer or smaller images")


async def _whole(service: Service, asked: Asked, plan: Plan) -> tuple[Outcome, str]:
    reasoning = ""
    async with aclosing(service.listen(asked, plan)) as heard:
        async for item in heard:
            match item:
                case Said(text, True):
                    reasoning += text
                case Outcome():
                    return item, reasoning
    raise AssertionError("a request ended without an outcome")


class Events(Response):
    """A streamed answer: the small model's reasoning as it is written, then the answer."""

    media_type = "text/event-stream"

    def __init__(self, asked: Asked, plan: Plan, service: Service, ping_s: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", "x-request-id": asked.id})
        del self.headers["content-length"]
        self._asked, self._plan, self._service, self._ping_s = asked, plan, service, ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with suppress(ClientGone):
            await unless_gone(receive, self._speak(send))

    async def _speak(self, send: Send) -> None:
        async for event in pinged(self._events(), self._ping_s):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncGenerator[bytes]:
        asked = self._asked
        yield chat.sse(chat.chunk(asked, {"role": "assistant", "content": ""}))
        try:
            async with aclosing(self._service.listen(asked, self._plan)) as heard:
                async for item in heard:
                    match item:
                        case Said(text, True) if asked.reasoning_field:
                            yield chat.sse(chat.chunk(asked, {asked.reasoning_field: text}))
                        case Said(text, False):
                            yield chat.sse(chat.chunk(asked, {"content": text}))
                        case Outcome():
                            for last in chat.last_chunks(asked, item):
                                yield chat.sse(last)
        except CuecardError as error:  # nothing can be unsaid: what went wrong is said in the stream
            yield chat.sse(chat.problem(error))
        except Exception:
            log.exception("a streamed request failed")
            yield chat.sse(chat.problem(CuecardError("the gateway failed")))
        yield chat.sse("[DONE]")


async def pinged(events: AsyncGenerator[bytes], every_s: float) -> AsyncGenerator[bytes]:
    """The events, and a comment whenever nothing has come for so long."""
    async with aclosing(events):
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait([coming], timeout=every_s))[0]:
                    yield b": ping\n\n"
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait([coming])
            if (event := coming.result()) is None:
                return
            yield event


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, CuecardError)
    retry = {"retry-after": "1"} if error.http_status in (429, 503) else {}
    return JSONResponse(chat.problem(error), error.http_status, headers=retry)


async def _silent(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _http_error(request: Request, error: Exception, message: str, hint: str) -> Response:
    status = getattr(error, "status_code", 404)
    told: Json = chat.problem(BadInput(f"{request.method} {request.url.path}: {message}", hint))
    return JSONResponse(told, status)


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse(chat.problem(CuecardError("the gateway failed")), 500)
