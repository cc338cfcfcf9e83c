"""Expressions are compared in a thread, not on the event loop."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from cuecard import virtual_time
from cuecard.answers import comparison, extract, same_answer
from cuecard.domain.outcome import Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.replay import Says, ScriptedModel
from cuecard.strategies.policy import EarlyStop, Policy
from cuecard.strategies.run import answer

COMPUTE = Question("Compute it.", kind=AnswerKind.MATHS)
ONE, OTHER = "$(x+1)^2$", "$x^2+2x+1$"


async def nothing() -> None:
    """Return at once, unless the event loop is blocked."""


@pytest.fixture
async def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that compare expressions; each comparison waits for the event loop."""
    loop, threads = asyncio.get_running_loop(), []

    def same_expression(truth: str, given: str) -> bool:
        threads.append(threading.current_thread().name)
        asyncio.run_coroutine_threadsafe(nothing(), loop).result(5)  # raises TimeoutError if the loop is blocked
        return True

    monkeypatch.setattr(comparison, "same_expression", same_expression)
    return threads


def team(small: str = ONE, large: str = OTHER) -> dict[str, ScriptedModel]:
    thought = "One. Two. Three. Four. Five. Six."
    return {
        "small": ScriptedModel("small", lambda _: Says(small, thought, token_s=0.001)),
        "large": ScriptedModel("large", lambda _: Says(large, thought)),
    }


async def test_comparing_expressions_does_not_block_the_event_loop(compared: list[str]):
    assert (await answer(COMPUTE, team())).route is Route.AGREED
    assert compared


async def test_counting_a_vote_does_not_block_the_event_loop(compared: list[str]):
    replies = iter([Says(ONE, "One."), Says(OTHER, "Two."), Says(ONE, "Three.")])
    models = team() | {"small": ScriptedModel("small", replies)}
    outcome = await answer(COMPUTE, models, "vote", Policy(samples=3))
    assert "3 of 3" in outcome.reason
    assert compared


async def test_comparing_probes_does_not_block_the_event_loop(compared: list[str]):
    probed = iter([Says(ONE), Says(OTHER), *[Says(ONE)] * 9])
    models = {
        "small": ScriptedModel("small", lambda _: Says(ONE, "One two three four five six seven.", token_s=0.02)),
        "large": ScriptedModel("large", probed),
    }
    outcome = await answer(COMPUTE, models, "transfer", Policy(early_stop=EarlyStop(2, 1)))
    assert outcome.route is Route.STOPPED
    assert compared


async def test_expressions_equal_by_spelling_or_value_need_no_worker(compared: list[str]):
    for one, other, same in (("$x$", "$x$", True), ("$2$", "two", True), ("$2$", "$3$", False), ("$2$", "", False)):
        assert await same_answer(extract(one, COMPUTE), extract(other, COMPUTE), COMPUTE) is same
    assert not compared


async def test_a_cancelled_comparison_does_not_delay_the_next_one(compared: list[str]):
    one, other = extract(ONE, COMPUTE), extract(OTHER, COMPUTE)
    waiting = [asyncio.create_task(same_answer(one, other, COMPUTE)) for _ in range(5)]
    await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await same_answer(one, other, COMPUTE)
    assert len(compared) <= 2  # cancelled comparisons do not start


async def test_an_endless_comparison_is_killed_at_its_limit_without_blocking_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
):
    pytest.importorskip("math_verify")
    monkeypatch.setattr(comparison, "same_expression", partial(comparison.verify, limit_s=0.2))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    endless = extract("$9^{9^{9^{9}}}$", COMPUTE), extract("$9^{9^{9^{8}}}+1$", COMPUTE)
    assert not await same_answer(*endless, COMPUTE)
    ticking.cancel()
    assert ticks >= 10  # the two limits alone are 40 ticks


def test_in_virtual_time_expressions_are_compared_in_the_calling_thread(monkeypatch: pytest.MonkeyPatch):
    threads = []
    monkeypatch.setattr(
        comparison, "same_expression", lambda *_: bool(threads.append(threading.current_thread())) or True
    )
    assert virtual_time.run(answer(COMPUTE, team())).route is Route.AGREED
    assert set(threads) == {threading.main_thread()}
