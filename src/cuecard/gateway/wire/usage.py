"""What a client is told of how its answer came about: tokens, price, limits, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cuecard.domain.call import Call, Usage
from cuecard.domain.outcome import Outcome
from cuecard.domain.question import Message, Question
from cuecard.domain.serialization import outcome_as_object
from cuecard.gateway.config.config import Prices
from cuecard.models.base import Limits

Json = dict[str, Any]
MILLION = 1e6
CHARS_PER_TOKEN, TOKENS_PER_IMAGE = 4, 256
"""Of prompts whose tokens no server has counted."""


class End(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    DECIDED = "decided"
    """Only its route was asked for."""
    LEFT = "client_gone"
    """Its client left, or the gateway was stopped."""
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Unanswered:
    """A request that ended without an outcome, and every call that was made for it."""

    end: End
    strategy: str
    calls: tuple[Call, ...]
    total_s: float
    error: Exception | None = None
    """What went wrong."""


def usage(outcome: Outcome | Unanswered) -> Json:
    """Tokens over all calls, cancelled ones included; what nobody observed is 0 here and null in the breakdown."""
    total = Usage()
    for call in outcome.calls:
        total = total + call.usage
    prompt, completion = total.prompt_tokens or 0, total.completion_tokens or 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens or 0},
        "completion_tokens_details": {"reasoning_tokens": total.reasoning_tokens or 0},
    }


def cost(used: Usage, prices: Prices) -> float:
    """The price of these tokens; those that nobody counted cost nothing."""
    cached = used.cached_tokens or 0
    fresh = max(0, (used.prompt_tokens or 0) - cached)
    a_cached = prices.prompt if prices.cached is None else prices.cached
    return (fresh * prices.prompt + cached * a_cached + (used.completion_tokens or 0) * prices.completion) / MILLION


def costs(calls: Sequence[Call], prices: Mapping[str, Prices]) -> dict[str, float]:
    """The price of a request's calls by role, of the roles that have prices."""
    total = dict.fromkeys(prices, 0.0)
    for call in calls:
        if call.role in prices:
            total[call.role] += cost(call.usage, prices[call.role])
    return total


def charge(calls: Sequence[Call], prompt_tokens: int) -> int:
    """Tokens that calls have used: the request's usage, and prompts that nobody counted.

    A server may tell the tokens of a prompt at the end only: calls that were cut before count `prompt_tokens` for it.
    """
    total = 0
    for call in calls:
        prompt = call.usage.prompt_tokens
        total += prompt_tokens if prompt is None and call.cancelled else prompt or 0
        total += call.usage.completion_tokens or 0
    return total


def estimated_tokens(question: Question) -> int:
    """Tokens of a question, from its length."""
    turns = [*question.history, Message("user", question.text, question.images)]
    texts = [question.system or "", *question.options, *(turn.text for turn in turns)]
    return sum(map(len, texts)) // CHARS_PER_TOKEN + TOKENS_PER_IMAGE * sum(len(turn.images) for turn in turns)


def account(outcome: Outcome, limits: Limits, prices: Mapping[str, Prices]) -> Json:
    """The `cuecard` object: how the answer came about and what it cost, by model and by call; no texts."""
    told = outcome_as_object(outcome)
    del told["answer"]
    for call in told["calls"]:
        del call["reasoning"], call["answer"]
    told["latency"]["overhead_s"] = outcome.overhead_s
    told["limits"] = {"answer_tokens": limits.of_answer(outcome.kind), "reasoning_tokens": limits.reasoning_tokens}
    by_role = costs(outcome.calls, prices)
    told["cost"] = {"total": sum(by_role.values()), **by_role} if prices else None
    return told


def request_id(request: str) -> dict[str, str]:
    """The headers in which OpenAI's and Anthropic's clients look for it."""
    return {"x-request-id": request, "request-id": request}


def headers(request: str, outcome: Outcome) -> dict[str, str]:
    """The most important part of the account, for those who log headers only."""
    return {
        **request_id(request),
        "x-cuecard-route": outcome.route,
        "x-cuecard-latency-ms": f"{outcome.total_s * 1000:.1f}",
        "x-cuecard-overhead-ms": f"{outcome.overhead_s * 1000:.2f}",
    }
