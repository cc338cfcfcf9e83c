"""Calls in time: order, tracks and lanes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from stock import CALLS, OUTCOME, call

from cuecard.domain.call import Mode
from cuecard.report.terminal import handoff, ordered, tracks


def test_calls_are_ordered_by_start_and_then_by_end() -> None:
    shuffled = (CALLS[4], CALLS[0], CALLS[3], CALLS[2], CALLS[1])
    assert [(c.role, c.mode) for c in ordered(shuffled)] == [
        ("small", "short"),
        ("large", "short"),
        ("small", "reason"),
        ("large", "warm"),
        ("large", "read"),
    ]


def test_calls_of_one_model_that_overlap_get_lanes_of_their_own() -> None:
    small, large = tracks(CALLS)
    assert (small.role, len(small.lanes)) == ("small", 2)
    assert (large.role, len(large.lanes)) == ("large", 1)


def test_no_two_calls_of_a_lane_overlap() -> None:
    calls = [call("small", Mode.REASON, start / 10, start / 10 + 0.25) for start in range(9)]
    for lane in tracks(calls)[0].lanes:
        assert all(one.end_s <= other.start_s for one, other in pairwise(lane))


def test_the_large_model_comes_last_as_it_reads_what_the_others_write() -> None:
    calls = [call(role, Mode.SHORT, 0.0, 0.1) for role in ("large", "drafter", "small")]
    assert [track.role for track in tracks(calls)] == ["small", "drafter", "large"]


def test_the_hand_off_runs_from_the_last_reasoning_token_to_the_first_answer_token() -> None:
    assert handoff(OUTCOME) == pytest.approx((0.2, 0.205))
