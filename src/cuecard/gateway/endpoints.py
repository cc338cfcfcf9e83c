"""Endpoints on which a pair works: answers in each wire format, route decisions, estimates of prompt tokens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cuecard.domain.errors import BeyondAPair, Unsupported
from cuecard.domain.question import Image
from cuecard.gateway.admission.connections import unless_gone
from cuecard.gateway.admission.keys import ApiClient, Gate
from cuecard.gateway.client_view import VisibleCalls, VisibleText
from cuecard.gateway.pairs import Pairs
from cuecard.gateway.passthrough import PassedExchange, PassedStream, given
from cuecard.gateway.streaming import AnswerWriter, Exchange, StreamedAnswer
from cuecard.gateway.telemetry.accounting import Accounting
from cuecard.gateway.upstream.cost_limit import check_passed
from cuecard.gateway.upstream.pool import Pool
from cuecard.gateway.wire import chat, messages, usage
from cuecard.gateway.wire.body import Parse, RequestBody, json_of, trace_of, understood, within
from cuecard.gateway.wire.chat import ParsedRequest
from cuecard.gateway.wire.images import ImageLoader


@dataclass(frozen=True)
class WireFormat:
    """How one API reads requests and writes answers."""

    parse: Parse
    writer: Callable[[ParsedRequest], AnswerWriter]
    can_pass: bool = False
    """Whether a request that a pair cannot answer may be passed to one model as it came."""


CHAT = WireFormat(chat.parse, chat.ChatWriter, can_pass=True)


@dataclass(frozen=True)
class RequestLimits:
    """What a request may bring, and how often its stream shows life."""

    most_bytes: int = 48 * 2**20
    """Of the body."""
    most_text: int = 400_000
    """Characters of all texts."""
    ping_s: float = 10.0
    """Seconds without an event until a ping is sent."""


class Endpoints:
    """The handlers of these routes. All raise CuecardError, and ClientGone when the client leaves first."""

    def __init__(
        self, pairs: Pairs, gate: Gate, accounting: Accounting, images: ImageLoader, limits: RequestLimits
    ) -> None:
        self._pairs, self._gate, self._accounting = pairs, gate, accounting
        self._images, self._limits = images, limits

    def authenticate(self, request: Request) -> ApiClient:
        """The client whose key the request has; costs nothing of what the key allows. Raises Unauthorised."""
        headers = request.headers
        client = request.state.client = self._gate.known(headers.get("authorization"), headers.get("x-api-key"))
        return client

    def _admit(self, request: Request) -> ApiClient:
        client = self.authenticate(request)
        client.enter()
        request.state.begun = False  # a request that ends before it begins leaves a line in the journal, too
        return client

    async def _parsed(self, body: RequestBody, parse: Parse) -> ParsedRequest:
        return await understood(body, within(self._limits.most_text, parse), self._images)

    async def answer(self, wire: WireFormat, request: Request) -> Response:
        """Answer a question: by a pair, or by one model where the pair passes on what it cannot do."""
        client = self._admit(request)
        body = await json_of(request, self._limits.most_bytes)
        try:
            return await unless_gone(request.receive, self._by_pair(wire, request, body, client))
        except BeyondAPair:
            if not wire.can_pass or self._pairs.of(chat.named(body.object), client.key).defaults.pass_to is None:
                raise
        return await self._by_one_model(request, body, client)

    async def _by_pair(self, wire: WireFormat, request: Request, body: RequestBody, client: ApiClient) -> Response:
        parsed = await self._parsed(body, wire.parse)
        if trace := trace_of(request):
            parsed = replace(parsed, trace=trace)
        async with AsyncExitStack() as held:
            service = self._pairs.of(parsed.model, client.key)
            held.enter_context(service.at_work())
            exchange, writer = Exchange(service, parsed, client, self._accounting), wire.writer(parsed)
            request.state.begun = True
            if parsed.stream:
                return StreamedAnswer(exchange, writer, self._limits.ping_s, held.pop_all())
            pieces: list[VisibleText | VisibleCalls] = []
            outcome = await exchange.answer(pieces.append)
        reasoning = "".join(piece.text for piece in pieces if isinstance(piece, VisibleText) and piece.is_reasoning)
        headers = usage.headers(parsed.id, outcome) | exchange.headers(outcome) | client.headers()
        return JSONResponse(writer.whole(outcome, reasoning, exchange.account(outcome)), headers=headers)

    async def _by_one_model(self, request: Request, body: RequestBody, client: ApiClient) -> Response:
        """Pass the request to one model, without the `cuecard` object."""
        own, passed = body.object.get("cuecard"), {key: body.object[key] for key in body.object if key != "cuecard"}
        info = replace(given(passed), trace=trace_of(request))
        service = self._pairs.of(info.model, client.key)
        role = service.role_of(info.model) or service.defaults.pass_to or "large"
        if (most := service.limited(chat.max_cost(own if isinstance(own, dict) else {}))) is not None:
            check_passed(passed, service.prices[role], most)
        if not isinstance(model := service.models[role], Pool):
            raise Unsupported(f"{model.name} runs in this process, where only questions are answered")
        exchange = PassedExchange(info, passed, role, model.name)
        request.state.begun = True
        async with AsyncExitStack() as held:
            held.enter_context(service.at_work())
            held.enter_context(exchange.entered(self._accounting.of(service), client))
            opening = held.enter_async_context(model.passed(exchange.body))
            events = await unless_gone(request.receive, opening)
            if info.stream:
                return PassedStream(exchange, events, self._accounting.metrics, client.headers(), held.pop_all())
            answer = await unless_gone(request.receive, exchange.whole(events))
        return JSONResponse(answer, headers=usage.headers(info.id, exchange.outcome) | client.headers())

    async def decision(self, request: Request) -> Response:
        """The route that a chat completion would take, without the expensive calls."""
        client = self._admit(request)
        body = await json_of(request, self._limits.most_bytes)
        parsed = await unless_gone(request.receive, self._parsed(body, chat.parse))
        service = self._pairs.of(parsed.model, client.key)
        with service.at_work():
            exchange = Exchange(service, parsed, client, self._accounting)
            request.state.begun = True
            route = await unless_gone(request.receive, exchange.decide())
        return JSONResponse(route, headers=usage.request_id(parsed.id) | client.headers())

    async def count_tokens(self, request: Request) -> Response:
        """An estimate of a message's prompt tokens: its images are neither fetched nor decoded."""
        client = self.authenticate(request)
        body = await json_of(request, self._limits.most_bytes)
        parsed = messages.parse_countable(body.value, lambda url: Image(b""))
        self._pairs.of(parsed.model, client.key).plan(parsed)  # raises for an unknown model
        return JSONResponse({"input_tokens": parsed.prompt_tokens})
