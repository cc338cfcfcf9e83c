"""Answers of a pair on their way to a client: planned, charged, and streamed event by event."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cuecard.domain.call import Call
from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import Outcome
from cuecard.domain.serialization import call_as_object
from cuecard.gateway.admission.connections import ClientGone, unless_gone
from cuecard.gateway.admission.keys import ApiClient
from cuecard.gateway.client_view import ClientView, OnPiece, VisibleCalls, VisibleText
from cuecard.gateway.service import Service
from cuecard.gateway.telemetry.accounting import Accounting
from cuecard.gateway.telemetry.metrics import GatewayMetrics
from cuecard.gateway.wire import usage
from cuecard.gateway.wire.chat import ParsedRequest
from cuecard.gateway.wire.parameters.table import header
from cuecard.gateway.wire.tools.tools import ToolCall
from cuecard.gateway.wire.usage import Json, RequestEnd, Unanswered
from cuecard.strategies.run import answer as run
from cuecard.strategies.run import preview
from cuecard.strategies.team import cancelled

log = logging.getLogger("cuecard.gateway")
END = b""
"""Behind the last event of a stream."""


class AnswerWriter(Protocol):
    """Writes an answer in a wire format: whole, or event by event."""

    ping: bytes
    """What is sent when nothing has come for a while."""

    def whole(self, outcome: Outcome, reasoning: str, account: Json) -> Json: ...
    def begin(self) -> list[bytes]: ...
    def reasoning(self, text: str) -> list[bytes]: ...
    def content(self, text: str) -> list[bytes]: ...
    def calls(self, calls: Sequence[ToolCall]) -> list[bytes]: ...
    def end(self, outcome: Outcome, account: Json) -> list[bytes]: ...
    def fail(self, error: CuecardError) -> list[bytes]: ...


class Exchange:
    """One request and its pair: answered or decided, and charged to its client however it ends."""

    def __init__(self, service: Service, parsed: ParsedRequest, client: ApiClient, accounting: Accounting) -> None:
        """Raises BadInput, UnknownModel for a request that cannot be planned."""
        self.parsed, self.client, self.metrics = parsed, client, accounting.metrics
        self._service, self._plan, self._accounting = service, service.plan(parsed), accounting.of(service)

    async def answer(self, show: OnPiece) -> Outcome:
        """The outcome as the client sees it; `show` gets each piece of its answer before.

        Raises what `run.answer` raises, BrokenStream and NoAnswer.
        """
        plan, calls, began = self._plan, list[Call](), time.perf_counter()
        first_shown_s: float | None = None

        def timed(piece: VisibleText | VisibleCalls) -> None:
            nonlocal first_shown_s
            first_shown_s = time.perf_counter() - began if first_shown_s is None else first_shown_s
            show(piece)

        with self._charged(calls, RequestEnd.ANSWERED):
            view = ClientView(self.parsed, plan.strategy, timed, strict=plan.policy.strict)
            models = self._service.models_for(plan)
            done = await run(self.parsed.question, models, plan.strategy, plan.policy, view.piece, calls=calls)
            outcome = view.finish(done)
        self._accounting.answered(self.parsed, self.client, outcome, first_shown_s)
        return outcome

    async def decide(self) -> Json:
        """The route that the request would take, and why. Raises ModelError, BadInput."""
        plan, calls, models = self._plan, list[Call](), self._service.models_for(self._plan)
        with self._charged(calls, RequestEnd.DECIDED):
            route, reason, _ = await preview(self.parsed.question, models, plan.strategy, plan.policy, calls)
        schedule = plan.policy.schedule_of(models)
        decision = {"strategy": plan.strategy, "schedule": schedule, "route": route, "reason": reason}
        return decision | {"calls": [call_as_object(call) for call in calls]}

    @contextmanager
    def _charged(self, calls: Sequence[Call], end: RequestEnd) -> Iterator[None]:
        """Charge calls that end without an outcome. `end`: of a request that neither fails nor is cancelled."""
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
                self._accounting.unanswered(self.parsed, self.client, ended)

    def account(self, outcome: Outcome) -> Json:
        """The `cuecard` object of the answer."""
        account = usage.account(outcome, self._plan.policy.limits, self._service.prices)
        if self._plan.max_cost is not None:
            account["limits"]["max_cost"] = self._plan.max_cost
        return account | {"pair": self._service.name}

    def headers(self, outcome: Outcome | None = None) -> dict[str, str]:
        """The header that names parameters that change nothing: with an outcome, also log probabilities it lacks."""
        lost = self.parsed.parameters.logprobs and outcome is not None and not outcome.tokens
        return header(tuple(dict.fromkeys((*self._plan.ignored, *(("logprobs",) if lost else ())))))


class ClientStream(Response):
    """Server-sent events, which end when their client leaves."""

    media_type = "text/event-stream"

    def __init__(self, headers: Mapping[str, str], metrics: GatewayMetrics, held: AsyncExitStack) -> None:
        """`held` is closed when the stream ends."""
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self.metrics, self._held = metrics, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await unless_gone(receive, self.send_events(send))
            except ClientGone:
                self.metrics.left()

    async def send_events(self, send: Send) -> None:
        """Send every event, and the end of the body."""
        raise NotImplementedError


class StreamedAnswer(ClientStream):
    """A streamed answer of a pair: the small model's reasoning as it is written, then the answer."""

    def __init__(self, exchange: Exchange, writer: AnswerWriter, ping_s: float, held: AsyncExitStack) -> None:
        """`ping_s`: seconds without an event until a ping is sent."""
        headers = usage.request_id(exchange.parsed.id) | exchange.headers() | exchange.client.headers()
        super().__init__(headers, exchange.metrics, held)
        self._exchange, self._writer, self._ping_s = exchange, writer, ping_s

    async def send_events(self, send: Send) -> None:
        events = asyncio.Queue[bytes]()
        working = asyncio.create_task(self._write(lambda written: events.put_nowait(b"".join(written))))
        try:
            while True:
                try:
                    async with asyncio.timeout(self._ping_s):
                        ready = [await events.get()]
                except TimeoutError:
                    ready = [self._writer.ping]
                while not events.empty():
                    ready.append(events.get_nowait())
                await send({"type": "http.response.body", "body": b"".join(ready), "more_body": True})
                if END in ready:
                    break
        finally:
            await cancelled(working)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, put: Callable[[Sequence[bytes]], None]) -> None:
        """Write every event; `put` gets END at the end."""
        writer, exchange = self._writer, self._exchange

        def show(piece: VisibleText | VisibleCalls) -> None:
            if isinstance(piece, VisibleCalls):
                written = writer.calls(piece.calls)
            else:
                written = writer.reasoning(piece.text) if piece.is_reasoning else writer.content(piece.text)
            if written:
                put(written)

        try:
            if opening := writer.begin():
                put(opening)
            outcome = await exchange.answer(show)
            put(writer.end(outcome, exchange.account(outcome)))
        except CuecardError as error:  # the status is sent: the error is an event
            self.metrics.failed(error)
            put(writer.fail(error))
        except Exception as error:
            log.exception("a streamed request failed")
            self.metrics.failed(error)
            put(writer.fail(CuecardError("the gateway failed")))
        finally:
            put([END])
