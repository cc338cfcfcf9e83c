"""Requests that a pair cannot answer, passed to one model unchanged, and charged."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import BrokenStream, CuecardError
from cuecard.domain.outcome import Outcome, Route
from cuecard.gateway.admission.connections import ClientGone
from cuecard.gateway.admission.limits import Lease
from cuecard.gateway.pairs import Service
from cuecard.gateway.telemetry.metrics import Accounting, GatewayMetrics
from cuecard.gateway.wire.chat import problem, sse
from cuecard.gateway.wire.request import RequestInfo, named
from cuecard.gateway.wire.usage import CHARS_PER_TOKEN, Json, RequestEnd, Unanswered
from cuecard.gateway.wire.values import DATA, everything, permit
from cuecard.models.openai.response_body import chunk, usage

PASSED = "passed"
"""The strategy of such a request, in metrics and the journal."""


def given(body: Json) -> RequestInfo:
    """The fields that are read of a request that is passed on. Raises BadInput."""
    permit(body)
    texts = [each for each in everything(body["messages"]) if isinstance(each, str)]
    characters = sum(len(text) for text in texts if text[: len(DATA)].lower() != DATA)
    stream = body.get("stream") is True
    return RequestInfo(model=named(body), stream=stream, prompt_tokens=characters // CHARS_PER_TOKEN)


class PassedExchange:
    """One such request: its answer under the model name that it requested, and its usage."""

    def __init__(self, info: RequestInfo, body: Json, role: str, model: str) -> None:
        self.info, self._role, self._model = info, role, model
        self._began, self._usage, self._finish = time.perf_counter(), Usage(), FinishReason.STOP
        self._first_s: float | None = None
        self._pieces = 0
        self.over = False
        self.error: Exception | None = None
        options = body.get("stream_options")
        self._options = options if isinstance(options, dict) else {}
        self.body = body | {"stream_options": self._options | {"include_usage": True}} if info.stream else body
        """The body that is sent: a stream always includes its usage, which is charged."""

    @property
    def outcome(self) -> Outcome:
        """The outcome, once the answer is whole."""
        call = self._call(self._finish)
        return Outcome("", Route.DIRECT, PASSED, (call,), call.end_s, f"beyond a pair: passed to {self._model}")

    @contextmanager
    def accounted(self, accounting: Accounting, pair: Service, lease: Lease) -> Iterator[None]:
        """Account for the request at its end, however it ends."""
        try:
            yield
        except ClientGone:
            raise
        except Exception as error:
            self.error = error
            raise
        finally:
            ended: Outcome | Unanswered = self.outcome
            if not self.over:
                call = self._call(FinishReason.ERROR if self.error else FinishReason.CANCELLED)
                end = RequestEnd.FAILED if self.error else RequestEnd.LEFT
                ended = Unanswered(end, PASSED, (call,), call.end_s, self.error)
            accounting.ended(pair, self.info, lease, ended, self._first_s)

    def _call(self, finish: FinishReason) -> Call:
        took_s = time.perf_counter() - self._began
        used = self._usage if self._usage.completion_tokens is not None else Usage(completion_tokens=self._pieces)
        return Call(self._role, self._model, Mode.SHORT, 0.0, self._first_s, took_s, used, finish)

    async def whole(self, events: AsyncGenerator[Json]) -> Json:
        """An answer that is not streamed. Raises ModelError."""
        answer: Json | None = None
        async for event in events:
            if answer is not None:
                raise BrokenStream(f"{self._model} streamed an answer that was to come whole")
            answer = self._observed(event)
        if answer is None:
            raise BrokenStream(f"{self._model} sent no answer")
        self.over = True
        return answer

    async def events(self, events: AsyncGenerator[Json], metrics: GatewayMetrics) -> AsyncGenerator[bytes]:
        """A streamed answer as it arrives; an error is its last event before [DONE]."""
        try:
            async for event in events:
                shown = _streamed(self._observed(event))
                if self._options.get("include_usage") is True or shown.get("choices") or "usage" not in shown:
                    yield sse(shown)
            self.over = True
        except CuecardError as error:
            metrics.failed(error)
            self.error = error
            yield sse(problem(error))
        yield sse("[DONE]")

    def _observed(self, event: Json) -> Json:
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._began
        self._usage = usage(event.get("usage")) or self._usage
        self._pieces += bool(event.get("choices"))  # at least one token each, until the server counts them
        if chunk(event).finish_reason == "length":
            self._finish = FinishReason.LENGTH
        return event | {"model": self.info.model} if "choices" in event else event


def _streamed(event: Json) -> Json:
    """An event of a stream; a whole answer, from a server that does not stream, becomes one."""
    choices = event.get("choices")
    whole = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    if not any("message" in choice for choice in whole):
        return event
    deltas = [{"delta" if key == "message" else key: value for key, value in choice.items()} for choice in whole]
    return event | {"object": "chat.completion.chunk", "choices": deltas}
