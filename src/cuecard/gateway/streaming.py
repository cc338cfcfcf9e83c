"""Answers on their way to a client: whole, or event by event while they come into being."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cuecard.domain.call import Call
from cuecard.domain.errors import CuecardError
from cuecard.domain.outcome import Outcome
from cuecard.domain.serialization import call_as_object
from cuecard.gateway.admission.disconnect import ClientGone, unless_gone
from cuecard.gateway.admission.keys import Client
from cuecard.gateway.client_view import Called, Hear, Said
from cuecard.gateway.passthrough import Passage
from cuecard.gateway.service import Service
from cuecard.gateway.telemetry.accounting import Books
from cuecard.gateway.telemetry.metrics import Observatory
from cuecard.gateway.wire import chat, usage
from cuecard.gateway.wire.chat import Asked
from cuecard.gateway.wire.parameters.table import header
from cuecard.gateway.wire.tools.tools import ToolCall
from cuecard.gateway.wire.usage import End, Json, Unanswered
from cuecard.strategies.run import preview
from cuecard.strategies.team import cancelled

log = logging.getLogger("cuecard.gateway")
END = b""
"""Behind the last event of a stream."""


class Writer(Protocol):
    """How an answer is put on the wire: whole, or event by event."""

    ping: bytes
    """What is sent when nothing has come for a while."""

    def whole(self, outcome: Outcome, reasoning: str, account: Json) -> Json: ...
    def begin(self) -> list[bytes]: ...
    def reasoning(self, text: str) -> list[bytes]: ...
    def content(self, text: str) -> list[bytes]: ...
    def calls(self, calls: Sequence[ToolCall]) -> list[bytes]: ...
    def end(self, outcome: Outcome, account: Json) -> list[bytes]: ...
    def fail(self, error: CuecardError) -> list[bytes]: ...


class Telling:
    """One request being answered, seen, and charged to its client."""

    def __init__(
        self,
        service: Service,
        asked: Asked,
        client: Client,
        books: Books,
    ) -> None:
        self.asked, self.client, self.seen = asked, client, books.seen
        self._service, self._plan, self._books = service, service.plan(asked), books.of(service)

    async def answer(self, hear: Hear) -> Outcome:
        """As `Service.answer`, entered into the books however it ends."""
        began, first, calls, error, end = time.perf_counter(), None, list[Call](), None, End.LEFT

        def heard(piece: Said | Called) -> None:
            nonlocal first
            first = time.perf_counter() - began if first is None else first
            hear(piece)

        try:
            outcome = await self._service.answer(self.asked, self._plan, calls, heard)
            end = End.ANSWERED
            self._books.answered(self.asked, self.client, outcome, first)
            return outcome
        except Exception as failure:
            error, end = failure, End.FAILED if end is not End.ANSWERED else end
            raise
        finally:
            if end is not End.ANSWERED:
                ended = Unanswered(end, self._plan.strategy, tuple(calls), time.perf_counter() - began, error)
                self._books.unanswered(self.asked, self.client, ended)

    def account(self, outcome: Outcome) -> Json:
        """What the client is told of the outcome beside the answer."""
        told = usage.account(outcome, self._plan.policy.limits, self._service.prices)
        if self._plan.max_cost is not None:
            told["limits"]["max_cost"] = self._plan.max_cost
        return told | {"pair": self._service.name}

    def headers(self, outcome: Outcome | None = None) -> dict[str, str]:
        """The parameters that change nothing; of an answer that is known, its log probabilities where it has none."""
        lost = self.asked.parameters.logprobs and outcome is not None and not outcome.tokens
        return header(tuple(dict.fromkeys((*self._plan.ignored, *(("logprobs",) if lost else ())))))

    async def whole(self) -> tuple[Outcome, str]:
        """The outcome and the reasoning."""
        pieces: list[Said | Called] = []
        outcome = await self.answer(pieces.append)
        return outcome, "".join(piece.text for piece in pieces if isinstance(piece, Said) and piece.is_reasoning)


class Deciding:
    """The route that a request would take, without the expensive calls; charged for those that tell."""

    def __init__(self, service: Service, asked: Asked, client: Client, books: Books) -> None:
        self._asked, self._client, self._books = asked, client, books.of(service)
        self._service, self._plan = service, service.plan(asked)

    async def told(self) -> Json:
        """The route, and why."""
        plan, models, error = self._plan, self._service.models_for(self._plan), None
        began, calls, end = time.perf_counter(), list[Call](), End.LEFT
        try:
            with self._service.at_work():
                route, reason, _ = await preview(self._asked.question, models, plan.strategy, plan.policy, calls)
            end = End.DECIDED
        except Exception as failure:
            error, end = failure, End.FAILED
            raise
        finally:
            ended = Unanswered(end, plan.strategy, tuple(calls), time.perf_counter() - began, error)
            self._books.unanswered(self._asked, self._client, ended)
        schedule = plan.policy.schedule_of(models)
        told = {"strategy": plan.strategy, "schedule": schedule, "route": route, "reason": reason}
        return told | {"calls": [call_as_object(call) for call in calls]}


class Events(Response):
    """A streamed answer: the small model's reasoning as it is written, then the answer."""

    media_type = "text/event-stream"

    def __init__(self, telling: Telling, writer: Writer, ping_s: float, held: ExitStack) -> None:
        """`held` is closed when the answer is over."""
        own = {"cache-control": "no-cache", "x-accel-buffering": "no", **usage.request_id(telling.asked.id)}
        super().__init__(headers=own | telling.headers() | telling.client.headers())
        del self.headers["content-length"]
        self._telling, self._writer, self._ping_s, self._held = telling, writer, ping_s, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                await unless_gone(receive, self._speak(send))
            except ClientGone:
                self._telling.seen.left()

    async def _speak(self, send: Send) -> None:
        events = asyncio.Queue[bytes]()
        working = asyncio.create_task(self._work(lambda written: events.put_nowait(b"".join(written))))
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

    async def _work(self, put: Callable[[Sequence[bytes]], None]) -> None:
        """Write every event; `put` gets END at the end."""
        write, telling = self._writer, self._telling

        def hear(piece: Said | Called) -> None:
            if isinstance(piece, Called):
                written = write.calls(piece.calls)
            else:
                written = write.reasoning(piece.text) if piece.is_reasoning else write.content(piece.text)
            if written:
                put(written)

        try:
            if opening := write.begin():
                put(opening)
            outcome = await telling.answer(hear)
            put(write.end(outcome, telling.account(outcome)))
        except CuecardError as error:  # nothing can be unsaid: what went wrong is said in the stream
            telling.seen.failed(error)
            put(write.fail(error))
        except Exception as error:
            log.exception("a streamed request failed")
            telling.seen.failed(error)
            put(write.fail(CuecardError("the gateway failed")))
        finally:
            put([END])


class Relay(Response):
    """A streamed answer of one model, passed on as it comes."""

    media_type = "text/event-stream"

    def __init__(
        self,
        passage: Passage,
        lines: AsyncGenerator[Json],
        held: AsyncExitStack,
        seen: Observatory,
        own: Mapping[str, str],
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **own})
        del self.headers["content-length"]
        self._passage, self._lines, self._held, self._seen = passage, lines, held, seen

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
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except CuecardError as error:
            self._seen.failed(error)
            self._passage.error = error
            told = chat.sse(chat.problem(error)) + chat.sse("[DONE]")
            await send({"type": "http.response.body", "body": told, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
