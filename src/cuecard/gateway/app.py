"""The HTTP application: routes, errors, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import cuecard
from cuecard.domain.errors import BadInput, BeyondAPair, CuecardError, Unauthorised, Unsupported, WrongForm
from cuecard.gateway import account, chat, names, responses
from cuecard.gateway.account import Json
from cuecard.gateway.audit import Audit
from cuecard.gateway.bodies import Body, Parse, json_of, trace_of, understood, within
from cuecard.gateway.books import Books
from cuecard.gateway.chat import Asked
from cuecard.gateway.config import Images
from cuecard.gateway.door import EXPOSED, Door
from cuecard.gateway.fetch import Fetcher
from cuecard.gateway.guard import ClosesUnread
from cuecard.gateway.journal import Journal
from cuecard.gateway.keys import Client, Gate
from cuecard.gateway.leaving import ClientGone, unless_gone
from cuecard.gateway.observe import Observatory
from cuecard.gateway.passing import Passage, given
from cuecard.gateway.pictures import Pictures
from cuecard.gateway.pool import Pool
from cuecard.gateway.service import Service
from cuecard.gateway.telling import Deciding, Events, Relay, Telling, Writer
from cuecard.models import probe

if TYPE_CHECKING:  # OpenTelemetry need not be there
    from cuecard.gateway.traces import Traces

Handler = Callable[[Request], Awaitable[Response]]
MOST_BYTES, MOST_TEXT = 48 * 2**20, 400_000
PING_S = 10.0
READING = "GET, HEAD"
PROBE_WAIT_S = 2.0
"""How long the start waits for probes, which then go on in the background."""
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
log = logging.getLogger("cuecard.gateway")


def application(
    service: Service,
    *,
    gate: Gate | None = None,
    fetcher: Fetcher | None = None,
    audit: Audit | None = None,
    journal: Journal | None = None,
    traces: Traces | None = None,
    images: Images | None = None,
    most_bytes: int = MOST_BYTES,
    most_text: int = MOST_TEXT,
    ping_s: float = PING_S,
    hosts: Collection[str] | None = None,
    origins: Collection[str] = (),
    tell: Callable[[str], None] | None = None,
) -> Starlette:
    """The gateway as an ASGI application.

    `hosts`: what it is called besides this machine's own names; None: anything where there are keys, else nothing.
    `origins`: sites whose pages may ask. `tell`: where it says what its probes do; None: servers are not probed.
    """
    dashboard = (files("cuecard.gateway") / "dashboard" / "page.html").read_text(encoding="utf-8")
    seen, entrance = Observatory(service.models, service.prices), gate or Gate([], time.monotonic)
    second_look, pictures = audit or Audit(service, 0.0), Pictures(images or Images(), fetcher)
    books = Books(seen, second_look, journal, traces)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        probing = [] if tell is None else await probe.settle(service.served, wait_s=PROBE_WAIT_S, tell=tell)
        yield
        for task in probing:
            task.cancel()
        await asyncio.gather(*probing, return_exceptions=True)
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
        request.state.begun = False  # what ends before it has begun leaves a line in the journal all the same
        return client

    async def meant(body: Body, parse: Parse) -> Asked:
        return await understood(body, within(most_text, parse), pictures)

    def guarded(handler: Handler) -> Handler:
        """A path for those with a key; looking costs nothing of what the key allows."""

        async def admitted(request: Request) -> Response:
            request.state.client = entrance.known(request.headers.get("authorization"))
            return await handler(request)

        return admitted

    def answering(parse: Parse, writer_of: Callable[[Asked], Writer]) -> Handler:
        """A path of the API on which questions are answered."""

        async def answer(request: Request) -> Response:
            client = admit(request)
            body = await json_of(request, most_bytes)
            try:
                asked = await unless_gone(request.receive, meant(body, parse))
            except BeyondAPair:
                if service.pass_to is None or parse is not chat.parse:
                    raise
                return await passed(request, body, client)
            asked = replace(asked, trace=trace_of(request))
            telling, writer = Telling(service, asked, client, books), writer_of(asked)
            request.state.begun = True
            if asked.stream:
                return Events(telling, writer, ping_s)
            outcome, reasoning = await unless_gone(request.receive, telling.whole())
            own = account.headers(asked.id, outcome) | telling.headers(outcome) | client.headers()
            return JSONResponse(writer.whole(outcome, reasoning, telling.account(outcome)), headers=own)

        return answer

    async def passed(request: Request, body: Body, client: Client) -> Response:
        """What is beyond a pair, answered by one model as it comes."""
        assert isinstance(body.said, dict)
        asked = replace(given(body.said), trace=trace_of(request))
        if asked.model not in served():
            raise names.unknown(asked.model, service.concrete)
        role = service.concrete.get(asked.model, service.pass_to or "large")
        if not isinstance(model := service.models[role], Pool):
            raise Unsupported(f"{model.name} runs in this process, where only questions are answered")
        passage = Passage(asked, body.said, role, model.name)
        request.state.begun = True
        async with AsyncExitStack() as held:
            held.enter_context(service.at_work())
            held.enter_context(passage.entered(books, client))
            opening = held.enter_async_context(model.passed(passage.body))
            lines = await unless_gone(request.receive, opening)
            if asked.stream:
                return Relay(passage, lines, held.pop_all(), seen, client.headers())
            answer = await unless_gone(request.receive, passage.whole(lines))
        return JSONResponse(answer, headers=account.headers(asked.id, passage.outcome) | client.headers())

    async def decision(request: Request) -> Response:
        client = admit(request)
        body = await json_of(request, most_bytes)
        asked = await unless_gone(request.receive, meant(body, chat.parse))
        deciding = Deciding(service, asked, client, books)
        request.state.begun = True
        told = await unless_gone(request.receive, deciding.told())
        return JSONResponse(told, headers={"x-request-id": asked.id} | client.headers())

    async def refused(request: Request, error: Exception) -> Response:
        if getattr(request.state, "begun", None) is False:
            books.refused(error)
        return await _refused(request, error, seen)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_listed(name) for name in served()]})

    async def model(request: Request) -> Response:
        if (name := request.path_params["name"].rstrip("/")) not in served():
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

    async def to_page(request: Request) -> Response:
        return RedirectResponse("../dashboard")  # its links are relative

    async def page(request: Request) -> Response:
        return HTMLResponse(dashboard, headers=PAGE_HEADERS)

    called = () if hosts is None and entrance.is_open else hosts
    door = Middleware(Door, hosts=called, origins=origins, refused=seen.failed)
    return Starlette(
        routes=[
            *_paths("/v1/chat/completions", answering(chat.parse, chat.Writer), "POST"),
            *_paths("/v1/responses", answering(responses.parse, responses.Writer), "POST"),
            *_paths("/v1/decision", decision, "POST"),
            *_paths("/v1/models", guarded(models)),
            Route("/v1/models/{name:path}", guarded(model)),
            *_paths("/health", health),
            *_paths("/ready", ready),
            *_paths("/metrics", guarded(metrics)),
            *_paths("/stats", guarded(stats)),
            Route("/dashboard", page),
            Route("/dashboard/", to_page),
            Mount("/dashboard", Pages(packages=[("cuecard.gateway", "dashboard")])),
        ],
        exception_handlers={
            CuecardError: refused,
            ClientGone: partial(_silent, seen=seen),
            404: partial(_http_error, message="there is no such path", hint="the API is under /v1"),
            405: partial(_http_error, message="this path does not take that method", hint="see the documentation"),
            Exception: partial(_broken, seen=seen),
        },
        middleware=[Middleware(ClosesUnread), *(_cors(origins) if origins else ()), door],
        lifespan=lifespan,
    )


class Pages(StaticFiles):
    """The dashboard's own files."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        response = super().file_response(*args, **more)
        response.headers.update(PAGE_HEADERS)
        return response


def _paths(path: str, handler: Handler, method: str = "GET") -> list[Route]:
    """Clients add a slash now and then."""
    return [Route(each, handler, methods=[method]) for each in (path, f"{path}/")]


def _cors(origins: Collection[str]) -> list[Middleware]:
    """Tells browsers that pages of these sites may ask and read."""
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
            allow_private_network=True,
        )
    ]


def _listed(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "cuecard"}


async def _refused(request: Request, error: Exception, seen: Observatory) -> Response:
    assert isinstance(error, CuecardError)
    seen.failed(error)
    told: dict[str, str] = {}
    if error.retryable and error.http_status in (429, 503):
        told["retry-after"] = f"{math.ceil(wait_s(error))}"
    if isinstance(error, WrongForm):
        told["accept-encoding"] = "identity"
    if isinstance(error, Unauthorised):
        told["www-authenticate"] = "Bearer"
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
    told: Json = chat.problem(BadInput(f"{request.method} {request.url.path[:200]}: {message}", hint))
    allowed = {"Allow": READING} if status == 405 else {}  # Starlette says nothing of it for files
    return JSONResponse(told, status, headers=allowed | dict(getattr(error, "headers", None) or {}))


async def _broken(request: Request, error: Exception, seen: Observatory) -> Response:
    seen.failed(error)
    return JSONResponse(chat.problem(CuecardError("the gateway failed")), 500)
