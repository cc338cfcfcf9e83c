"""Answers of a pair to a client: planned, charged, and streamed event by event."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cuecard.domain.call import Call
from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import Outcome, call_as_object
from cuecard.gateway.admission.connections import ClientGone, while_connected
from cuecard.gateway.admission.state import Lease
from cuecard.gateway.client_view import ClientView, Kind, OnPiece
from cuecard.gateway.service import RequestPlan, Service
from cuecard.gateway.telemetry.journal import written
from cuecard.gateway.telemetry.metrics import Accounting, GatewayMetrics
from cuecard.gateway.upstream import leased_model
from cuecard.gateway.wire import usage
from cuecard.gateway.wire.chat import ChatWriter
from cuecard.gateway.wire.messages import MessageWriter
from cuecard.gateway.wire.parameters import header
from cuecard.gateway.wire.request import ParsedRequest
from cuecard.gateway.wire.responses import ResponseWriter
from cuecard.gateway.wire.usage import Json, RequestEnd, Unanswered
from cuecard.models.base import Model
from cuecard.strategies.run import answer as run
from cuecard.strategies.run import preview
from cuecard.strategies.team import cancelled

log = logging.getLogger("cuecard.gateway")
AnswerWriter = ChatWriter | MessageWriter | ResponseWriter
END = b""
"""Queued after the last event of a stream."""


class Exchange:
    """One request and its pair: answered or decided, and charged to its client however it ends."""

    def __init__(
        self, service: Service, plan: RequestPlan, parsed: ParsedRequest, lease: Lease, accounting: Accounting
    ) -> None:
        """`lease`: what the request may use of its key's budgets; it is settled when the request ends."""
        self.parsed, self.metrics, self._lease = parsed, accounting.metrics, lease
        self._service, self._plan, self._accounting = service, plan, accounting

    async def answer(self, show: OnPiece) -> Outcome:
        """The outcome as the client sees it; `show` is first called with each piece of the answer.

        Raises what `run.answer` raises, BrokenStream and NoAnswer.
        """
        plan, calls, began = self._plan, list[Call](), time.perf_counter()
        first_shown_s: float | None = None

        def timed(kind: Kind, value: Any) -> None:
            nonlocal first_shown_s
            first_shown_s = time.perf_counter() - began if first_shown_s is None else first_shown_s
            show(kind, value)

        with self._charged(calls, RequestEnd.ANSWERED):
            view = ClientView(self.parsed, plan.strategy, timed, strict=plan.policy.strict)
            models = self._models()
            done = await run(self.parsed.question, models, plan.strategy, plan.policy, view.piece, calls=calls)
            outcome = view.finish(done)
        line = self._accounting.ended(self._service, self.parsed, self._lease, outcome, first_shown_s)
        await written(line)  # a client with the whole answer can rely on the journal
        return outcome

    async def decide(self) -> Json:
        """The route that the request would take, and why. Raises ModelError, BadInput."""
        plan, calls, models = self._plan, list[Call](), self._models()
        with self._charged(calls, RequestEnd.DECIDED):
            route, reason, _ = await preview(self.parsed.question, models, plan.strategy, plan.policy, calls)
        schedule = plan.policy.schedule_of(models)
        decision = {"strategy": plan.strategy, "schedule": schedule, "route": route, "reason": reason}
        return decision | {"calls": [call_as_object(call) for call in calls]}

    def _models(self) -> Mapping[str, Model]:
        """The models, limited to what the request may cost and may reserve."""
        return leased_model.leased(self._service.models_for(self._plan), self._lease, self._service.prices)

    @contextmanager
    def _charged(self, calls: Sequence[Call], end: RequestEnd) -> Iterator[None]:
        """Charge the calls of a request without an outcome. `end`: how it ends if it neither fails nor is cancelled."""
        began, error = time.perf_counter(), None
        try:
            yield
        except Exception as failure:
            error, end = failure, RequestEnd.FAILED
            raise
        except BaseException:
            end = RequestEnd.LEFT
            raise
        finally:
            if end is not RequestEnd.ANSWERED:
                ended = Unanswered(end, self._plan.strategy, tuple(calls), time.perf_counter() - began, error)
                self._accounting.ended(self._service, self.parsed, self._lease, ended)

    def account(self, outcome: Outcome) -> Json:
        """The `cuecard` object of the answer."""
        account = usage.account(outcome, self._plan.policy.limits, self._service.prices)
        if self._plan.max_cost is not None:
            account["limits"]["max_cost"] = self._plan.max_cost
        return account | {"pair": self._service.name}

    def headers(self, outcome: Outcome | None = None) -> dict[str, str]:
        """The header that lists parameters without effect; with an outcome, also `logprobs` if it has none."""
        lost = self.parsed.parameters.logprobs and outcome is not None and not outcome.tokens
        return header(tuple(dict.fromkeys((*self._plan.ignored, *(("logprobs",) if lost else ())))))


class ClientStream(Response):
    """Server-sent events, which end when their client disconnects."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes], headers: Mapping[str, str], metrics: GatewayMetrics, held: AsyncExitStack
    ) -> None:
        """`held` is closed when the stream ends."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._events, self._metrics, self._held = events, metrics, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async with while_connected(receive):
                    await self._send(send)
            except ClientGone:
                self._metrics.left()

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def streamed(exchange: Exchange, writer: AnswerWriter, ping_s: float) -> AsyncGenerator[bytes]:
    """A streamed answer of a pair: the small model's reasoning as it is written, then the answer.

    `ping_s`: seconds without an event until a ping is sent.
    """
    events = asyncio.Queue[bytes]()
    working = asyncio.create_task(_write(exchange, writer, lambda written: events.put_nowait(b"".join(written))))
    try:
        while True:
            try:
                async with asyncio.timeout(ping_s):
                    ready = [await events.get()]
            except TimeoutError:
                ready = [writer.ping]
            while not events.empty():
                ready.append(events.get_nowait())
            yield b"".join(ready)
            if END in ready:
                break
    finally:
        await cancelled(working)


async def _write(exchange: Exchange, writer: AnswerWriter, put: Callable[[Sequence[bytes]], None]) -> None:
    """Write every event; `put` gets END at the end."""

    def show(kind: Kind, value: Any) -> None:
        if written := getattr(writer, kind)(value):
            put(written)

    try:
        if opening := writer.begin():
            put(opening)
        outcome = await exchange.answer(show)
        put(writer.end(outcome, exchange.account(outcome)))
    except Exception as error:  # the status is already sent: the error is an event
        if not isinstance(error, CuecardError):
            log.exception("a streamed request failed")
        exchange.metrics.failed(error)
        put(writer.fail(error if isinstance(error, CuecardError) else CuecardError("the gateway failed")))
    finally:
        put([END])
