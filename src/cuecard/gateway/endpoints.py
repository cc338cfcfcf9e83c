"""The handlers of all routes (answers in each wire format, route decisions, the gateway's status), and of errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import cuecard
from cuecard.domain.errors import BadInput, BeyondAPair, BudgetUsed, CuecardError, Unauthorised, Unsupported, WrongForm
from cuecard.domain.question import Image
from cuecard.gateway.admission.connections import while_connected
from cuecard.gateway.admission.limits import ApiClient, Gate
from cuecard.gateway.config import PAIR, GatewaySettings, unknown_model
from cuecard.gateway.pairs import Pairs
from cuecard.gateway.passthrough import PassedExchange, given
from cuecard.gateway.records import Accounting
from cuecard.gateway.spending import check_passed, estimate, passed_estimate
from cuecard.gateway.streaming import AnswerWriter, ClientStream, Exchange, streamed
from cuecard.gateway.wire import chat, messages
from cuecard.gateway.wire.body import ImageLoader, Parse, json_of, understood
from cuecard.gateway.wire.parameters import Json
from cuecard.gateway.wire.request import ParsedRequest, max_cost, named, parse
from cuecard.models.pool import Pool


@dataclass(frozen=True)
class WireFormat:
    """How one API reads requests and writes answers."""

    parse: Parse
    writer: Callable[[ParsedRequest], AnswerWriter]
    can_pass: bool = False
    """Whether a request that a pair cannot answer may be passed to one model unchanged."""


MESSAGES = "/v1/messages"
READING = "GET, HEAD"
MOST_WAIT_S = 86_400.0
"""Longest `Retry-After`: a server may send a date that is years ahead."""
CHAT = WireFormat(parse, chat.ChatWriter, can_pass=True)


class Endpoints:
    """The handlers. All raise CuecardError, and ClientGone when the client leaves first."""

    def __init__(
        self, pairs: Pairs, gate: Gate, accounting: Accounting, images: ImageLoader, settings: GatewaySettings
    ) -> None:
        self._pairs, self._gate, self._accounting = pairs, gate, accounting
        self._images, self._settings = images, settings

    def _authenticate(self, request: Request) -> ApiClient:
        """The client of the request's key; does not count towards the key's limits. Raises Unauthorised."""
        headers = request.headers
        client = request.state.client = self._gate.known(headers.get("authorization"), headers.get("x-api-key"))
        return client

    async def _admit(self, request: Request) -> ApiClient:
        client = self._authenticate(request)
        await client.enter()
        request.state.begun = False  # a request that is refused before it begins also gets a line in the journal
        return client

    async def _body(self, request: Request) -> Any:
        return await json_of(request, self._settings.most_body_mib * 2**20)

    async def _parsed(self, body: Any, parse: Parse) -> ParsedRequest:
        return await understood(body, parse, self._images, self._settings.most_text)

    async def answer(self, wire: WireFormat, request: Request) -> Response:
        """Answer a question: by a pair, or by one model if the pair cannot and has `pass_to`."""
        client = await self._admit(request)
        body = await self._body(request)
        try:
            async with while_connected(request.receive):
                return await self._by_pair(wire, request, body, client)
        except BeyondAPair:
            if not wire.can_pass or self._pairs.of(named(body), client.key).settings.pass_to is None:
                raise
        return await self._by_one_model(request, body, client)

    async def _by_pair(self, wire: WireFormat, request: Request, body: Any, client: ApiClient) -> Response:
        parsed = await self._parsed(body, wire.parse)
        if trace := _trace(request):
            parsed = replace(parsed, trace=trace)
        async with AsyncExitStack() as held:
            exchange, writer = await self._begun(request, parsed, client, held), wire.writer(parsed)
            if parsed.stream:
                events, metrics = streamed(exchange, writer, self._settings.ping_s), self._accounting.metrics
                headers = chat.request_id(parsed.id) | exchange.headers() | client.headers()
                return ClientStream(events, headers, metrics, held.pop_all())
            pieces: list[tuple[str, Any]] = []
            outcome = await exchange.answer(lambda kind, value: pieces.append((kind, value)))
        reasoning = "".join(value for kind, value in pieces if kind == "reasoning")
        headers = chat.headers(parsed.id, outcome) | exchange.headers(outcome) | client.headers()
        return JSONResponse(writer.whole(outcome, reasoning, exchange.account(outcome)), headers=headers)

    async def _begun(
        self, request: Request, parsed: ParsedRequest, client: ApiClient, held: AsyncExitStack
    ) -> Exchange:
        """The request at its pair: planned, and its estimated use reserved until `held` is closed.

        Raises BadInput, UnknownModel, PairForbidden, BudgetUsed, BudgetReserved, StateUnavailable.
        """
        service = self._pairs.of(parsed.model, client.key)
        held.enter_context(service.at_work())
        plan = service.plan(parsed)
        limits = plan.policy.limits
        answer_tokens = limits.of_answer(parsed.question.kind)
        estimated = estimate(parsed.prompt_tokens, limits, answer_tokens, service.prices)
        lease = held.enter_context(await client.reserve(estimated))
        request.state.begun = True
        return Exchange(service, plan, parsed, lease, self._accounting)

    async def _by_one_model(self, request: Request, body: Any, client: ApiClient) -> Response:
        """Pass the request to one model, without the `cuecard` object."""
        own, passed = body.get("cuecard"), {key: body[key] for key in body if key != "cuecard"}
        info = replace(given(passed), trace=_trace(request))
        service = self._pairs.of(info.model, client.key)
        role = service.role_of(info.model) or service.settings.pass_to or "large"
        if (most := service.limited(max_cost(own if isinstance(own, dict) else {}))) is not None:
            check_passed(passed, service.prices[role], most)
        if not isinstance(model := service.models[role], Pool):
            raise Unsupported(f"{model.name} runs in this process, where only questions are answered")
        exchange = PassedExchange(info, passed, role, model.name)
        async with AsyncExitStack() as held:
            held.enter_context(service.at_work())
            lease = held.enter_context(await client.reserve(passed_estimate(passed, service.prices.get(role))))
            request.state.begun = True
            held.enter_context(exchange.accounted(self._accounting, service, lease))
            async with while_connected(request.receive):
                events = await held.enter_async_context(model.passed(exchange.body))
            if info.stream:
                metrics = self._accounting.metrics
                return ClientStream(exchange.events(events, metrics), client.headers(), metrics, held.pop_all())
            async with while_connected(request.receive):
                answer = await exchange.whole(events)
        return JSONResponse(answer, headers=chat.headers(info.id, exchange.outcome) | client.headers())

    async def decision(self, request: Request) -> Response:
        """The route that a chat completion would take, without the expensive calls."""
        client = await self._admit(request)
        body = await self._body(request)
        async with while_connected(request.receive):
            parsed = await self._parsed(body, parse)
        async with AsyncExitStack() as held:
            exchange = await self._begun(request, parsed, client, held)
            async with while_connected(request.receive):
                route = await exchange.decide()
        return JSONResponse(route, headers=chat.request_id(parsed.id) | client.headers())

    async def count_tokens(self, request: Request) -> Response:
        """An estimate of a message's prompt tokens: its images are neither fetched nor decoded."""
        client = self._authenticate(request)
        parsed = messages.parse_countable(await self._body(request), lambda url: Image(b""))
        self._pairs.of(parsed.model, client.key).plan(parsed)  # raises for an unknown model
        return JSONResponse({"input_tokens": parsed.prompt_tokens})

    # --- status -------------------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        """The model names that the client may request."""
        names = self._pairs.known_as(self._authenticate(request).key)
        return JSONResponse({"object": "list", "data": [_listed(name) for name in names]})

    async def model(self, request: Request) -> Response:
        names = self._pairs.known_as(self._authenticate(request).key)
        if (name := request.path_params["name"].rstrip("/")) not in names:
            raise unknown_model(name, names)
        return JSONResponse(_listed(name))

    async def health(self, request: Request) -> Response:
        """Whether the gateway runs; needs no key, like `ready`."""
        return JSONResponse({"status": "ok", "version": cuecard.__version__})

    async def ready(self, request: Request) -> Response:
        """Whether models are still being probed, and what is down: 503 unless requests can be answered."""
        probing: asyncio.Task[Any] | None = request.app.state.probing
        if probing is not None and not probing.done():
            return JSONResponse({"status": "probing", "down": []}, 503)
        models = {
            role if pair.name == PAIR else f"{pair.name}/{role}": model
            for pair in self._pairs
            for role, model in pair.models.items()
        }
        pools = {place: model for place, model in models.items() if isinstance(model, Pool)}
        down = [place for place, pool in pools.items() if not pool.up]
        state: Json = {"status": "down" if len(down) == len(models) else "degraded" if down else "ok", "down": down}
        if wrong := {place: pool.wrong_paths for place, pool in pools.items() if pool.wrong_paths}:
            state["wrong_paths"] = wrong
        if (shared := self._gate.state.as_dict()) is not None:
            state["state"] = "ok" if shared["up"] else "down"
            if not shared["up"] and state["status"] != "down":
                state["status"] = "degraded" if shared["on_failure"] == "allow" else "down"
        return JSONResponse(state, 503 if state["status"] == "down" else 200)

    async def metrics(self, request: Request) -> Response:
        self._authenticate(request)
        text = self._accounting.metrics.exposition(self._accounting.audit.as_dict(), self._gate.state.as_dict())
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def stats(self, request: Request) -> Response:
        self._authenticate(request)
        metrics = self._accounting.metrics
        more = {"audit": self._accounting.audit.as_dict(), "state": self._gate.state.as_dict()}
        return JSONResponse(metrics.stats() | more | {"recent": metrics.last(50)})


def _listed(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "cuecard"}


def _trace(request: Request) -> Json:
    """The request's W3C trace context headers."""
    return {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}


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
        return JSONResponse(body, status, headers=own | chat.request_id(body["request_id"]))
    return JSONResponse(chat.problem(error), status, headers=own)


def _wait_s(error: BaseException | None) -> float:
    """Seconds until the client may retry: `retry_after_s` of the error or its nearest cause, at most a day; else 1."""
    while error is not None:
        if isinstance(error, CuecardError) and error.retry_after_s is not None:
            return min(error.retry_after_s, MOST_WAIT_S)
        error = error.__cause__
    return 1.0


async def no_path(request: Request, error: Exception) -> Response:
    path = request.url.path
    api = [route.path for route in request.app.routes if route.path.startswith("/v1/")]
    near = [each for each in api if path.rstrip("/").endswith(each.removeprefix("/v1"))]  # without /v1, or with two
    hint = f"did you mean {max(near, key=len)}?" if near else "the API is under /v1, the page is /dashboard"
    problem = BadInput(f"{request.method} {path[:200]}: there is no such path", hint)
    return _response(path, problem, 404)


async def wrong_method(request: Request, error: Exception) -> Response:
    headers = {"Allow": READING} | dict(getattr(error, "headers", None) or {})  # Starlette sets none for files
    problem = BadInput(f"{request.method} {request.url.path[:200]}: wrong method", f"use {headers['Allow']}")
    return _response(request.url.path, problem, 405, headers)
