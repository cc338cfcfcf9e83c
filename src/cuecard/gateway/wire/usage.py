"""Usage, price and headers of an answer: what the client gets besides the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cuecard.domain.call import Call, Usage
from cuecard.domain.outcome import Outcome, outcome_as_object
from cuecard.domain.question import Message, Question
from cuecard.gateway.pair_tables import Prices
from cuecard.models.base import Limits

Json = dict[str, Any]
MILLION = 1e6
CHARS_PER_TOKEN, TOKENS_PER_IMAGE = 4, 256
"""For estimates of prompts whose tokens no server has counted."""


class RequestEnd(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    DECIDED = "decided"
    """Only its route was requested."""
    LEFT = "client_gone"
    """Its client disconnected, or the gateway stopped."""
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Unanswered:
    """A request that ended without an outcome, and all of its calls."""

    end: RequestEnd
    strategy: str
    calls: tuple[Call, ...]
    total_s: float
    error: Exception | None = None
    """What went wrong."""


def usage(outcome: Outcome | Unanswered) -> Json:
    """Tokens over all calls, cancelled ones included; unobserved counts are 0 here and null in the breakdown."""
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
    """The price of these tokens; tokens that are not counted cost nothing."""
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
    """Tokens that are charged for calls: those counted by servers, and an estimate for prompts that are not.

    Some servers report a prompt's tokens only at the end: a call that is cancelled before is charged `prompt_tokens`.
    """
    total = 0
    for call in calls:
        prompt = call.usage.prompt_tokens
        total += prompt_tokens if prompt is None and call.cancelled else prompt or 0
        total += call.usage.completion_tokens or 0
    return total


def estimated_tokens(question: Question) -> int:
    """Tokens of a question, estimated from its length."""
    turns = [*question.history, Message("user", question.text, question.images)]
    texts = [question.system or "", *question.options, *(turn.text for turn in turns)]
    return sum(map(len, texts)) // CHARS_PER_TOKEN + TOKENS_PER_IMAGE * sum(len(turn.images) for turn in turns)


def account(outcome: Outcome, limits: Limits, prices: Mapping[str, Prices]) -> Json:
    """The `cuecard` object: how the answer came about and what it cost, by model and by call; no texts."""
    account = outcome_as_object(outcome)
    del account["answer"]
    for call in account["calls"]:
        del call["reasoning"], call["answer"]
    account["latency"]["overhead_s"] = outcome.overhead_s
    account["limits"] = {"answer_tokens": limits.of_answer(outcome.kind), "reasoning_tokens": limits.reasoning_tokens}
    by_role = costs(outcome.calls, prices)
    account["cost"] = {"total": sum(by_role.values()), **by_role} if prices else None
    return account


def request_id(request: str) -> dict[str, str]:
    """The request's id in the headers that OpenAI's and Anthropic's clients read."""
    return {"x-request-id": request, "request-id": request}


def headers(request: str, outcome: Outcome) -> dict[str, str]:
    """The most important part of the `cuecard` object as response headers."""
    return {
        **request_id(request),
        "x-cuecard-route": outcome.route,
        "x-cuecard-latency-ms": f"{outcome.total_s * 1000:.1f}",
        "x-cuecard-overhead-ms": f"{outcome.overhead_s * 1000:.2f}",
    }
