"""The gateway as an ASGI application: its routes, its lifecycle, and the responses to errors.

The path of a chat completion from its route to a model's server, a function call a line:

    endpoints.Endpoints.answer            admit the client, read the body
    → admission.connections.while_connected   a context: cancels the work when the client leaves
    → endpoints.Endpoints._by_pair        parse the request, choose the pair; a stream begins here
    → streaming.Exchange.answer           plan, charge and account
    → strategies.run.answer               run the strategy, rescue what can be rescued
    → strategies.paper.short              or another strategy
    → strategies.team.Player.short
    → strategies.team.Player._call        time and record the call
    → upstream.pool.Pool.stream           choose a replica, retry; under `max_cost`, charge the call to its budget

A streamed answer takes the same path from `Exchange.answer` on, in a task of `streaming.streamed`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from cuecard.domain.errors import BadInput, BudgetUsed, CuecardError, Unauthorised, WrongForm
from cuecard.gateway.admission.connections import EXPOSED, ClientGone, CloseUnread, OriginCheck
from cuecard.gateway.admission.gate import Gate
from cuecard.gateway.audit import Audit
from cuecard.gateway.config.config import AuditSettings, GatewaySettings, ImageSettings
from cuecard.gateway.endpoints import CHAT, Endpoints, WireFormat
from cuecard.gateway.pairs import Pairs, Reloader
from cuecard.gateway.telemetry.journal import Journal
from cuecard.gateway.telemetry.metrics import Accounting, GatewayMetrics
from cuecard.gateway.wire import chat, messages, responses, usage
from cuecard.gateway.wire.images import ImageLoader
from cuecard.models import probe
from cuecard.models.base import Model
from cuecard.models.images.fetcher import Fetcher

if TYPE_CHECKING:  # OpenTelemetry is optional
    from cuecard.gateway.telemetry.traces import Traces

Handler = Callable[[Request], Awaitable[Response]]
MESSAGES = "/v1/messages"
READING = "GET, HEAD"
MOST_WAIT_S = 86_400.0
"""Longest `Retry-After`: a server may send a date that is years ahead."""
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


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """The parts of an application besides its pairs."""

    gate: Gate | None = None
    """None: no key is needed."""
    fetcher: Fetcher | None = None
    """None: images are not fetched from the web."""
    audit: Audit | None = None
    journal: Journal | None = None
    traces: Traces | None = None
    server: GatewaySettings = field(default_factory=GatewaySettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    hosts: Collection[str] | None = None
    """Accepted host names besides this machine's own; None: any if there are keys, else no others."""
    tell: Callable[[str], None] | None = None
    """Called with lines about probes; None: servers are not probed."""
    reloader: Reloader | None = None
    """Applies changes of the configuration file."""


def application(pairs: Pairs, settings: AppSettings | None = None) -> Starlette:
    """The gateway as an ASGI application."""
    settings = settings or AppSettings()
    gate, audit = settings.gate or Gate([]), settings.audit or Audit(pairs.first, AuditSettings())
    accounting = Accounting(GatewayMetrics(pairs), audit, settings.journal, settings.traces)
    images = ImageLoader(settings.images, settings.fetcher)
    errors, origins = ErrorHandlers(accounting), settings.server.origins
    hosts = () if settings.hosts is None and gate.is_open else settings.hosts
    cors = Middleware(  # pages of these sites may send requests, and read responses
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
        allow_private_network=True,
    )
    check = Middleware(OriginCheck, hosts=hosts, origins=origins, refuse=errors.forbidden)
    return Starlette(
        routes=_routes(Endpoints(pairs, gate, accounting, images, settings.server)),
        exception_handlers={
            CuecardError: errors.refused,
            ClientGone: errors.client_gone,
            404: _no_path,
            405: _wrong_method,
            Exception: errors.broken,
        },
        middleware=[Middleware(CloseUnread), *([cors] if origins else ()), check],
        lifespan=Lifecycle(pairs, gate, accounting, settings),
    )


def _routes(endpoints: Endpoints) -> list[BaseRoute]:
    memory = responses.ItemMemory()
    response = WireFormat(partial(responses.parse, memory=memory), partial(responses.ResponseWriter, memory=memory))
    completion = WireFormat(chat.parse_completion, chat.CompletionWriter)
    message = WireFormat(messages.parse, messages.MessageWriter)
    return [
        *_paths("/v1/chat/completions", partial(endpoints.answer, CHAT), "POST"),
        *_paths("/v1/responses", partial(endpoints.answer, response), "POST"),
        *_paths("/v1/completions", partial(endpoints.answer, completion), "POST"),
        *_paths(MESSAGES, partial(endpoints.answer, message), "POST"),
        *_paths(f"{MESSAGES}/count_tokens", endpoints.count_tokens, "POST"),
        *_paths("/v1/decision", endpoints.decision, "POST"),
        *_paths("/v1/models", endpoints.models),
        Route("/v1/models/{name:path}", endpoints.model),
        *_paths("/health", endpoints.health),
        *_paths("/ready", endpoints.ready),
        *_paths("/metrics", endpoints.metrics),
        *_paths("/stats", endpoints.stats),
        *_dashboard(),
    ]


def _paths(path: str, handler: Handler, method: str = "GET") -> list[Route]:
    """Routes of a path with and without a slash at its end, as clients send both."""
    return [Route(each, handler, methods=[method]) for each in (path, f"{path}/")]


class DashboardFiles(StaticFiles):
    """The dashboard's own files."""

    def file_response(self, *args: Any, **more: Any) -> Response:
        response = super().file_response(*args, **more)
        response.headers.update(PAGE_HEADERS)
        return response


def _dashboard() -> list[BaseRoute]:
    html = (files("cuecard.gateway") / "dashboard" / "page.html").read_text(encoding="utf-8")

    async def page(request: Request) -> Response:
        return HTMLResponse(html, headers=PAGE_HEADERS)

    async def to_page(request: Request) -> Response:
        return RedirectResponse("../dashboard")  # its links are relative

    own = Mount("/dashboard", DashboardFiles(packages=[("cuecard.gateway", "dashboard")]))
    return [Route("/dashboard", page), Route("/dashboard/", to_page), own]


class Lifecycle:
    """Runs the application's background tasks, and closes all of its resources at the end."""

    def __init__(self, pairs: Pairs, gate: Gate, accounting: Accounting, settings: AppSettings) -> None:
        self._pairs, self._state, self._accounting, self._settings = pairs, gate.state, accounting, settings
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def __call__(self, app: Starlette) -> AsyncIterator[None]:
        app.state.probing = self._probe([model for pair in self._pairs for model in pair.served])
        self._start(self._state.run())
        if (reloader := self._settings.reloader) is not None:
            self._start(reloader.follow(self._accounting.metrics.reloaded, self._probe))
        yield
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self._tasks.add(task := asyncio.create_task(work))
        task.add_done_callback(self._tasks.discard)
        return task

    def _probe(self, models: Collection[Model]) -> asyncio.Task[Any] | None:
        """Probe served models in the background; until then, the defaults apply."""
        tell = self._settings.tell
        return None if tell is None else self._start(probe.settle(models, wait_s=None, tell=tell))

    async def _close(self) -> None:
        settings = self._settings
        await self._accounting.audit.aclose()
        await self._pairs.aclose()
        await self._state.aclose()
        if settings.fetcher is not None:
            await settings.fetcher.aclose()
        if settings.journal is not None:
            settings.journal.close()
        if settings.traces is not None:
            await asyncio.to_thread(settings.traces.close)


# --- errors -----------------------------------------------------------------------------------------------------------


class ErrorHandlers:
    """Count errors, and turn them into responses."""

    def __init__(self, accounting: Accounting) -> None:
        self._accounting, self._metrics = accounting, accounting.metrics

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, CuecardError)
        if getattr(request.state, "begun", None) is False:
            self._accounting.refused(error)
        self._metrics.failed(error)
        headers: dict[str, str] = {}
        if error.retryable and error.http_status in (429, 503):
            headers["retry-after"] = f"{math.ceil(_wait_s(error))}"
        if isinstance(error, BudgetUsed):
            headers["x-should-retry"] = "false"  # for OpenAI's clients, which would try again soon
        if isinstance(error, WrongForm):
            headers["accept-encoding"] = "identity"
        if isinstance(error, Unauthorised):
            headers["www-authenticate"] = "Bearer"
        if (client := getattr(request.state, "client", None)) is not None:
            headers |= client.headers()
        return _response(request.url.path, error, headers=headers)

    async def client_gone(self, request: Request, error: Exception) -> Response:
        self._metrics.left()
        return Response(status_code=499)  # never received

    async def broken(self, request: Request, error: Exception) -> Response:
        self._metrics.failed(error)
        return _response(request.url.path, CuecardError("the gateway failed"))

    def forbidden(self, path: str, error: CuecardError) -> Response:
        """The response to a request that the origin check refuses."""
        self._metrics.failed(error)
        return _response(path, error)


def _response(
    path: str, error: CuecardError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error in the format of the path's API. `status`: if it is not the error's own."""
    status, own = status or error.http_status, dict(headers or {})
    if path == MESSAGES or path.startswith(f"{MESSAGES}/"):
        body = messages.problem(error, status)
        return JSONResponse(body, status, headers=own | usage.request_id(body["request_id"]))
    return JSONResponse(chat.problem(error), status, headers=own)


def _wait_s(error: BaseException | None) -> float:
    """Seconds until the client may retry: `retry_after_s` of the error or its nearest cause, at most a day; else 1."""
    while error is not None:
        if isinstance(error, CuecardError) and error.retry_after_s is not None:
            return min(error.retry_after_s, MOST_WAIT_S)
        error = error.__cause__
    return 1.0


async def _no_path(request: Request, error: Exception) -> Response:
    path = request.url.path
    api = [route.path for route in request.app.routes if route.path.startswith("/v1/")]
    near = [each for each in api if path.rstrip("/").endswith(each.removeprefix("/v1"))]  # without /v1, or with two
    hint = f"did you mean {max(near, key=len)}?" if near else "the API is under /v1, the page is /dashboard"
    problem = BadInput(f"{request.method} {path[:200]}: there is no such path", hint)
    return _response(path, problem, 404)


async def _wrong_method(request: Request, error: Exception) -> Response:
    headers = {"Allow": READING} | dict(getattr(error, "headers", None) or {})  # Starlette sets none for files
    problem = BadInput(f"{request.method} {request.url.path[:200]}: wrong method", f"use {headers['Allow']}")
    return _response(request.url.path, problem, 405, headers)
