"""The paper's strategies, in virtual time with scripted models."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from cuecard import virtual_time
from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import BadInput, ModelTimeout, ModelUnreachable, NoAnswer
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Limits
from cuecard.models.prompt import CardFormat
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Acceptance, Policy, Schedule
from cuecard.strategies.run import answer, preview

HOW_MANY = Question("How many cats are there?", kind=AnswerKind.NUMBER)
AGREE = Policy(accept=Acceptance.parse("agree"), schedule=Schedule.THRIFTY)
SURE, UNSURE = -0.01, -2.0


def ask(small: ScriptedModel, large: ScriptedModel, strategy: str = "mutual", policy: Policy = AGREE) -> Outcome:
    async def work() -> Outcome:
        return await answer(HOW_MANY, {"small": small, "large": large}, strategy, policy)

    return virtual_time.run(work())


def small(short: str = "3", reasoned: str = "3", **timing: float) -> ScriptedModel:
    def says(prompt):
        return (
            Says(reasoned, "One here. Two there. So the answer is not far.", **timing)
            if prompt.mode is Mode.REASON
            else Says(short, **timing)
        )

    return ScriptedModel("tiny", says)


def large(
    short: str = "3", read: str = "3", logprob: float | None = SURE, sessions: bool = False, **timing: float
) -> ScriptedModel:
    def says(prompt):
        return Says(read if prompt.mode is Mode.READ else short, confidence_logprob=logprob, **timing)

    return ScriptedModel("huge", says, prefix_sessions=sessions)


def test_when_both_short_answers_agree_no_model_reasons():
    outcome = ask(small("3"), large("three"))
    assert outcome.route is Route.AGREED
    assert [call.mode for call in outcome.calls] == [Mode.SHORT, Mode.SHORT]


def test_when_the_reasoned_answer_is_the_large_models_short_one_it_is_confirmed():
    outcome = ask(small("2", reasoned="3"), large("3"))
    assert (outcome.route, outcome.answer) == (Route.CONFIRMED, "3")
    assert Mode.READ not in {call.mode for call in outcome.calls}


def test_a_confirmation_by_a_cut_reasoning_names_the_cut():
    cut = replace(AGREE, limits=Limits(reasoning_tokens=3))
    for policy, names_cut in ((AGREE, False), (cut, True)):
        outcome = ask(small("2", reasoned="3"), large("3"), policy=policy)
        assert outcome.route is Route.CONFIRMED
        assert ("cut by its budget" in outcome.reason) is names_cut


def test_without_agreement_the_large_model_reads_the_card_and_answers():
    reader = large("5", read="4")
    outcome = ask(small("2", reasoned="3"), reader)
    assert (outcome.route, outcome.answer) == (Route.TRANSFERRED, "4")
    assert "One here. Two there." in reader.prompts[-1].opening


def test_an_unparseable_answer_never_agrees():
    assert ask(small("no idea", reasoned="no idea"), large("no idea", read="7")).route is Route.TRANSFERRED


def test_two_keys_do_not_accept_an_unsure_agreement():
    policy = Policy(accept=Acceptance.parse("agree+confidence(0.6)"))
    assert ask(small("3"), large("3", logprob=SURE), policy=policy).route is Route.AGREED
    assert ask(small("3"), large("3", logprob=UNSURE), policy=policy).route is Route.CONFIRMED


def test_confidence_alone_needs_no_agreement():
    policy = Policy(accept=Acceptance.parse("confidence(0.9)"))
    assert ask(small("2"), large("3"), policy=policy).route is Route.AGREED


def test_without_probabilities_agreement_alone_decides_and_the_reason_says_so():
    policy = Policy(accept=Acceptance.parse("confidence(0.9)"))
    outcome = ask(small("3"), large("3", logprob=None), policy=policy)
    assert outcome.route is Route.AGREED
    assert "gives no probabilities" in outcome.reason
    assert ask(small("2"), large("3", logprob=None), policy=policy).route is not Route.AGREED


@pytest.mark.parametrize("schedule", Schedule)
def test_every_schedule_gives_the_same_answer(schedule):
    outcome = ask(small("2", "4", token_s=0.1), large("5", "4", token_s=0.3), policy=replace(AGREE, schedule=schedule))
    assert (outcome.route, outcome.answer) == (Route.TRANSFERRED, "4")


def test_overlap_takes_as_long_as_the_slower_short_answer():
    at_once = ask(small(token_s=1), large(token_s=3), policy=replace(AGREE, schedule=Schedule.OVERLAP))
    in_turn = ask(small(token_s=1), large(token_s=3))
    assert at_once.total_s == pytest.approx(3)
    assert in_turn.total_s == pytest.approx(4)


def test_eager_reasoning_is_cancelled_and_recorded_when_the_short_answers_agree():
    writer = small(token_s=0.1)
    outcome = ask(writer, large(token_s=0.35), policy=replace(AGREE, schedule=Schedule.EAGER))
    cancelled = [call for call in outcome.calls if call.cancelled]
    assert outcome.route is Route.AGREED
    assert [(call.mode, call.usage.completion_tokens) for call in cancelled] == [(Mode.REASON, 3)]
    assert writer.running == 0


def test_eager_is_sooner_than_overlap_when_reasoning_is_needed():
    def run(schedule):
        return ask(small("2", "4", token_s=0.1), large("5", "4", token_s=0.3), policy=replace(AGREE, schedule=schedule))

    assert run(Schedule.EAGER).total_s < run(Schedule.OVERLAP).total_s < run(Schedule.THRIFTY).total_s


def test_the_reader_computes_the_card_while_it_is_written():
    reader = large("5", "4", sessions=True)
    policy = replace(AGREE, schedule=Schedule.OVERLAP, follow_chars=10)
    outcome = ask(small("2", "3", token_s=0.1), reader, policy=policy)
    grown = [prompt.opening for prompt in reader.warmed]
    assert len(grown) >= 2
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(grown))
    assert any(call.mode is Mode.WARM for call in outcome.calls)


def test_thrifty_computes_nothing_ahead():
    reader = large("5", "4", sessions=True)
    ask(small("2", "3", token_s=0.1), reader)
    assert reader.warmed == []


DOWN = ModelUnreachable("nothing answers at port 9")


def broken(**at: object) -> ScriptedModel:
    return ScriptedModel("broken", lambda prompt: Says("3", error=DOWN, **at))


def test_when_the_large_model_is_down_the_small_one_reasons_alone_and_the_reason_says_so():
    outcome = ask(small("2", reasoned="4"), broken())
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "4")
    assert "nothing answers at port 9" in outcome.reason


def test_when_the_small_model_is_down_the_large_models_short_answer_is_given():
    outcome = ask(broken(), large("5"))
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "5")


def test_when_the_reader_fails_the_small_models_reasoned_answer_is_given():
    def says(prompt):
        return Says("5", error=DOWN) if prompt.mode is Mode.READ else Says("5")

    outcome = ask(small("2", reasoned="4"), ScriptedModel("huge", says))
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "4")
    assert [call.finish_reason for call in outcome.calls][-1] is FinishReason.ERROR


def test_strict_fails_instead_of_degrading():
    with pytest.raises(ModelUnreachable):
        ask(small(), broken(), policy=replace(AGREE, strict=True))


@pytest.mark.parametrize("schedule", Schedule)
def test_when_no_model_is_left_the_last_answer_is_given(schedule):
    def says(prompt):
        return Says("3", error=ModelUnreachable("tiny is gone") if prompt.mode is Mode.REASON else None, token_s=0.1)

    down = ScriptedModel("huge", lambda prompt: Says(error=ModelUnreachable("huge is down"), first_token_s=1.0))
    outcome = ask(ScriptedModel("tiny", says), down, policy=replace(AGREE, schedule=schedule))
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "3")
    assert outcome.reason == "huge is down; no model is left, the small model's last answer stands"


def test_when_both_models_are_down_there_is_no_answer():
    with pytest.raises(NoAnswer, match="nothing answers at port 9"):
        ask(broken(), broken())


def test_a_hanging_model_is_cancelled_after_its_time_out():
    stuck = ScriptedModel("stuck", lambda prompt: Says("3", hangs=True))
    outcome = ask(small("2", reasoned="4"), stuck, policy=replace(AGREE, limits=Limits(timeout_s=5)))
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "4")
    assert "longer than 5 s" in outcome.reason


def test_transfer_always_reads_the_card():
    outcome = ask(small("3"), large("3", read="9"), "transfer")
    assert (outcome.route, outcome.answer) == (Route.TRANSFERRED, "9")
    assert [call.mode for call in outcome.calls] == [Mode.REASON, Mode.READ]


def test_a_card_format_that_the_reader_cannot_take_is_refused():
    reader = ScriptedModel("huge", lambda prompt: Says("5"), card_formats=(CardFormat.NOTES,))
    with pytest.raises(BadInput, match="cannot be given a card as thinking"):
        ask(small("2"), reader, policy=replace(AGREE, card=CardFormat.THINKING))


@pytest.mark.parametrize("card", [CardFormat.NOTES, CardFormat.TURN])
def test_a_policy_may_set_a_card_format_that_a_probe_found_worse(card):
    reader = ScriptedModel("huge", lambda prompt: Says("5"), card_formats=(CardFormat.THINKING,))
    assert ask(small("2"), reader, "transfer", policy=replace(AGREE, card=card)).answer == "5"


def test_the_calls_show_a_spent_budget():
    outcome = ask(small("2", "4"), large("5", "4"), policy=replace(AGREE, limits=Limits(reasoning_tokens=2)))
    reasoned = next(call for call in outcome.calls if call.mode is Mode.REASON)
    assert (reasoned.finish_reason, reasoned.usage.reasoning_tokens) == (FinishReason.BUDGET, 2)


def test_an_unknown_strategy_gets_a_suggestion():
    with pytest.raises(BadInput) as caught:
        ask(small(), large(), "mutal")
    assert caught.value.hint == "did you mean mutual?"


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "agre",
        "confidence(2)",
        "confidence()",
        "agree+",
        "confidence(0.5)+agree",
        "agreeconfidence(0.5)",
        "confidence(.)",
    ],
)
def test_an_unknown_acceptance_rule_is_refused(rule):
    with pytest.raises(BadInput):
        Acceptance.parse(rule)


@pytest.mark.parametrize("rule", ["agree", "confidence(0.8)", "agree+confidence(0.6)"])
def test_acceptance_rules_are_written_as_they_are_read(rule):
    assert str(Acceptance.parse(rule)) == rule


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(reasoning_tokens=0), "budget"),
        (Limits(temperature=3), "temperature"),
        (Limits(timeout_s=0), "time-out"),
        (Limits(timeout_s=math.nan), "time-out"),
        (Limits(seed=2**63), "seed"),
    ],
)
def test_an_invalid_policy_is_refused(limits, message):
    with pytest.raises(BadInput, match=message):
        Policy(limits=limits)


def test_the_preview_of_free_text_without_a_scoring_model_needs_no_call():
    tell = Question("Tell me what you see.", kind=AnswerKind.FREE_TEXT)
    models = {"small": small("A cat."), "large": large("A dog.")}
    route, _, calls = virtual_time.run(preview(tell, models, "mutual", AGREE))
    assert (route, calls) == (Route.TRANSFERRED, ())
    outcome = virtual_time.run(answer(tell, models, "mutual", AGREE))
    assert [call.mode for call in outcome.calls] == [Mode.REASON, Mode.READ]
    assert outcome.route is route


def test_free_text_agrees_when_the_large_model_finds_the_other_answer_as_likely():
    tell = Question("Tell me what you see.", kind=AnswerKind.FREE_TEXT)

    def run(other: float) -> Outcome:
        writer = ScriptedModel("tiny", lambda prompt: Says("A cat on a sofa."))
        speaker = ScriptedModel(
            "huge",
            lambda prompt: Says("There is a cat."),
            scores=lambda text: -1.0 if text == "There is a cat." else other,
        )

        async def work() -> Outcome:
            return await answer(tell, {"small": writer, "large": speaker}, "mutual", AGREE)

        return virtual_time.run(work())

    assert run(other=-0.9).route is Route.AGREED
    assert run(other=-4.0).route is Route.TRANSFERRED


def test_cancelling_a_request_ends_every_call():
    writer, speaker = small(token_s=1), large(token_s=1)

    async def work() -> None:
        policy = replace(AGREE, schedule=Schedule.EAGER)
        asking = asyncio.create_task(answer(HOW_MANY, {"small": writer, "large": speaker}, "mutual", policy))
        await asyncio.sleep(0.5)
        assert writer.running == 2
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (writer.running, speaker.running) == (0, 0)

    virtual_time.run(work())


def test_at_the_deadline_the_large_models_short_answer_is_given():
    outcome = ask(small("2", "4", token_s=9), large("5", "4"), policy=replace(AGREE, deadline_s=12))
    assert (outcome.route, outcome.answer, outcome.total_s) == (Route.DEGRADED, "5", 12)
    assert outcome.calls[-1].cancelled


def test_a_deadline_before_any_answer_is_a_time_out():
    with pytest.raises(ModelTimeout, match="before any model had answered"):
        ask(small(token_s=9), large(token_s=9), policy=replace(AGREE, deadline_s=1))
