"""A pair used from several threads and event loops: closing, Ctrl-C and blocking."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from cuecard import Pair
from cuecard.domain.errors import BadInput, ModelClosed
from cuecard.domain.outcome import Outcome
from cuecard.domain.question import Image
from cuecard.models.images import images
from cuecard.models.replay import Says, ScriptedModel

HOW_MANY = "How many cats are there?"


class Closable(ScriptedModel):
    """A model that counts its `aclose` calls, which may fail."""

    def __init__(self, name: str, *, hangs: bool = False, fails: bool = False) -> None:
        super().__init__(name, lambda _: Says("3", "One, two, three.", hangs=hangs))
        self.closed, self._fails = 0, fails

    async def aclose(self) -> None:
        self.closed += 1
        if self._fails:
            raise RuntimeError(f"{self.name} does not close")


def stuck() -> tuple[Closable, Closable]:
    return Closable("small", hangs=True), Closable("large", hangs=True)


def until_running(models: tuple[Closable, Closable], calls: int) -> None:
    while sum(model.running for model in models) < calls:
        time.sleep(0.001)


def pair_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "cuecard pair"]


# Closing


def test_closing_raises_an_error_in_threads_inside_ask():
    models = stuck()
    pair = Pair(*models)
    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(pair.ask, HOW_MANY) for _ in range(4)]
        until_running(models, 8)
        pair.close()
        for each in asking:
            with pytest.raises(ModelClosed, match="the pair was closed"):
                each.result()
    assert [(model.running, model.closed) for model in models] == [(0, 1), (0, 1)]
    assert pair_threads() == []


async def test_closing_raises_an_error_in_other_event_loops():
    models = stuck()
    pair = Pair(*models)

    async def heard() -> list[Any]:
        return [item async for item in pair.stream(HOW_MANY)]

    asking = [asyncio.create_task(pair.aask(HOW_MANY)), asyncio.create_task(heard())]
    await asyncio.to_thread(until_running, models, 4)
    await pair.aclose()
    for each in asking:
        with pytest.raises(ModelClosed, match="the pair was closed"):
            await each
    assert [model.running for model in models] == [0, 0]


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(("small", "large"), [(True, False), (False, True), (True, True)])
def test_all_models_are_closed_although_one_fails_to_close(small: bool, large: bool, asked: bool):
    models = Closable("small", fails=small), Closable("large", fails=large)
    pair = Pair(*models)
    if asked:
        pair.ask(HOW_MANY)
    with pytest.raises(ExceptionGroup) as failed:
        pair.close()
    assert [model.closed for model in models] == [1, 1]
    assert len(failed.value.exceptions) == small + large
    assert pair_threads() == []
    pair.close()  # a second close does nothing
    assert [model.closed for model in models] == [1, 1]


def test_a_pair_closed_during_a_question_answers_again():
    models = stuck()
    pair = Pair(*models)
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(pair.ask, HOW_MANY)
        until_running(models, 2)
        pair.close()
        assert isinstance(asking.exception(), ModelClosed)
    for model in models:
        model._next = lambda _: Says("3")
    assert pair.ask(HOW_MANY).answer == "3"
    pair.close()
    assert [model.closed for model in models] == [2, 2]


async def test_a_pair_is_an_async_context_manager_too():
    models = Closable("small"), Closable("large")
    async with Pair(*models) as pair:
        assert (await pair.aask(HOW_MANY)).answer == "3"
    assert [model.closed for model in models] == [1, 1]
    assert pair_threads() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_is_told_to_make_its_own_pair():
    models = Closable("small"), Closable("large")
    with Pair(*models) as pair:
        pair.ask(HOW_MANY)
        if not (child := os.fork()):
            try:
                pair.ask(HOW_MANY)
            except BadInput as error:
                pair.close()
                os._exit(0 if "make a Pair in each process" in str(error) and not models[0].closed else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pair.ask(HOW_MANY).answer == "3"


def test_ctrl_c_during_a_question_cancels_both_calls():
    models = stuck()
    pair = Pair(*models)

    def interrupt() -> None:
        until_running(models, 2)
        time.sleep(0.05)  # now the main thread waits for the answer
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        pair.ask(HOW_MANY)
    assert [model.running for model in models] == [0, 0]
    pair.close()


# Blocking


async def test_ask_inside_a_coroutine_is_refused_with_a_hint_to_aask():
    with Pair(Closable("small"), Closable("large")) as pair, pytest.raises(BadInput) as refused:
        pair.ask(HOW_MANY)
    assert "await pair.aask" in refused.value.hint


@pytest.mark.parametrize("shell", [object(), None])
async def test_ask_blocks_in_a_notebook_whose_event_loop_runs(shell: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    with Pair(Closable("small"), Closable("large")) as pair:
        if shell is None:  # IPython is imported, but nothing runs in it
            with pytest.raises(BadInput):
                pair.ask(HOW_MANY)
        else:
            assert pair.ask(HOW_MANY).answer == "3"


async def test_loading_images_does_not_block_the_callers_event_loop(monkeypatch: pytest.MonkeyPatch):
    loop = asyncio.get_running_loop()

    async def nothing() -> None:
        """Return at once, unless the event loop is blocked."""

    def load(image: object, allow_urls: bool) -> Image:
        asyncio.run_coroutine_threadsafe(nothing(), loop).result(5)  # raises TimeoutError if the loop is blocked
        return Image(b"png")

    monkeypatch.setattr(images, "load", load)
    async with Pair(Closable("small"), Closable("large")) as pair:
        assert (await pair.aask(HOW_MANY, "board.png")).answer == "3"
        assert isinstance([item async for item in pair.stream(HOW_MANY, ["one.png", "two.png"])][-1], Outcome)
