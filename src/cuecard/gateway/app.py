"""The HTTP application: routes, errors, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

import cuecard
from cuecard.domain.errors import BadInput, BeyondAPair, CuecardError, TooLarge, TooSlow, Unsupported
from cuecard.domain.outcome import Outcome
from cuecard.domain.plain import call_as_object
from cuecard.domain.question import Image
from cuecard.gateway import account, chat, names, responses
from cuecard.gateway.account import Json
from cuecard.gateway.audit import Audit
from cuecard.gateway.chat import Asked, Fetch
from cuecard.gateway.fetch import Fetcher
from cuecard.gateway.guard import BODY_S, SEND_S
from cuecard.gateway.journal import Journal
from cuecard.gateway.keys import Client, Gate
from cuecard.gateway.observe import Observatory
from cuecard.gateway.passing import Passage, given
from cuecard.gateway.pool import Pool
from cuecard.gateway.service import Said, Service
from cuecard.models import images
from cuecard.strategies.preview import preview

if TYPE_CHECKING:  # OpenTelemetry need not be there
    from cuecard.gateway.traces import Traces

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
Parse = Callable[[object, Fetch], Asked]
MOST_BYTES = 48 * 2**20
PING_S = 10.0
CONTENT_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
log = logging.getLogger("cuecard.gateway")


def application(
    service: Service,
    *,
    gate: Gate | None = None,
    fetcher: Fetcher | None = None,
    audit: Audit | None = None,
    journal: Journal | None = None,
    traces: Traces | None = None,
    most_images: int = 16,
    most_bytes: int = MOST_BYTES,
    ping_s: float = PING_S,
) -> Starlette:
    """The gateway as an ASGI application."""
    dashboard = (files("cuecard.gateway") / "dashboard" / "page.html").read_text(encoding="utf-8")
    seen, entrance = Observatory(service.models, service.prices), gate or Gate([], time.monotonic)
    second_look = audit or Audit(service, 0.0)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await second_look.aclose()
        await service.aclose()
        if fetcher is not None:
            await fetcher.aclose()
        if journal is not None:
            journal.close()
        if traces is not None:
            await asyncio.to_thread(traces.close)

    def admit(request: Request) -> Client:
        client = request.state.client = entrance.known(request.headers.get("authorization"))
        client.enter()
        return client

    async def understood(body: Body, parse: Parse) -> Asked:
        return await _understood(body, parse, fetcher, most_images)

    def guarded(handler: Handler) -> Handler:
        """A path for those with a key."""

        async def admitted(request: Request) -> Response:
            admit(request)
            return await handler(request)

        return admitted

    def answering(parse: Parse, writer_of: Callable[[Asked], Writer]) -> Handler:
        """A path of the API on which questions are answered."""

        async def answer(request: Request) -> Response:
            client = admit(request)
            body = await json_of(request, most_bytes)
            try:
                asked = await unless_gone(request.receive, understood(body, parse))
            except BeyondAPair:
                if service.pass_to is None or parse is not chat.parse:
                    raise
                return await passed(request, body, client)
            asked = replace(asked, trace=trace_of(request))
            telling, writer = Telling(service, asked, seen, client, over, failed), writer_of(asked)
            if asked.stream:
                return Events(telling, writer, ping_s)
            outcome, reasoning = await unless_gone(request.receive, telling.whole())
            own = account.headers(asked.id, outcome) | client.headers()
            return JSONResponse(writer.whole(outcome, reasoning, telling.account(outcome)), headers=own)

        return answer

    async def passed(request: Request, body: Body, client: Client) -> Response:
        """What is beyond a pair, answered by one model as it comes."""
        model = service.models[service.pass_to or "large"]
        if not isinstance(body.said, dict) or not isinstance(model, Pool):
            raise Unsupported(f"{model.name} runs in this process, where only questions are answered")
        asked = replace(given(body.said), trace=trace_of(request))
        passage = Passage(asked, body.said, service.pass_to or "large", model.name)

        def done() -> None:
            outcome = passage.outcome
            seen.answered(asked.id, asked.model, outcome, outcome.calls[0].first_token_s)
            client.spend(account.usage(outcome)["total_tokens"])
            if traces is not None:
                traces.answered(asked, outcome)

        async with AsyncExitStack() as held:
            opening = held.enter_async_context(model.passed(passage.body))
            lines = await unless_gone(request.receive, opening)
            if asked.stream:
                return Relay(passage, lines, held.pop_all(), done, seen, client.headers())
            answer = await unless_gone(request.receive, passage.whole(lines))
        done()
        return JSONResponse(answer, headers=account.headers(asked.id, passage.outcome) | client.headers())

    def over(asked: Asked, outcome: Outcome) -> None:
        second_look.consider(asked.question, outcome)
        if journal is not None:
            journal.write(asked, outcome)
        if traces is not None:
            traces.answered(asked, outcome)

    def failed(asked: Asked, error: Exception, after_s: float) -> None:
        if traces is not None:
            traces.failed(asked, error, after_s)

    async def decision(request: Request) -> Response:
        body = await json_of(request, most_bytes)
        asked = await unless_gone(request.receive, understood(body, chat.parse))
        plan = service.plan(asked)
        work = preview(asked.question, service.models, plan.strategy, plan.policy)
        route, reason, calls = await unless_gone(request.receive, work)
        told = {"strategy": plan.strategy, "schedule": plan.policy.schedule, "route": route, "reason": reason}
        return JSONResponse(told | {"calls": [call_as_object(call) for call in calls]})

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_listed(name) for name in served()]})

    async def model(request: Request) -> Response:
        if (name := request.path_params["name"]) not in served():
            raise names.unknown(name, service.concrete)
        return JSONResponse(_listed(name))

    def served() -> list[str]:
        return [*names.VIRTUAL, *service.concrete]

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": cuecard.__version__})

    async def ready(request: Request) -> Response:
        down = [role for role, model in service.models.items() if isinstance(model, Pool) and not model.up]
        told = {"status": "down" if len(down) == len(service.models) else "degraded" if down else "ok", "down": down}
        return JSONResponse(told, 503 if told["status"] == "down" else 200)

    async def metrics(request: Request) -> Response:
        return Response(seen.metrics(second_look.told()), media_type=CONTENT_TYPE_LATEST)

    async def stats(request: Request) -> Response:
        return JSONResponse(seen.stats() | {"audit": second_look.told(), "recent": seen.last(50)})

    async def page(request: Request) -> Response:
        return HTMLResponse(dashboard, headers={"content-security-policy": CONTENT_POLICY})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", answering(chat.parse, chat.Writer), methods=["POST"]),
            Route("/v1/responses", answering(responses.parse, responses.Writer), methods=["POST"]),
            Route("/v1/decision", guarded(decision), methods=["POST"]),
            Route("/v1/models", guarded(models)),
            Route("/v1/models/{name:path}", guarded(model)),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", guarded(metrics)),
            Route("/stats", guarded(stats)),
            Route("/dashboard", page),
            Mount("/dashboard", StaticFiles(packages=[("cuecard.gateway", "dashboard")])),
        ],
        exception_handlers={
            CuecardError: partial(_refused, seen=seen),
            ClientGone: partial(_silent, seen=seen),
            404: partial(_http_error, message="there is no such path", hint="the API is under /v1"),
            405: partial(_http_error, message="this path does not take that method", hint="see the documentation"),
            Exception: partial(_broken, seen=seen),
        },
        lifespan=lifespan,
    )


def _listed(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "cuecard"}


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


@dataclass(frozen=True)
class Body:
    """What a request says, as JSON."""

    said: object
    may_have_images: bool


async def json_of(request: Request, most_bytes: int) -> Body:
    """The body of a request. Raises BadInput, TooLarge."""
    data = await _body(request, most_bytes)
    escaped = b"\\u" in data
    try:
        said = json.loads(data.decode())
        if escaped:  # half a character, which no text that leaves here can hold
            json.dumps(said, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the body is not JSON: {error}", "send JSON in UTF-8") from error
    return Body(said, b"image" in data or escaped)  # the word could also be there escaped


def trace_of(request: Request) -> Json:
    return {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}


async def _understood(body: Body, parse: Parse, fetcher: Fetcher | None, most_images: int) -> Asked:
    """A request as it is meant. It is read twice if it has images: to see which, and when they are there."""
    if not body.may_have_images:
        return parse(body.said, _no_image)
    wanted: list[str] = []

    def noted(url: str) -> Image:
        wanted.append(url)
        if len(wanted) > most_images:
            raise TooLarge(f"there are more than {most_images} images", "send fewer")
        return Image(b"")

    asked = parse(body.said, noted)
    if not wanted:
        return asked
    distinct = list(dict.fromkeys(wanted))
    getting = [asyncio.ensure_future(_image(url, fetcher)) for url in distinct]
    try:
        got = dict(zip(distinct, await asyncio.gather(*getting), strict=True))
    finally:
        for task in getting:
            task.cancel()
        await asyncio.gather(*getting, return_exceptions=True)
    return parse(body.said, got.__getitem__)


async def _image(url: str, fetcher: Fetcher | None) -> Image:
    """The image that a request gives; a decoder does not hold up the event loop. Raises BadInput."""
    if url.startswith("data:"):
        return await asyncio.to_thread(images.load, url)
    if not url.startswith(("http://", "https://")):
        raise BadInput("an image is neither a data URL nor a web address", "send data:image/png;base64,…")
    if fetcher is None:
        raise BadInput("images are not fetched from the web here", "send the image itself, as a data URL")
    return await fetcher.image(url)


def _no_image(url: str) -> Image:
    raise AssertionError("a request with an image has the word in it")


async def _body(request: Request, most_bytes: int) -> bytes:
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > most_bytes:
        raise _too_large(most_bytes)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                data += part
                if len(data) > most_bytes:
                    raise _too_large(most_bytes)
    except TimeoutError as error:
        raise TooSlow(f"the body took longer than {BODY_S:.0f} s") from error
    except ClientDisconnect as error:
        raise ClientGone from error
    return bytes(data)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body is larger than {most / 2**20:.0f} MiB", "send fewer or smaller images")


class Writer(Protocol):
    """How an answer is put on the wire: whole, or event by event."""

    def whole(self, outcome: Outcome, reasoning: str, account: Json) -> Json: ...
    def begin(self) -> list[bytes]: ...
    def reasoning(self, text: str) -> list[bytes]: ...
    def content(self, text: str) -> list[bytes]: ...
    def end(self, outcome: Outcome, account: Json) -> list[bytes]: ...
    def fail(self, error: CuecardError) -> list[bytes]: ...


class Telling:
    """One request being answered, seen, and charged to its client."""

    def __init__(
        self,
        service: Service,
        asked: Asked,
        seen: Observatory,
        client: Client,
        over: Callable[[Asked, Outcome], None],
        failed: Callable[[Asked, Exception, float], None],
    ) -> None:
        self.asked, self.seen, self.client = asked, seen, client
        self._service, self._plan, self._over, self._failed = service, service.plan(asked), over, failed

    async def pieces(self) -> AsyncGenerator[Said | Outcome]:
        """As `Service.listen`, counted."""
        began, first = time.perf_counter(), None
        try:
            async with aclosing(self._service.listen(self.asked, self._plan)) as heard:
                async for item in heard:
                    if isinstance(item, Said):
                        first = time.perf_counter() - began if first is None else first
                    else:
                        self.seen.answered(self.asked.id, self.asked.model, item, first)
                        self.client.spend(account.usage(item)["total_tokens"])
                        self._over(self.asked, item)
                    yield item
        except Exception as error:
            self._failed(self.asked, error, time.perf_counter() - began)
            raise

    def account(self, outcome: Outcome) -> Json:
        """What the client is told of the outcome beside the answer."""
        return account.account(outcome, self._plan.policy.limits, self._service.prices)

    async def whole(self) -> tuple[Outcome, str]:
        """The outcome and the reasoning."""
        reasoning = ""
        async with aclosing(self.pieces()) as heard:
            async for item in heard:
                if isinstance(item, Outcome):
                    return item, reasoning
                reasoning += item.text if item.is_reasoning else ""
        raise AssertionError("a request ended without an outcome")


class Events(Response):
    """A streamed answer: the small model's reasoning as it is written, then the answer."""

    media_type = "text/event-stream"

    def __init__(self, telling: Telling, writer: Writer, ping_s: float) -> None:
        own = {"cache-control": "no-cache", "x-accel-buffering": "no", "x-request-id": telling.asked.id}
        super().__init__(headers=own | telling.client.headers())
        del self.headers["content-length"]
        self._telling, self._writer, self._ping_s = telling, writer, ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await unless_gone(receive, self._speak(send))
        except ClientGone:
            self._telling.seen.left()

    async def _speak(self, send: Send) -> None:
        async for event in pinged(self._events(), self._ping_s):
            await _sent(send, event)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncGenerator[bytes]:
        write = self._writer
        yield b"".join(write.begin())
        try:
            async with aclosing(self._telling.pieces()) as heard:
                async for item in heard:
                    match item:
                        case Said(text, True):
                            events = write.reasoning(text)
                        case Said(text, False):
                            events = write.content(text)
                        case Outcome():
                            events = write.end(item, self._telling.account(item))
                    if events:
                        yield b"".join(events)
        except CuecardError as error:  # nothing can be unsaid: what went wrong is said in the stream
            self._telling.seen.failed(error)
            yield b"".join(write.fail(error))
        except Exception as error:
            log.exception("a streamed request failed")
            self._telling.seen.failed(error)
            yield b"".join(write.fail(CuecardError("the gateway failed")))


async def _sent(send: Send, event: bytes) -> None:
    """A client that does not take what it asked for is as good as gone. Raises ClientGone."""
    try:
        async with asyncio.timeout(SEND_S):
            await send({"type": "http.response.body", "body": event, "more_body": True})
    except TimeoutError as error:
        raise ClientGone from error


class Relay(Response):
    """A streamed answer of one model, passed on as it comes."""

    media_type = "text/event-stream"

    def __init__(
        self,
        passage: Passage,
        lines: AsyncGenerator[str],
        held: AsyncExitStack,
        done: Callable[[], None],
        seen: Observatory,
        own: Mapping[str, str],
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **own})
        del self.headers["content-length"]
        self._passage, self._lines, self._held, self._done, self._seen = passage, lines, held, done, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await unless_gone(receive, self._speak(send))
            except ClientGone:
                self._seen.left()

    async def _speak(self, send: Send) -> None:
        try:
            async with aclosing(self._passage.events(self._lines)) as events:
                async for event in events:
                    await _sent(send, event)
            self._done()
        except CuecardError as error:
            self._seen.failed(error)
            told = chat.sse(chat.problem(error)) + chat.sse("[DONE]")
            await send({"type": "http.response.body", "body": told, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


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


async def _refused(request: Request, error: Exception, seen: Observatory) -> Response:
    assert isinstance(error, CuecardError)
    seen.failed(error)
    told: dict[str, str] = {}
    if error.http_status in (429, 503):
        told["retry-after"] = f"{math.ceil(wait_s(error))}"
    if (client := getattr(request.state, "client", None)) is not None:
        told |= client.headers()
    return JSONResponse(chat.problem(error), error.http_status, headers=told)


def wait_s(error: BaseException | None) -> float:
    """When to try again: as whoever failed in the first place says, else soon."""
    while error is not None:
        if isinstance(error, CuecardError) and error.retry_after_s is not None:
            return error.retry_after_s
        error = error.__cause__
    return 1.0


async def _silent(request: Request, error: Exception, seen: Observatory) -> Response:
    seen.left()
    return Response(status_code=499)  # nobody reads it


async def _http_error(request: Request, error: Exception, message: str, hint: str) -> Response:
    status = getattr(error, "status_code", 404)
    told: Json = chat.problem(BadInput(f"{request.method} {request.url.path}: {message}", hint))
    return JSONResponse(told, status)


async def _broken(request: Request, error: Exception, seen: Observatory) -> Response:
    seen.failed(error)
    return JSONResponse(chat.problem(CuecardError("the gateway failed")), 500)
