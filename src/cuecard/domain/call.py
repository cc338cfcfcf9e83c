"""Calls: one prompt to one model, what comes back, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cuecard.domain.question import Answer, AnswerKind


@dataclass(frozen=True)
class AnswerToken:
    """One token of an answer and its natural log probability."""

    text: str
    logprob: float
    utf8: tuple[int, ...] | None = None
    """Its bytes, if the server gives them: a character may take several tokens."""
    top: tuple[AnswerToken, ...] = ()
    """The most probable tokens at this position."""

    @property
    def encoded(self) -> bytes:
        return self.text.encode() if self.utf8 is None else bytes(self.utf8)


def spelling(tokens: Sequence[AnswerToken], answer: str) -> tuple[AnswerToken, ...]:
    """The leading tokens that spell the answer, white space around it ignored; () if they spell another text."""
    wanted, at = answer.strip().encode(), 0
    for count, token in enumerate(tokens, start=1):
        piece = token.encoded if at else token.encoded.lstrip()
        rest = wanted[at : at + len(piece)]
        if piece == rest:
            at += len(piece)
        elif at + len(rest) == len(wanted) and piece.rstrip() == rest:
            at = len(wanted)
        else:
            return ()
        if at == len(wanted):
            return tuple(tokens[:count]) if at else ()
    return ()


class Mode(StrEnum):
    """How one call is prompted."""

    SHORT = "short"
    REASON = "reason"
    READ = "read"
    PROBE = "probe"
    """As `read`, with a card that is still being written: checks whether the answer is already stable."""
    REPAIR = "repair"
    """An answer that is not the requested JSON is sent back with its error, to be corrected."""
    WARM = "warm"
    """No answer: the known part of a prompt is prefilled ahead of the call that will need it."""
    GRADE = "grade"
    """A grade of the next reasoning step, as one digit."""
    SCORE = "score"
    """The likelihood of a given answer: prefill only, no decode."""
    WEIGH = "weigh"
    """How much each part of a reasoning matters to the answer: prefill only, no decode."""


class FinishReason(StrEnum):
    """Why a call ended."""

    STOP = "stop"
    LENGTH = "length"
    BUDGET = "budget"
    """The reasoning was closed because its token budget was used up; the answer comes from a second stage."""
    REPETITION = "repetition"
    """As `budget`, because the reasoning repeated itself."""
    CANCELLED = "cancelled"
    ERROR = "error"


REASONING_CUT = {FinishReason.BUDGET: "was cut by its budget", FinishReason.REPETITION: "repeated itself and was cut"}
"""Why a reasoning was closed before its end, as a phrase for messages."""


@dataclass(frozen=True)
class Usage:
    """Token counts of one call; None if not observed.

    `prompt_tokens` counts the whole prompt, image tokens included; `cached_tokens` counts those of them that came from
    the prefix cache; `completion_tokens` counts all generated tokens, `reasoning_tokens` those before the answer.
    """

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(_plus, vars(self).values(), vars(other).values()))


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)


@dataclass(frozen=True)
class Call:
    """One finished call. Times are in seconds since the start of its request."""

    role: str
    model: str
    mode: Mode
    start_s: float
    first_token_s: float | None
    end_s: float
    usage: Usage
    finish_reason: FinishReason
    reasoning: str | None = None
    answer: str | None = None
    answer_logprob: float | None = None
    error: str | None = None
    reasoning_end_s: float | None = None
    """When its reasoning was closed; None if it did not reason, or was stopped before."""
    key: str | None = None
    """The cache key of the stored call that it replays."""
    retries: int = 0
    """Failed attempts before it, if they are counted."""

    @property
    def cancelled(self) -> bool:
        return self.finish_reason is FinishReason.CANCELLED


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


def confidence_in(logprob: float | None, kind: AnswerKind, usage: Usage, reasoned: bool) -> float | None:
    """The probability of an answer; for JSON per token, as its length is unrelated to the model's confidence."""
    if logprob is None or kind is not AnswerKind.JSON:
        return None if logprob is None else math.exp(logprob)
    if not usage.completion_tokens or (reasoned and usage.reasoning_tokens is None):
        return None
    return math.exp(logprob / max(1, usage.completion_tokens - (usage.reasoning_tokens or 0)))
