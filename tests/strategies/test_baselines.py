"""The ideas of others, as baselines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cuecard import virtual_time
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, ModelError
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
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
def test_a_cascade_that_is_previewed_takes_the_route_that_was_told(says):
    async def previewed():
        return await preview(HOW_MANY, {"small": saying(*says), "large": saying("4")}, "cascade", Policy())

    told, _, calls = virtual_time.run(previewed())
    assert told is ask("cascade", small=saying(*says), large=saying("4")).route
    assert [call.role for call in calls] == ["small"]


def test_routing_decides_before_anything_is_generated():
    easy = Question("What colour is the cat?", kind=AnswerKind.SHORT_TEXT)
    hard = Question("Start at 5 and jump 3 times, then add 7. What is the sum?", kind=AnswerKind.NUMBER)
    assert difficulty(easy) < 0.5 < difficulty(hard)
    assert [c.mode for c in ask("route", question=easy, large=saying("black"), small=saying("x")).calls] == [Mode.SHORT]
    assert [c.mode for c in ask("route", question=hard, large=saying("12"), small=saying("x")).calls] == [Mode.REASON]


def test_a_vote_takes_the_most_frequent_answer_and_says_how_many():
    voter = ScriptedModel("voter", [Says(text, "Hm.") for text in ("3", "4", "four", "no idea", "4.0")])
    outcome = ask("vote", small=voter, large=saying("9"))
    assert (outcome.route, outcome.answer) == (Route.VOTED, "4")
    assert outcome.reason == "3 of 5 samples say so"


def test_samples_have_seeds_of_their_own():
    policy = Policy(samples=3)
    assert [policy.sampled(i).seed for i in range(3)] == [0, 1, 2]
    assert policy.sampled(0).temperature > 0


def test_a_verdict_lets_the_large_model_read_every_drafter():
    judge = saying("7")
    outcome = ask("verdict", small=saying("3"), other=saying("4"), large=judge)
    assert (outcome.route, outcome.answer) == (Route.JUDGED, "7")
    assert "Draft 1: Because." in judge.prompts[0].opening
    assert "Draft 2: Because." in judge.prompts[0].opening


def test_a_verdict_with_one_drafter_lets_it_draft_several_times():
    outcome = ask("verdict", policy=replace(Policy(), samples=3), small=saying("3"), large=saying("7"))
    assert [call.mode for call in outcome.calls] == [Mode.REASON] * 3 + [Mode.READ]


def test_a_strategy_that_lacks_a_role_says_which():
    with pytest.raises(BadInput, match="'small'"):
        ask("mutual", large=saying("3"))


@pytest.mark.parametrize("strategy", ["vote", "verdict"])
def test_samples_are_drawn_at_once_unless_on_the_thrifty_schedule(strategy):
    def seconds(schedule: Schedule) -> float:
        drafter = ScriptedModel("drafter", lambda prompt: Says("3", "Because.", token_s=1))
        return ask(strategy, Policy(schedule=schedule, samples=3), small=drafter, large=saying("3")).total_s

    assert seconds(Schedule.THRIFTY) == pytest.approx(3 * seconds(Schedule.OVERLAP))


def test_a_sample_that_fails_ends_the_others_and_the_large_model_answers():
    drafter = ScriptedModel("drafter", [Says("3", "Hm.", token_s=1), Says("", error=ModelError("out of memory"))])
    outcome = ask("vote", Policy(samples=2), small=drafter, large=saying("5"))
    assert (outcome.route, outcome.answer) == (Route.DEGRADED, "5")
    assert drafter.running == 0
