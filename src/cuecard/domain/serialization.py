"""Values as plain data, for JSON."""

from __future__ import annotations

from typing import Any

from cuecard.domain.call import Call, Usage
from cuecard.domain.estimate import LatencyComparison, compare_with_large
from cuecard.domain.outcome import Outcome


def outcome_as_object(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain data, every call included."""
    return {
        "answer": outcome.answer,
        "answer_text": outcome.answer_text,
        "kind": outcome.kind,
        "truncated": outcome.truncated,
        "outside_scope": outcome.outside_scope,
        "route": outcome.route,
        "reason": outcome.reason,
        "strategy": outcome.strategy,
        "schedule": outcome.schedule,
        "confidence": outcome.confidence,
        "latency": {"total_s": outcome.total_s, "handoff_s": outcome.handoff_s, "kind": outcome.latency_kind},
        "gain": gain_as_object(compare_with_large(outcome)),
        "usage": {model: usage_as_object(usage) for model, usage in outcome.usage.items()},
        "calls": [call_as_object(call) for call in outcome.calls],
    }


def gain_as_object(comparison: LatencyComparison) -> dict[str, Any]:
    """What the large model alone takes: its short answer as measured, its reasoning as estimated; None is not known."""
    return {
        "short_s": comparison.short_s,
        "reasoning_s": comparison.reasoning_s,
        "faster_than_short": comparison.faster_than_short,
        "faster_than_reasoning": comparison.faster_than_reasoning,
    }


def usage_as_object(usage: Usage) -> dict[str, int | None]:
    """Token counts by name; None is not observed."""
    return {
        name: getattr(usage, name)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    }


def call_as_object(call: Call) -> dict[str, Any]:
    """One call: role and model, times, usage, finish reason, and its texts."""
    return {
        "role": call.role,
        "model": call.model,
        "mode": call.mode,
        "start_s": call.start_s,
        "first_token_s": call.first_token_s,
        "reasoning_end_s": call.reasoning_end_s,
        "end_s": call.end_s,
        **usage_as_object(call.usage),
        "finish_reason": call.finish_reason,
        "cancelled": call.cancelled,
        "reasoning": call.reasoning,
        "answer": call.answer,
        "answer_logprob": call.answer_logprob,
        "error": call.error,
    }
