"""Requests that a pair cannot answer, passed to one model word for word, with an account of what they cost."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, BrokenStream
from cuecard.domain.outcome import Outcome, Route
from cuecard.gateway.account import Json
from cuecard.gateway.chat import Given, sse
from cuecard.models.openai.incoming import chunk, usage

PASSED = "passed"
"""What stands for the strategy of such a request."""
DATA = "data:"


def given(body: Json) -> Given:
    """What is understood of a request that is passed on. Raises BadInput."""
    refuse_addresses(body)
    return Given(model=str(body.get("model")), stream=body.get("stream") is True)


def refuse_addresses(part: object) -> None:
    """Nobody gets to have a server behind the gateway fetch what they please."""
    match part:
        case Mapping():
            for key, value in part.items():
                match value:
                    # vLLM also takes video_url and audio_url
                    case str(url) | {"url": str(url)} if key.endswith("_url") and not url.startswith(DATA):
                        raise BadInput(f"no {key} is fetched from the web here", "send the data itself, as a data URL")
                refuse_addresses(value)
        case list():
            for value in part:
                refuse_addresses(value)


class Passage:
    """One such request on its way: its answer with the model's name as it was asked for, and what it used."""

    def __init__(self, asked: Given, body: Json, role: str, model: str) -> None:
        self._asked, self._role, self._model = asked, role, model
        self._began, self._usage, self._finish = time.perf_counter(), Usage(), FinishReason.STOP
        self._first_s: float | None = None
        options = body.get("stream_options")
        self._options = options if isinstance(options, dict) else {}
        self.body = body | {"stream_options": self._options | {"include_usage": True}} if asked.stream else body
        """What is sent: streamed usage is always asked for, as somebody has to pay."""

    @property
    def outcome(self) -> Outcome:
        """The account, once the answer is whole."""
        took_s = time.perf_counter() - self._began
        call = Call(self._role, self._model, Mode.SHORT, 0.0, self._first_s, took_s, self._usage, self._finish)
        return Outcome("", Route.DIRECT, PASSED, (call,), took_s, f"beyond a pair: passed to {self._model}")

    async def whole(self, events: AsyncGenerator[Json]) -> Json:
        """An answer that is not streamed. Raises ModelError."""
        answer: Json | None = None
        async for event in events:
            if answer is not None:
                raise BrokenStream(f"{self._model} streamed an answer that was to come whole")
            answer = self._heard(event)
        if answer is None:
            raise BrokenStream(f"{self._model} sent no answer")
        return answer

    async def events(self, events: AsyncGenerator[Json]) -> AsyncGenerator[bytes]:
        """A streamed answer, event by event. Raises ModelError."""
        async for event in events:
            told = _streamed(self._heard(event))
            if self._options.get("include_usage") is True or told.get("choices") or "usage" not in told:
                yield sse(told)
        yield sse("[DONE]")

    def _heard(self, event: Json) -> Json:
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._began
        self._usage = usage(event.get("usage")) or self._usage
        if chunk(event).finish_reason == "length":
            self._finish = FinishReason.LENGTH
        return event | {"model": self._asked.model} if "choices" in event else event


def _streamed(event: Json) -> Json:
    """An event of a stream; a whole answer, from a server that does not stream, becomes one."""
    choices = event.get("choices")
    whole = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    if not any("message" in choice for choice in whole):
        return event
    deltas = [{"delta" if key == "message" else key: value for key, value in choice.items()} for choice in whole]
    return event | {"object": "chat.completion.chunk", "choices": deltas}
