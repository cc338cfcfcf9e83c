"""Requests that a pair cannot answer, passed to one model word for word, with an account of what they cost."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import BrokenStream
from cuecard.domain.outcome import Outcome, Route
from cuecard.gateway.admission.disconnect import ClientGone
from cuecard.gateway.admission.keys import Client
from cuecard.gateway.telemetry.accounting import Books
from cuecard.gateway.wire.chat import Given, named, sse
from cuecard.gateway.wire.parameters.addresses import DATA, everything, permit
from cuecard.gateway.wire.usage import CHARS_PER_TOKEN, End, Json, Unanswered
from cuecard.models.openai.response_body import chunk, usage

PASSED = "passed"
"""What stands for the strategy of such a request."""


def given(body: Json) -> Given:
    """What is understood of a request that is passed on. Raises BadInput."""
    permit(body)
    texts = [each for each in everything(body["messages"]) if isinstance(each, str)]
    characters = sum(len(text) for text in texts if text[: len(DATA)].lower() != DATA)
    stream = body.get("stream") is True
    return Given(model=named(body), stream=stream, prompt_tokens=characters // CHARS_PER_TOKEN)


class Passage:
    """One such request on its way: its answer with the model's name as it was asked for, and what it used."""

    def __init__(self, asked: Given, body: Json, role: str, model: str) -> None:
        self.asked, self._role, self._model = asked, role, model
        self._began, self._usage, self._finish = time.perf_counter(), Usage(), FinishReason.STOP
        self._first_s: float | None = None
        self._pieces = 0
        self.over = False
        self.error: Exception | None = None
        options = body.get("stream_options")
        self._options = options if isinstance(options, dict) else {}
        self.body = body | {"stream_options": self._options | {"include_usage": True}} if asked.stream else body
        """What is sent: streamed usage is always asked for, as somebody has to pay."""

    @property
    def outcome(self) -> Outcome:
        """The account, once the answer is whole."""
        call = self._call(self._finish)
        return Outcome("", Route.DIRECT, PASSED, (call,), call.end_s, f"beyond a pair: passed to {self._model}")

    @contextmanager
    def entered(self, books: Books, client: Client) -> Iterator[None]:
        """Enters the request into the books at the end, whatever it is."""
        try:
            yield
        except ClientGone:
            raise
        except Exception as error:
            self.error = error
            raise
        finally:
            if self.over:
                books.answered(self.asked, client, self.outcome, self._first_s)
            else:
                call = self._call(FinishReason.ERROR if self.error else FinishReason.CANCELLED)
                end = End.FAILED if self.error else End.LEFT
                books.unanswered(self.asked, client, Unanswered(end, PASSED, (call,), call.end_s, self.error))

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
            answer = self._heard(event)
        if answer is None:
            raise BrokenStream(f"{self._model} sent no answer")
        self.over = True
        return answer

    async def events(self, events: AsyncGenerator[Json]) -> AsyncGenerator[bytes]:
        """A streamed answer, event by event. Raises ModelError."""
        async for event in events:
            told = _streamed(self._heard(event))
            if self._options.get("include_usage") is True or told.get("choices") or "usage" not in told:
                yield sse(told)
        self.over = True
        yield sse("[DONE]")

    def _heard(self, event: Json) -> Json:
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._began
        self._usage = usage(event.get("usage")) or self._usage
        self._pieces += bool(event.get("choices"))  # a token at least, until the server counts them
        if chunk(event).finish_reason == "length":
            self._finish = FinishReason.LENGTH
        return event | {"model": self.asked.model} if "choices" in event else event


def _streamed(event: Json) -> Json:
    """An event of a stream; a whole answer, from a server that does not stream, becomes one."""
    choices = event.get("choices")
    whole = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    if not any("message" in choice for choice in whole):
        return event
    deltas = [{"delta" if key == "message" else key: value for key, value in choice.items()} for choice in whole]
    return event | {"object": "chat.completion.chunk", "choices": deltas}
