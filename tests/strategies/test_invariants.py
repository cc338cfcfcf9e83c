"""Properties for all model behaviours: random latencies, failures and cancellations, in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cuecard import virtual_time
from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import BrokenStream, ModelError, ModelUnreachable, NoAnswer
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Limits
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Acceptance, Policy, Schedule
from cuecard.strategies.run import STRATEGIES, answer

HOW_MANY = Question("How many cats are there?", kind=AnswerKind.NUMBER)
ANSWERS_GIVEN = ("1", "2", "three", "no idea", "")
ANSWERS = st.sampled_from(ANSWERS_GIVEN)
PACE = st.sampled_from([0.0, 0.01, 0.1, 0.7])
RULES = st.sampled_from(["agree", "confidence(0.5)", "agree+confidence(0.5)"])

healthy = st.builds(
    Says,
    answer=ANSWERS,
    reasoning=st.sampled_from(["", "One.", "One cat here and one cat there, which makes two.", "So it is. " * 30]),
    first_token_s=PACE,
    token_s=PACE,
    confidence_logprob=st.sampled_from([None, -0.1, -3.0]),
)
faults = st.builds(
    lambda reply, error, after: replace(reply, error=error, after_tokens=after),
    healthy,
    st.sampled_from([ModelUnreachable("down"), BrokenStream("cut")]),
    st.sampled_from([None, 1, 5]),
)
hangs = st.builds(
    lambda reply, after: replace(reply, hangs=True, after_tokens=after), healthy, st.sampled_from([None, 2])
)


@st.composite
def models(draw: st.DrawFn, calls: st.SearchStrategy[Says], sessions: bool = True) -> dict[str, ScriptedModel]:
    """A pair with one fixed reply per mode, so that repeated calls give equal replies, as in greedy decoding."""

    def one(name: str) -> ScriptedModel:
        by_mode = {mode: draw(calls) for mode in (Mode.SHORT, Mode.REASON, Mode.READ, Mode.GRADE)}
        return ScriptedModel(
            name, lambda prompt: by_mode[prompt.mode], prefix_sessions=sessions and draw(st.booleans())
        )

    return {"small": one("tiny"), "large": one("huge")}


def check(outcome: Outcome, pair: dict[str, ScriptedModel]) -> None:
    assert outcome.route in Route
    assert all(model.running == 0 for model in pair.values()), "a call outlived its request"
    for name, usage in outcome.usage.items():
        own = [call.usage for call in outcome.calls if call.model == name]
        assert usage.completion_tokens == sum(u.completion_tokens or 0 for u in own)
        assert usage.prompt_tokens == sum(u.prompt_tokens or 0 for u in own)
    for call in outcome.calls:
        assert 0 <= call.start_s <= call.end_s <= outcome.total_s + 1e-9
        assert call.first_token_s is None or call.start_s <= call.first_token_s <= call.end_s
        assert (call.usage.reasoning_tokens or 0) <= (call.usage.completion_tokens or 0)
        assert (call.finish_reason is FinishReason.ERROR) == (call.error is not None)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(sorted(STRATEGIES)), st.sampled_from(Schedule), RULES, st.integers(1, 40))
def test_every_question_has_one_route_and_the_tokens_of_its_calls(data, strategy, schedule, rule, budget):
    pair = data.draw(models(st.one_of(healthy, faults, hangs)))
    policy = Policy(
        schedule=schedule,
        accept=Acceptance.parse(rule),
        limits=Limits(reasoning_tokens=budget, timeout_s=20),
        follow_chars=8,
        samples=2,
    )

    async def work() -> None:
        try:
            outcome = await answer(HOW_MANY, pair, strategy, policy)
        except (ModelError, NoAnswer):
            outcome = None
        if outcome is not None:
            check(outcome, pair)
        assert all(model.running == 0 for model in pair.values())
        assert len(asyncio.all_tasks()) == 1, "something is still running"

    virtual_time.run(work())


@settings(max_examples=100, deadline=None)
@given(models(healthy), st.sampled_from(["mutual", "transfer"]), RULES)
def test_schedules_change_the_time_but_never_the_answer(pair, strategy, rule):
    def run(schedule: Schedule) -> Outcome:
        async def work() -> Outcome:
            return await answer(
                HOW_MANY, pair, strategy, Policy(schedule=schedule, accept=Acceptance.parse(rule), follow_chars=8)
            )

        return virtual_time.run(work())

    thrifty, overlap, eager = (run(schedule) for schedule in Schedule)
    assert (thrifty.answer, thrifty.route) == (overlap.answer, overlap.route) == (eager.answer, eager.route)
    assert eager.total_s <= overlap.total_s + 1e-9 <= thrifty.total_s + 2e-9
    # the text after the closed reasoning is awaited only if it may decide the route
    spared = max(len(each.split()) for each in ANSWERS_GIVEN)
    assert min(_generated(eager), _generated(overlap)) >= _generated(thrifty) - spared


@settings(max_examples=150, deadline=None)
@given(models(st.one_of(healthy, faults, hangs)), st.sampled_from(["mutual", "transfer"]), RULES)
def test_when_models_fail_every_schedule_takes_the_same_route(pair, strategy, rule):
    def run(schedule: Schedule) -> Outcome | None:
        async def work() -> Outcome | None:
            try:
                policy = Policy(schedule=schedule, accept=Acceptance.parse(rule), follow_chars=8)
                return await answer(HOW_MANY, pair, strategy, policy)
            except (ModelError, NoAnswer):
                return None

        return virtual_time.run(work())

    if (thrifty := run(Schedule.THRIFTY)) is not None:
        for other in (run(Schedule.OVERLAP), run(Schedule.EAGER)):
            assert other is not None
            assert other.route == thrifty.route
            # after failures, the fallback answer depends on the calls that were made before
            assert other.answer == thrifty.answer or other.route is Route.DEGRADED


def _generated(outcome: Outcome) -> int:
    return sum(usage.completion_tokens or 0 for usage in outcome.usage.values())


@settings(max_examples=80, deadline=None)
@given(models(st.one_of(healthy, faults, hangs)), st.sampled_from(Schedule), st.floats(0, 5))
def test_a_request_cancelled_at_any_moment_leaves_nothing_running(pair, schedule, after_s):
    async def work() -> None:
        asking = asyncio.create_task(answer(HOW_MANY, pair, "mutual", Policy(schedule=schedule, follow_chars=8)))
        await asyncio.wait([asking], timeout=after_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert all(model.running == 0 for model in pair.values())
        assert len(asyncio.all_tasks()) == 1

    virtual_time.run(work())
