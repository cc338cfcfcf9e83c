"""The contract of every `Model`: local, HTTP, scripted, simulated, recorded and replayed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tiny
from hearing import before_each_computation, hear

from cuecard.domain.call import FinishReason, Mode, Usage
from cuecard.domain.errors import BrokenStream, ModelError, ModelUnreachable, Unsupported
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.base import (
    AnswerDelta,
    Event,
    Finished,
    Limits,
    Model,
    Progress,
    ReasoningDelta,
    ReasoningEnded,
    Started,
)
from cuecard.models.local.model import LocalModel
from cuecard.models.openai import OpenAIModel
from cuecard.models.prompt import TAGS, Prompt, growing, read, reason, short
from cuecard.models.replay import RecordedModel, RecordingModel, Says, ScriptedModel
from cuecard.models.simulated import Profile, Script, SimulatedModel, words
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Cut, HttpError, Reply

REASONING, SAID = "".join(tiny.THOUGHT), "".join(tiny.ANSWER).strip()
TOKEN_S = 0.004
LIMITS = Limits(answer_tokens=16, reasoning_tokens=64)
ONE_THOUGHT, ONE_WORD = replace(LIMITS, reasoning_tokens=1), replace(LIMITS, answer_tokens=1)
CARD = "Row 1 shows two."


@dataclass
class Subject:
    """A model that reasons REASONING and answers SAID, in at least TOKEN_S per token; and failing variants of it."""

    model: Model
    size: Callable[[str], int] = lambda text: len(words(text))
    unseen: int = 0
    """Tokens of a reasoning call that mark the end of the reasoning and are no text."""
    broken: Model | None = None
    breaks_off: Model | None = None
    """Fails after the start of the answer."""
    at_rest: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0)
    """Returns when no part of a call is still running; fails or hangs otherwise."""


@dataclass
class Setting:
    """Arguments for the factories of the models."""

    stack: AsyncExitStack
    folder: Path
    question: Question
    checkpoint: Callable[[str], Path]


def scripted_model(**fault: Any) -> ScriptedModel:
    says = Says(SAID, REASONING, token_s=TOKEN_S, confidence_logprob=-0.5, **fault)
    return ScriptedModel("scripted", lambda prompt: says, prefix_sessions=True, scores=lambda answer: -0.25)


async def scripted(setting: Setting) -> Subject:
    model = scripted_model()

    async def at_rest() -> None:
        assert model.running == 0

    broken = scripted_model(error=ModelUnreachable("connection refused"))
    breaks_off = scripted_model(error=BrokenStream("gone"), after_tokens=2)
    return Subject(model, broken=broken, breaks_off=breaks_off, at_rest=at_rest)


async def recording(setting: Setting) -> Subject:
    inner = await scripted(setting)
    assert inner.broken
    assert inner.breaks_off
    models = [
        RecordingModel(each, setting.folder / "calls.jsonl") for each in (inner.model, inner.broken, inner.breaks_off)
    ]
    return Subject(models[0], broken=models[1], breaks_off=models[2], at_rest=inner.at_rest)


async def replayed(setting: Setting) -> Subject:
    recorder = RecordingModel(scripted_model(), setting.folder / "calls.jsonl")
    await recorder.score(short(setting.question, TAGS), SAID)
    for limits in (LIMITS, ONE_THOUGHT, ONE_WORD):
        await asyncio.gather(*(hear(recorder, prompt, limits) for prompt in prompts(recorder, setting.question)))
    empty = setting.folder / "empty.jsonl"
    RecordingModel(scripted_model(), empty)
    return Subject(RecordedModel(setting.folder / "calls.jsonl"), broken=RecordedModel(empty))


async def simulated(setting: Setting) -> Subject:
    script = Script(SAID, REASONING, answer_logprob=-0.5)
    return Subject(SimulatedModel("simulated", Profile(0.001, 1e-6, TOKEN_S), lambda prompt: script, Random(0)))


async def by_transformers(setting: Setting) -> Subject:
    return local(setting, device="cpu")


async def by_numpy(setting: Setting) -> Subject:
    return local(setting)


def local(setting: Setting, **settings: str) -> Subject:
    model, broken, breaks_off = (LocalModel.load(setting.checkpoint("taught"), **settings) for _ in range(3))
    steps: list[float] = []
    fails: list[bool] = []

    def slowly() -> None:
        steps.append(time.perf_counter())
        time.sleep(TOKEN_S)

    def fail() -> None:
        raise RuntimeError("out of memory")

    def fail_later() -> None:
        fails.append(True)
        if len(fails) > 1:  # the first write is the prompt
            fail()

    for each, act in (model, slowly), (broken, fail), (breaks_off, fail_later):
        before_each_computation(each, act)
    for each in (model, broken, breaks_off):
        setting.stack.push_async_callback(each.aclose)

    async def at_rest() -> None:
        await asyncio.sleep(2 * TOKEN_S + 0.02)
        before = len(steps)
        await asyncio.sleep(5 * TOKEN_S)
        assert len(steps) == before

    def size(text: str) -> int:
        return len(tiny.demo_tokenizer()(text, add_special_tokens=False).input_ids)

    return Subject(model, size, 2, broken, breaks_off, at_rest)


async def openai(setting: Setting, **settings: Any) -> Subject:
    async def served(reply: Reply) -> tuple[OpenAIModel, MockServer]:
        server = MockServer([reply], models=["qwen3-vl-8b"], prefix_cache=True)
        model = OpenAIModel(await setting.stack.enter_async_context(server), "qwen3-vl-8b", **settings)
        setting.stack.push_async_callback(model.aclose)
        return model, server

    says = Completion(SAID, REASONING, delay_s=TOKEN_S)
    model, server = await served(says)
    broken, _ = await served(HttpError(500, "the engine died"))
    breaks_off, _ = await served(replace(says, after=Cut(tokens=2)))

    async def at_rest() -> None:
        await asyncio.wait_for(server.received[-1].gone.wait(), 2)

    return Subject(model, broken=broken, breaks_off=breaks_off, at_rest=at_rest)


async def openai_vllm(setting: Setting) -> Subject:
    return await openai(setting, prefill=True, prefix_cache=True, scoring=True)


async def in_vllm(setting: Setting) -> Subject:
    """In vLLM's own environment, as tests/servers/test_vllm_engine.py runs it; all tests share one engine."""
    from cuecard.models.vllm.model import VllmModel

    host = vllm_host(setting.checkpoint("taught"))
    engine = host.engine

    def failing(after: int) -> VllmModel:
        return VllmModel("broken", Borrowed(host, FailingEngine(engine, after)))

    async def at_rest() -> None:
        assert not engine.output_processor.has_unfinished_requests()

    def size(text: str) -> int:
        return len(tiny.demo_tokenizer()(text, add_special_tokens=False).input_ids)

    return Subject(VllmModel("in vLLM", Borrowed(host, engine)), size, 2, failing(0), failing(1), at_rest)


@cache
def vllm_host(folder: Path) -> Any:
    from cuecard.models.vllm.engine import EngineHost
    from cuecard.models.vllm.loading import EngineSettings

    arguments = {"kv_cache_memory_bytes": 2**26, "max_num_seqs": 8}
    return EngineHost("tiny", str(folder), EngineSettings(dtype="float32", eager=True, engine_args=arguments))


class FailingEngine:
    """An engine whose outputs end with an error."""

    def __init__(self, engine: Any, after: int) -> None:
        self._engine, self._after = engine, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, *given: Any, **named: Any) -> AsyncGenerator[Any]:
        number = 0
        async with aclosing(self._engine.generate(*given, **named)) as outputs:
            async for output in outputs:
                if number == self._after:
                    raise RuntimeError("out of memory")
                number += 1
                yield output


class Borrowed:
    """An engine host whose engine may be replaced, and whose closing leaves the engine to other tests."""

    def __init__(self, host: Any, engine: Any) -> None:
        self._host, self.engine = host, engine

    def stream(self, work: Callable[[Any], AsyncGenerator[Any]]) -> AsyncGenerator[Any]:
        return self._host.stream(lambda _: work(self.engine))

    async def call(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self._host.call(lambda _: work(self.engine))

    def stop(self) -> None:
        """The tests share the engine, which ends with their process."""


MAKERS = [scripted, recording, replayed, simulated, by_transformers, by_numpy, openai, openai_vllm]
MAKERS += (IN_VLLM := [in_vllm] if find_spec("vllm") else [])


@pytest.fixture
def asked() -> Question:
    return Question("How many red digits are there?", (), (), AnswerKind.NUMBER)


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
async def subject(
    request: pytest.FixtureRequest, tmp_path: Path, asked: Question, checkpoints: Callable[[str], Path]
) -> AsyncIterator[Subject]:
    async with AsyncExitStack() as stack:
        yield await request.param(Setting(stack, tmp_path, asked, checkpoints))


def only(*makers: Callable[[Setting], Awaitable[Subject]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("subject", makers, ids=lambda make: make.__name__, indirect=True)


def prompts(model: Model, question: Question) -> list[Prompt]:
    """A short prompt, a reasoning prompt, and a read prompt in each card format of the model."""
    able = model.abilities
    cards = [read(question, CARD, form, able.style) for form in able.card_formats]
    return [short(question, able.style), reason(question, able.style), *cards]


async def keep(stream: AsyncGenerator[Event], events: list[Event]) -> None:
    async for event in stream:
        events.append(event)  # noqa: PERF401 (what came before a failure counts)


def is_delta(event: Event) -> bool:
    return isinstance(event, ReasoningDelta | AnswerDelta)


# --- the events of a call ---------------------------------------------------------------------------------------------


async def test_a_call_starts_once_then_tells_then_finishes_once(subject: Subject, asked: Question) -> None:
    for prompt in prompts(subject.model, asked):
        first, *between, last = (await hear(subject.model, prompt, LIMITS)).events
        assert isinstance(first, Started)
        assert isinstance(last, Finished)
        assert all(is_delta(event) or isinstance(event, Progress | ReasoningEnded) for event in between)
        assert all(event.text for event in between if isinstance(event, ReasoningDelta | AnswerDelta))


async def test_only_a_reasoning_call_tells_its_reasoning_and_before_the_answer(
    subject: Subject, asked: Question
) -> None:
    for prompt in prompts(subject.model, asked):
        heard = await hear(subject.model, prompt, LIMITS)
        reasons = prompt.mode is Mode.REASON
        assert (heard.reasoning, heard.answer) == (REASONING if reasons else "", SAID)
        assert heard.end.finish_reason is FinishReason.STOP
        kinds = [type(event) for event in heard.events if is_delta(event)]
        assert kinds == sorted(kinds, key=[ReasoningDelta, AnswerDelta].index)


@pytest.mark.parametrize("limits", [LIMITS, ONE_THOUGHT], ids=["whole", "cut"])
async def test_the_end_of_the_reasoning_comes_once_between_reasoning_and_answer(
    subject: Subject, asked: Question, limits: Limits
) -> None:
    for prompt in prompts(subject.model, asked):
        heard = await hear(subject.model, prompt, limits)
        kinds = [type(event) for event in heard.events if is_delta(event) or isinstance(event, ReasoningEnded)]
        assert kinds.count(ReasoningEnded) == int(prompt.mode is Mode.REASON)
        assert kinds == sorted(kinds, key=[ReasoningDelta, ReasoningEnded, AnswerDelta].index)


async def test_usage_is_what_the_events_counted(subject: Subject, asked: Question) -> None:
    for prompt in prompts(subject.model, asked):
        heard = await hear(subject.model, prompt, LIMITS)
        usage, reasons = heard.end.usage, prompt.mode is Mode.REASON
        thought = subject.size(heard.reasoning) if reasons else 0
        unseen = subject.unseen if reasons else 0
        assert usage.completion_tokens == thought + unseen + subject.size(heard.answer)
        assert thought <= (usage.reasoning_tokens or 0) <= thought + unseen
        assert 0 <= (usage.cached_tokens or 0) <= (usage.prompt_tokens or 0)
        assert usage.prompt_tokens


async def test_usage_grows_up_to_the_end(subject: Subject, asked: Question) -> None:
    """Except for the end-of-turn token, which some servers send but do not count."""
    for prompt in prompts(subject.model, asked):
        heard = await hear(subject.model, prompt, LIMITS)
        running = [event.usage for event in heard.events if isinstance(event, Progress)]
        for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens"):
            counts = [getattr(usage, name) or 0 for usage in running]
            assert counts == sorted(counts), name
            assert counts[-1] <= (getattr(heard.end.usage, name) or 0) + 1


async def test_a_logprob_is_that_of_a_probability(subject: Subject, asked: Question) -> None:
    heard = await hear(subject.model, short(asked, subject.model.abilities.style), LIMITS)
    assert heard.end.answer_logprob is not None
    assert heard.end.answer_logprob <= 0
    assert subject.model.abilities.logprobs


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_a_spent_budget_still_leads_to_an_answer(subject: Subject, asked: Question) -> None:
    heard = await hear(subject.model, reason(asked, subject.model.abilities.style), ONE_THOUGHT)
    assert (heard.reasoning, heard.answer) == (tiny.THOUGHT[0], SAID)
    assert heard.end.finish_reason is FinishReason.BUDGET
    assert [type(event) for event in heard.events].count(Started) == 1
    usage: Usage = heard.end.usage
    assert usage.reasoning_tokens in (1, None)
    assert (usage.completion_tokens or 0) >= 1 + subject.size(SAID)


async def test_an_answer_that_is_cut_says_so(subject: Subject, asked: Question) -> None:
    heard = await hear(subject.model, short(asked, subject.model.abilities.style), ONE_WORD)
    assert (heard.answer, heard.end.finish_reason) == (SAID.split()[0], FinishReason.LENGTH)


# --- concurrent and cancelled calls -----------------------------------------------------------------------------------


async def test_two_calls_at_once_both_finish(subject: Subject, asked: Question) -> None:
    first, second, *_ = prompts(subject.model, asked)
    heard = await asyncio.gather(*(hear(subject.model, prompt, LIMITS) for prompt in (first, second, first)))
    assert [each.answer for each in heard] == [SAID] * 3


async def test_a_closed_generator_leaves_nothing_running(subject: Subject, asked: Question) -> None:
    async with aclosing(subject.model.stream(reason(asked, TAGS), LIMITS)) as events:
        async for event in events:
            if is_delta(event):
                break
    await subject.at_rest()
    assert (await hear(subject.model, reason(asked, TAGS), LIMITS)).answer == SAID


async def test_a_cancelled_task_leaves_nothing_running(subject: Subject, asked: Question) -> None:
    begun = asyncio.Event()

    async def listen() -> None:
        async with aclosing(subject.model.stream(reason(asked, TAGS), LIMITS)) as events:
            async for event in events:
                if is_delta(event):
                    begun.set()

    listening = asyncio.create_task(listen())
    await begun.wait()
    listening.cancel()
    with suppress(asyncio.CancelledError):
        await listening
    assert listening.cancelled()
    await subject.at_rest()
    assert asyncio.all_tasks() == {asyncio.current_task()} | {
        task for task in asyncio.all_tasks() if "MockServer" in repr(task) or "_accept" in repr(task)
    }
    assert (await hear(subject.model, reason(asked, TAGS), LIMITS)).answer == SAID


async def test_a_call_that_is_not_iterated_does_nothing(subject: Subject, asked: Question) -> None:
    stream: AsyncGenerator[Event] = subject.model.stream(short(asked, TAGS), LIMITS)
    await stream.aclose()
    assert (await hear(subject.model, short(asked, TAGS), LIMITS)).answer == SAID


# --- failures ---------------------------------------------------------------------------------------------------------


@only(scripted, recording, replayed, by_transformers, by_numpy, openai, openai_vllm, *IN_VLLM)
async def test_a_failure_is_a_model_error_of_one_line(subject: Subject, asked: Question) -> None:
    assert subject.broken
    for prompt in prompts(subject.broken, asked):
        with pytest.raises(ModelError) as caught:
            await hear(subject.broken, prompt, LIMITS)
        assert str(caught.value)
        assert "\n" not in str(caught.value)
        assert caught.value.hint


@only(scripted, recording, by_transformers, by_numpy, openai, openai_vllm, *IN_VLLM)
async def test_a_call_that_breaks_off_tells_what_it_had_and_never_finishes(subject: Subject, asked: Question) -> None:
    assert subject.breaks_off
    events: list[Event] = []
    with pytest.raises(ModelError):
        await keep(subject.breaks_off.stream(reason(asked, TAGS), LIMITS), events)
    assert isinstance(events[0], Started)
    assert any(map(is_delta, events))
    assert not any(isinstance(event, Finished) for event in events)
    spent = [event.usage.completion_tokens or 0 for event in events if isinstance(event, Progress)]
    assert spent[-1] >= 1


# --- abilities --------------------------------------------------------------------------------------------------------


async def test_a_model_scores_if_it_says_so(subject: Subject, asked: Question) -> None:
    model, prompt = subject.model, short(asked, TAGS)
    if model.abilities.scoring:
        assert await model.score(prompt, SAID) <= 0
    else:
        with pytest.raises(Unsupported):
            await model.score(prompt, SAID)


async def test_a_model_warms_if_it_says_so(subject: Subject, asked: Question) -> None:
    model, prompt = subject.model, growing(asked, CARD, subject.model.abilities.card_formats[0], TAGS)
    if model.abilities.prefix_sessions:
        assert (await model.warm(prompt)).prompt_tokens
        assert (await hear(model, short(asked, TAGS), LIMITS)).answer == SAID
    else:
        with pytest.raises(Unsupported):
            await model.warm(prompt)


async def test_a_model_is_closed_as_often_as_one_likes(subject: Subject, asked: Question) -> None:
    await hear(subject.model, short(asked, TAGS), LIMITS)
    await subject.model.aclose()
    await subject.model.aclose()


async def test_a_model_has_a_name_and_takes_cards(subject: Subject) -> None:
    assert subject.model.name
    assert subject.model.abilities.card_formats
    assert isinstance(subject.model.abilities.notes, tuple)


@only(simulated, by_transformers, by_numpy, openai, openai_vllm, *IN_VLLM)
async def test_images_are_taken_along(subject: Subject, asked: Question, pictures: tuple[Image, Image]) -> None:
    seen = replace(asked, images=pictures)
    bare, full = [await hear(subject.model, short(each, TAGS), LIMITS) for each in (asked, seen)]
    assert full.answer == SAID
    assert (full.end.usage.prompt_tokens or 0) > (bare.end.usage.prompt_tokens or 0)
