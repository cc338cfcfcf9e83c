"""Replay recorded replies through a real HTTP server, the client, its parser, and the extraction."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from calls import CARD_WRITER, Raw, Row, client, limits, load_questions, prompt

from cuecard.answers import UNPARSED, Answer, extract
from cuecard.domain.call import FinishReason
from cuecard.domain.errors import ModelError
from cuecard.models.base import AnswerDelta, Finished, ReasoningDelta
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Framing, HttpError, Received, Reply

QUESTIONS = load_questions()
LOGPROB = -0.005
"""The log probability of each token: recorded answers count as confident."""


@dataclass(frozen=True)
class Replayed:
    """A recorded call as the current code reads it."""

    row: Row
    reasoning: str
    text: str
    cut: bool
    requests: int
    """The number of requests that the client made; those beyond the recorded ones are refused."""

    @property
    def answer(self) -> Answer:
        """The answer; unparseable if the reply was cut, as in strategies."""
        return UNPARSED if self.cut else extract(self.text, QUESTIONS[self.row.question][0])


def completion(raw: Raw) -> Completion:
    return Completion(
        raw.content,
        raw.reasoning,
        framing=Framing.REASONING_CONTENT,
        thinks=True,
        finish_reason=raw.finish_reason or "length",
        logprob=LOGPROB,
    )


class ReplayServer:
    """A MockServer that sends recorded replies.

    `replay` repeats a recorded call and sends its replies in order. Afterwards an equal request for that model gets the
    same reply; requests that were not recorded are refused and listed in `unknown`.
    """

    def __init__(self, models: list[str]) -> None:
        self.server = MockServer(self._reply, models=models)
        self.unknown: list[dict[str, Any]] = []
        self._replaying: list[Raw] | None = None
        self._known: dict[str, Raw] = {}

    async def replay(self, url: str, row: Row, card: str) -> Replayed:
        """Repeat one recorded call. `card`: the reasoning in the prompt of a `read` call."""
        question, before = QUESTIONS[row.question][0], len(self.server.received)
        self._replaying, reasoning, text, cut = list(row.requests), "", "", True
        model = client(url, row.model, row.call)
        try:
            asked = prompt(row.call, question, card, model.abilities.style)
            # the mock server counts a word as one token, so no recorded reply reaches a token limit before its end
            async with aclosing(model.stream(asked, limits(question))) as events:
                async for event in events:
                    match event:
                        case ReasoningDelta(piece):
                            reasoning += piece
                        case AnswerDelta(piece):
                            text += piece
                        case Finished():
                            cut = event.finish_reason is FinishReason.LENGTH
        except ModelError:
            if self._replaying:
                raise
            text = ""  # the client made more requests than the recording has
        finally:
            self._replaying = None
            await model.aclose()
        return Replayed(row, reasoning, text, cut, len(self.server.received) - before)

    def _reply(self, request: Received) -> Reply:
        key = _key(request.body)
        if self._replaying:
            self._known.setdefault(key, self._replaying[0])
            return completion(self._replaying.pop(0))
        if key in self._known:
            return completion(self._known[key])
        if self._replaying is None:
            self.unknown.append(request.body)
        return HttpError(400, {"error": {"message": "this request was not recorded"}})


def _key(body: Mapping[str, Any]) -> str:
    """What determines a greedy reply."""
    return json.dumps([body["model"], body["messages"], body.get("grammar"), body.get("response_format")])


@asynccontextmanager
async def replayed(rows: list[Row]) -> AsyncIterator[tuple[ReplayServer, str, dict[tuple[str, str, str], Replayed]]]:
    """A server that has replayed every row, its URL, and the rows as read."""
    replay = ReplayServer(sorted({row.model for row in rows}))
    found: dict[tuple[str, str, str], Replayed] = {}
    async with replay.server as url:
        # reasonings first: they are the cards
        for row in sorted(rows, key=lambda row: (row.call != "reason", row.model)):
            card = card_of(found, row.question)
            found[row.key] = await replay.replay(url, row, card)
        yield replay, url, found


def card_of(found: Mapping[tuple[str, str, str], Replayed], question: str) -> str:
    """Qwen's reasoning about a question."""
    written = found.get((question, CARD_WRITER, "reason"))
    return "" if written is None else written.reasoning
