"""A request compared with the large model alone, from the request's own calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.outcome import LatencyComparison, Outcome, Route, compare_with_large

SHORT = Call("large", "large", Mode.SHORT, 0.0, 0.2, 0.3, Usage(9, 0, 1, 0), FinishReason.STOP, answer="3")
REASON = Call("small", "small", Mode.REASON, 0.0, 0.1, 0.8, Usage(9, 0, 44, 40), FinishReason.STOP, "one, two", "3")
REASON = replace(REASON, reasoning_end_s=0.75)
READ = Call("large", "large", Mode.READ, 0.8, 0.85, 0.9, Usage(60, 9, 1, 0), FinishReason.STOP, answer="3")


def outcome(*calls: Call, total_s: float = 0.9, route: Route = Route.TRANSFERRED) -> Outcome:
    return Outcome("3", route, "mutual", calls, total_s, "the large model read")


def test_a_request_is_compared_with_both_ways_of_the_large_model_alone():
    found = compare_with_large(outcome(SHORT, REASON, READ))
    assert found.short_s == pytest.approx(0.3)
    assert found.reasoning_s is not None
    assert (found.faster_than_short, found.faster_than_reasoning) == (False, True)


def test_the_sentence_names_gains_and_losses():
    assert LatencyComparison(0.9, 0.3, 2.4).sentence() == (
        "the large model alone: 300 ms short (measured), 2.4 s with reasoning (estimated):"
        " faster than its reasoning, slower than its short answer"
    )
    assert LatencyComparison(0.9, None, 0.5).sentence() == (
        "the large model alone: 500 ms with reasoning (estimated): slower than its reasoning"
    )
    assert LatencyComparison(2.41, None, 2.43).sentence() == (
        "the large model alone: 2.4 s with reasoning (estimated): as fast as its reasoning"
    )
    assert LatencyComparison(0.9, None, None).sentence() is None


def test_the_large_model_alone_is_not_compared_with_itself():
    assert compare_with_large(outcome(SHORT, total_s=0.3, route=Route.DIRECT)).sentence() is None


def test_a_cancelled_or_failed_short_answer_is_not_measured():
    cancelled = Call("large", "large", Mode.SHORT, 0, None, 0.1, Usage(), FinishReason.CANCELLED)
    assert compare_with_large(outcome(cancelled, REASON, READ)).short_s is None
