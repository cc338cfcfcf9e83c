"""The HTTP application: routes, errors, and what happens when a client leaves."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
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
from cuecard.domain.errors import BadInput, BeyondAPair, BudgetUsed, CuecardError, Unauthorised, Unsupported, WrongForm
from cuecard.domain.question import Image
from cuecard.gateway.admission.disconnect import ClientGone, unless_gone
from cuecard.gateway.admission.image_fetcher import Fetcher
from cuecard.gateway.admission.keys import Client, Gate
from cuecard.gateway.admission.slow_clients import ClosesUnread
from cuecard.gateway.audit import Audit
from cuecard.gateway.config import virtual_models
from cuecard.gateway.config.settings import Images
from cuecard.gateway.origin_check import EXPOSED, Door
from cuecard.gateway.pairs import Pairs
from cuecard.gateway.passthrough import Passage, given
from cuecard.gateway.reload import Reloader
from cuecard.gateway.streaming import Deciding, Events, Relay, Telling, Writer
from cuecard.gateway.telemetry.accounting import Books
from cuecard.gateway.telemetry.journal import Journal
from cuecard.gateway.telemetry.metrics import Observatory
from cuecard.gateway.upstream.cost_limit import check_passed
from cuecard.gateway.upstream.pool import Pool
from cuecard.gateway.wire import chat, completions, errors, responses, usage
from cuecard.gateway.wire.anthropic import messages
from cuecard.gateway.wire.body import Body, Parse, json_of, trace_of, understood, within
from cuecard.gateway.wire.chat import Asked, max_cost
from cuecard.gateway.wire.images import Pictures
from cuecard.gateway.wire.response_memory import Memory
from cuecard.gateway.wire.usage import Json
from cuecard.models import probe
from cuecard.models.base import Model

if TYPE_CHECKING:  # OpenTelemetry need not be there
    from cuecard.gateway.telemetry.traces import Traces

Handler = Callable[[Request], Awaitable[Response]]
MOST_BYTES, MOST_TEXT = 48 * 2**20, 400_000
PING_S = 10.0
READING = "GET, HEAD"
KEEP_S = 1.0
"""How often it is written down what keys have used."""
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
    pairs: Pairs,
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
    reloader: Reloader | None = None,
) -> Starlette:
    """The gateway as an ASGI application.

    `hosts`: what it is called besides this machine's own names; None: anything where there are keys, else nothing.
    `origins`: sites whose pages may ask. `tell`: where it says what its probes do; None: servers are not probed.
    `reloader`: follows the configuration's file.
    """
    dashboard = (files("cuecard.gateway") / "dashboard" / "page.html").read_text(encoding="utf-8")
    seen, entrance = Observatory(pairs), gate or Gate([], time.monotonic)
    second_look, pictures = audit or Audit(pairs.first, 0.0), Pictures(images or Images(), fetcher)
    books = Books(seen, second_look, journal, traces)
    tasks: set[asyncio.Task[Any]] = set()

    def start(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        tasks.add(task := asyncio.create_task(work))
        task.add_done_callback(tasks.discard)
        return task

    def probed(models: Collection[Model]) -> asyncio.Task[Any] | None:
        """Served models are probed in the background; until that is over, the defaults hold."""
        return None if tell is None else start(probe.settle(models, wait_s=None, tell=tell))

    async def keep_books() -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            await entrance.ledger.keep()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.probing = probed([model for pair in pairs for model in pair.served])
        start(keep_books())
        if reloader is not None:
            start(reloader.follow(seen.reloaded, probed))
        yield
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await second_look.aclose()
        await pairs.aclose()
        await entrance.ledger.keep()
        if fetcher is not None:
            await fetcher.aclose()
        if journal is not None:
            journal.close()
        if traces is not None:
            await asyncio.to_thread(traces.close)

    def known(request: Request) -> Client:
        headers = request.headers
        client = request.state.client = entrance.known(headers.get("authorization"), headers.get("x-api-key"))
        return client

    def admit(request: Request) -> Client:
        client = known(request)
        client.enter()
        request.state.begun = False  # what ends before it has begun leaves a line in the journal all the same
        return client

    async def meant(body: Body, parse: Parse) -> Asked:
        return await understood(body, within(most_text, parse), pictures)

    def guarded(handler: Handler) -> Handler:
        """A path for those with a key; looking costs nothing of what the key allows."""

        async def admitted(request: Request) -> Response:
            known(request)
            return await handler(request)

        return admitted

    def answering(parse: Parse, writer_of: Callable[[Asked], Writer]) -> Handler:
        """A path of the API on which questions are answered."""

        async def answer(request: Request) -> Response:
            client = admit(request)
            body = await json_of(request, most_bytes)
            try:
                return await unless_gone(request.receive, reply(request, body, client))
            except BeyondAPair:
                if parse is not chat.parse or not may_pass(body, client):
                    raise
            return await passed(request, body, client)

        async def reply(request: Request, body: Body, client: Client) -> Response:
            asked = await meant(body, parse)
            if trace := trace_of(request):
                asked = replace(asked, trace=trace)
            with ExitStack() as held:
                service = pairs.of(asked.model, client.key)
                held.enter_context(service.at_work())
                telling, writer = Telling(service, asked, client, books), writer_of(asked)
                request.state.begun = True
                if asked.stream:
                    return Events(telling, writer, ping_s, held.pop_all())
                outcome, reasoning = await telling.whole()
            own = usage.headers(asked.id, outcome) | telling.headers(outcome) | client.headers()
            return JSONResponse(writer.whole(outcome, reasoning, telling.account(outcome)), headers=own)

        return answer

    def may_pass(body: Body, client: Client) -> bool:
        """Whether the pair that is named passes on what it cannot do."""
        assert isinstance(body.said, dict)
        return pairs.of(chat.named(body.said), client.key).pass_to is not None

    async def passed(request: Request, body: Body, client: Client) -> Response:
        """What is beyond a pair, answered by one model as it comes."""
        assert isinstance(body.said, dict)
        own, said = body.said.get("cuecard"), {key: value for key, value in body.said.items() if key != "cuecard"}
        asked = replace(given(said), trace=trace_of(request))
        service = pairs.of(asked.model, client.key)
        role = service.role_of(asked.model) or service.pass_to or "large"
        if (most := service.limited(max_cost(own if isinstance(own, dict) else {}))) is not None:
            check_passed(said, service.prices[role], most)
        if not isinstance(model := service.models[role], Pool):
            raise Unsupported(f"{model.name} runs in this process, where only questions are answered")
        passage = Passage(asked, said, role, model.name)
        request.state.begun = True
        async with AsyncExitStack() as held:
            held.enter_context(service.at_work())
            held.enter_context(passage.entered(books.of(service), client))
            opening = held.enter_async_context(model.passed(passage.body))
            lines = await unless_gone(request.receive, opening)
            if asked.stream:
                return Relay(passage, lines, held.pop_all(), seen, client.headers())
            answer = await unless_gone(request.receive, passage.whole(lines))
        return JSONResponse(answer, headers=usage.headers(asked.id, passage.outcome) | client.headers())

    async def decision(request: Request) -> Response:
        client = admit(request)
        body = await json_of(request, most_bytes)
        asked = await unless_gone(request.receive, meant(body, chat.parse))
        service = pairs.of(asked.model, client.key)
        with service.at_work():
            deciding = Deciding(service, asked, client, books)
            request.state.begun = True
            route = await unless_gone(request.receive, deciding.told())
        return JSONResponse(route, headers=usage.request_id(asked.id) | client.headers())

    async def count_tokens(request: Request) -> Response:
        """An estimate: images are neither fetched nor decoded for it."""
        body = await json_of(request, most_bytes)
        asked = messages.parse_countable(body.said, lambda url: Image(b""))
        pairs.of(asked.model, request.state.client.key).plan(asked)  # raises for an unknown model
        return JSONResponse({"input_tokens": asked.prompt_tokens})

    async def refused(request: Request, error: Exception) -> Response:
        if getattr(request.state, "begun", None) is False:
            books.refused(error)
        return await _refused(request, error, seen)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_listed(name) for name in served(request)]})

    async def model(request: Request) -> Response:
        if (name := request.path_params["name"].rstrip("/")) not in (known := served(request)):
            raise virtual_models.unknown(name, known)
        return JSONResponse(_listed(name))

    def served(request: Request) -> list[str]:
        client: Client = request.state.client
        return pairs.known_as(client.key)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "version": cuecard.__version__})

    async def ready(request: Request) -> Response:
        probing: asyncio.Task[Any] | None = request.app.state.probing
        if probing is not None and not probing.done():
            return JSONResponse({"status": "probing", "down": []}, 503)
        models = {
            role if pair.name == virtual_models.PAIR else f"{pair.name}/{role}": model
            for pair in pairs
            for role, model in pair.models.items()
        }
        pools = {place: model for place, model in models.items() if isinstance(model, Pool)}
        down = [place for place, pool in pools.items() if not pool.up]
        state: Json = {"status": "down" if len(down) == len(models) else "degraded" if down else "ok", "down": down}
        if wrong := {place: pool.wrong_paths for place, pool in pools.items() if pool.wrong_paths}:
            state["wrong_paths"] = wrong
        return JSONResponse(state, 503 if state["status"] == "down" else 200)

    async def metrics(request: Request) -> Response:
        return Response(seen.metrics(second_look.told()), media_type=CONTENT_TYPE_LATEST)

    async def stats(request: Request) -> Response:
        return JSONResponse(seen.stats() | {"audit": second_look.told(), "recent": seen.last(50)})

    async def to_page(request: Request) -> Response:
        return RedirectResponse("../dashboard")  # its links are relative

    async def page(request: Request) -> Response:
        return HTMLResponse(dashboard, headers=PAGE_HEADERS)

    memory = Memory()
    responding = answering(partial(responses.parse, memory=memory), partial(responses.Writer, memory=memory))
    called = () if hosts is None and entrance.is_open else hosts
    door = Middleware(Door, hosts=called, origins=origins, refused=seen.failed)
    return Starlette(
        routes=[
            *_paths("/v1/chat/completions", answering(chat.parse, chat.Writer), "POST"),
            *_paths("/v1/responses", responding, "POST"),
            *_paths("/v1/completions", answering(completions.parse, completions.Writer), "POST"),
            *_paths(errors.MESSAGES, answering(messages.parse, messages.Writer), "POST"),
            *_paths(f"{errors.MESSAGES}/count_tokens", guarded(count_tokens), "POST"),
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
            404: _no_path,
            405: _wrong_method,
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
    if isinstance(error, BudgetUsed):
        told["x-should-retry"] = "false"  # for OpenAI's clients, which would try again soon
    if isinstance(error, WrongForm):
        told["accept-encoding"] = "identity"
    if isinstance(error, Unauthorised):
        told["www-authenticate"] = "Bearer"
    if (client := getattr(request.state, "client", None)) is not None:
        told |= client.headers()
    return errors.response(request.url.path, error, headers=told)


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


async def _no_path(request: Request, error: Exception) -> Response:
    path = request.url.path
    api = [route.path for route in request.app.routes if route.path.startswith("/v1/")]
    near = [each for each in api if path.rstrip("/").endswith(each.removeprefix("/v1"))]  # without /v1, or with two
    hint = f"did you mean {max(near, key=len)}?" if near else "the API is under /v1, the page is /dashboard"
    problem = BadInput(f"{request.method} {path[:200]}: there is no such path", hint)
    return errors.response(path, problem, 404)


async def _wrong_method(request: Request, error: Exception) -> Response:
    headers = {"Allow": READING} | dict(getattr(error, "headers", None) or {})  # Starlette says nothing of it for files
    problem = BadInput(f"{request.method} {request.url.path[:200]}: wrong method", f"use {headers['Allow']}")
    return errors.response(request.url.path, problem, 405, headers)


async def _broken(request: Request, error: Exception, seen: Observatory) -> Response:
    seen.failed(error)
    return errors.response(request.url.path, CuecardError("the gateway failed"))
