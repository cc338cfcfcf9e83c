"""Simulated strategies have the latency of their calls, and take the requested route."""

from __future__ import annotations

import pytest
from made_up import LARGE, SMALL

from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import LatencyKind, Route
from cuecard.latency.latency_model import profile_of
from cuecard.latency.simulation import Chances, RequestSize, Way, outcomes
from cuecard.strategies.policy import Schedule

PROFILES = {"small": profile_of(SMALL), "large": profile_of(LARGE)}
WORK = RequestSize(visual=196, prompt=240, answer=4)


@pytest.mark.parametrize("role", ["small", "large"])
@pytest.mark.parametrize("work", [WORK, RequestSize(0, 44, 1), RequestSize(1024, 1100, 16)])
def test_a_model_alone_costs_one_call_of_its_profile(role: str, work: RequestSize) -> None:
    short, reason = outcomes(PROFILES, work, [Way(f"short:{role}"), Way(f"reason:{role}", reasoning=50)])
    assert short.total_s == pytest.approx(PROFILES[role].call_s(work.visual, work.prompt, work.answer))
    assert reason.total_s == pytest.approx(PROFILES[role].call_s(work.visual, work.prompt, 50 + work.answer))
    assert short.usage[role].prompt_tokens == work.prompt
    assert short.latency_kind is LatencyKind.ESTIMATED


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("route", [Route.AGREED, Route.CONFIRMED, Route.TRANSFERRED])
def test_mutual_verification_takes_the_wanted_route(schedule: Schedule, route: Route) -> None:
    (outcome,) = outcomes(PROFILES, WORK, [Way("mutual", schedule, 30, route)])
    assert outcome.route is route


def test_one_call_after_the_other_costs_their_sum() -> None:
    small, large = PROFILES["small"], PROFILES["large"]
    transfer, mutual = outcomes(
        PROFILES,
        WORK,
        [Way("transfer", Schedule.THRIFTY, 100), Way("mutual", Schedule.THRIFTY, 100, Route.AGREED)],
    )
    card = transfer.calls[-1].usage.prompt_tokens
    assert card == pytest.approx(WORK.prompt + 100, abs=2)
    assert transfer.total_s == pytest.approx(small.call_s(196, 240, 100) + large.call_s(196, card, 4))
    assert mutual.total_s == pytest.approx(small.call_s(196, 240, 4) + large.call_s(196, 240, 4))


def test_short_answers_at_once_cost_the_slower_one() -> None:
    (mutual,) = outcomes(PROFILES, WORK, [Way("mutual", Schedule.OVERLAP, 100, Route.AGREED)])
    assert mutual.total_s == pytest.approx(PROFILES["large"].call_s(196, 240, 4))


def test_reading_while_it_is_written_hands_over_faster_than_reading_at_once() -> None:
    thrifty, overlap, eager = outcomes(PROFILES, WORK, [Way("mutual", schedule, 400) for schedule in Schedule])
    assert thrifty.total_s > overlap.total_s > eager.total_s
    assert (overlap.handoff_s or 0) < (thrifty.handoff_s or 0)


def test_routes_of_mutual_verification_sum_to_one() -> None:
    assert sum(Chances(0.86, 0.4).routes.values()) == pytest.approx(1)
    assert set(Chances(1.0).routes) == {Route.AGREED}
    with pytest.raises(BadInput, match="between 0 and 1"):
        Chances(1.1)


def test_a_prompt_that_has_no_room_for_its_question_is_refused() -> None:
    with pytest.raises(BadInput, match="a prompt of 200 tokens"):
        RequestSize(visual=196, prompt=200)
