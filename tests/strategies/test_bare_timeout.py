"""A model that raises Python's TimeoutError counts as a failed model, with and without a time limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from cuecard import virtual_time
from cuecard.domain.errors import ModelTimeout
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Event, Limits
from cuecard.models.prompt import Prompt
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import Policy
from cuecard.strategies.run import answer

HOW_MANY = Question("How many?", kind=AnswerKind.NUMBER)


class TimesOut(ScriptedModel):
    """A model that raises TimeoutError in every call."""

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        raise TimeoutError("timed out")
        yield

    async def score(self, prompt: Prompt, answer: str) -> float:
        raise TimeoutError("timed out")


def answering(name: str, text: str) -> ScriptedModel:
    return ScriptedModel(name, lambda _: Says(text, "One, two."))


@pytest.mark.parametrize("limit_s", [None, 60.0])
@pytest.mark.parametrize("deadline_s", [None, 60.0])
def test_after_a_models_own_time_out_the_other_models_answer_is_given(limit_s: float | None, deadline_s: float | None):
    policy = Policy(limits=Limits(timeout_s=limit_s), deadline_s=deadline_s)
    models = {"small": TimesOut("small", []), "large": answering("large", "2")}
    outcome = virtual_time.run(answer(HOW_MANY, models, "mutual", policy))
    assert (outcome.answer, outcome.route) == ("2", Route.DEGRADED)
    assert "small reports a time-out of its own" in outcome.reason


@pytest.mark.parametrize("limit_s", [None, 60.0])
def test_a_models_own_time_out_is_raised_as_model_timeout(limit_s: float | None):
    policy = Policy(limits=Limits(timeout_s=limit_s), strict=True)
    models = {"small": TimesOut("small", []), "large": answering("large", "2")}
    with pytest.raises(ModelTimeout, match="small reports a time-out of its own"):
        virtual_time.run(answer(HOW_MANY, models, "mutual", policy))


def test_a_time_out_during_scoring_is_raised_as_model_timeout():
    class Scores(TimesOut):
        stream = ScriptedModel.stream

    large = Scores("large", lambda _: Says("a tabby cat"), scores=lambda _: 0.0)
    question = Question("What is it?", kind=AnswerKind.FREE_TEXT)
    with pytest.raises(ModelTimeout, match="large reports a time-out of its own"):
        virtual_time.run(
            answer(question, {"small": answering("small", "a dog"), "large": large}, policy=Policy(strict=True))
        )
