"""Recorded replies read again: each through a real HTTP server, the client, its parser, and the extraction."""

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
"""Of each token: recorded answers count as sure."""


@dataclass(frozen=True)
class Replayed:
    """What today's code reads in a recorded call."""

    row: Row
    reasoning: str
    text: str
    cut: bool
    requests: int
    """How many requests it has made; those beyond the recorded ones are not answered."""

    @property
    def answer(self) -> Answer:
        """As strategies take it: none where the reply was cut."""
        return UNPARSED if self.cut else extract(self.text, QUESTIONS[self.row.question][0])


def says(raw: Raw) -> Completion:
    return Completion(
        raw.content,
        raw.reasoning,
        framing=Framing.REASONING_CONTENT,
        thinks=True,
        finish_reason=raw.finish_reason or "length",
        logprob=LOGPROB,
    )


class ReplayServer:
    """A MockServer that gives recorded replies.

    `replay` makes a recorded call again, and gives its replies in their order. From then on the same request of that
    model has the same reply, whoever makes it; requests that were not recorded are refused and stand in `unknown`.
    """

    def __init__(self, models: list[str]) -> None:
        self.server = MockServer(self._reply, models=models)
        self.unknown: list[dict[str, Any]] = []
        self._replaying: list[Raw] | None = None
        self._known: dict[str, Raw] = {}

    async def replay(self, url: str, row: Row, card: str) -> Replayed:
        """One recorded call, and what is read in it. `card`: what a `read` call is given."""
        question, before = QUESTIONS[row.question][0], len(self.server.received)
        self._replaying, reasoning, text, cut = list(row.requests), "", "", True
        model = client(url, row.model, row.call)
        try:
            asked = prompt(row.call, question, card, model.abilities.style)
            # a word of the mock server is a token, so that no limit of the recording is reached before its end
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
            text = ""  # it has asked for more than was recorded
        finally:
            self._replaying = None
            await model.aclose()
        return Replayed(row, reasoning, text, cut, len(self.server.received) - before)

    def _reply(self, request: Received) -> Reply:
        key = _key(request.body)
        if self._replaying:
            self._known.setdefault(key, self._replaying[0])
            return says(self._replaying.pop(0))
        if key in self._known:
            return says(self._known[key])
        if self._replaying is None:
            self.unknown.append(request.body)
        return HttpError(400, {"error": {"message": "this request was not recorded"}})


def _key(body: Mapping[str, Any]) -> str:
    """What decides on a greedy reply."""
    return json.dumps([body["model"], body["messages"], body.get("grammar"), body.get("response_format")])


@asynccontextmanager
async def replayed(rows: list[Row]) -> AsyncIterator[tuple[ReplayServer, str, dict[tuple[str, str, str], Replayed]]]:
    """The server that has replayed every row, its address, and what was read in each."""
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
