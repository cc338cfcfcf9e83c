"""Baselines: cascade, ladder, route, vote, verdict, panel and force."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cuecard import virtual_time
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, ModelError
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Limits
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.baselines import difficulty
from cuecard.strategies.policy import Policy, Schedule
from cuecard.strategies.run import answer, preview

HOW_MANY = Question("How many cats are there?", kind=AnswerKind.NUMBER)


def ask(strategy: str, policy: Policy | None = None, question: Question = HOW_MANY, **models: ScriptedModel) -> Outcome:
    async def work() -> Outcome:
        return await answer(question, models, strategy, policy)

    return virtual_time.run(work())


def saying(text: str, logprob: float | None = None) -> ScriptedModel:
    return ScriptedModel(text, lambda prompt: Says(text, "Because.", confidence_logprob=logprob))


def test_a_cascade_stops_at_a_confident_small_model():
    outcome = ask("cascade", small=saying("3", -0.01), large=saying("4"))
    assert (outcome.route, outcome.answer) == (Route.DIRECT, "3")


@pytest.mark.parametrize("logprob", [-3.0, None])
def test_a_cascade_escalates_when_the_small_model_is_not_sure(logprob):
    outcome = ask("cascade", small=saying("3", logprob), large=saying("4"))
    assert (outcome.route, outcome.answer) == (Route.ESCALATED, "4")
    assert outcome.calls[-1].mode is Mode.REASON


@pytest.mark.parametrize("says", [("3", -0.01), ("3", -3.0), ("3", None), ("", -0.01)])
def test_a_cascade_takes_the_route_of_its_preview(says):
    async def previewed():
        return await preview(HOW_MANY, {"small": saying(*says), "large": saying("4")}, "cascade", Policy())

    previewed_route, _, calls = virtual_time.run(previewed())
    assert previewed_route is ask("cascade", small=saying(*says), large=saying("4")).route
    assert [call.role for call in calls] == ["small"]


def test_routing_decides_before_anything_is_generated():
    easy = Question("What colour is the cat?", kind=AnswerKind.SHORT_TEXT)
    hard = Question("Start at 5 and jump 3 times, then add 7. What is the sum?", kind=AnswerKind.NUMBER)
    assert difficulty(easy) < 0.5 < difficulty(hard)
    assert [c.mode for c in ask("route", question=easy, large=saying("black"), small=saying("x")).calls] == [Mode.SHORT]
    assert [c.mode for c in ask("route", question=hard, large=saying("12"), small=saying("x")).calls] == [Mode.REASON]


def test_a_vote_gives_the_most_frequent_answer_and_its_count():
    voter = ScriptedModel("voter", [Says(text, "Hm.") for text in ("3", "4", "four", "no idea", "4.0")])
    outcome = ask("vote", small=voter, large=saying("9"))
    assert (outcome.route, outcome.answer) == (Route.VOTED, "4")
    assert outcome.reason == "3 of 5 samples say so"


def test_each_sample_has_its_own_seed():
    policy = Policy(samples=3)
    assert [policy.sampled(i).seed for i in range(3)] == [0, 1, 2]
    assert policy.sampled(0).temperature > 0


def test_in_verdict_the_large_model_reads_every_drafter():
    judge = saying("7")
    outcome = ask("verdict", small=saying("3"), other=saying("4"), large=judge)
    assert (outcome.route, outcome.answer) == (Route.JUDGED, "7")
    assert "Draft 1: Because." in judge.prompts[0].opening
    assert "Draft 2: Because." in judge.prompts[0].opening


def test_in_verdict_a_single_drafter_drafts_several_times():
    outcome = ask("verdict", policy=replace(Policy(), samples=3), small=saying("3"), large=saying("7"))
    assert [call.mode for call in outcome.calls] == [Mode.REASON] * 3 + [Mode.READ]


def test_a_strategy_without_a_needed_role_names_it():
    with pytest.raises(BadInput, match="'small'"):
        ask("mutual", large=saying("3"))


@pytest.mark.parametrize("strategy", ["vote", "verdict"])
def test_samples_run_concurrently_except_on_the_thrifty_schedule(strategy):
    def seconds(schedule: Schedule) -> float:
        drafter = ScriptedModel("drafter", lambda prompt: Says("3", "Because.", token_s=1))
        return ask(strategy, Policy(schedule=schedule, samples=3), small=drafter, large=saying("3")).total_s

    assert seconds(Schedule.THRIFTY) == pytest.approx(3 * seconds(Schedule.OVERLAP))


def test_a_sample_that_fails_ends_the_others_and_the_large_model_answers():
    drafter = ScriptedModel("drafter", [Says("3", "Hm.", token_s=1), Says("", error=ModelError("out of memory"))])
    outcome = ask("vote", Policy(samples=2), small=drafter, large=saying("5"))
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "5")
    assert drafter.running == 0


def answering(**by_mode: Says) -> ScriptedModel:
    return ScriptedModel("scripted", lambda prompt: by_mode[prompt.mode])


@pytest.mark.parametrize(("small", "large", "answer", "calls"), [(0.9, 0.9, "1", 1), (0.1, 0.9, "2", 2)])
def test_a_ladder_stops_at_the_first_sure_answer(small, large, answer, calls):
    def saying_short(text: str, sure: float) -> ScriptedModel:
        return answering(short=Says(text, confidence_logprob=math.log(sure)), reason=Says("9", "Hm."))

    outcome = ask("ladder", small=saying_short("1", small), large=saying_short("2", large))
    assert (outcome.answer, len(outcome.calls)) == (answer, calls)


def test_the_last_answer_of_a_ladder_stands_although_it_is_not_sure():
    outcome = ask("ladder", small=saying("3", -3.0), large=saying("4", -3.0))
    assert (outcome.answer, outcome.route) == ("4", Route.ESCALATED)
    assert [(call.role, call.mode) for call in outcome.calls] == [
        ("small", Mode.SHORT),
        ("large", Mode.SHORT),
        ("small", Mode.REASON),
        ("large", Mode.REASON),
    ]


@pytest.mark.parametrize(
    ("samples", "taken", "answer"),
    [(("3", "3", "4", "4", "4"), 2, "3"), (("3", "4", "4", "4", "3"), 4, "4"), (("3", "4", "5", "3", "4"), 5, "3")],
)
def test_a_vote_with_a_window_ends_when_a_window_is_unanimous(samples, taken, answer):
    voter = ScriptedModel("voter", [Says(text, "Hm.") for text in samples])
    outcome = ask("vote", Policy(samples=5, vote_window=2), small=voter, large=saying("9"))
    assert (outcome.answer, len(outcome.calls)) == (answer, taken)


def test_a_window_of_unreadable_answers_is_not_unanimous():
    voter = ScriptedModel("voter", [Says(text, "Hm.") for text in ("no idea", "no idea", "4")])
    assert ask("vote", Policy(samples=3, vote_window=2), small=voter, large=saying("9")).answer == "4"


def test_in_panel_the_large_model_reads_the_drafts_of_both_that_agree():
    small = ScriptedModel("small", [Says("3", "Three."), Says("4", "Four.")])
    large = ScriptedModel("large", [Says("4", "Also four."), Says("4", "Four too."), Says("4")])
    outcome = ask("panel", Policy(samples=2), small=small, large=large)
    assert (outcome.route, outcome.answer) == (Route.JUDGED, "4")
    assert outcome.reason == "the large model read 3 of 4 drafts, those that agree"
    card = large.prompts[-1].opening
    assert "Draft 1: Four.\n\nDraft 2: Also four.\n\nDraft 3: Four too." in card
    assert "Three." not in card


def test_forcing_goes_on_with_a_reasoning_that_ends_before_its_budget():
    large = ScriptedModel("large", [Says("3", "It is three."), Says("4", "It is four.")])
    outcome = ask("force", Policy(waits=1), small=saying("9"), large=large)
    assert (outcome.route, outcome.answer) == (Route.DIRECT, "4")
    assert large.prompts[1].opening == "<think>\nIt is three.\nWait,"
    assert outcome.usage["large"].completion_tokens == 3 + 4


def test_forcing_ends_where_the_budget_is_spent():
    large = ScriptedModel("large", [Says("3", "It is three."), Says("4", "It is four I think.")])
    outcome = ask("force", Policy(waits=5, limits=Limits(reasoning_tokens=5)), small=saying("9"), large=large)
    assert (outcome.answer, len(outcome.calls)) == ("4", 2)
    assert outcome.calls[-1].usage.reasoning_tokens == 2


def test_forcing_without_waits_is_reasoning():
    forced, plain = (ask(name, Policy(waits=0), small=saying("3")) for name in ("force:small", "reason:small"))
    assert [replace(call, key=None) for call in forced.calls] == list(plain.calls)


def test_a_model_that_cannot_go_on_with_its_turn_is_asked_to():
    large = ScriptedModel("large", [Says("3", "It is three."), Says("4", "It is four.")])
    large.abilities = replace(large.abilities, resumes=False)
    assert ask("force", small=saying("9"), large=large).answer == "4"
    *_, written, asked = large.prompts[1].turns
    assert (written.role, written.text) == ("assistant", "It is three.\nWait,")
    assert "Go on" in asked.text


@pytest.mark.parametrize(
    "options", [{"samples": 0}, {"vote_window": 1}, {"waits": -1}, {"step_score": 1.5}, {"cascade_confidence": -0.1}]
)
def test_settings_of_baselines_that_make_no_sense_are_refused(options):
    with pytest.raises(BadInput):
        Policy(**options)
