"""Routers of other projects: the calls about a question go to one replica, by the session in their headers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from programs import NAMES, Served, llamacpp
from real_models import SMOLLM
from router_fleet import ROUTERS, ask_pair, computed_twice, fleet, on_one_replica, router, spread

from cuecard import CardFormat, Image, Limits, Question
from cuecard.domain.errors import ModelError
from cuecard.models.base import Finished
from cuecard.models.openai.client import OpenAIModel
from cuecard.models.prompt import Prompt, read, reason, short

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]
QUESTIONS = 2
LONG = "Each harbour here has a lighthouse, three cranes and a ferry that leaves at noon. " * 2


@pytest.mark.parametrize("name", ROUTERS)
async def test_all_calls_about_a_question_to_one_model_go_to_one_replica(name: str, tmp_path: Path):
    async with fleet(name, tmp_path) as behind:
        await ask_pair(behind, 100)
        assert len(behind.calls()) == 200
        assert sum(map(len, behind.calls().values())) >= 400
        assert on_one_replica(behind) >= 0.99
        assert computed_twice(behind) == 0


@pytest.mark.parametrize("name", ROUTERS)
async def test_questions_spread_evenly_and_few_move_when_a_replica_stops(name: str, tmp_path: Path):
    async with fleet(name, tmp_path) as behind:
        found = await spread(behind, 2000)
        assert found.failed == 0
        assert found.hottest <= 1.25
        assert found.moved <= 1.3 / len(behind.replicas)
        assert found.hottest_after_stop <= 1.25


@pytest.mark.parametrize("name", ROUTERS)
async def test_an_image_of_8_mib_passes_and_a_body_of_more_than_64_mib_is_refused(name: str, tmp_path: Path):
    async with fleet(name, tmp_path, count=1) as behind:
        model = behind.model("large")
        await heard(model, short(Question("Answer for line 1.", (Image(os.urandom(8 << 20)),)), model.abilities.style))
        assert len(behind.replicas[0].received) == 1
        huge = Question("Answer for line 2.", (Image(os.urandom(49 << 20)),))  # in base64 a third more
        with pytest.raises(ModelError, match="413") as refused:
            await heard(model, short(huge, model.abilities.style))
        assert not refused.value.retryable
        await model.aclose()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    """Three llama.cpp servers, with a cache of one prompt each."""
    folder = tmp_path_factory.mktemp("llamacpp")
    with ExitStack() as stack:
        yield [stack.enter_context(llamacpp(SMOLLM, folder, slots=1, context=2048)) for _ in range(3)]


@pytest.mark.parametrize("name", ROUTERS)
async def test_two_llamacpp_replicas_compute_no_more_of_a_prompt_than_one_server(
    name: str, servers: list[Served], tmp_path: Path
):
    alone, *replicas = servers
    texts = [f"Harbour {number} of {name}. {LONG}How many cranes has it?" for number in range(QUESTIONS)]
    by_one = [await cached(alone.url, text) for text in texts]
    with router(name, [served.url.removeprefix("http://").removesuffix("/v1") for served in replicas], tmp_path) as url:
        by_two = [await cached(url, text) for text in texts]
    assert by_two == by_one
    assert min(map(min, by_two)) > len(texts[0].split()), "the text of the question was computed again"


async def cached(url: str, text: str) -> list[int]:
    """Prompt tokens of the second and the third call about a question that the server has cached."""
    model, question = OpenAIModel(url, NAMES[SMOLLM], prefix_cache=True, timeout_s=300), Question(text)
    style = model.abilities.style
    await heard(model, short(question, style))
    prompts = [reason(question, style), read(question, "The text names three cranes.", CardFormat.NOTES, style)]
    ends = [await heard(model, prompt) for prompt in prompts]
    await model.aclose()
    return [end.usage.cached_tokens or 0 for end in ends]


async def heard(model: OpenAIModel, prompt: Prompt) -> Finished:
    """The end of a call."""
    events = [event async for event in model.stream(prompt, Limits(answer_tokens=2, reasoning_tokens=4))]
    assert isinstance(events[-1], Finished)
    return events[-1]
