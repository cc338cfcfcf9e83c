"""One call as it is received, and its reply."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from cuecard.answers import UNPARSED, Answer, extract_soon
from cuecard.answers.json_replies import is_whole
from cuecard.domain.call import REASONING_CUT, AnswerToken, FinishReason, Mode, Usage
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import CallRecorder, Limits


@dataclass(frozen=True)
class Reply:
    """The answer of one call."""

    role: str
    text: str
    answer: Answer
    reasoning: str
    confidence: float | None
    """Probability of the answer (for JSON: the geometric mean over its tokens); None if not observed."""
    truncated: bool = False
    """The answer was cut at its token limit: `answer` is then UNPARSED, so that it never agrees with another one."""
    tokens: tuple[AnswerToken, ...] = ()
    """The answer's tokens, if requested and observed."""
    reasoning_cut: FinishReason | None = None
    """Why its reasoning was closed before its end; None if it was not."""


@dataclass(frozen=True)
class Heard:
    """A piece of text, as it arrives from a model."""

    role: str
    mode: Mode
    text: str
    is_reasoning: bool
    call: int = 0
    """Pieces of one call have the same number."""


@dataclass
class PartialCall(CallRecorder):
    """What a call has received so far."""

    limit: asyncio.Timeout | None = None
    """The time limit of the call, once it has one."""

    def is_stopped(self, piece: str, question: Question, limits: Limits) -> bool:
        """Whether the answer, with its last piece, contains a stop text, at which it will be cut anyway."""
        stops = limits.extras.stop
        if not stops or question.kind is not AnswerKind.FREE_TEXT:
            return False
        fresh = self.answer[-(len(piece) + max(map(len, stops))) :]
        return any(stop in fresh for stop in stops)

    async def reply(self, question: Question) -> Reply:
        """The reply of the call, which has ended."""
        whole_json = question.kind is AnswerKind.JSON and is_whole(self.answer)
        cut = self.finish_reason is FinishReason.LENGTH and not whole_json
        return Reply(
            self.role,
            self.answer.strip(),
            UNPARSED if cut else await extract_soon(self.answer, question),
            self.reasoning,
            confidence_in(self.answer_logprob, question.kind, self.usage, bool(self.reasoning)),
            cut,
            self.tokens,
            self.finish_reason if self.finish_reason in REASONING_CUT else None,
        )


def confidence_in(logprob: float | None, kind: AnswerKind, usage: Usage, reasoned: bool) -> float | None:
    """The probability of an answer; for JSON per token, as its length is unrelated to the model's confidence."""
    if logprob is None or kind is not AnswerKind.JSON:
        return None if logprob is None else math.exp(logprob)
    if not usage.completion_tokens or (reasoned and usage.reasoning_tokens is None):
        return None
    return math.exp(logprob / max(1, usage.completion_tokens - (usage.reasoning_tokens or 0)))
