"""A model in a child process gives the same output as in this process."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hearing import hear

import cuecard
from cuecard.demo import boards
from cuecard.domain.errors import BadInput, ModelError
from cuecard.domain.question import Image, Question
from cuecard.models.base import Limits, Weighing
from cuecard.models.local import engine
from cuecard.models.local.engine import CALLS_BEFORE, ModelProcess
from cuecard.models.local.model import LocalModel
from cuecard.models.prompt import EMBEDDED, CardFormat, read, reason, short

pytestmark = pytest.mark.slow

SOURCE = Path(cuecard.__file__).parent / "weights" / "demo-small"
QUESTION = boards.exercises(1, 5)[0].question


@pytest.fixture
async def model() -> AsyncIterator[LocalModel]:
    """A model with a running child process."""
    loaded = LocalModel.load(SOURCE)
    loaded._process = ModelProcess("demo-small", str(SOURCE), calls_before=0)
    await started(loaded)
    yield loaded
    await loaded.aclose()


async def started(model: LocalModel) -> None:
    async with asyncio.timeout(60):
        while not model._process.takes_calls():  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0.02)


async def test_it_says_and_weighs_the_same_as_in_this_process(model: LocalModel) -> None:
    here = LocalModel.load(SOURCE)
    prompt = read(QUESTION, "Cell 3 shows a red 4.", CardFormat.THINKING, EMBEDDED)
    for each in (reason(QUESTION, EMBEDDED), short(QUESTION, EMBEDDED), prompt):
        assert (await hear(model, each)).events == (await hear(here, each)).events
    assert await model.warm(prompt) == await here.warm(prompt)
    assert await model.score(prompt, "4") == await here.score(prompt, "4")
    for by in Weighing:
        assert await model.weigh(prompt, "4", by) == await here.weigh(prompt, "4", by)
    assert not here._prefixes._held or not model._prefixes._held, "this process computed nothing"
    await here.aclose()


async def test_prefixes_are_dropped_when_they_are_to_be_forgotten(model: LocalModel) -> None:
    first = (await hear(model, short(QUESTION, EMBEDDED))).computed
    assert (await hear(model, short(QUESTION, EMBEDDED))).computed < first
    model.forget()
    assert (await hear(model, short(QUESTION, EMBEDDED))).computed == first


async def test_an_error_is_that_of_the_model(model: LocalModel) -> None:
    with pytest.raises(BadInput, match="reads at most"):
        await hear(model, short(Question("red " * 5000, QUESTION.images), EMBEDDED))
    with pytest.raises(BadInput):
        await hear(model, short(Question("How many?", (Image(b"none"),)), EMBEDDED))
    assert (await hear(model, short(QUESTION, EMBEDDED))).answer


async def test_a_call_that_is_left_is_cancelled_in_the_process(model: LocalModel) -> None:
    events = model.stream(reason(QUESTION, EMBEDDED), Limits())
    async for _ in events:
        break
    await events.aclose()
    assert not model._process._calls
    assert (await hear(model, short(QUESTION, EMBEDDED))).answer


async def test_a_killed_process_ends_its_calls_and_the_next_are_answered_here(model: LocalModel) -> None:
    begun = asyncio.Event()

    async def endless() -> None:
        async for _ in model.stream(reason(QUESTION, EMBEDDED), Limits(temperature=3.0, reasoning_tokens=3000)):
            begun.set()

    calls = asyncio.gather(*(endless() for _ in range(3)), return_exceptions=True)
    await begun.wait()
    os.kill(model._process._child.pid, signal.SIGKILL)
    ended = [each for each in await calls if isinstance(each, ModelError)]
    assert ended
    assert all("its process has ended" in str(each) for each in ended)
    assert (await hear(model, short(QUESTION, EMBEDDED))).answer


async def test_a_call_that_a_killed_process_had_not_begun_is_answered_here(model: LocalModel) -> None:
    prompt = short(QUESTION, EMBEDDED)
    expected = (await hear(model, prompt)).answer
    os.kill(model._process._child.pid, signal.SIGSTOP)  # so that the call is sent and cannot begin
    call = asyncio.create_task(hear(model, prompt))
    while not model._process._calls:  # noqa: ASYNC110 - another task sets it
        await asyncio.sleep(0.01)
    os.kill(model._process._child.pid, signal.SIGKILL)
    assert (await call).answer == expected


async def test_a_call_that_begins_as_the_process_ends_is_an_error_and_does_not_wait(model: LocalModel) -> None:
    call = model._process.run("generate", short(QUESTION, EMBEDDED), Limits())
    model._process.stop()
    async with asyncio.timeout(10):
        with pytest.raises(ModelError, match="its process has ended"):
            await anext(call)


async def test_closing_ends_the_process(model: LocalModel) -> None:
    child = model._process._child
    await model.aclose()
    assert child.poll() is not None


async def test_the_first_calls_are_answered_here_and_later_ones_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(engine.VARIABLE)
    monkeypatch.setattr(engine.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    model = LocalModel.load(SOURCE)
    for _ in range(CALLS_BEFORE):
        await hear(model, short(QUESTION, EMBEDDED))
    assert model._process._child is None
    began = time.monotonic()
    while not model._process._ready and time.monotonic() < began + 60:
        await hear(model, short(QUESTION, EMBEDDED))
    assert model._process._ready
    again = await hear(model, short(QUESTION, EMBEDDED))
    assert again.computed == 1, "what was computed here is reused here"
    other = boards.exercises(2, 6)[1].question
    held = list(model._prefixes._held)
    assert (await hear(model, short(other, EMBEDDED))).answer
    assert list(model._prefixes._held) == held, "the process has answered"
    await model.aclose()


@pytest.mark.parametrize("error", [BadInput("wrong", "do this"), ModelError("failed"), BadInput("wrong", param="n")])
def test_errors_pass_between_processes_whole(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
