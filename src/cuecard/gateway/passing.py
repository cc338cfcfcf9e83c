"""Requests that a pair cannot answer, passed to one model word for word, with an account of what they cost."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import BadInput, BrokenStream
from cuecard.domain.outcome import Outcome, Route
from cuecard.gateway.account import Json
from cuecard.gateway.chat import Given, sse

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

    async def whole(self, lines: AsyncGenerator[str]) -> Json:
        """An answer that is not streamed. Raises BrokenStream."""
        text = "\n".join([line async for line in lines])
        return self._heard(text)

    async def events(self, lines: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
        """A streamed answer, event by event. Raises BrokenStream."""
        async for line in lines:
            said = line.removeprefix(DATA).strip()
            if not line.startswith(DATA):
                continue
            if said == "[DONE]":
                yield sse(said)
                return
            told = self._heard(said)
            if self._options.get("include_usage") is True or told.get("choices") or "usage" not in told:
                yield sse(told)

    def _heard(self, text: str) -> Json:
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._began
        try:
            said = json.loads(text)
        except ValueError as error:
            raise BrokenStream(f"{self._model} sent something that is not JSON: {text[:80]!r}") from error
        if not isinstance(said, dict):
            raise BrokenStream(f"{self._model} sent something that is no answer: {text[:80]!r}")
        if isinstance(used := said.get("usage"), dict):
            self._usage = _usage(used)
        for choice in said.get("choices") or ():
            if isinstance(choice, dict) and choice.get("finish_reason") == "length":
                self._finish = FinishReason.LENGTH
        return said | {"model": self._asked.model} if "choices" in said else said


def _usage(said: Mapping[str, Any]) -> Usage:
    def count(of: object, key: str) -> int | None:
        value = of.get(key) if isinstance(of, dict) else None
        return value if isinstance(value, int) else None

    return Usage(
        count(said, "prompt_tokens"),
        count(said.get("prompt_tokens_details"), "cached_tokens"),
        count(said, "completion_tokens"),
        count(said.get("completion_tokens_details"), "reasoning_tokens"),
    )
