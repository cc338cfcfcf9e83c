"""Requests that a pair cannot answer, passed to one model word for word, with an account of what they cost."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.errors import BrokenStream
from cuecard.domain.outcome import Outcome, Route
from cuecard.gateway.account import CHARS_PER_TOKEN, End, Json, Unanswered
from cuecard.gateway.books import Books
from cuecard.gateway.chat import MOST_TOKENS, Given, named, sse
from cuecard.gateway.keys import Client
from cuecard.gateway.leaving import ClientGone
from cuecard.gateway.permitted import DATA, everything, permit

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
        usage = self._usage if self._usage.completion_tokens is not None else Usage(completion_tokens=self._pieces)
        return Call(self._role, self._model, Mode.SHORT, 0.0, self._first_s, took_s, usage, finish)

    async def whole(self, lines: AsyncGenerator[str]) -> Json:
        """An answer that is not streamed. Raises BrokenStream."""
        text = "\n".join([line async for line in lines])
        heard = self._heard(text)
        self.over = True
        return heard

    async def events(self, lines: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
        """A streamed answer, event by event. Raises BrokenStream."""
        async for line in lines:
            said = line.removeprefix(DATA).strip()
            if not line.startswith(DATA):
                continue
            if said == "[DONE]":
                self.over = True
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
            if isinstance(choice, dict):
                self._pieces += 1  # a token at least, until the server counts them
                if choice.get("finish_reason") == "length":
                    self._finish = FinishReason.LENGTH
        return said | {"model": self.asked.model} if "choices" in said else said


def _usage(said: Mapping[str, Any]) -> Usage:
    def count(of: object, key: str) -> int | None:
        value = of.get(key) if isinstance(of, dict) else None
        return value if type(value) is int and 0 <= value <= MOST_TOKENS else None

    return Usage(
        count(said, "prompt_tokens"),
        count(said.get("prompt_tokens_details"), "cached_tokens"),
        count(said, "completion_tokens"),
        count(said.get("completion_tokens_details"), "reasoning_tokens"),
    )
