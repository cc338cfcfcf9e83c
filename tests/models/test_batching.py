"""Concurrent calls of a local model are decoded in one batch, with the same output as single calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import torch
from hearing import hear

from cuecard.demo import boards
from cuecard.domain.errors import ModelError
from cuecard.models import spec
from cuecard.models.base import Limits
from cuecard.models.local import fused_decoder
from cuecard.models.local.embedded_layers import TextDecoder
from cuecard.models.local.model import LocalModel
from cuecard.models.prompt import reason, short
from cuecard.models.spec import Embedded

pytestmark = pytest.mark.slow

QUESTIONS = [exercise.question for exercise in boards.exercises(4, 5)]


NETWORKS = {"numpy": {}, "transformers": {"device": "cpu"}}


@pytest.fixture(params=NETWORKS)
async def model(request: pytest.FixtureRequest, name: str) -> AsyncIterator[LocalModel]:
    loaded = LocalModel.load(Embedded(name).folder, **NETWORKS[request.param])
    yield loaded
    await loaded.aclose()


@pytest.fixture
def name() -> str:
    return "demo-small"


def prompts(model: LocalModel) -> list:
    return [mode(question, model.abilities.style) for question in QUESTIONS for mode in (reason, short)]


async def alone_and_at_once(model: LocalModel) -> tuple[list, list]:
    alone = [await hear(model, prompt, Limits()) for prompt in prompts(model)]
    model.forget()
    return alone, await asyncio.gather(*(hear(model, prompt, Limits()) for prompt in prompts(model)))


@pytest.mark.parametrize("name", spec.EMBEDDED)
async def test_greedy_calls_at_once_say_what_they_say_alone(model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, whole = [], model._network.append
    monkeypatch.setattr(model._network, "append", lambda *given: sizes.append(len(given[0])) or whole(*given))
    alone, at_once = await alone_and_at_once(model)
    for one, other in zip(alone, at_once, strict=True):
        assert (other.reasoning, other.answer, other.end.finish_reason) == (
            one.reasoning,
            one.answer,
            one.end.finish_reason,
        )
        assert other.end.usage.completion_tokens == one.end.usage.completion_tokens
        assert other.end.answer_logprob == pytest.approx(one.end.answer_logprob, abs=1e-4)
    assert max(sizes) >= len(QUESTIONS), "they were decoded together"


async def test_where_the_two_best_tokens_are_close_the_step_is_done_alone(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_decoder, "are_close", lambda logits: [True] * len(logits))
    whole = fused_decoder.batched_logits
    monkeypatch.setattr(fused_decoder, "batched_logits", lambda *given: torch.zeros_like(whole(*given)))
    step = TextDecoder.step
    monkeypatch.setattr(TextDecoder, "step", lambda *given: step(*given) * (len(given[1]) == 1))
    alone, at_once = await alone_and_at_once(model)
    assert [one.answer for one in alone] == [other.answer for other in at_once], "none is taken from the batch"


def test_close_is_what_another_order_of_sums_could_turn_round() -> None:
    logits = torch.tensor([[10.0, 9.9995, 0.0], [10.0, 9.5, 0.0], [-10.0, 1.0, 1.0]])
    assert fused_decoder.are_close(logits) == [True, False, True]


async def test_a_sampled_call_draws_the_same_beside_others(model: LocalModel) -> None:
    prompt, sampled = prompts(model)[0], Limits(temperature=0.9, seed=3)
    alone = await hear(model, prompt, sampled)
    model.forget()
    _, beside = await asyncio.gather(hear(model, prompts(model)[2], Limits()), hear(model, prompt, sampled))
    assert (beside.reasoning, beside.answer) == (alone.reasoning, alone.answer)


async def test_a_step_that_fails_ends_the_calls_in_it_and_the_model_goes_on(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        whole = model._network.append
        broken.setattr(model._network, "append", lambda *given: 1 / 0 if len(given[0]) > 1 else whole(*given))
        await hear(model, prompts(model)[0], Limits())
        failed = await asyncio.gather(*(hear(model, each, Limits()) for each in prompts(model)), return_exceptions=True)
        assert any(isinstance(each, ModelError) and "ZeroDivisionError" in str(each) for each in failed)
    assert (await hear(model, prompts(model)[0], Limits())).answer
