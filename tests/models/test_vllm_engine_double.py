"""A model in vLLM with a double of the engine: streamed cards, cancelled calls, a dead engine, closing.

The same with the real engine: tests/servers/test_vllm_engine.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace

import pytest
from hearing import hear
from vllm_double import EngineDouble, install

from cuecard.domain.errors import BadInput, ModelClosed, ModelUnreachable, Unsupported
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.base import Extras, Limits, ReasoningDelta
from cuecard.models.prompt import CardFormat, growing, read, reason, short
from cuecard.models.vllm import prompts as sessions
from cuecard.models.vllm.engine import MOST_RESTARTS, EngineHost
from cuecard.models.vllm.loading import EngineSettings
from cuecard.models.vllm.model import VllmModel

LIMITS = Limits(answer_tokens=8, reasoning_tokens=32, timeout_s=None)
ENDLESS = replace(LIMITS, reasoning_tokens=1000)
CARD = "Look at the cell in row 1. It shows the digit 3. Jump 3 cells. " * 6
STEP = 60
STRUCTURED = '{"properties": {"a": {"type": "string"}}, "type": "object"}'


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineHost]:
    install(monkeypatch)

    async def started(host: EngineHost) -> EngineDouble:
        return EngineDouble()

    monkeypatch.setattr(EngineHost, "_started", started)
    monkeypatch.setattr(EngineHost, "_shut_down", lambda host: None)
    monkeypatch.setattr(EngineSettings, "arguments", lambda settings, source: {})
    made = EngineHost("double", "nowhere", EngineSettings())
    yield made
    made.stop()


@pytest.fixture
def model(host: EngineHost) -> VllmModel:
    return VllmModel("double", host)


@pytest.fixture
def question() -> Question:
    return Question("How many red digits are there?", kind=AnswerKind.NUMBER)


async def warmed(model: VllmModel, question: Question, form: CardFormat, card: str = CARD) -> None:
    for end in range(STEP, len(card), STEP):
        await model.warm(growing(question, card[:end], form, model.abilities.style))


async def streamed(model: VllmModel, question: Question, form: CardFormat) -> str:
    await warmed(model, question, form)
    return (await hear(model, read(question, CARD, form, model.abilities.style), LIMITS)).answer


@pytest.mark.parametrize("form", CardFormat)
async def test_a_streamed_card_is_one_request_with_the_answer_of_a_whole_prompt(form, model, host, question):
    prompt = read(question, CARD, form, model.abilities.style)
    whole = await hear(model, prompt, LIMITS)
    host.engine.pieces.clear()
    await warmed(model, question, form)
    heard = await hear(model, prompt, LIMITS)
    assert heard.answer == whole.answer
    assert heard.end.usage.prompt_tokens == whole.end.usage.prompt_tokens
    assert len({request for request, _, _ in host.engine.pieces}) == 1
    assert [generate for _, _, generate in host.engine.pieces[:-1]] == [1] * (len(host.engine.pieces) - 1)
    assert host.engine.running == set()


async def test_the_reader_of_a_streamed_card_computes_the_rest_only(model, question):
    await warmed(model, question, CardFormat.THINKING)
    heard = await hear(model, read(question, CARD, CardFormat.THINKING, model.abilities.style), LIMITS)
    assert heard.computed < 40


async def test_a_reader_waits_for_the_piece_that_is_being_computed(model, question):
    style = model.abilities.style
    prompt = read(question, CARD, CardFormat.NOTES, style)
    whole = await hear(model, prompt, LIMITS)
    piece = asyncio.create_task(model.warm(growing(question, CARD[:200], CardFormat.NOTES, style)))
    await asyncio.sleep(0)
    assert (await hear(model, prompt, LIMITS)).answer == whole.answer
    await piece


async def test_a_card_that_is_not_the_one_that_was_streamed_is_read_whole(model, question):
    prompt = read(question, "Another card, from its first word on.", CardFormat.NOTES, model.abilities.style)
    whole = await hear(model, prompt, LIMITS)
    await warmed(model, question, CardFormat.NOTES)
    assert (await hear(model, prompt, LIMITS)).answer == whole.answer


async def test_calls_about_one_question_at_once_do_not_share_a_session(model, question):
    alone = await streamed(model, question, CardFormat.NOTES)
    together = await asyncio.gather(*(streamed(model, question, CardFormat.NOTES) for _ in range(3)))
    assert together == [alone] * 3


async def test_sessions_without_a_reader_are_closed(model, host, question, monkeypatch):
    monkeypatch.setattr(sessions, "IDLE_S", 0.05)
    await warmed(model, question, CardFormat.NOTES)
    assert host.engine.running
    await asyncio.sleep(0.5)
    assert host.engine.running == set()


async def test_at_most_a_few_sessions_are_open(model, host, question):
    for number in range(12):
        await model.warm(growing(replace(question, text=f"{number}?"), CARD, CardFormat.NOTES, model.abilities.style))
    await asyncio.sleep(0.1)
    assert len(host.engine.running) == host.engine.vllm_config.scheduler_config.max_num_seqs // 2


async def test_an_answer_under_a_grammar_is_a_request_of_its_own(model, host, question):
    asked = replace(question, kind=AnswerKind.FREE_TEXT, schema=STRUCTURED)
    await warmed(model, asked, CardFormat.NOTES)
    assert not host.engine.running, "a streamed prompt cannot have a grammar"
    await hear(model, reason(asked, model.abilities.style), LIMITS)
    constraints = [params.structured_outputs for params in host.engine.params[-2:]]
    assert constraints[0] is None
    assert constraints[1].json == {"properties": {"a": {"type": "string"}}, "type": "object"}


async def test_without_streamed_prompts_cards_are_warmed_and_the_notes_say_so(model, host, question):
    model.stop_streaming("the engine cannot")
    await warmed(model, question, CardFormat.NOTES)
    assert host.engine.running == set()
    assert model.abilities.notes == ("cards are warmed, not streamed: the engine cannot",)


async def test_an_engine_for_one_call_at_a_time_streams_no_cards(host, question):
    host.engine.vllm_config.scheduler_config.max_num_seqs = 1
    await warmed(VllmModel("double", host), question, CardFormat.NOTES)
    assert host.engine.running == set()


async def test_tokens_of_an_answer_are_given_if_they_are_requested(model, question):
    limits = replace(LIMITS, extras=Extras(top_logprobs=1))
    heard = await hear(model, short(question, model.abilities.style), limits)
    assert "".join(token.text for token in heard.end.tokens).strip() == heard.answer
    assert all(token.top for token in heard.end.tokens)


async def test_a_prompt_that_is_too_long_is_refused_with_its_length(model, question):
    long = replace(question, text="red " * 3000)
    with pytest.raises(BadInput, match=r"the prompt has \d+ tokens and double reads at most 2048"):
        await hear(model, short(long, model.abilities.style), LIMITS)
    with pytest.raises(BadInput, match="reads at most 2048"):
        await model.warm(growing(long, CARD, CardFormat.NOTES, model.abilities.style))


async def test_a_language_model_refuses_images(model, question, pictures: tuple[Image, Image]):
    with pytest.raises(Unsupported, match="cannot see images"):
        await hear(model, short(replace(question, images=pictures), model.abilities.style), LIMITS)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "while it answers"])
async def test_a_cancelled_call_is_aborted(late, model, host, question):
    begun = asyncio.Event()

    async def listen() -> None:
        async with aclosing(model.stream(reason(question, model.abilities.style), ENDLESS)) as events:
            async for event in events:
                if isinstance(event, ReasoningDelta):
                    begun.set()

    listening = asyncio.create_task(listen())
    await (begun.wait() if late else asyncio.sleep(0))
    listening.cancel()
    await asyncio.wait([listening])
    assert listening.cancelled()
    assert host.engine.running == set()


async def test_a_dead_engine_is_started_again_by_the_next_call(model, host, question):
    prompt = short(question, model.abilities.style)
    answer = (await hear(model, prompt, LIMITS)).answer
    await warmed(model, question, CardFormat.NOTES)
    host.engine.errored = True
    dead = host.engine
    assert (await hear(model, prompt, LIMITS)).answer == answer
    assert host.engine is not dead
    assert await streamed(model, question, CardFormat.NOTES)


async def test_a_call_whose_engine_dies_ends_with_an_error_that_may_be_retried(model, host, question):
    async def listen() -> None:
        async with aclosing(model.stream(reason(question, model.abilities.style), ENDLESS)) as events:
            async for event in events:
                host.engine.errored |= isinstance(event, ReasoningDelta)

    with pytest.raises(ModelUnreachable, match="engine process has ended") as caught:
        await listen()
    assert caught.value.retryable


async def test_an_engine_that_keeps_dying_is_not_started_for_ever(model, host, question, monkeypatch):
    async def stillborn(host: EngineHost) -> EngineDouble:
        engine = EngineDouble()
        engine.errored = True
        return engine

    host.engine.errored = True
    monkeypatch.setattr(EngineHost, "_started", stillborn)
    for _ in range(MOST_RESTARTS):
        with pytest.raises(ModelUnreachable, match="has ended"):
            await hear(model, short(question, model.abilities.style), LIMITS)
    with pytest.raises(ModelUnreachable, match="has died 4 times in a row"):
        await hear(model, short(question, model.abilities.style), LIMITS)


async def test_a_call_may_leave_while_the_engine_starts_again_and_others_wait(model, host, question, monkeypatch):
    prompt, go_on, starts = short(question, model.abilities.style), threading.Event(), []

    async def slow(host: EngineHost) -> EngineDouble:
        starts.append(host)
        await asyncio.to_thread(go_on.wait)
        return EngineDouble()

    monkeypatch.setattr(EngineHost, "_started", slow)
    host.engine.errored = True
    leaving, staying = (asyncio.create_task(hear(model, prompt, LIMITS)) for _ in range(2))
    await asyncio.sleep(0.05)
    leaving.cancel()
    await asyncio.wait([leaving], timeout=5)
    assert leaving.cancelled()
    go_on.set()
    assert (await staying).answer
    assert len(starts) == 1


async def test_closing_does_not_wait_for_an_engine_that_starts(model, host, question, monkeypatch):
    monkeypatch.setattr(EngineHost, "_started", lambda host: asyncio.Event().wait())
    host.engine.errored = True
    waiting = asyncio.create_task(hear(model, short(question, model.abilities.style), LIMITS))
    await asyncio.sleep(0.05)
    await asyncio.wait_for(model.aclose(), 5)
    with pytest.raises(ModelClosed):
        await waiting


async def test_an_image_that_the_processor_refuses_is_an_error_of_the_request(model, host, question, monkeypatch):
    async def refused(prompts: object) -> None:
        raise ValueError("absolute aspect ratio must be smaller than 200,\n got 300.0")

    monkeypatch.setattr(host.engine, "render_cmpl_async", refused)
    with pytest.raises(BadInput, match=r"double cannot take this prompt: absolute .* 200, got 300\.0"):
        await hear(model, short(question, model.abilities.style), LIMITS)


async def test_closing_ends_the_calls_that_run_and_those_that_follow(model, host, question):
    prompt = reason(question, model.abilities.style)
    host.engine.ends = False
    running = asyncio.create_task(hear(model, prompt, ENDLESS))
    await asyncio.sleep(0.02)
    await model.aclose()
    with pytest.raises(ModelClosed):
        await running
    with pytest.raises(ModelClosed):
        await hear(model, prompt, LIMITS)


def test_a_model_may_be_used_from_one_loop_after_the_other(model, question):
    prompt = short(question, model.abilities.style)
    answers = [asyncio.run(hear(model, prompt, LIMITS)).answer for _ in range(2)]
    assert answers[0] == answers[1]
