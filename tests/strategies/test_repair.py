"""JSON answers: one repair within the deadline, and an error instead of an answer that does not match the schema."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cuecard import virtual_time
from cuecard.domain.call import Call, FinishReason, Mode
from cuecard.domain.errors import InvalidAnswer, ModelTimeout, ModelUnreachable
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import answer

SCHEMA = json.dumps({"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]})
ASKED = Question("How many?", kind=AnswerKind.JSON, schema=SCHEMA)
FITS, WRONG, PROSE = '{"count": 3}', '{"count": "three"}', "There are three."
DOWN = Says(error=ModelUnreachable("it is down"))


def model(name: str, **by_mode: Says | str) -> ScriptedModel:
    """A model with a reply for each of these modes, and `always` (default: PROSE) for all others."""

    def says(prompt: Prompt) -> Says:
        reply = by_mode.get(prompt.mode.value, by_mode.get("always", PROSE))
        return reply if isinstance(reply, Says) else Says(reply, "One, two, three.", token_s=0.1)

    return ScriptedModel(name, says)


def asked(strategy: str, small: ScriptedModel, large: ScriptedModel, **policy: Any) -> tuple[Outcome, list[Call]]:
    calls: list[Call] = []
    models = {"small": small, "large": large}
    return virtual_time.run(answer(ASKED, models, strategy, Policy(**policy), calls=calls)), calls


def test_the_repairing_model_sees_the_answer_and_its_error() -> None:
    large = model("huge", short=WRONG, repair=f"```json\n{FITS}\n```")
    outcome, _ = asked("short", model("tiny"), large)
    assert (outcome.answer, outcome.route) == (FITS, Route.DIRECT)
    *_, wrong, why = large.prompts[-1].turns
    assert wrong.text == WRONG
    assert "'three' is not of type 'integer'" in why.text
    assert [call.mode for call in outcome.calls] == [Mode.SHORT, Mode.REPAIR]


def test_an_answer_is_repaired_once_and_the_error_names_the_misfit() -> None:
    large = model("huge", always=WRONG)
    with pytest.raises(InvalidAnswer, match=r"\$\.count: 'three' is not of type 'integer'"):
        asked("short", model("tiny"), large)
    assert [prompt.mode for prompt in large.prompts] == [Mode.SHORT, Mode.REPAIR]


@pytest.mark.parametrize(("logprob", "route"), [(-0.2, Route.AGREED), (-0.3, Route.TRANSFERRED)])
def test_the_confidence_of_json_is_the_mean_over_its_tokens(logprob: float, route: Route) -> None:
    sure = Says(FITS, confidence_logprob=logprob)
    small, large = (model(name, short=sure, reason="none", read=FITS) for name in ("tiny", "huge"))
    outcome, [first, *_] = asked("mutual", small, large)  # the default rule requires 0.9
    assert first.usage.completion_tokens == len(FITS.split()) == 2
    assert outcome.route is route


def test_the_named_model_of_a_strategy_repairs_its_own_answer() -> None:
    small, large = model("tiny", repair=FITS), model("huge", always=FITS)
    outcome, _ = asked("short:small", small, large)
    assert outcome.answer == FITS
    assert not large.prompts


@pytest.mark.parametrize("strategy", ["transfer", "mutual", "reason", "verdict"])
def test_prose_of_the_last_working_model_is_an_error(strategy: str) -> None:
    with pytest.raises(InvalidAnswer):
        asked(strategy, model("tiny"), model("huge", always=DOWN))


def test_when_the_large_model_is_down_the_small_one_repairs_and_the_route_is_degraded() -> None:
    outcome, _ = asked("transfer", model("tiny", repair=FITS), model("huge", always=DOWN))
    assert (outcome.answer, outcome.route) == (FITS, Route.DEGRADED)


def test_under_strict_an_answer_that_does_not_fit_is_not_replaced() -> None:
    small, large = model("tiny", always=FITS), model("huge")
    assert asked("mutual", small, large)[0].route is Route.DEGRADED
    with pytest.raises(InvalidAnswer):
        asked("mutual", small, large, strict=True)


def test_a_repair_is_cancelled_at_the_deadline_and_another_answer_is_given() -> None:
    large = model("huge", repair=Says(FITS, first_token_s=60.0))
    outcome, calls = asked("mutual", model("tiny", short=FITS), large, deadline_s=20.0)
    assert (outcome.answer, outcome.route) == (FITS, Route.DEGRADED)
    assert outcome.total_s == pytest.approx(20.0)
    repair = next(call for call in calls if call.mode is Mode.REPAIR)
    assert repair.finish_reason is FinishReason.CANCELLED


def test_after_the_deadline_nothing_is_repaired_and_prose_is_an_error() -> None:
    large = model("huge", read=Says(FITS, first_token_s=60.0), repair=FITS)
    with pytest.raises(InvalidAnswer, match="were over"):
        asked("mutual", model("tiny"), large, deadline_s=10.0)
    assert Mode.REPAIR not in [prompt.mode for prompt in large.prompts]


def test_no_answer_before_the_deadline_is_a_time_out() -> None:
    slow = Says(FITS, first_token_s=60.0)
    with pytest.raises(ModelTimeout):
        asked("short", model("tiny", always=slow), model("huge", always=slow), deadline_s=1.0)


async def test_cancelling_during_a_repair_ends_its_call() -> None:
    repairing, calls = asyncio.Event(), list[Call]()

    def says(prompt: Prompt) -> Says:
        if prompt.mode is not Mode.REPAIR:
            return Says(PROSE)
        repairing.set()
        return Says(hangs=True)

    large = ScriptedModel("huge", says)
    working = asyncio.create_task(answer(ASKED, {"small": model("tiny"), "large": large}, "short", calls=calls))
    await repairing.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert large.running == 0
    assert [call.finish_reason for call in calls] == [FinishReason.STOP, FinishReason.CANCELLED]
