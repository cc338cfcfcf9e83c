"""Time from the last reasoning token to the reader's answer, in virtual time with scripted models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cuecard import virtual_time
from cuecard.domain.call import FinishReason, Mode
from cuecard.domain.errors import ModelError
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Limits
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Acceptance, Policy, Schedule
from cuecard.strategies.run import answer

HOW_MANY = Question("How many cats are there?", kind=AnswerKind.NUMBER)
DESCRIBE = Question("Describe the cats.", kind=AnswerKind.FREE_TEXT)
CARD = "One here. Two there."
OVERLAP = Policy(accept=Acceptance.parse("agree"), schedule=Schedule.OVERLAP)


def ask(
    models: dict[str, ScriptedModel], strategy: str, policy: Policy = OVERLAP, question: Question = HOW_MANY
) -> Outcome:
    async def work() -> Outcome:
        return await answer(question, models, strategy, policy)

    return virtual_time.run(work())


def pair(
    reasoned: str = "3", short: str = "2", large: str = "5", read: str = "4", **timing: float
) -> dict[str, ScriptedModel]:
    """A small model that decodes one token per second, and a large one that decodes two."""

    def small_says(prompt):
        return Says(reasoned, CARD, token_s=1) if prompt.mode is Mode.REASON else Says(short, token_s=1)

    def large_says(prompt):
        return Says(read if prompt.mode is Mode.READ else large, token_s=0.5, **timing)

    return {"small": ScriptedModel("tiny", small_says), "large": ScriptedModel("huge", large_says)}


def of(outcome: Outcome, mode: Mode, role: str = "small"):
    return next(call for call in outcome.calls if call.mode is mode and call.role == role)


def test_the_reader_starts_when_the_reasoning_is_closed():
    models = pair(reasoned="a long answer of nine words that is not needed")
    outcome = ask(models, "transfer", question=DESCRIBE)
    written, read = of(outcome, Mode.REASON), of(outcome, Mode.READ, "large")
    assert written.reasoning_end_s == pytest.approx(4)
    assert read.start_s == pytest.approx(4)
    assert outcome.handoff_s == pytest.approx(0.5)


def test_transfer_stops_the_small_model_after_its_reasoning_and_records_its_call():
    outcome = ask(pair(reasoned="a long answer of nine words that is not needed"), "transfer", question=DESCRIBE)
    written = of(outcome, Mode.REASON)
    assert written.finish_reason is FinishReason.CANCELLED
    assert written.reasoning == CARD
    assert written.usage.completion_tokens in (4, 5)


@pytest.mark.parametrize("schedule", Schedule)
def test_free_text_without_a_scoring_model_is_transferred_without_short_answers(schedule):
    outcome = ask(pair(short="a short answer of six words"), "mutual", replace(OVERLAP, schedule=schedule), DESCRIBE)
    assert {call.mode for call in outcome.calls} == {Mode.REASON, Mode.READ}
    assert (outcome.route, outcome.answer) == (Route.TRANSFERRED, "4")


@pytest.mark.parametrize("schedule", Schedule)
def test_verdict_does_not_wait_for_the_drafters_answers(schedule):
    models = pair(reasoned="a long answer of nine words that is not needed")
    outcome = ask(models, "verdict", replace(OVERLAP, schedule=schedule, samples=3), DESCRIBE)
    written = [call for call in outcome.calls if call.mode is Mode.REASON]
    assert [call.finish_reason for call in written] == [FinishReason.CANCELLED] * 3
    assert of(outcome, Mode.READ, "large").start_s == pytest.approx(12 if schedule is Schedule.THRIFTY else 4)
    assert outcome.answer


def test_in_mutual_the_reader_runs_beside_the_small_models_answer():
    outcome = ask(pair(reasoned="seven and seven"), "mutual")
    assert outcome.route is Route.TRANSFERRED
    read = of(outcome, Mode.READ, "large")
    assert read.start_s == pytest.approx(of(outcome, Mode.REASON).reasoning_end_s)


def test_a_reader_that_is_not_needed_is_cancelled_and_recorded():
    outcome = ask(pair(reasoned="5", first_token_s=10), "mutual")
    assert (outcome.route, outcome.answer) == (Route.CONFIRMED, "5")
    read = of(outcome, Mode.READ, "large")
    assert read.cancelled
    assert outcome.total_s < read.start_s + 10


def test_on_the_thrifty_schedule_the_card_is_read_only_where_needed():
    outcome = ask(pair(reasoned="5"), "mutual", replace(OVERLAP, schedule=Schedule.THRIFTY))
    assert outcome.route is Route.CONFIRMED
    assert Mode.READ not in {call.mode for call in outcome.calls}


def test_for_an_unparseable_short_answer_the_small_models_answer_is_not_awaited():
    outcome = ask(pair(large="I cannot see any"), "mutual", replace(OVERLAP, schedule=Schedule.THRIFTY))
    assert outcome.route is Route.TRANSFERRED
    assert of(outcome, Mode.REASON).finish_reason is FinishReason.CANCELLED


def test_a_small_model_may_fail_after_its_reasoning_is_closed():
    def breaks(prompt):
        if prompt.mode is not Mode.REASON:
            return Says("2")
        return Says("3 cats", CARD, token_s=1, error=ModelError("it is gone"), after_tokens=5)

    models = pair() | {"small": ScriptedModel("tiny", breaks)}
    outcome = ask(models, "mutual")
    assert (outcome.route, outcome.answer) == (Route.TRANSFERRED, "4")


def test_when_the_reader_fails_the_small_model_answers_from_its_own_reasoning():
    def large_says(prompt):
        return Says("5", error=ModelError("it is gone") if prompt.mode is Mode.READ else None)

    models = pair() | {"large": ScriptedModel("huge", large_says)}

    def small_says(prompt):
        return Says("6" if prompt.mode is Mode.READ else "3 cats", CARD, token_s=1)

    models["small"] = ScriptedModel("tiny", small_says)
    outcome = ask(models, "transfer")
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "6")
    assert sum(call.mode is Mode.REASON for call in outcome.calls) == 1


# --- brief answers that do not end ------------------------------------------------------------------------------------

LONG = "well let me see there are some cats here " * 10


def runs_on(until_strict: bool) -> ScriptedModel:
    def says(prompt):
        strict = prompt.turns[0].role == "system"
        return Says("3" if strict and until_strict else LONG)

    return ScriptedModel("chatty", says)


def test_a_brief_answer_that_runs_on_is_cut_and_requested_again_strictly():
    models = {"small": runs_on(True), "large": runs_on(True)}
    outcome = ask(models, "short")
    assert (outcome.answer, outcome.truncated) == ("3", False)
    first, second = outcome.calls
    assert first.finish_reason is FinishReason.LENGTH
    assert first.usage.completion_tokens <= 24
    assert second.finish_reason is FinishReason.STOP


def test_an_answer_that_runs_on_twice_is_marked_truncated_and_never_agrees():
    models = {"small": runs_on(False), "large": runs_on(False)}
    outcome = ask(models, "mutual")
    assert outcome.route is Route.TRANSFERRED
    assert outcome.truncated


def test_free_text_has_a_limit_of_1024_tokens():
    models = {"small": runs_on(False), "large": runs_on(False)}
    outcome = ask(models, "short", question=DESCRIBE)
    assert not outcome.truncated
    assert outcome.answer == LONG.strip()


def test_a_limit_of_the_user_overrides_that_of_the_kind():
    policy = replace(OVERLAP, limits=Limits(answer_tokens=200))
    outcome = ask({"small": runs_on(False), "large": runs_on(False)}, "short", policy)
    assert not outcome.truncated


# --- schedules by location of the models ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("small", "large", "schedule"),
    [
        ("this process, cpu", "this process, cpu", Schedule.THRIFTY),
        ("this process, cuda:0", "this process, cuda:1", Schedule.OVERLAP),
        ("this process, cpu", None, Schedule.OVERLAP),
        (None, None, Schedule.OVERLAP),
    ],
)
def test_the_schedule_follows_where_the_models_run(small, large, schedule):
    models = pair()
    for role, place in (("small", small), ("large", large)):
        models[role].abilities = replace(models[role].abilities, place=place)
    assert ask(models, "transfer", Policy()).schedule is schedule
    assert ask(models, "transfer", Policy(schedule=Schedule.EAGER)).schedule is Schedule.EAGER


def test_when_the_reader_is_late_the_conclusion_of_the_reasoning_is_given():
    def small_says(prompt):
        return Says("9", "One here, two there.\nSo the answer is 3.", token_s=0.1)

    models = pair(first_token_s=100) | {"small": ScriptedModel("tiny", small_says)}
    outcome = ask(models, "transfer", replace(OVERLAP, deadline_s=10))
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "3")
