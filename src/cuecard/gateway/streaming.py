"""Answers of a pair to a client: planned, charged, and streamed event by event, as far as the client may see them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import replace
from typing import Any, Literal

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cuecard.answers import asked_form, extract
from cuecard.answers.json_replies import ANSWER
from cuecard.domain.call import Call, Heard, Mode, spelling
from cuecard.domain.errors import BrokenStream, CuecardError, NoAnswer
from cuecard.domain.outcome import Outcome, Route, call_as_object
from cuecard.domain.question import AnswerKind, Question
from cuecard.gateway.admission.connections import ClientGone, while_connected
from cuecard.gateway.admission.limits import Lease
from cuecard.gateway.metrics import GatewayMetrics
from cuecard.gateway.pairs import RequestPlan, Service
from cuecard.gateway.records import Accounting, written
from cuecard.gateway.spending import CostBudget, leased
from cuecard.gateway.wire import chat
from cuecard.gateway.wire.chat import ChatWriter, calls_of, text_of
from cuecard.gateway.wire.messages import MessageWriter
from cuecard.gateway.wire.parameters import Json, header
from cuecard.gateway.wire.request import ParsedRequest, RequestEnd, Unanswered
from cuecard.gateway.wire.responses import ResponseWriter
from cuecard.gateway.wire.tools import as_json, pieces
from cuecard.models.base import Model
from cuecard.strategies.run import answer as run
from cuecard.strategies.run import preview
from cuecard.strategies.team import cancelled

Kind = Literal["reasoning", "content", "calls"]
"""The kind of a piece for the client: two are texts, `calls` is a tuple of `ToolCall`s for the client to run."""
OnPiece = Callable[[Kind, Any], None]
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
        models, prices = self._service.models, self._service.prices
        if (most := self._plan.max_cost) is not None:
            models = CostBudget(most, prices).models(models)
        return leased(models, self._lease, prices)

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
        account = chat.account(outcome, self._plan.policy.limits, self._service.prices)
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


# --- what the client sees ---------------------------------------------------------------------------------------------


class ClientView:
    """Shows the pieces of a request's calls that its client may see.

    Reasoning is shown from the first call that reasons. No text is shown that might be replaced: a free-form answer is
    streamed from the last call, any other answer is shown whole at the end.
    """

    def __init__(self, parsed: ParsedRequest, strategy: str, show: OnPiece, *, strict: bool) -> None:
        self._parsed, self._show, self._strict = parsed, show, strict
        self._alone = strategy.startswith(("short", "reason"))
        self._free = parsed.question.kind is AnswerKind.FREE_TEXT
        self._thinker: int | None = None
        self._written, self._cutter = "", StopCutter(parsed.parameters.stop)

    def piece(self, piece: Heard) -> None:
        """A piece of a call's text."""
        if piece.is_reasoning:
            if self._thinker in (None, piece.call):
                self._thinker = piece.call
                self._show("reasoning", piece.text)
        elif self._free and (self._alone or piece.mode is Mode.READ):
            self._written += piece.text
            self._show_text(self._cutter.feed(piece.text))

    def finish(self, outcome: Outcome) -> Outcome:
        """Show the rest of the answer, and return the outcome as the client sees it. Raises BrokenStream, NoAnswer."""
        parsed, written = self._parsed, self._written
        whole = not outcome.truncated and outcome.route is not Route.DEGRADED
        # an answer that began with a stop text, at which the server ended it, is empty
        if not (written or (self._free and whole and parsed.parameters.stop)):
            outcome = never_empty(parsed.question, outcome, strict=self._strict)
        if written and written.strip() != outcome.answer.strip():
            raise BrokenStream(f"the answer broke off: {outcome.reason}")
        if parsed.tools is not None:
            return self._with_tools(outcome)
        answer = written or in_the_clients_form(parsed.question, outcome)
        self._show_text(("" if written else self._cutter.feed(answer)) + self._cutter.end())
        return cut(outcome, answer, self._cutter.stopped_by)

    def _with_tools(self, outcome: Outcome) -> Outcome:
        if (calls := calls_of(self._parsed, outcome)) is not None:
            self._show("calls", calls)
            return outcome
        shown = self._cutter.feed(text_of(self._parsed, outcome)) + self._cutter.end()
        for piece in pieces(shown):
            self._show_text(piece)
        if (stop := self._cutter.stopped_by) is None:
            return outcome
        return replace(outcome, answer=as_json({ANSWER: shown}), truncated=False, stopped_by=stop)

    def _show_text(self, text: str) -> None:
        if text:
            self._show("content", text)


def cut(outcome: Outcome, answer: str, stop: str | None) -> Outcome:
    """The outcome with the answer as shown: up to the stop text, if it contains one."""
    if stop is None and answer == outcome.answer and not outcome.tokens:
        return outcome
    if stop is not None:
        answer = answer.partition(stop)[0]
    truncated = outcome.truncated and stop is None
    tokens = spelling(outcome.tokens, answer)
    return replace(outcome, answer=answer, truncated=truncated, tokens=tokens, stopped_by=stop)


def in_the_clients_form(question: Question, outcome: Outcome) -> str:
    """The answer in the form that the question requests; else as the question's numbered option; else unchanged."""
    numbered = outcome.answer_text if question.labels else None
    bare = outcome.kind in (AnswerKind.FREE_TEXT, AnswerKind.JSON) or outcome.truncated
    form = None if bare else asked_form(f"{question.system or ''}\n{question.text}")
    if form is None or not extract(outcome.answer, question).parsed:
        return numbered or outcome.answer
    before, behind = form
    return before + (numbered.partition(".")[0] if numbered else outcome.answer) + behind


def never_empty(question: Question, outcome: Outcome, *, strict: bool) -> Outcome:
    """The outcome; if its answer is empty, with another call's answer: reasoned ones first, then the large model's.

    Raises NoAnswer if no call has an answer, or `strict` allows no other.
    """
    if outcome.answer.strip():
        return outcome
    answered = [call for call in outcome.calls if call.answer and not (call.cancelled or call.error)]
    if strict or not answered or question.kind is AnswerKind.JSON:
        raise NoAnswer(f"the answer came back empty: {outcome.reason}", "allow more tokens")
    best = max(answered, key=lambda call: (call.mode is not Mode.SHORT, call.role == "large"))
    found = extract(best.answer or "", question)
    reason = f"the answer came back empty; the {best.role} model's answer stands"
    text = found.text if found.parsed else best.answer or ""
    whole = replace(outcome, answer=text, confidence=None, truncated=False, tokens=())
    return replace(whole, route=Route.DEGRADED, reason=reason)


# --- stop texts -------------------------------------------------------------------------------------------------------


class StopCutter:
    """Cuts a streamed text before the first complete stop text.

    Of two that end at the same place, the longer one counts. Only text that may begin a stop text is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""
        self.stopped_by: str | None = None
        """The stop text at which it was cut."""

    def feed(self, piece: str) -> str:
        """Add a piece; the new text that can be shown now."""
        if self.stopped_by is not None:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.stopped_by = min(found)
            self._held = ""
            return text[:at]
        held = max((_begun(text, stop) for stop in self._stops), default=0)
        shown = len(text) - held
        self._held = text[shown:]
        return text[:shown]

    def end(self) -> str:
        """The text that was held back, when no more pieces come."""
        held, self._held = self._held, ""
        return held


def _begun(text: str, stop: str) -> int:
    """The most characters at the end of the text that are the beginning of this stop text."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
